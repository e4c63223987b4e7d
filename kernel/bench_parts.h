/* SPDX-License-Identifier: MIT */
/* What the kernel's benchmark (bench.c) and its suites share. */
#ifndef KERNEL_BENCH_PARTS_H
#define KERNEL_BENCH_PARTS_H

#include <mm/mm.h>

/* A workload: runs `count` operations; false if one of them failed. */
struct bench_work {
    const char *name;
    bool (*run)(struct mm *mm, uint64_t count);
    uint64_t count;
};

/* For a workload that needs more than it measures: what it does before the start, and after the stop, is
 * not timed. One that calls neither is timed from its first instruction to its last. */
void bench_clock_start(void);
void bench_clock_stop(void);

struct bench_part {
    const char *name;
    const struct bench_work *works;
    size_t work_count;
    /* Makes ready what a workload needs, and gives back what it has left; may be NULL. */
    bool (*begin)(struct mm *mm);
    void (*end)(struct mm *mm);
};

extern const struct bench_part bench_frames, bench_paging, bench_heap;

#endif
