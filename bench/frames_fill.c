/* SPDX-License-Identifier: MIT */
/* All of memory: taken until nothing is left, freed, taken again.
 *
 *   fill_get     the first time through            fill_free    in the order in which they came
 *   random_free  in random order                   refill       taken again after that
 *
 * What is timed walks through arrays that are in order; that the order is random is done before. */
#include "bench/frames.h"

#include <stdlib.h>

static double per_frame(uint64_t start, uint64_t count)
{
    return bench_ns(bench_ticks() - start) / (double)count;
}

static double timed_fill(const struct frames_run *run, uint64_t *frames, uint64_t *count)
{
    uint64_t start = bench_ticks();

    *count = frames_fill(run, frames, run->bytes / 4096);
    if (*count < run->bytes / 4096 / 10 * 9)
        frames_die(run, "a tenth of memory is not there");
    return per_frame(start, *count);
}

static double timed_put(const struct frames_run *run, const uint64_t *frames, uint64_t count)
{
    uint64_t start = bench_ticks();

    frames_put_all(run, frames, count);
    return per_frame(start, count);
}

static void sample(struct bench *bench, const char *workload, const struct frames_run *run,
                   double value)
{
    if (!bench_is_wanted(bench, workload))
        return;
    struct bench_row *row = bench_row(bench, workload, run->subject->name, 1, "ns");
    bench_sample(row, value);
    if (run->subject->touches_memory)
        bench_field(row, "gib", (double)run->bytes / (double)MM_GIB(1));
}

static void one_round(struct bench *bench, const struct frames_run *run, uint64_t *frames,
                      uint64_t seed)
{
    uint64_t count;
    double fill = timed_fill(run, frames, &count);

    sample(bench, "fill_get", run, fill);
    sample(bench, "fill_free", run, timed_put(run, frames, count));
    count = frames_fill(run, frames, run->bytes / 4096);
    frames_shuffle(frames, count, seed);
    sample(bench, "random_free", run, timed_put(run, frames, count));
    sample(bench, "refill", run, timed_fill(run, frames, &count));
    frames_put_all(run, frames, count);
}

void frames_measure_fill(struct bench *bench, struct frames_run *runs)
{
    uint64_t bytes = runs[0].bytes / 4096 * 8;
    unsigned rounds = bench_rounds_of(bench, 1, 2, 9);
    /* One way through gives all four. */
    bool wanted = bench_wants(bench, "fill_get") || bench_wants(bench, "fill_free") ||
                  bench_wants(bench, "random_free") || bench_wants(bench, "refill");

    if (!wanted)
        return;
    uint64_t *frames = bench_memory(bytes);
    for (unsigned round = 0; round < rounds; round++)
        for (unsigned i = 0; i < frames_count; i++)
            one_round(bench, &runs[i], frames, round + 1);
    bench_release(frames, bytes);
}
