/* SPDX-License-Identifier: MIT */
/* The paging suite: page tables of 1 GiB, made and changed page by page and by range.
 *
 *   mello       paging_map_page() and its like, as any CPU may call them at any time: behind a lock
 *   mello-list  paging_map_frames(), paging_unmap_frames(): scattered frames, one call for 1 GiB
 *   walk        a plain walk from the root for each page: tables_walk.c
 *   walk_lock   the same behind a lock
 *   limit       the entries alone, stored into level-1 tables that stand ready
 *
 * All take their tables from memory that is cleared when it is taken. There is no TLB here: dropping a
 * translation is a call of a port function that does nothing, for all subjects; in a kernel it is
 * an INVLPG, and the same for all. (`mm.bench=paging` under -icount counts it.) Between rounds the
 * tables are taken apart, so that each round makes them anew. */
#include "bench/tables.h"

#include <mm/audit.h>
#include <mm/hhdm.h>

#include <stdlib.h>
#include <string.h>

#define RAM_BYTES MM_GIB(2)
#define VIRT      ((vaddr_t)0xffffa00000000000)
#define RW        (PAGING_WRITE | PAGING_GLOBAL)

char *tables_ram;
struct pmm tables_pmm;

static struct address_space space;
static paddr_t block;      /* the frames that are mapped: the size of the run and 2 MiB more */
static uint64_t run_bytes; /* 1 GiB, or less for a test */
static paddr_t *list;      /* the same frames in another order, one for each page */
static uint64_t *probes;   /* addresses in random order */
static uint64_t probe_count;

/* ---- mello, page by page ---- */

static void mello_begin(void)
{
    struct mm_cpu_features features = { .levels = 4, .physical_bits = 46, .huge_pages = true };

    if (paging_init(&space, &tables_pmm, &features) != MM_OK)
        abort();
}

static void mello_end(void)
{
    paging_destroy(&space);
}

static int mello_map(vaddr_t page, paddr_t frame, paging_rights_t rights)
{
    return (int)paging_map_page(&space, page, frame, rights);
}

static int mello_map_large(vaddr_t page, paddr_t frame, paging_rights_t rights)
{
    return (int)paging_map_range(&space, page, frame, LARGE_PAGE_SIZE, rights);
}

static int mello_unmap(vaddr_t page, paddr_t *frame)
{
    return (int)paging_unmap_page(&space, page, frame);
}

static int mello_protect(vaddr_t page, paging_rights_t rights)
{
    return (int)paging_protect_page(&space, page, rights);
}

static int mello_translate(vaddr_t address, paddr_t *out)
{
    return (int)paging_translate(&space, address, out);
}

static const struct tables_subject tables_mello = {
    "mello",     mello_begin,   mello_end,       mello_map,     mello_map_large,
    mello_unmap, mello_protect, mello_translate, mello_protect,
};

static const struct tables_subject *const subjects[] = { &tables_mello, &tables_walk,
                                                         &tables_walk_lock };

/* ---- Workloads ---- */

static void must(int status, const char *what)
{
    if (status == 0)
        return;
    fprintf(stderr, "\nbench: paging: %s: %s\n", what, mm_status_name((mm_status_t)status));
    exit(1);
}

static void sample(struct bench *bench, const char *workload, const char *subject, uint64_t start,
                   uint64_t count)
{
    double ns = bench_ns(bench_ticks() - start);

    if (bench_is_wanted(bench, workload))
        bench_sample(bench_row(bench, workload, subject, 1, "ns"), ns / (double)count);
}

/* Frames are one page off, so that no large leaf can be made. */
static void round_pages(struct bench *bench, const struct tables_subject *subject)
{
    const struct tables_subject calls = *subject; /* nothing is loaded again for each page */
    uint64_t pages = run_bytes / PAGE_SIZE, start, sum = 0;
    paddr_t frame = 0;

    subject->begin();
    start = bench_ticks();
    for (uint64_t i = 0; i < pages; i++)
        must(calls.map(VIRT + i * PAGE_SIZE, block + (i + 1) * FRAME_SIZE, RW), "map");
    sample(bench, "map_4k", subject->name, start, pages);
    start = bench_ticks();
    for (uint64_t i = 0; i < probe_count; i++) {
        must(calls.translate(probes[i], &frame), "translate");
        sum += frame;
    }
    sample(bench, "translate_random", subject->name, start, probe_count);
    bench_keep(sum);
    start = bench_ticks();
    for (uint64_t i = 0; i < pages; i++)
        must(calls.protect(VIRT + i * PAGE_SIZE, PAGING_GLOBAL), "protect");
    sample(bench, "protect_4k", subject->name, start, pages);
    start = bench_ticks();
    for (uint64_t i = 0; i < pages; i++)
        must(calls.unmap(VIRT + i * PAGE_SIZE, &frame), "unmap");
    sample(bench, "unmap_4k", subject->name, start, pages);
    subject->end();
}

/* A walk has no other way for a range than page by page. */
static void round_walk_ranges(struct bench *bench, const struct tables_subject *subject)
{
    const struct tables_subject calls = *subject;
    uint64_t pages = run_bytes / PAGE_SIZE, start;
    paddr_t frame;

    subject->begin();
    start = bench_ticks();
    for (uint64_t i = 0; i < pages; i++)
        must(calls.map(VIRT + i * PAGE_SIZE, block + (i + 1) * FRAME_SIZE, RW), "map");
    sample(bench, "map_range_4k", subject->name, start, pages);
    start = bench_ticks();
    for (uint64_t i = 0; i < pages; i++)
        must(calls.unmap(VIRT + i * PAGE_SIZE, &frame), "unmap");
    sample(bench, "unmap_range_4k", subject->name, start, pages);
    subject->end();
}

static void round_mello_ranges(struct bench *bench)
{
    uint64_t pages = run_bytes / PAGE_SIZE, start;

    mello_begin();
    start = bench_ticks();
    must((int)paging_map_range(&space, VIRT, block + FRAME_SIZE, run_bytes, RW), "map range");
    sample(bench, "map_range_4k", "mello", start, pages);
    start = bench_ticks();
    must((int)paging_unmap_range(&space, VIRT, run_bytes), "unmap range");
    sample(bench, "unmap_range_4k", "mello", start, pages);
    start = bench_ticks();
    must((int)paging_map_frames(&space, VIRT, list, pages, RW), "map frames");
    sample(bench, "map_range_4k", "mello-list", start, pages);
    start = bench_ticks();
    must((int)paging_unmap_frames(&space, VIRT, list, pages), "unmap frames");
    sample(bench, "unmap_range_4k", "mello-list", start, pages);
    start = bench_ticks();
    must((int)paging_map_range(&space, VIRT, block, run_bytes, RW), "map 2 MiB");
    sample(bench, "map_range_2m", "mello-1g", start, pages);
    must((int)paging_unmap_range(&space, VIRT, run_bytes), "unmap range");
    space.huge_pages = false;
    start = bench_ticks();
    must((int)paging_map_range(&space, VIRT, block, run_bytes, RW), "map 2 MiB");
    sample(bench, "map_range_2m", "mello", start, pages);
    mello_end();
}

static void round_large(struct bench *bench, const struct tables_subject *subject)
{
    uint64_t leaves = run_bytes / LARGE_PAGE_SIZE, start;

    subject->begin();
    start = bench_ticks();
    for (uint64_t i = 0; i < leaves; i++)
        must(subject->map_large(VIRT + i * LARGE_PAGE_SIZE, block + i * LARGE_PAGE_SIZE, RW),
             "map");
    if (subject->begin != mello_begin)
        sample(bench, "map_range_2m", subject->name, start, run_bytes / PAGE_SIZE);
    start = bench_ticks();
    for (uint64_t i = 0; i < leaves; i++)
        must(subject->split(VIRT + i * LARGE_PAGE_SIZE + 77 * PAGE_SIZE, PAGING_GLOBAL), "split");
    sample(bench, "split_2m", subject->name, start, leaves);
    subject->end();
}

/* Tables stand ready one after the other; 512 entries each, as the calls write them. */
static void round_limit(struct bench *bench)
{
    static uint64_t *tables;
    uint64_t pages = run_bytes / PAGE_SIZE, start;
    volatile uint64_t *entry;

    if (tables == NULL)
        tables = bench_memory(pages * 8);
    entry = tables;
    start = bench_ticks();
    for (uint64_t i = 0; i < pages; i++)
        entry[i] = (block + (i + 1) * FRAME_SIZE) | 0x8000000000000103u;
    sample(bench, "map_range_4k", "limit", start, pages);
    start = bench_ticks();
    for (uint64_t i = 0; i < pages; i++)
        entry[i] &= ~(uint64_t)2;
    sample(bench, "protect_4k", "limit", start, pages);
    start = bench_ticks();
    memset(tables, 0, pages * 8);
    bench_keep(tables[0]);
    sample(bench, "unmap_range_4k", "limit", start, pages);
}

/* 1 GiB of 4 KiB leaves outside of an HHDM: the costly kind, each with a look at its frame. */
static void round_audit(struct bench *bench)
{
    struct audit_rules rules = { .hhdm_end = 0 };
    struct audit_result result;
    uint64_t start;
    double ms;

    mello_begin();
    must((int)paging_map_range(&space, VIRT, block + FRAME_SIZE, run_bytes, RW), "map range");
    start = bench_ticks();
    must((int)paging_audit(&space, &rules, &result), "audit");
    ms = bench_ns(bench_ticks() - start) / 1e6 * (double)MM_GIB(1) / (double)run_bytes;
    if (result.violations != 0)
        must(1, "the audit found something");
    bench_sample(bench_row(bench, "audit_per_gib", "mello", 1, "ms"), ms);
    mello_end();
}

/* ---- The suite ---- */

static void set_up(const struct bench *bench)
{
    static struct mm_range range;
    struct memmap map = { .ranges = &range, .count = 1, .capacity = 1 };
    struct pmm_config config = { .low_memory = true };
    uint64_t seed = 88172645463325252u;

    run_bytes = bench_pick(bench, MM_MIB(16), MM_GIB(1), MM_GIB(1));
    range = (struct mm_range){ 0, RAM_BYTES, BOOT_USABLE };
    map.total_bytes = map.usable_bytes = map.ram_end = map.end = RAM_BYTES;
    tables_ram = bench_reserve(RAM_BYTES, true);
    init_hhdm((uint64_t)(uintptr_t)tables_ram, RAM_BYTES);
    pmm_init(&tables_pmm, &map, bench_memory(pmm_metadata_bytes(&map)), &config);
    must((int)pmm_alloc_contiguous_flags(&tables_pmm, run_bytes / FRAME_SIZE + 512, LARGE_PAGE_SIZE,
                                         PMM_NO_LIMIT, PMM_NOZERO, &block),
         "frames");
    list = bench_memory(run_bytes / PAGE_SIZE * sizeof *list);
    for (uint64_t i = 0; i < run_bytes / PAGE_SIZE; i++)
        list[i] = block + (i * 7919 % (run_bytes / PAGE_SIZE)) * FRAME_SIZE;
    probe_count = bench_pick(bench, 1000, 1000000, 1000000);
    probes = bench_memory(probe_count * sizeof *probes);
    for (uint64_t i = 0; i < probe_count; i++)
        probes[i] = VIRT + bench_random(&seed) % run_bytes;
}

static bool paging_run_suite(struct bench *bench)
{
    bool pages = bench_wants(bench, "pages: map_4k protect_4k unmap_4k translate_random");
    bool ranges = bench_wants(bench, "ranges: map_range_4k unmap_range_4k map_range_2m");
    bool splits = bench_wants(bench, "split_2m"), audits = bench_wants(bench, "audit_per_gib");
    bool mello = bench_wants_subject(bench, "mello");
    unsigned rounds = bench_rounds_of(bench, 1, 15, 21); /* each is quick */

    set_up(bench);
    for (unsigned round = 0; round < rounds; round++) {
        for (size_t i = 0; i < sizeof subjects / sizeof subjects[0]; i++) {
            if (!bench_wants_subject(bench, subjects[i]->name))
                continue;
            if (pages)
                round_pages(bench, subjects[i]);
            if (ranges && i > 0)
                round_walk_ranges(bench, subjects[i]);
            if (splits || ranges)
                round_large(bench, subjects[i]);
        }
        if (ranges && mello)
            round_mello_ranges(bench);
        if (ranges && bench_wants_subject(bench, "limit"))
            round_limit(bench);
        if (audits && mello)
            round_audit(bench);
    }
    bench_release(tables_ram, RAM_BYTES);
    return true;
}

/* docs/performance.md, Page tables. A lock costs two locked instructions here, or one and the switching of
 * interrupts in a kernel: a call for a single page that any CPU may make cannot be cheaper than the
 * walk without one; what it costs beside the lock, the rows of walk_lock tell. */
static const struct bench_goal goals[] = {
    { "map one page", "map_4k", "mello", "walk", 0.83, false, NULL },
    { "unmap one page", "unmap_4k", "mello", "walk", 0.85, false, NULL },
    { "map one page, all locked", "map_4k", "mello", "walk_lock", 0.83, false, NULL },
    { "unmap one page, all locked", "unmap_4k", "mello", "walk_lock", 0.85, false, NULL },
    { "map a range of pages", "map_range_4k", "mello", "walk", 0.066, false, NULL },
    { "unmap a range of pages", "unmap_range_4k", "mello", "walk", 0.066, false, NULL },
    { "translate", "translate_random", "mello", "walk", 1.05, false, NULL },
};

/* ---- Plots ---- */

/* The audit's row says milliseconds for a GiB: as the others, what one page of it takes. */
static double ns_per_page(const struct bench *bench, const char *workload, const char *subject)
{
    double value = bench_value(bench, workload, subject, NULL);

    return strcmp(workload, "audit_per_gib") == 0 ? value * 1e6 / (double)(MM_GIB(1) / PAGE_SIZE)
                                                  : value;
}

static void paging_plots(struct bench *bench, const char *folder)
{
    static const struct bench_place calls[] = {
        { "map_4k", NULL, 0 },
        { "translate_random", "translate\\n_random", 0 },
        { "protect_4k", NULL, 0 },
        { "unmap_4k", NULL, 0 },
        { "split_2m", "split_2m,\\none leaf", 0 },
    };
    static const struct bench_place ranges[] = {
        { "map_range_4k", NULL, 0 },
        { "unmap_range_4k", NULL, 0 },
        { "map_range_2m", NULL, 0 },
        { "audit_per_gib", "audit", 0 },
    };
    static const struct bench_chart charts[] = {
        { .name = "paging-calls",
          .title = "Page tables of 1 GiB: one call for each page",
          .settings = "set logscale y\nset yrange [0.1:]\nset format y '%g'\nset bmargin 3.5\n"
                      "set ylabel 'ns for a page'\n",
          .places = calls,
          .place_count = sizeof calls / sizeof calls[0],
          .headroom = 3 },
        { .name = "paging-ranges",
          .title = "Page tables of 1 GiB: all of it in one call, and its audit",
          .settings = "set logscale y\nset yrange [0.0005:]\nset ylabel 'ns for a page of 4 KiB'\n"
                      "set format y '%g'\n",
          .places = ranges,
          .place_count = sizeof ranges / sizeof ranges[0],
          .value = ns_per_page,
          .headroom = 4 },
    };

    for (size_t i = 0; i < sizeof charts / sizeof charts[0]; i++)
        bench_plot_bars(bench, folder, &charts[i]);
}

BENCH_SUITE(.name = "paging", .title = "Page tables", .place = 2,
            .subjects = "mello,mello-list,mello-1g,walk,walk_lock,limit", .peers = "walk,walk_lock",
            .run = paging_run_suite, .plots = paging_plots)
