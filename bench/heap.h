/* SPDX-License-Identifier: MIT */
/* What the files of the heap suite share: subjects, rounds, slices. */
#ifndef BENCH_HEAP_H
#define BENCH_HEAP_H

#include "bench/heap_subjects.h"

#include <mm/mm.h>

/* Those that are measured. */
extern struct heap_subject heap_subjects[HEAP_SUBJECTS_MAX];
extern unsigned heap_subject_count;

/* Before and after a subject's turn. */
void heap_enter(const struct heap_subject *subject);
void heap_leave(const struct heap_subject *subject);

/* ---- Blocks are used ---- */

_Noreturn void heap_die_without_memory(const struct heap_subject *subject);

static inline void heap_touch(const struct heap_subject *subject, void *block)
{
    if (__builtin_expect(block == NULL, 0))
        heap_die_without_memory(subject);
    *(volatile uint64_t *)block = 1;
}

/* And once in every page: who asks for zeroes uses them, so a malloc that only promises pages of the
 * kernel pays for them here as its callers would. */
static inline void heap_touch_pages(void *block, size_t bytes)
{
    for (size_t at = PAGE_SIZE; at < bytes; at += PAGE_SIZE)
        *(volatile uint64_t *)((char *)block + at) = 1;
}

/* ---- Rounds ---- */

struct heap_amount {
    size_t bytes;
    bool zeroed;
    uint64_t count;
};

typedef uint64_t heap_time_fn(const struct heap_subject *subject, unsigned round,
                              const struct heap_amount *amount);

/* One sample for each subject and round, the subjects taking turns: the time of one call, or, if not
 * `each`, what was measured. */
void heap_measure(struct bench *bench, const char *workload, unsigned threads, bool each,
                  heap_time_fn *time_one, const struct heap_amount *amount);

/* The best of some slices, as if all had been as good: a slice is short enough that some are not cut by
 * another program or an interrupt. */
#define HEAP_SLICES 16u

static inline uint64_t heap_best_slice(uint64_t best, uint64_t ticks)
{
    return ticks < best ? ticks : best;
}

static inline uint64_t heap_slice_count(const struct heap_amount *amount)
{
    return amount->count / HEAP_SLICES + 1;
}

static inline uint64_t heap_scale_up(uint64_t ticks, const struct heap_amount *amount)
{
    return (uint64_t)((double)ticks * (double)amount->count / (double)heap_slice_count(amount));
}

/* ---- Parts of the suite ---- */

/* Each measures its workloads with all subjects in turn. */
void heap_measure_pairs(struct bench *bench);
void heap_measure_resize(struct bench *bench);
void heap_measure_live(struct bench *bench);
void heap_measure_threads(struct bench *bench);
void heap_measure_worst(struct bench *bench);

/* Of worst_op, in the order of the subjects; for the plot. */
extern struct bench_histogram heap_latencies[HEAP_SUBJECTS_MAX];

#endif
