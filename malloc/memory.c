/* SPDX-License-Identifier: MIT */
/* Memory that the heap has given back, on its way to the system: kept for a while, then discarded.
 *
 *      give --> dirty, oldest first: [ range ][ range ][ range ] --more than the limit--> madvise: zero
 *      take <-- dirty or zero: the answer says which
 *      dirty[page]   1: the page is free and may hold anything     0: it is free and zero, or in use
 *
 * A page that goes to the system and comes back costs a fault and a clearing, some hundred times what
 * it takes to hand it out again; a page that is kept is missed by others. So what was freed last
 * stays: 16 MiB, and a sixteenth of what is in use. The range list only says where to look; what counts
 * is the bit of each page, so a page that was taken and given back meanwhile does no harm. What is kept
 * is free in the pmm: before pages are discarded they are taken out of its hands (start.c).
 *
 * Invariant: a free page whose bit is 0 reads as zeroes. The heap takes after it got the frames and gives
 * before it returns them, so a page has one owner here, too; what is too much goes when it has. */
#include "malloc/parts.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RANGES         256u
#define KEPT_BYTES     MM_MIB(16)
#define KEPT_PART      16u
#define PAGES_PER_WORD 64u

struct range {
    uint64_t first, end; /* page numbers in the region */
};

static struct {
    struct mm_port_lock
        lock; /* guards all below; taken with no lock of mm held, before that of the pmm */
    uint8_t *base;
    uint64_t *dirty;
    uint64_t dirty_pages, used_pages;
    struct range ranges[RANGES]; /* a ring */
    unsigned oldest, count;
} memory;

bool malloc_memory_init(void *base, size_t bytes)
{
    size_t words = bytes / PAGE_SIZE / PAGES_PER_WORD + 1;
    void *map = mmap(NULL, words * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    memory.base = base;
    memory.dirty = map;
    return map != MAP_FAILED;
}

/* ---- bits ---- */

/* Sets or clears the bits of a range.
 *   Returns:  how many were set before. */
static uint64_t mark_locked(struct range range, bool dirty)
{
    uint64_t before = 0;

    for (uint64_t page = range.first; page < range.end;) {
        uint64_t word = page / PAGES_PER_WORD, bit = page % PAGES_PER_WORD;
        uint64_t count =
            PAGES_PER_WORD - bit < range.end - page ? PAGES_PER_WORD - bit : range.end - page;
        uint64_t mask = (count == PAGES_PER_WORD ? ~(uint64_t)0 : ((uint64_t)1 << count) - 1)
                        << bit;

        before += (uint64_t)__builtin_popcountll(memory.dirty[word] & mask);
        if (dirty)
            memory.dirty[word] |= mask;
        else if ((memory.dirty[word] & mask) != 0)
            memory.dirty[word] &= ~mask;
        page += count;
    }
    return before;
}

static bool is_dirty_locked(uint64_t page)
{
    return (memory.dirty[page / PAGES_PER_WORD] >> page % PAGES_PER_WORD & 1) != 0;
}

/* ---- to the system ---- */

/* errno is the caller's: free() must not change it. A failure leaves pages dirty that are marked zero:
 * it cannot happen for our own private memory, and would be found by nobody, so it ends the program. */
static void discard_pages(uint64_t first, uint64_t end)
{
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"((long)SYS_madvise), "D"(memory.base + first * PAGE_SIZE),
                       "S"((end - first) * PAGE_SIZE), "d"((long)MADV_DONTNEED)
                     : "rcx", "r11", "memory");
    if (result != 0)
        mm_fatal("libmello-malloc: madvise of %lu pages failed: %ld", end - first, -result);
}

/* A run of dirty pages: those that are still free go to the system. The pmm may have given some of them
 * to somebody who does not tell the lender (mm's own state): such a page stays marked dirty. */
static void discard_run_locked(uint64_t first, uint64_t end)
{
    if (malloc_frames_hold(first, end)) {
        discard_pages(first, end);
        memory.dirty_pages -= mark_locked((struct range){ first, end }, false);
        malloc_frames_release(first, end);
    } else if (end - first > 1) {
        uint64_t middle = first + (end - first) / 2;

        discard_run_locked(first, middle);
        discard_run_locked(middle, end);
    }
}

/* The dirty pages of a range, run by run. */
static void discard_locked(struct range range)
{
    for (uint64_t page = range.first; page < range.end; page++) {
        uint64_t end = page;

        while (end < range.end && is_dirty_locked(end))
            end++;
        if (end == page)
            continue;
        discard_run_locked(page, end);
        page = end;
    }
}

static void discard_oldest_locked(void)
{
    struct range range = memory.ranges[memory.oldest];

    memory.oldest = (memory.oldest + 1) % RANGES;
    memory.count--;
    discard_locked(range);
}

static uint64_t kept_pages_max_locked(void)
{
    return KEPT_BYTES / PAGE_SIZE + memory.used_pages / KEPT_PART;
}

/* ---- the heap's calls ---- */

static struct range range_of(const void *start, uint64_t bytes)
{
    uint64_t first = (uint64_t)((const uint8_t *)start - memory.base) / PAGE_SIZE;

    return (struct range){ first, first + bytes / PAGE_SIZE };
}

bool malloc_memory_take(void *start, uint64_t bytes)
{
    struct range range = range_of(start, bytes);
    uint64_t saved = mm_port_lock(&memory.lock);
    uint64_t dirty = mark_locked(range, false);

    memory.dirty_pages -= dirty;
    memory.used_pages += range.end - range.first;
    mm_port_unlock(&memory.lock, saved);
    return dirty == 0;
}

void malloc_memory_give(void *start, uint64_t bytes)
{
    struct range range = range_of(start, bytes);
    uint64_t saved = mm_port_lock(&memory.lock);

    if (memory.count == RANGES)
        discard_oldest_locked();
    memory.ranges[(memory.oldest + memory.count++) % RANGES] = range;
    memory.dirty_pages += range.end - range.first - mark_locked(range, true);
    memory.used_pages -= range.end - range.first;
    mm_port_unlock(&memory.lock, saved);
}

void malloc_memory_given(void)
{
    uint64_t saved = mm_port_lock(&memory.lock);

    while (memory.count > 0 && memory.dirty_pages > kept_pages_max_locked())
        discard_oldest_locked();
    mm_port_unlock(&memory.lock, saved);
}

/* ---- fork ---- */

void malloc_memory_lock(void)
{
    (void)mm_port_lock(&memory.lock);
}

void malloc_memory_unlock(void)
{
    mm_port_unlock(&memory.lock, 0);
}
