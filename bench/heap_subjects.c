/* SPDX-License-Identifier: MIT */
/* mello, the seed's buddy, and the mallocs of others, in one process.
 *
 *   mello       kmalloc, kmalloc_nozero, kfree      on a region of its own, 4 KiB pages like the peers
 *   mello_full  the same at the full level of hardening, switched on for its turn only
 *   glibc       what this program is linked with
 *   jemalloc, mimalloc, tcmalloc                    by dlopen(RTLD_LOCAL), so that nobody else's calls
 *                                                   go there
 *   seed        the buddy system of the seed, alone, under one lock, clearing what it hands out
 *
 * jemalloc has 2.6 KiB of initial-exec TLS, more than glibc keeps free for libraries that come late. So
 * the program starts itself again with a larger reserve, once, before main. */
#define _GNU_SOURCE 1
#include "bench/heap_subjects.h"

#include "mm/buddy.h"

#include <mm/linux.h>
#include <mm/mm.h>

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MELLO_BYTES MM_GIB(16)
#define SEED_BYTES  MM_GIB(1)
#define TUNABLE     "glibc.rtld.optional_static_tls"

/* ---- starting again with more TLS ---- */

static __attribute__((constructor)) void restart_with_more_tls(int count, char **arguments)
{
    const char *old = getenv("GLIBC_TUNABLES");
    char value[512];

    (void)count;
    if (old != NULL && strstr(old, TUNABLE) != NULL)
        return;
    snprintf(value, sizeof value, "%s%s" TUNABLE "=8192", old != NULL ? old : "",
             old != NULL ? ":" : "");
    if (setenv("GLIBC_TUNABLES", value, 1) == 0)
        execv("/proc/self/exe", arguments);
}

/* ---- mello ---- */

static void mello_start(void)
{
    static bool started;

    /* The frames' and the page tables' suites move the HHDM: this one brings it back. */
    if (!started && !mello_linux_init(bench_reserve(MELLO_BYTES, false), MELLO_BYTES, NULL)) {
        fprintf(stderr, "bench: mello does not start\n");
        exit(1);
    }
    started = true;
    init_hhdm(mm_kernel()->boot.hhdm_offset, MELLO_BYTES);
}

static void enter_full(void)
{
    kheap_set_level(kheap_default(), KHEAP_FULL);
}

static void leave_full(void)
{
    kheap_set_level(kheap_default(), KHEAP_DEFAULT);
}

/* ---- the seed ---- */

/* Blocks of a power of two, 64 B to 1 MiB, aligned to their size; beside them a byte for each 64 bytes
 * says how large the block is that begins there, as kfree() is not told. */
static struct {
    struct mm_port_lock lock;
    uint8_t *base, *orders;
    struct buddy buddy;
} seed;

static void seed_start(void)
{
    uint64_t state_bytes = mm_round_up(buddy_state_bytes(SEED_BYTES, 0), PAGE_SIZE);

    if (seed.base != NULL)
        return;
    seed.base = bench_reserve(SEED_BYTES, false);
    seed.orders = bench_reserve(SEED_BYTES / MIN_BLOCK_SIZE, false);
    buddy_init(&seed.buddy, SEED_BYTES, 0, seed.base);
    buddy_add(&seed.buddy, mm_round_up(state_bytes, MAX_BLOCK_SIZE), SEED_BYTES);
}

static void *seed_alloc(size_t bytes)
{
    unsigned order = buddy_order(bytes);
    uint64_t saved = mm_port_lock(&seed.lock);
    uint64_t offset = buddy_alloc(&seed.buddy, buddy_block_bytes(order), buddy_block_bytes(order));

    if (offset != BUDDY_NO_BLOCK)
        seed.orders[offset / MIN_BLOCK_SIZE] = (uint8_t)order;
    mm_port_unlock(&seed.lock, saved);
    return offset == BUDDY_NO_BLOCK ? NULL : seed.base + offset;
}

static void *seed_zeroed(size_t bytes)
{
    void *block = seed_alloc(bytes);

    return block == NULL ? NULL : memset(block, 0, buddy_block_bytes(buddy_order(bytes)));
}

static void seed_release(void *block)
{
    uint64_t saved = mm_port_lock(&seed.lock);
    uint64_t offset = (uint64_t)((uint8_t *)block - seed.base);

    buddy_free(&seed.buddy, offset, buddy_block_bytes(seed.orders[offset / MIN_BLOCK_SIZE]));
    mm_port_unlock(&seed.lock, saved);
}

/* ---- all of them ---- */

static const struct heap_subject all_subjects[] = {
    { .name = "mello",
      .zeroed = kmalloc,
      .alloc = kmalloc_nozero,
      .resize = krealloc,
      .release = kfree },
    { .name = "mello_full",
      .zeroed = kmalloc,
      .alloc = kmalloc_nozero,
      .resize = krealloc,
      .release = kfree,
      .enter = enter_full,
      .leave = leave_full,
      .slow = 20 },
    { .name = "glibc", .calloc = calloc, .alloc = malloc, .resize = realloc, .release = free },
    { .name = "jemalloc", .library = "libjemalloc.so.2" },
    { .name = "mimalloc", .library = "libmimalloc.so.2" },
    { .name = "tcmalloc", .library = "libtcmalloc_minimal.so.4" },
    { .name = "seed", .zeroed = seed_zeroed, .alloc = seed_alloc, .release = seed_release },
};

enum heap_peer heap_peer_load(const char *library, void **handle, char *why, size_t why_bytes)
{
    *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (*handle != NULL)
        return HEAP_PEER_FOUND;
    snprintf(why, why_bytes, "%s", dlerror());
    bool own = strncmp(why, library, strlen(library)) == 0;
    return own && strstr(why, "No such file") != NULL ? HEAP_PEER_ABSENT : HEAP_PEER_BROKEN;
}

/* ISO C has no conversion from the object pointer of dlsym() to a function's; POSIX has. */
static void find_function(void *library, const char *prefix, const char *name, void *function)
{
    char symbol[32];

    snprintf(symbol, sizeof symbol, "%s%s", prefix, name);
    *(void **)function = dlsym(library, symbol);
}

/* A library that is there but lacks one of its functions is broken, not absent. */
static enum heap_peer load(struct heap_subject *subject, char *why, size_t why_bytes)
{
    const char *prefix = strcmp(subject->name, "mimalloc") == 0 ? "mi_" : "";
    void *library;
    enum heap_peer found = heap_peer_load(subject->library, &library, why, why_bytes);

    if (found != HEAP_PEER_FOUND)
        return found;
    find_function(library, prefix, "calloc", &subject->calloc);
    find_function(library, prefix, "malloc", &subject->alloc);
    find_function(library, prefix, "realloc", &subject->resize);
    find_function(library, prefix, "free", &subject->release);
    if (subject->calloc != NULL && subject->alloc != NULL && subject->resize != NULL &&
        subject->release != NULL && subject->alloc != malloc)
        return HEAP_PEER_FOUND;
    snprintf(why, why_bytes, "%s has no malloc of its own", subject->library);
    return HEAP_PEER_BROKEN;
}

static enum heap_peer start_one(const struct heap_subject *from, struct heap_subject *to, char *why,
                                size_t why_bytes)
{
    *to = *from;
    if (from->library != NULL)
        return load(to, why, why_bytes);
    if (from->zeroed == kmalloc)
        mello_start();
    else if (from->zeroed == seed_zeroed)
        seed_start();
    return HEAP_PEER_FOUND;
}

bool heap_subjects_start(struct bench *bench, struct heap_subject *subjects, unsigned *out_count)
{
    unsigned count = 0;
    char why[256];

    for (size_t i = 0; i < sizeof all_subjects / sizeof all_subjects[0]; i++) {
        if (!bench_wants_subject(bench, all_subjects[i].name))
            continue;
        switch (start_one(&all_subjects[i], &subjects[count], why, sizeof why)) {
        case HEAP_PEER_FOUND:
            count++;
            break;
        case HEAP_PEER_ABSENT:
            bench_note(bench, "heap: %s is not installed: left out", all_subjects[i].name);
            break;
        case HEAP_PEER_BROKEN:
            bench_note(bench, "heap: %s does not load: %s", all_subjects[i].name, why);
            return false;
        }
    }
    *out_count = count;
    return true;
}

bool heap_subject_start(const char *name, struct heap_subject *subject)
{
    char why[256];

    for (size_t i = 0; i < sizeof all_subjects / sizeof all_subjects[0]; i++)
        if (strcmp(all_subjects[i].name, name) == 0)
            return start_one(&all_subjects[i], subject, why, sizeof why) == HEAP_PEER_FOUND;
    return false;
}
