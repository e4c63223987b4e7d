/* SPDX-License-Identifier: MIT */
/* Two CPUs at once, each as one:
 *
 *   mt2_hot    each takes and frees one frame, again and again: ns of wall time for a pair of each
 *   mt2_batch  each takes 512 and frees 512: likewise
 *   mt2_cross  one takes, hands over through a ring, the other frees: ns for a frame
 *
 * The ring moves 64 frames at a time, so that handing over costs all subjects the same and little. */
#include "bench/frames.h"

#include <sched.h>

#define BATCH       512u
#define RING        4096u
#define RING_CHUNKS (RING / 64u)

struct worker {
    const struct frames_run *run;
    uint64_t count;
    uint64_t frames[BATCH];
} __attribute__((aligned(128)));

static struct worker workers[2];

static void hot_worker(void *argument)
{
    struct worker *worker = argument;
    const struct frames_subject *subject = worker->run->subject;
    void *self = worker->run->self;
    uint64_t frame;

    for (uint64_t i = 0; i < worker->count; i++) {
        if (subject->get(self, FRAMES_NOZERO, &frame) != 0)
            frames_die(worker->run, "no frame");
        subject->put(self, frame);
    }
}

static void batch_worker(void *argument)
{
    struct worker *worker = argument;
    const struct frames_subject *subject = worker->run->subject;
    void *self = worker->run->self;

    for (uint64_t i = 0; i < worker->count; i += BATCH) {
        for (unsigned j = 0; j < BATCH; j++)
            if (subject->get(self, FRAMES_NOZERO, &worker->frames[j]) != 0)
                frames_die(worker->run, "no frame");
        for (unsigned j = 0; j < BATCH; j++)
            subject->put(self, worker->frames[j]);
    }
}

/* ---- The ring ---- */

static struct {
    uint64_t frames[RING] __attribute__((aligned(128)));
    uint64_t filled __attribute__((aligned(128))); /* chunks ever written */
    uint64_t emptied __attribute__((aligned(128)));
} ring;

/* Waits until *word is at least `value`; the other CPU may be with somebody else. */
static void await_at_least(const uint64_t *word, uint64_t value)
{
    for (unsigned i = 1; __atomic_load_n(word, __ATOMIC_ACQUIRE) < value; i++) {
        if (i % 4096 == 0)
            sched_yield();
        __builtin_ia32_pause();
    }
}

static void cross_taker(void *argument)
{
    const struct worker *worker = argument;
    const struct frames_subject *subject = worker->run->subject;

    for (uint64_t chunk = 0; chunk < worker->count / 64; chunk++) {
        uint64_t *to = &ring.frames[chunk % RING_CHUNKS * 64];

        if (chunk >= RING_CHUNKS)
            await_at_least(&ring.emptied, chunk - RING_CHUNKS + 1);
        for (unsigned i = 0; i < 64; i++)
            if (subject->get(worker->run->self, FRAMES_NOZERO, &to[i]) != 0)
                frames_die(worker->run, "no frame");
        __atomic_store_n(&ring.filled, chunk + 1, __ATOMIC_RELEASE);
    }
}

static void cross_freer(void *argument)
{
    const struct worker *worker = argument;
    const struct frames_subject *subject = worker->run->subject;

    for (uint64_t chunk = 0; chunk < worker->count / 64; chunk++) {
        const uint64_t *from = &ring.frames[chunk % RING_CHUNKS * 64];

        await_at_least(&ring.filled, chunk + 1);
        for (unsigned i = 0; i < 64; i++)
            subject->put(worker->run->self, from[i]);
        __atomic_store_n(&ring.emptied, chunk + 1, __ATOMIC_RELEASE);
    }
}

/* ---- Rounds ---- */

#define TRIES 10u /* on a busy machine */

static uint64_t undisturbed(const struct frames_run *run, uint64_t count, void (*first)(void *),
                            void (*second)(void *))
{
    uint64_t ticks = 0;

    for (unsigned i = 0; i < TRIES; i++) {
        for (unsigned j = 0; j < 2; j++) {
            workers[j].run = run;
            workers[j].count = count;
        }
        ring.filled = ring.emptied = 0;
        ticks = bench_together(first, &workers[0], second, &workers[1]);
        if (bench_met())
            break;
    }
    return ticks;
}

static void rounds(struct bench *bench, struct frames_run *runs, const char *workload,
                   uint64_t count, void (*first)(void *), void (*second)(void *))
{
    if (!bench_wants(bench, workload))
        return;
    for (unsigned round = 0; round < bench_rounds(bench); round++) {
        for (unsigned i = 0; i < frames_count; i++) {
            uint64_t ticks = undisturbed(&runs[i], count, first, second);

            bench_sample(bench_row(bench, workload, runs[i].subject->name, 2, "ns"),
                         bench_ns(ticks) / (double)count);
        }
    }
}

void frames_measure_threads(struct bench *bench, struct frames_run *runs)
{
    uint64_t count = bench_pick(bench, 1024, 5120, 5120);

    rounds(bench, runs, "mt2_hot", count, hot_worker, hot_worker);
    rounds(bench, runs, "mt2_batch", count, batch_worker, batch_worker);
    rounds(bench, runs, "mt2_cross", count, cross_taker, cross_freer);
}
