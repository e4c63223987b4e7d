/* SPDX-License-Identifier: MIT */
/* The paging suite of the kernel's benchmark: pages of an address space of its own, which is active
 * nowhere; invlpg is counted all the same, as a shootdown makes it on every CPU.
 *
 *   window of 4096 pages at WINDOW, all mapped to one physical run, which nobody reads
 *
 *   [not timed: what must be mapped] -> one kind of call -> [not timed: unmap all]
 *
 * A value is that of one 4 KiB page; of one large leaf where the name ends in _2m. */
#include "kernel/bench_parts.h"

#define BENCH_WINDOW MM_GIB(64)
#define BENCH_PAGES  4096u
#define BENCH_BYTES  (BENCH_PAGES * PAGE_SIZE)
#define BENCH_LEAVES (BENCH_BYTES / LARGE_PAGE_SIZE)
/* Physical addresses, aligned to 2 MiB and not. */
#define BENCH_LARGE MM_MIB(64)
#define BENCH_SMALL (MM_MIB(64) + PAGE_SIZE)

static struct address_space bench_space;

static bool paging_begin(struct mm *mm)
{
    return paging_init(&bench_space, &mm->pmm, &mm->cpu) == MM_OK;
}

static void paging_end(struct mm *mm)
{
    (void)mm;
    paging_destroy(&bench_space);
}

/* ---- What is measured ---- */

static bool map_pages(void)
{
    for (uint64_t at = 0; at < BENCH_BYTES; at += PAGE_SIZE)
        if (paging_map_page(&bench_space, BENCH_WINDOW + at, BENCH_SMALL + at, PAGING_WRITE) !=
            MM_OK)
            return false;
    return true;
}

static bool unmap_pages(void)
{
    for (uint64_t at = 0; at < BENCH_BYTES; at += PAGE_SIZE)
        if (paging_unmap_page(&bench_space, BENCH_WINDOW + at, NULL) != MM_OK)
            return false;
    return true;
}

static bool protect_pages(void)
{
    for (uint64_t at = 0; at < BENCH_BYTES; at += PAGE_SIZE)
        if (paging_protect_page(&bench_space, BENCH_WINDOW + at, PAGING_READ) != MM_OK)
            return false;
    return true;
}

static bool translate_pages(void)
{
    paddr_t out;

    for (uint64_t at = 0; at < BENCH_BYTES; at += PAGE_SIZE)
        if (paging_translate(&bench_space, BENCH_WINDOW + at, &out) != MM_OK)
            return false;
    return true;
}

static bool map_small_range(void)
{
    return paging_map_range(&bench_space, BENCH_WINDOW, BENCH_SMALL, BENCH_BYTES, PAGING_WRITE) ==
           MM_OK;
}

static bool map_large_range(void)
{
    return paging_map_range(&bench_space, BENCH_WINDOW, BENCH_LARGE, BENCH_BYTES, PAGING_WRITE) ==
           MM_OK;
}

static bool unmap_range(void)
{
    return paging_unmap_range(&bench_space, BENCH_WINDOW, BENCH_BYTES) == MM_OK;
}

static bool protect_range(void)
{
    return paging_protect_range(&bench_space, BENCH_WINDOW, BENCH_BYTES, PAGING_READ) == MM_OK;
}

static bool split_leaves(void)
{
    for (uint64_t at = 0; at < BENCH_BYTES; at += LARGE_PAGE_SIZE)
        if (paging_protect_page(&bench_space, BENCH_WINDOW + at + PAGE_SIZE, PAGING_READ) != MM_OK)
            return false;
    return true;
}

/* ---- The workloads ---- */

typedef bool (*paging_step)(void);

static bool nothing(void)
{
    return true;
}

/* Times the middle one of three steps. */
static bool paging_measure(paging_step before, paging_step measured, paging_step after)
{
    if (!before())
        return false;
    bench_clock_start();
    bool done = measured();
    bench_clock_stop();
    return done && after();
}

#define PAGING_WORK(name, before, measured, after)                                                 \
    static bool name(struct mm *mm, uint64_t count)                                                \
    {                                                                                              \
        (void)mm;                                                                                  \
        (void)count;                                                                               \
        return paging_measure(before, measured, after);                                            \
    }

PAGING_WORK(paging_map, nothing, map_pages, unmap_range)
PAGING_WORK(paging_unmap, map_small_range, unmap_pages, nothing)
PAGING_WORK(paging_protect, map_small_range, protect_pages, unmap_range)
PAGING_WORK(paging_translate_all, map_small_range, translate_pages, unmap_range)
PAGING_WORK(paging_map_small, nothing, map_small_range, unmap_range)
PAGING_WORK(paging_unmap_small, map_small_range, unmap_range, nothing)
PAGING_WORK(paging_protect_small, map_small_range, protect_range, unmap_range)
PAGING_WORK(paging_map_large, nothing, map_large_range, unmap_range)
PAGING_WORK(paging_unmap_large, map_large_range, unmap_range, nothing)
PAGING_WORK(paging_protect_large, map_large_range, protect_range, unmap_range)
PAGING_WORK(paging_split, map_large_range, split_leaves, unmap_range)

static const struct bench_work paging_works[] = {
    { "map_4k", paging_map, BENCH_PAGES },
    { "unmap_4k", paging_unmap, BENCH_PAGES },
    { "protect_4k", paging_protect, BENCH_PAGES },
    { "translate_4k", paging_translate_all, BENCH_PAGES },
    { "map_range_4k", paging_map_small, BENCH_PAGES },
    { "unmap_range_4k", paging_unmap_small, BENCH_PAGES },
    { "protect_range_4k", paging_protect_small, BENCH_PAGES },
    { "map_range_2m", paging_map_large, BENCH_LEAVES },
    { "unmap_range_2m", paging_unmap_large, BENCH_LEAVES },
    { "protect_range_2m", paging_protect_large, BENCH_LEAVES },
    { "split_2m", paging_split, BENCH_LEAVES },
};

const struct bench_part bench_paging = {
    .name = "paging",
    .works = paging_works,
    .work_count = sizeof(paging_works) / sizeof(paging_works[0]),
    .begin = paging_begin,
    .end = paging_end,
};
