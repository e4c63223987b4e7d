/* SPDX-License-Identifier: MIT */
/* Brings mm up inside somebody else's process, at the first malloc.
 *
 *      region: one mmap of 4x the machine's RAM, MAP_NORESERVE: address space, no memory.
 *      +-----------+------------+-----------+----------------------------------------------+
 *      | low 1 MiB | memory map | PMM state | frames, given to the heap 2 MiB at a time     |
 *      +-----------+------------+-----------+----------------------------------------------+
 *      base = HHDM offset: "physical" address p is base + p; the kernel of the machine backs what
 *      is touched. Four times, because what is free but scattered must not end the program.
 *
 * Invariants: one thread starts, the others wait; a malloc from within the start gets NULL; after a
 * failed start every malloc is ENOMEM. Nothing here calls malloc: only system calls and functions
 * of the C library that need none. */
#include "malloc/parts.h"

#include <mm/linux.h>

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

#define REGION_MAX   MM_GIB(4096)
#define REGION_MIN   MM_MIB(32)
#define REGION_ALIGN HUGE_PAGE_SIZE
#define RAM_MULTIPLE 4u
#define OPTIONS_MAX  320

enum start_state { NOT_STARTED, STARTING, STARTED, FAILED };

static enum start_state state; /* atomic */
static __thread bool starting; /* in this thread */

static struct {
    void *base;
    size_t bytes;
} region;

/* ---- the region ---- */

/* Four times the RAM; half of the address space where that is limited (ulimit -v). */
static size_t wanted_bytes(void)
{
    struct sysinfo info;
    struct rlimit limit;
    uint64_t bytes = REGION_MAX;

    if (sysinfo(&info) == 0)
        bytes = (uint64_t)info.totalram * info.mem_unit * RAM_MULTIPLE;
    if (bytes > REGION_MAX)
        bytes = REGION_MAX;
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        bytes > limit.rlim_cur / 2)
        bytes = limit.rlim_cur / 2;
    return mm_round_down(bytes < REGION_MIN ? REGION_MIN : bytes, LARGE_PAGE_SIZE);
}

static void *map_bytes(size_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return base == MAP_FAILED ? NULL : base;
}

/* `bytes` at a multiple of `align`: more is mapped, and the ends are given back. */
static void *map_aligned(size_t bytes, size_t align)
{
    uint8_t *base = map_bytes(bytes + align);

    if (base == NULL)
        return NULL;
    size_t before = mm_round_up((uintptr_t)base, align) - (uintptr_t)base;
    if (before > 0)
        munmap(base, before);
    munmap(base + before + bytes, align - before);
    return base + before;
}

/* Aligned to 1 GiB, so that a block aligned in "physical" memory is aligned in the process too. With
 * little address space: half of it, and half again. */
static bool map_region(void)
{
    size_t bytes = wanted_bytes();

    for (; bytes >= REGION_MIN; bytes = mm_round_down(bytes / 2, LARGE_PAGE_SIZE)) {
        region.base = map_aligned(bytes, bytes > REGION_ALIGN ? REGION_ALIGN : LARGE_PAGE_SIZE);
        if (region.base != NULL)
            break;
    }
    region.bytes = region.base == NULL ? 0 : bytes;
    return region.base != NULL;
}

/* ---- mm on it ---- */

bool malloc_frames_hold(uint64_t first, uint64_t end)
{
    return pmm_reserve_range(&mm_kernel()->pmm, first * FRAME_SIZE, end * FRAME_SIZE) == MM_OK;
}

void malloc_frames_release(uint64_t first, uint64_t end)
{
    mm_status_t status = pmm_release_range(&mm_kernel()->pmm, first * FRAME_SIZE, end * FRAME_SIZE);

    if (status != MM_OK)
        mm_fatal("libmello-malloc: %lu frames do not go back: %s", end - first,
                 mm_status_name(status));
}

/* What a thread that ends leaves in its caches is for all again. */
static void drain_slot(unsigned slot)
{
    kheap_drain(mm_kernel()->heap, slot);
}

static bool start_here(void)
{
    static const struct boot_lender lender = { malloc_memory_take, malloc_memory_give,
                                               malloc_memory_given };
    char options[OPTIONS_MAX];

    mm_linux_set_lender(&lender);
    malloc_options_read(options, sizeof(options));
    if (!map_region() || !malloc_memory_init(region.base, region.bytes) ||
        !mello_linux_init(region.base, region.bytes, options))
        return false;
    mm_info("libmello-malloc: %lu MB of address space at 0x%lx, %s", region.bytes >> 20,
            (uintptr_t)region.base, options);
    return mm_linux_on_thread_exit(drain_slot) && malloc_fork_init();
}

/* ---- once ---- */

MM_COLD static bool start_or_wait(void)
{
    enum start_state seen = NOT_STARTED;
    int saved = errno;

    if (starting)
        return false;
    if (__atomic_compare_exchange_n(&state, &seen, STARTING, false, __ATOMIC_ACQUIRE,
                                    __ATOMIC_ACQUIRE)) {
        starting = true;
        seen = start_here() ? STARTED : FAILED;
        starting = false;
        __atomic_store_n(&state, seen, __ATOMIC_RELEASE);
    }
    while (seen == STARTING) {
        sched_yield();
        seen = __atomic_load_n(&state, __ATOMIC_ACQUIRE);
    }
    errno = saved;
    return seen == STARTED;
}

bool malloc_start(void)
{
    return __atomic_load_n(&state, __ATOMIC_ACQUIRE) == STARTED || start_or_wait();
}

size_t malloc_region_bytes(void)
{
    return region.bytes;
}
