/* SPDX-License-Identifier: MIT */
/* Blocks of 2 MiB.
 *
 *   pair_2m       get and put of a block, again and again, while half of memory is taken
 *   found_2m_N    processes come and go while 95 % is taken, then end until N % is left; how much of
 *                 what is free then can be had as blocks of 2 MiB
 *
 * A process takes between 256 and 32768 frames in bursts of 1 to 4096, in turns with others,
 * lives for a while and gives all of them back. Between the bursts single frames come and go on
 * their own, a hundredth of memory. All subjects see the same processes. */
#include "bench/frames.h"

#include <stdlib.h>
#include <string.h>

#define LARGE_BYTES MM_GIB(4)
#define PROCESSES   256u
#define MOST_FRAMES 32768u

/* ---- pair_2m ---- */

static double measure_pairs(const struct frames_run *run, uint64_t pairs)
{
    int (*get)(void *, unsigned, uint64_t *) = run->subject->get_large;
    void (*put)(void *, uint64_t) = run->subject->put_large;
    void *self = run->self;
    uint64_t block, start = bench_ticks();

    for (uint64_t i = 0; i < pairs; i++) {
        if (get(self, FRAMES_NOZERO, &block) != 0)
            frames_die(run, "no 2 MiB block in half of memory");
        put(self, block);
    }
    return bench_ns(bench_ticks() - start) / (double)pairs;
}

static void pair_rounds(struct bench *bench, struct frames_run *runs, unsigned count)
{
    uint64_t half = runs[0].bytes / 4096 / 2, taken[FRAMES_SUBJECTS];
    uint64_t *frames[FRAMES_SUBJECTS];

    for (unsigned i = 0; i < count; i++) {
        frames[i] = bench_memory(half * 8);
        taken[i] = frames_fill(&runs[i], frames[i], half);
    }
    for (unsigned round = 0; round < 3 * bench_rounds(bench); round++)
        for (unsigned i = 0; i < count; i++)
            bench_sample(bench_row(bench, "pair_2m", runs[i].subject->name, 1, "ns"),
                         measure_pairs(&runs[i], bench_pick(bench, 2, 200, 1000)));
    for (unsigned i = 0; i < count; i++) {
        frames_put_all(&runs[i], frames[i], taken[i]);
        bench_release(frames[i], half * 8);
    }
}

/* ---- found_2m_* ---- */

struct process {
    uint32_t wanted, count;
    uint64_t *frames;
};

struct life {
    const struct frames_run *run;
    struct process processes[PROCESSES];
    uint64_t seed, used, total, level;
    uint64_t *single; /* frames of nobody's process: page tables, files */
    uint64_t single_count, single_most;
};

/* Between 256 and 32768, each doubling as likely. */
static uint32_t some_size(uint64_t *seed)
{
    uint32_t size = 256u << bench_random(seed) % 7;

    return size + (uint32_t)(bench_random(seed) % size);
}

static void end_process(struct life *life, struct process *process)
{
    frames_put_all(life->run, process->frames, process->count);
    life->used -= process->count;
    process->count = 0;
    process->wanted = 0;
}

static void end_any_process(struct life *life)
{
    for (;;) {
        struct process *process = &life->processes[bench_random(&life->seed) % PROCESSES];

        if (process->count > 0) {
            end_process(life, process);
            return;
        }
    }
}

/* One single frame more, or another one in place of any of them. */
static void one_single(struct life *life)
{
    uint64_t *place = &life->single[life->single_count];

    if (life->single_count == life->single_most) {
        place = &life->single[bench_random(&life->seed) % life->single_count];
        frames_put_all(life->run, place, 1);
    } else {
        life->single_count++;
        life->used++;
    }
    if (frames_fill(life->run, place, 1) != 1)
        frames_die(life->run, "no frame below the level");
}

/* One turn of one process: a burst of frames, a new start, or a moment of rest. */
static void one_turn(struct life *life)
{
    struct process *process = &life->processes[bench_random(&life->seed) % PROCESSES];
    uint32_t burst = (uint32_t)1 << bench_random(&life->seed) % 13;

    if (process->wanted == 0)
        process->wanted = some_size(&life->seed);
    if (burst > process->wanted - process->count)
        burst = process->wanted - process->count;
    while (life->used + burst > life->level)
        end_any_process(life);
    if (burst > process->wanted - process->count) /* it was the one that ended */
        return;
    uint64_t got = frames_fill(life->run, process->frames + process->count, burst);
    if (got != burst)
        frames_die(life->run, "no frame below the level");
    process->count += burst;
    life->used += burst;
    life->total += burst;
    if (life->used < life->level)
        one_single(life);
}

static double count_large(const struct frames_run *run, uint64_t free_frames)
{
    uint64_t most = run->bytes / LARGE_PAGE_SIZE, found = 0;
    uint64_t *blocks = bench_memory(most * 8);

    if (run->subject->drain != NULL)
        run->subject->drain(run->self);
    while (found < most && run->subject->get_large(run->self, FRAMES_NOZERO, &blocks[found]) == 0)
        found++;
    for (uint64_t i = 0; i < found; i++)
        run->subject->put_large(run->self, blocks[i]);
    bench_release(blocks, most * 8);
    return 100.0 * (double)(found * 512) / (double)free_frames;
}

/* Until 6 times the memory was taken: no place is then as it was at the start. */
static double measure_found(struct bench *bench, const struct frames_run *run, uint64_t percent,
                            uint64_t seed)
{
    struct life *life = calloc(1, sizeof *life);
    uint64_t all = run->bytes / 4096, room = PROCESSES * MOST_FRAMES * 2 * sizeof(uint64_t);
    uint64_t *frames = bench_reserve(room, false), *single = bench_reserve(all / 100 * 8, false);
    double found;

    if (life == NULL)
        frames_die(run, "out of memory");
    *life = (struct life){ .run = run,
                           .seed = seed,
                           .level = all * 95 / 100,
                           .single = single,
                           .single_most = all / 100 };
    for (unsigned i = 0; i < PROCESSES; i++)
        life->processes[i].frames = frames + (uint64_t)i * MOST_FRAMES * 2;
    while (life->total < all * bench_pick(bench, 1, 4, 6) || life->used + 4096 < life->level)
        one_turn(life);
    while (life->used > all * percent / 100)
        end_any_process(life);
    found = count_large(run, all - life->used);
    for (unsigned i = 0; i < PROCESSES; i++)
        end_process(life, &life->processes[i]);
    frames_put_all(run, single, life->single_count);
    bench_release(frames, room);
    bench_release(single, all / 100 * 8);
    free(life);
    return found;
}

static void found_rounds(struct bench *bench, struct frames_run *runs, unsigned count,
                         const char *workload, uint64_t percent)
{
    unsigned rounds = bench_rounds_of(bench, 1, 3, 5);

    if (!bench_wants(bench, workload))
        return;
    for (unsigned round = 0; round < rounds; round++)
        for (unsigned i = 0; i < count; i++)
            bench_sample(bench_row(bench, workload, runs[i].subject->name, 1, "percent"),
                         measure_found(bench, &runs[i], percent, round + 1));
}

void frames_measure_large(struct bench *bench)
{
    struct frames_run runs[FRAMES_SUBJECTS];
    uint64_t small = bench_pick(bench, MM_MIB(256), LARGE_BYTES, LARGE_BYTES);
    uint64_t whole = bench_pick(bench, MM_MIB(256), MM_GIB(16), MM_GIB(16));
    unsigned count = 0;

    for (unsigned i = 0; i < frames_count; i++)
        if (frames_subjects[i]->get_large != NULL)
            frames_begin(&runs[count++], frames_subjects[i], whole);
    if (bench_wants(bench, "pair_2m"))
        pair_rounds(bench, runs, count);
    for (unsigned i = 0; i < count; i++) {
        frames_end(&runs[i]);
        frames_begin(&runs[i], runs[i].subject, small);
    }
    found_rounds(bench, runs, count, "found_2m_50", 50);
    found_rounds(bench, runs, count, "found_2m_90", 90);
    for (unsigned i = 0; i < count; i++)
        frames_end(&runs[i]);
}
