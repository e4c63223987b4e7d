/* SPDX-License-Identifier: MIT */
/* Memory that is nearly full, or full.
 *
 *   full90      90 % of the frames are taken; 16 random ones are freed, 16 taken, and so on: ns for
 *               each get or put. Besides: the time of each single get (p50, p999, p9999, max)
 *   last_free   nothing is free but one frame, anywhere, in nobody's cache: the worst of 5 gets
 *   fail_*      nothing is free, or no 2 MiB block: how long the "no" takes, the first one after a frame
 *               was free for a moment
 *
 * timer_floor is what the clock measures when nothing lies between. */
#include "bench/frames.h"

#include <stdlib.h>

#define BURST 16u

/* Frames that are taken now, in random order. */
struct taken {
    uint64_t *frames;
    uint64_t count, all, bytes;
};

static void take_all(const struct frames_run *run, struct taken *taken)
{
    uint64_t frames = run->bytes / 4096;

    taken->bytes = frames * 8;
    taken->frames = bench_memory(taken->bytes);
    taken->all = taken->count = frames_fill(run, taken->frames, frames);
    frames_shuffle(taken->frames, taken->count, 7);
}

/* Frees frames until so many per cent are left. */
static void keep_part(const struct frames_run *run, struct taken *taken, uint64_t percent)
{
    uint64_t keep = taken->all * percent / 100;

    frames_put_all(run, taken->frames + keep, taken->count - keep);
    taken->count = keep;
}

static void give_all(const struct frames_run *run, struct taken *taken)
{
    frames_put_all(run, taken->frames, taken->count);
    bench_release(taken->frames, taken->bytes);
}

/* ---- full90 ---- */

/* Frees and takes `bursts` times BURST frames from `at` on: taken frames are in random order. */
static double measure_bursts(const struct frames_run *run, uint64_t *frames, uint64_t bursts)
{
    int (*get)(void *, unsigned, uint64_t *) = run->subject->get;
    void (*put)(void *, uint64_t) = run->subject->put;
    void *self = run->self;
    uint64_t start = bench_ticks();

    for (uint64_t i = 0; i < bursts * BURST; i += BURST) {
        for (unsigned j = 0; j < BURST; j++)
            put(self, frames[i + j]);
        for (unsigned j = 0; j < BURST; j++)
            if (get(self, FRAMES_NOZERO, &frames[i + j]) != 0)
                frames_die(run, "no frame at 90 %");
    }
    return bench_ns(bench_ticks() - start) / (double)(bursts * BURST * 2);
}

static void measure_latencies(const struct frames_run *run, uint64_t *frames, uint64_t bursts,
                              struct bench_histogram *histogram)
{
    int (*get)(void *, unsigned, uint64_t *) = run->subject->get;
    void (*put)(void *, uint64_t) = run->subject->put;

    for (uint64_t i = 0; i < bursts * BURST; i += BURST) {
        for (unsigned j = 0; j < BURST; j++)
            put(run->self, frames[i + j]);
        for (unsigned j = 0; j < BURST; j++) {
            uint64_t start = bench_ticks();
            int failed = get(run->self, FRAMES_NOZERO, &frames[i + j]);

            bench_histogram_add(histogram, bench_ticks() - start);
            if (failed != 0)
                frames_die(run, "no frame at 90 %");
        }
    }
}

static void full_round(struct bench *bench, const struct frames_run *run, struct taken *taken,
                       unsigned round, struct bench_histogram *histogram)
{
    uint64_t wanted = bench_pick(bench, 4, 6000, 8000), most = taken->count / 3 / BURST;
    uint64_t bursts = wanted < most ? wanted : most, frames = bursts * BURST;
    uint64_t at = 2 * frames * round % (taken->count - 2 * frames);

    bench_sample(bench_row(bench, "full90", run->subject->name, 1, "ns"),
                 measure_bursts(run, taken->frames + at, bursts));
    measure_latencies(run, taken->frames + at + frames, bursts, histogram);
}

static void floor_row(struct bench *bench)
{
    struct bench_row *row = bench_row(bench, "timer_floor", "timer", 1, "ns");

    bench_sample(row, bench_quantile(&frames_timer, 0));
    bench_latency_fields(row, &frames_timer);
}

static void full_rounds(struct bench *bench, struct frames_run *runs, struct taken *taken)
{
    for (unsigned round = 0; round < 3 * bench_rounds(bench); round++) {
        for (unsigned i = 0; i < frames_count; i++)
            full_round(bench, &runs[i], &taken[i], round, &frames_latency[i]);
        bench_histogram_floor(&frames_timer, (unsigned)bench_pick(bench, 100, 96000, 128000));
    }
    for (unsigned i = 0; i < frames_count; i++)
        bench_latency_fields(bench_row(bench, "full90", runs[i].subject->name, 1, "ns"),
                             &frames_latency[i]);
    floor_row(bench);
}

/* ---- last_free ---- */

/* Frees a frame, any of those that are taken, and no CPU keeps it for itself. Returns its place. */
static uint64_t *free_one(const struct frames_run *run, struct taken *taken, uint64_t *seed)
{
    uint64_t *place = &taken->frames[bench_random(seed) % taken->count];

    run->subject->put(run->self, *place);
    if (run->subject->drain != NULL)
        run->subject->drain(run->self);
    return place;
}

static double last_get(const struct frames_run *run, struct taken *taken, uint64_t *seed)
{
    uint64_t *place = free_one(run, taken, seed), start = bench_ticks(), ticks;
    int failed = run->subject->get(run->self, FRAMES_NOZERO, place);

    ticks = bench_ticks() - start;
    if (failed != 0)
        frames_die(run, "the last free frame is not found");
    return bench_ns(ticks);
}

static void last_free_rounds(struct bench *bench, struct frames_run *runs, struct taken *taken)
{
    uint64_t seeds[FRAMES_SUBJECTS];

    for (unsigned round = 0; round < bench_rounds(bench); round++) {
        for (unsigned i = 0; i < frames_count; i++) {
            double worst = 0;

            seeds[i] = round == 0 ? 99 : seeds[i];
            for (unsigned j = 0; j < 5; j++)
                worst = fmax(worst, last_get(&runs[i], &taken[i], &seeds[i]));
            bench_sample(bench_row(bench, "last_free", runs[i].subject->name, 1, "ns"), worst);
        }
    }
}

/* ---- fail_* ---- */

typedef int (*get_function)(void *self, unsigned flags, uint64_t *out);

/* Before each "no" a frame comes and goes, so that nobody answers from memory of the last one. */
static double measure_fail(const struct frames_run *run, struct taken *taken, get_function get,
                           uint64_t times, uint64_t *seed)
{
    uint64_t ticks = 0, frame;

    for (uint64_t i = 0; i < times; i++) {
        uint64_t *place = free_one(run, taken, seed);

        if (run->subject->get(run->self, FRAMES_NOZERO, place) != 0)
            frames_die(run, "a free frame is not found");
        uint64_t start = bench_ticks();
        int failed = get(run->self, FRAMES_NOZERO, &frame);
        ticks += bench_ticks() - start;
        if (failed == 0)
            frames_die(run, "a frame where none should be");
    }
    return bench_ns(ticks) / (double)times;
}

enum fail_kind { FAIL_FRAME, FAIL_LARGE, FAIL_RUN };

static get_function failing_call(const struct frames_subject *subject, enum fail_kind kind)
{
    const get_function calls[] = { subject->get, subject->get_large, subject->get_run };

    return calls[kind];
}

static void fail_rounds(struct bench *bench, struct frames_run *runs, struct taken *taken,
                        const char *workload, enum fail_kind kind)
{
    uint64_t times = bench_pick(bench, 2, 20, 50);

    for (unsigned round = 0; round < bench_rounds(bench); round++) {
        for (unsigned i = 0; i < frames_count; i++) {
            const struct frames_subject *subject = runs[i].subject;
            get_function get = failing_call(subject, kind);
            uint64_t seed = 7 + round;

            if (get == NULL)
                continue;
            bench_sample(bench_row(bench, workload, subject->name, 1, "ns"),
                         measure_fail(&runs[i], &taken[i], get, times, &seed));
        }
    }
}

/* ---- All of it, from full to three quarters full ---- */

void frames_measure_full(struct bench *bench, struct frames_run *runs)
{
    static const char *const workloads[] = { "last_free", "fail_request", "full90",
                                             "fail_request_2m", "fail_request_run" };
    struct taken taken[FRAMES_SUBJECTS];
    bool wanted[5], any = false;

    for (unsigned i = 0; i < 5; i++)
        any |= wanted[i] = bench_wants(bench, workloads[i]);
    if (!any)
        return;
    for (unsigned i = 0; i < frames_count; i++)
        take_all(&runs[i], &taken[i]);
    if (wanted[0])
        last_free_rounds(bench, runs, taken);
    if (wanted[1])
        fail_rounds(bench, runs, taken, workloads[1], FAIL_FRAME);
    for (unsigned i = 0; i < frames_count; i++)
        keep_part(&runs[i], &taken[i], 90);
    if (wanted[2])
        full_rounds(bench, runs, taken);
    /* a quarter is free, in random frames: as good as never a whole block among them */
    for (unsigned i = 0; i < frames_count; i++)
        keep_part(&runs[i], &taken[i], 75);
    if (wanted[3])
        fail_rounds(bench, runs, taken, workloads[3], FAIL_LARGE);
    if (wanted[4])
        fail_rounds(bench, runs, taken, workloads[4], FAIL_RUN);
    for (unsigned i = 0; i < frames_count; i++)
        give_all(&runs[i], &taken[i]);
}
