/* SPDX-License-Identifier: MIT */
/* Blocks that live for a while:
 *
 *      live10k    10 000 living blocks, 16 B to 64 KiB: free one at random, make another
 *      worst_op   the longest of some 10 000 calls, and the latencies of all of them: up to 4096 blocks of
 *                 16 B to 2 KiB, in bursts */
#include "bench/heap.h"

#include <string.h>

#define LIVE 10000u

struct bench_histogram heap_latencies[HEAP_SUBJECTS_MAX];

/* ---- 10 000 living blocks ---- */

static uint64_t random_of[HEAP_SUBJECTS_MAX];

/* Evenly over the doublings from 16 B to 64 KiB. */
static inline size_t draw_bytes(uint64_t *random)
{
    uint64_t draw = bench_random(random);
    size_t bytes = (size_t)16 << (draw % 12);

    return bytes + (draw >> 8) % bytes;
}

static void **live_blocks(const struct heap_subject *subject)
{
    static void *blocks[HEAP_SUBJECTS_MAX][LIVE];

    return blocks[subject - heap_subjects];
}

static void fill_live(const struct heap_subject *subject)
{
    uint64_t *random = &random_of[subject - heap_subjects];
    void **blocks = live_blocks(subject);

    *random = 88172645463325252u;
    for (unsigned i = 0; i < LIVE; i++) {
        blocks[i] = heap_zeroed(subject, draw_bytes(random));
        heap_touch(subject, blocks[i]);
    }
}

static uint64_t time_live(const struct heap_subject *subject, uint64_t count)
{
    uint64_t *random = &random_of[subject - heap_subjects];
    void **blocks = live_blocks(subject);
    uint64_t start = bench_ticks();

    for (uint64_t i = 0; i < count; i++) {
        void **place = &blocks[bench_random(random) % LIVE];

        subject->release(*place);
        *place = heap_zeroed(subject, draw_bytes(random));
        heap_touch(subject, *place);
    }
    return bench_ticks() - start;
}

static void empty_live(const struct heap_subject *subject)
{
    for (unsigned i = 0; i < LIVE; i++)
        subject->release(live_blocks(subject)[i]);
}

static uint64_t one_live(const struct heap_subject *subject, unsigned round,
                         const struct heap_amount *amount)
{
    uint64_t best = UINT64_MAX;

    (void)round;
    for (unsigned i = 0; i < HEAP_SLICES; i++)
        best = heap_best_slice(best, time_live(subject, heap_slice_count(amount)));
    return heap_scale_up(best, amount);
}

void heap_measure_live(struct bench *bench)
{
    struct heap_amount amount = { .count = bench_pick(bench, 100, 10000, 30000) };

    if (!bench_wants(bench, "live10k"))
        return;
    for (unsigned i = 0; i < heap_subject_count; i++) {
        heap_enter(&heap_subjects[i]);
        fill_live(&heap_subjects[i]);
        heap_leave(&heap_subjects[i]);
    }
    heap_measure(bench, "live10k", 1, true, one_live, &amount);
    for (unsigned i = 0; i < heap_subject_count; i++)
        empty_live(&heap_subjects[i]);
}

/* ---- the longest call ---- */

/* Bursts that grow and shrink, so that every cache runs full and empty. */
static uint64_t time_worst(const struct heap_subject *subject, uint64_t count,
                           struct bench_histogram *histogram)
{
    static void *blocks[4096];
    uint64_t random = 7, worst = 0;
    unsigned have = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t draw = bench_random(&random);
        bool grow = have == 0 || (have < 4096 && (i / 3000 % 2 == 0) == (draw % 4 != 0));
        size_t bytes = (size_t)16 << (draw >> 8) % 8;
        uint64_t start = bench_ticks();

        if (grow)
            blocks[have] = heap_zeroed(subject, bytes);
        else
            subject->release(blocks[have - 1]);
        uint64_t ticks = bench_ticks() - start;
        bench_histogram_add(histogram, ticks);
        worst = ticks > worst ? ticks : worst;
        if (grow)
            heap_touch(subject, blocks[have]);
        have = grow ? have + 1 : have - 1;
    }
    while (have > 0)
        subject->release(blocks[--have]);
    return worst;
}

static uint64_t one_worst(const struct heap_subject *subject, unsigned round,
                          const struct heap_amount *amount)
{
    (void)round;
    return time_worst(subject, amount->count, &heap_latencies[subject - heap_subjects]);
}

void heap_measure_worst(struct bench *bench)
{
    struct heap_amount amount = { .count = bench_pick(bench, 5000, 50000, 200000) };

    if (!bench_wants(bench, "worst_op"))
        return;
    memset(heap_latencies, 0, sizeof heap_latencies);
    heap_measure(bench, "worst_op", 1, false, one_worst, &amount);
    for (unsigned i = 0; i < heap_subject_count; i++)
        bench_latency_fields(bench_row(bench, "worst_op", heap_subjects[i].name, 1, "ns"),
                             &heap_latencies[i]);
}
