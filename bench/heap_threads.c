/* SPDX-License-Identifier: MIT */
/* Two threads, and one of them alone:
 *
 *      larson2      1000 blocks each, 16 B to 1000 B, replaced at random; they swap what they hold
 *      larson1      what one of them does, alone: what of it is not the other thread's doing
 *      cross_free   one thread allocates, the other one frees what comes through a ring */
#include "bench/heap.h"

#include <sched.h>

#define HELD 1000u /* blocks of each thread in larson2 */
#define RING 1024u /* blocks on their way in cross_free */

struct worker {
    const struct heap_subject *subject;
    void **blocks;
    uint64_t random, count;
};

static void run_larson(void *argument)
{
    struct worker *worker = argument;

    for (uint64_t i = 0; i < worker->count; i++) {
        uint64_t draw = bench_random(&worker->random);
        void **place = &worker->blocks[draw % HELD];

        if (*place != NULL)
            worker->subject->release(*place);
        *place = heap_zeroed(worker->subject, 16 + (draw >> 16) % 985);
        heap_touch(worker->subject, *place);
    }
}

static void *held[HEAP_SUBJECTS_MAX][2][HELD];

/* Each time the threads have changed their sides, as larson's are replaced by new ones. */
static uint64_t time_larson(const struct heap_subject *subject, uint64_t count, unsigned round)
{
    unsigned index = (unsigned)(subject - heap_subjects), side = round % 2;
    struct worker first = { subject, held[index][side], 11 + round, count };
    struct worker second = { subject, held[index][1 - side], 22 + round, count };

    return bench_together(run_larson, &first, run_larson, &second);
}

static uint64_t time_alone(const struct heap_subject *subject, uint64_t count, unsigned round)
{
    struct worker worker = { subject, held[subject - heap_subjects][0], 11 + round, count };
    uint64_t start = bench_ticks();

    run_larson(&worker);
    return bench_ticks() - start;
}

static void empty_held(const struct heap_subject *subject)
{
    void **blocks = held[subject - heap_subjects][0];

    for (unsigned i = 0; i < 2 * HELD; i++) {
        if (blocks[i] != NULL)
            subject->release(blocks[i]);
        blocks[i] = NULL;
    }
}

/* One writer, one reader; each keeps its own count on a line of its own. */
static struct {
    void *blocks[RING];
    _Alignas(64) uint64_t written;
    _Alignas(64) uint64_t read;
} ring;

static void wait_a_little(unsigned *spins)
{
    if (++*spins % 1024 == 0)
        sched_yield();
    else
        __builtin_ia32_pause();
}

static void run_giver(void *argument)
{
    struct worker *worker = argument;
    uint64_t read = 0;
    unsigned spins = 0;

    for (uint64_t i = 0; i < worker->count; i++) {
        void *block = heap_zeroed(worker->subject, 64);

        heap_touch(worker->subject, block);
        while (i - read == RING) {
            read = __atomic_load_n(&ring.read, __ATOMIC_ACQUIRE);
            if (i - read == RING)
                wait_a_little(&spins);
        }
        ring.blocks[i % RING] = block;
        if (i % 32 == 31 || i + 1 == worker->count)
            __atomic_store_n(&ring.written, i + 1, __ATOMIC_RELEASE);
    }
}

static void run_taker(void *argument)
{
    struct worker *worker = argument;
    uint64_t written = 0;
    unsigned spins = 0;

    for (uint64_t i = 0; i < worker->count; i++) {
        while (i == written) {
            written = __atomic_load_n(&ring.written, __ATOMIC_ACQUIRE);
            if (i == written)
                wait_a_little(&spins);
        }
        worker->subject->release(ring.blocks[i % RING]);
        if (i % 32 == 31 || i + 1 == worker->count)
            __atomic_store_n(&ring.read, i + 1, __ATOMIC_RELEASE);
    }
}

static uint64_t time_cross(const struct heap_subject *subject, uint64_t count)
{
    struct worker worker = { .subject = subject, .count = count };

    ring.written = ring.read = 0;
    return bench_together(run_giver, &worker, run_taker, &worker);
}

static uint64_t one_larson(const struct heap_subject *subject, unsigned round,
                           const struct heap_amount *amount)
{
    return time_larson(subject, amount->count, round);
}

static uint64_t one_alone(const struct heap_subject *subject, unsigned round,
                          const struct heap_amount *amount)
{
    return time_alone(subject, amount->count, round);
}

static void empty_all_held(void)
{
    for (unsigned i = 0; i < heap_subject_count; i++)
        empty_held(&heap_subjects[i]);
}

static uint64_t one_cross(const struct heap_subject *subject, unsigned round,
                          const struct heap_amount *amount)
{
    (void)round;
    return time_cross(subject, amount->count);
}

void heap_measure_threads(struct bench *bench)
{
    struct heap_amount amount = { .count = bench_pick(bench, 500, 50000, 200000) };

    if (bench_wants(bench, "larson1")) {
        heap_measure(bench, "larson1", 1, true, one_alone, &amount);
        empty_all_held();
    }
    if (bench_cpu_count() < 2)
        bench_note(bench, "heap: one CPU only: larson2 and cross_free say little");
    if (bench_wants(bench, "larson2")) {
        heap_measure(bench, "larson2", 2, true, one_larson, &amount);
        empty_all_held();
    }
    if (bench_wants(bench, "cross_free"))
        heap_measure(bench, "cross_free", 2, true, one_cross, &amount);
}
