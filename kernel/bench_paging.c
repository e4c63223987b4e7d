/* SPDX-License-Identifier: MIT */
/* The paging suite of the kernel's benchmark: pages of an address space of its own, which is active
 * nowhere; invlpg is counted all the same, as a shootdown makes it on every CPU.
 *
 *   window of 4096 pages at WINDOW, all mapped to one physical run, which nobody reads
 *
 * A value is that of one 4 KiB page, for split_2m that of one large leaf made, split and unmapped. */
#include "kernel/bench_parts.h"

#define BENCH_WINDOW MM_GIB(64)
#define BENCH_PAGES  4096u
#define BENCH_BYTES  (BENCH_PAGES * PAGE_SIZE)
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

static bool map_range(paddr_t to)
{
    return paging_map_range(&bench_space, BENCH_WINDOW, to, BENCH_BYTES, PAGING_WRITE) == MM_OK;
}

static bool unmap_range(void)
{
    return paging_unmap_range(&bench_space, BENCH_WINDOW, BENCH_BYTES) == MM_OK;
}

/* One page after the other; both halves are timed, so a value is that of a map and an unmap. */
static bool paging_map_unmap(struct mm *mm, uint64_t count)
{
    (void)mm;
    (void)count;
    return map_pages() && unmap_pages();
}

static bool paging_map_unmap_range(struct mm *mm, uint64_t count)
{
    (void)mm;
    (void)count;
    return map_range(BENCH_SMALL) && unmap_range();
}

static bool paging_map_unmap_large(struct mm *mm, uint64_t count)
{
    (void)mm;
    (void)count;
    return map_range(BENCH_LARGE) && unmap_range();
}

/* The window is mapped before, by whatever is quickest, and that is counted, too. */
static bool paging_protect(struct mm *mm, uint64_t count)
{
    (void)mm;
    (void)count;
    if (!map_range(BENCH_SMALL))
        return false;
    for (uint64_t at = 0; at < BENCH_BYTES; at += PAGE_SIZE)
        if (paging_protect_page(&bench_space, BENCH_WINDOW + at, PAGING_READ) != MM_OK)
            return false;
    return unmap_range();
}

static bool paging_translate_all(struct mm *mm, uint64_t count)
{
    paddr_t out;

    (void)mm;
    (void)count;
    if (!map_range(BENCH_SMALL))
        return false;
    for (uint64_t at = 0; at < BENCH_BYTES; at += PAGE_SIZE)
        if (paging_translate(&bench_space, BENCH_WINDOW + at, &out) != MM_OK)
            return false;
    return unmap_range();
}

static bool paging_split(struct mm *mm, uint64_t count)
{
    (void)mm;
    for (uint64_t i = 0; i < count; i++)
        if (paging_map_range(&bench_space, BENCH_WINDOW, BENCH_LARGE, LARGE_PAGE_SIZE,
                             PAGING_WRITE) != MM_OK ||
            paging_protect_page(&bench_space, BENCH_WINDOW + PAGE_SIZE, PAGING_READ) != MM_OK ||
            paging_unmap_range(&bench_space, BENCH_WINDOW, LARGE_PAGE_SIZE) != MM_OK)
            return false;
    return true;
}

static const struct bench_work paging_works[] = {
    { "map_unmap_4k", paging_map_unmap, BENCH_PAGES },
    { "map_unmap_range_4k", paging_map_unmap_range, BENCH_PAGES },
    { "map_unmap_range_2m", paging_map_unmap_large, BENCH_PAGES },
    { "protect_4k", paging_protect, BENCH_PAGES },
    { "translate", paging_translate_all, BENCH_PAGES },
    { "split_2m", paging_split, 16 },
};

const struct bench_part bench_paging = {
    .name = "paging",
    .works = paging_works,
    .work_count = sizeof(paging_works) / sizeof(paging_works[0]),
    .begin = paging_begin,
    .end = paging_end,
};
