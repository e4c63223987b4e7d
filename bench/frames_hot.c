/* SPDX-License-Identifier: MIT */
/* One CPU, few frames: what sits in the cache.
 *
 *   pair_hot          get and put, again and again, content as it comes
 *   pair_hot_zeroed   the same, cleared; besides: what memset and rep stosb alone take
 *   pair_known_zero   put back as known to be zero, got as a frame of zeroes
 *   batch512          512 gets, then 512 puts of them; mello-bulk: in one call each
 *
 * The subject lies at half full memory that was freed in random order, not in the state after its
 * start. */
#include "bench/frames.h"

#include <stdlib.h>

#define BATCH 512u

static uint64_t batch[BATCH];

/* ns for one get and put. */
static double measure_pairs(const struct frames_run *run, unsigned flags,
                            void (*put)(void *, uint64_t), uint64_t pairs)
{
    int (*get)(void *, unsigned, uint64_t *) = run->subject->get;
    void *self = run->self;
    uint64_t frame, start = bench_ticks();

    for (uint64_t i = 0; i < pairs; i++) {
        if (get(self, flags, &frame) != 0)
            frames_die(run, "no frame for a pair");
        put(self, frame);
    }
    return bench_ns(bench_ticks() - start) / (double)pairs;
}

static double measure_batch(const struct frames_run *run, uint64_t batches)
{
    int (*get)(void *, unsigned, uint64_t *) = run->subject->get;
    void (*put)(void *, uint64_t) = run->subject->put;
    void *self = run->self;
    uint64_t start = bench_ticks();

    for (uint64_t i = 0; i < batches; i++) {
        for (unsigned j = 0; j < BATCH; j++)
            if (get(self, FRAMES_NOZERO, &batch[j]) != 0)
                frames_die(run, "no frame for a batch");
        for (unsigned j = 0; j < BATCH; j++)
            put(self, batch[j]);
    }
    return bench_ns(bench_ticks() - start) / (double)(batches * BATCH);
}

static double measure_bulk(const struct frames_run *run, uint64_t batches)
{
    uint64_t start = bench_ticks();

    for (uint64_t i = 0; i < batches; i++) {
        if (run->subject->get_many(run->self, BATCH, FRAMES_NOZERO, batch) != 0)
            frames_die(run, "no frames for a batch");
        run->subject->put_many(run->self, batch, BATCH);
    }
    return bench_ns(bench_ticks() - start) / (double)(batches * BATCH);
}

static double measure_memset(char *frame, uint64_t count)
{
    uint64_t start = bench_ticks();

    for (uint64_t i = 0; i < count; i++) {
        __builtin_memset(frame, 0, 4096);
        bench_keep(i);
    }
    return bench_ns(bench_ticks() - start) / (double)count;
}

static double measure_stosb(char *frame, uint64_t count)
{
    uint64_t start = bench_ticks();

    for (uint64_t i = 0; i < count; i++) {
        void *to = frame;
        uint64_t bytes = 4096;

        __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0) : "memory");
    }
    return bench_ns(bench_ticks() - start) / (double)count;
}

static void pair_rounds(struct bench *bench, struct frames_run *runs, const char *workload,
                        unsigned flags, uint64_t pairs)
{
    if (!bench_wants(bench, workload))
        return;
    for (unsigned round = 0; round < 5 * bench_rounds(bench); round++)
        for (unsigned i = 0; i < frames_count; i++)
            bench_sample(bench_row(bench, workload, runs[i].subject->name, 1, "ns"),
                         measure_pairs(&runs[i], flags, runs[i].subject->put, pairs));
}

static void zeroing_limits(struct bench *bench, uint64_t count)
{
    static char frame[4096] __attribute__((aligned(4096)));

    if (!bench_wants(bench, "pair_hot_zeroed"))
        return;
    for (unsigned round = 0; round < 5 * bench_rounds(bench); round++) {
        bench_sample(bench_row(bench, "pair_hot_zeroed", "memset", 1, "ns"),
                     measure_memset(frame, count));
        bench_sample(bench_row(bench, "pair_hot_zeroed", "stosb", 1, "ns"),
                     measure_stosb(frame, count));
    }
}

/* Who does not know zero frames clears them again. */
static void known_zero_rounds(struct bench *bench, struct frames_run *runs, uint64_t pairs)
{
    if (!bench_wants(bench, "pair_known_zero"))
        return;
    for (unsigned round = 0; round < 5 * bench_rounds(bench); round++) {
        for (unsigned i = 0; i < frames_count; i++) {
            const struct frames_subject *subject = runs[i].subject;
            uint64_t frame;

            /* the first frame is cleared, so that what is put back is what was promised */
            if (subject->get(runs[i].self, 0, &frame) != 0)
                frames_die(&runs[i], "no frame");
            (subject->put_zero != NULL ? subject->put_zero : subject->put)(runs[i].self, frame);
            bench_sample(bench_row(bench, "pair_known_zero", subject->name, 1, "ns"),
                         measure_pairs(&runs[i], 0,
                                       subject->put_zero != NULL ? subject->put_zero : subject->put,
                                       pairs));
        }
    }
}

static void batch_rounds(struct bench *bench, struct frames_run *runs, uint64_t batches)
{
    if (!bench_wants(bench, "batch512"))
        return;
    for (unsigned round = 0; round < 5 * bench_rounds(bench); round++) {
        for (unsigned i = 0; i < frames_count; i++) {
            bench_sample(bench_row(bench, "batch512", runs[i].subject->name, 1, "ns"),
                         measure_batch(&runs[i], batches));
            if (runs[i].subject->get_many != NULL)
                bench_sample(bench_row(bench, "batch512", "mello-bulk", 1, "ns"),
                             measure_bulk(&runs[i], batches));
        }
    }
}

/* 2048 frames are taken and freed in random order; half of them stay. */
static void settle(const struct frames_run *run, bool begin)
{
    static uint64_t frames[FRAMES_SUBJECTS][2048];
    unsigned place = 0;

    while (frames_subjects[place] != run->subject)
        place++;
    if (begin) {
        if (frames_fill(run, frames[place], 2048) != 2048)
            frames_die(run, "less than 2048 frames");
        frames_shuffle(frames[place], 2048, 42);
        frames_put_all(run, frames[place], 1024);
    } else {
        frames_put_all(run, frames[place] + 1024, 1024);
    }
}

void frames_measure_hot(struct bench *bench, struct frames_run *runs)
{
    uint64_t pairs = bench_pick(bench, 100, 20000, 50000);

    for (unsigned i = 0; i < frames_count; i++)
        settle(&runs[i], true);
    pair_rounds(bench, runs, "pair_hot", FRAMES_NOZERO, pairs);
    pair_rounds(bench, runs, "pair_hot_zeroed", 0, pairs / 8);
    zeroing_limits(bench, pairs / 8);
    known_zero_rounds(bench, runs, pairs / 4);
    batch_rounds(bench, runs, bench_pick(bench, 1, 40, 100));
    for (unsigned i = 0; i < frames_count; i++)
        settle(&runs[i], false);
}
