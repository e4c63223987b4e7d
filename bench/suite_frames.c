/* SPDX-License-Identifier: MIT */
/* The frames suite: what a kernel asks of its physical memory manager, of ours and of others.
 *
 *   one CPU     pair_* batch512                       frames_hot.c
 *   all of it   fill_* random_free refill             frames_fill.c
 *   nearly full full90 last_free fail_*               frames_full.c
 *   2 MiB       pair_2m found_2m_*                    frames_large.c
 *   two CPUs    mt2_*                                 frames_threads.c
 *   start       init_* meta_kib_per_gib               frames_init.c
 *
 * Each subject has 16 GiB of address space as its memory (the list, which touches all of it, 512
 * MiB); all stand on the same addresses. */
#define _GNU_SOURCE 1
#include "bench/frames.h"

#include <mm/hhdm.h>

#include <stdlib.h>
#include <sys/mman.h>

#define TINY_BYTES MM_MIB(256)

char *frames_ram;
struct bench_histogram frames_latency[FRAMES_SUBJECTS], frames_timer;

unsigned frames_count;
const struct frames_subject *frames_subjects[FRAMES_SUBJECTS];

static void choose_subjects(const struct bench *bench)
{
    static const struct frames_subject *const all[FRAMES_SUBJECTS] = {
        &frames_mello, &frames_naive, &frames_stack, &frames_stack_irq, &frames_list, &frames_linux,
    };

    for (unsigned i = 0; i < FRAMES_SUBJECTS; i++)
        if (bench_wants_subject(bench, all[i]->name))
            frames_subjects[frames_count++] = all[i];
}

_Noreturn void frames_die(const struct frames_run *run, const char *what)
{
    fprintf(stderr, "\nbench: frames: %s: %s\n", run->subject->name, what);
    exit(1);
}

void frames_begin(struct frames_run *run, const struct frames_subject *subject, uint64_t bytes)
{
    run->subject = subject;
    run->bytes = bytes < subject->most_bytes ? bytes : subject->most_bytes;
    run->metadata_bytes = subject->metadata_bytes(run->bytes);
    run->metadata = bench_memory(run->metadata_bytes);
    run->self = subject->create(run->metadata, run->bytes);
}

void frames_end(struct frames_run *run)
{
    bench_release(run->metadata, run->metadata_bytes);
}

uint64_t frames_fill(const struct frames_run *run, uint64_t *frames, uint64_t most)
{
    int (*get)(void *, unsigned, uint64_t *) = run->subject->get;
    void *self = run->self;
    uint64_t count = 0;

    while (count < most && get(self, FRAMES_NOZERO, &frames[count]) == 0)
        count++;
    return count;
}

void frames_put_all(const struct frames_run *run, const uint64_t *frames, uint64_t count)
{
    void (*put)(void *, uint64_t) = run->subject->put;
    void *self = run->self;

    for (uint64_t i = 0; i < count; i++)
        put(self, frames[i]);
}

/* Fisher and Yates. */
void frames_shuffle(uint64_t *frames, uint64_t count, uint64_t seed)
{
    for (uint64_t i = count; i > 1; i--) {
        uint64_t j = (uint64_t)((unsigned __int128)bench_random(&seed) * i >> 64);
        uint64_t other = frames[j];

        frames[j] = frames[i - 1];
        frames[i - 1] = other;
    }
}

static bool frames_run_suite(struct bench *bench)
{
    struct frames_run runs[FRAMES_SUBJECTS];
    uint64_t bytes = bench_pick(bench, TINY_BYTES, FRAMES_BYTES, FRAMES_BYTES);

    choose_subjects(bench);
    if (frames_count == 0)
        return true;
    frames_ram = bench_reserve(FRAMES_BYTES + FRAMES_LIST_BYTES, false);
    madvise(frames_ram + FRAMES_BYTES, FRAMES_LIST_BYTES, MADV_HUGEPAGE);
    init_hhdm((uint64_t)(uintptr_t)frames_ram, MM_GIB(65536));
    for (unsigned i = 0; i < frames_count; i++)
        frames_begin(&runs[i], frames_subjects[i], bytes);
    frames_measure_hot(bench, runs);
    frames_measure_fill(bench, runs);
    frames_measure_full(bench, runs);
    if (bench_cpu_count() > 1)
        frames_measure_threads(bench, runs);
    else
        bench_note(bench, "frames: one CPU only: the workloads of two threads are left out");
    for (unsigned i = 0; i < frames_count; i++)
        frames_end(&runs[i]);
    frames_measure_large(bench);
    frames_measure_init(bench);
    bench_release(frames_ram, FRAMES_BYTES + FRAMES_LIST_BYTES);
    return true;
}

/* ---- Goals: docs/performance.md, Frames ---- */

/* The 99.99th part of a hundred thousand gets against the timer's own, and 100 ns. */
static double ratio_full90_tail(const struct bench *bench)
{
    return bench_value(bench, "full90", "mello", "p9999") /
           (bench_value(bench, "timer_floor", "timer", "p9999") + 100);
}

static double ratio_last_free(const struct bench *bench)
{
    return bench_value(bench, "last_free", "mello", NULL) /
           (bench_value(bench, "timer_floor", "timer", "p50") + 100);
}

static double ratio_zeroed_limit(const struct bench *bench)
{
    return bench_value(bench, "pair_hot_zeroed", "mello", NULL) /
           bench_value(bench, "pair_hot_zeroed", "stosb", NULL);
}

static double ratio_known_zero(const struct bench *bench)
{
    return bench_value(bench, "pair_known_zero", "mello", NULL) /
           bench_value(bench, "pair_hot_zeroed", "mello", NULL);
}

static double ratio_found(const struct bench *bench)
{
    return bench_value(bench, "found_2m_90", "mello", NULL) /
           bench_value(bench, "found_2m_90", "linux", NULL);
}

static double worst_failure(const struct bench *bench)
{
    return fmax(fmax(bench_value(bench, "fail_request", "mello", "median"),
                     bench_value(bench, "fail_request_2m", "mello", "median")),
                bench_value(bench, "fail_request_run", "mello", "median"));
}

/* Those of the locked stack were set on a CPU where a locked instruction takes 5.2 ns; where it takes 2
 * (Zen 4), two calls through pointers alone are more than a quarter of the stack's pair. The rows with
 * a kernel's lock are here for that: on both CPUs its price is that of switching interrupts off. */
static const struct bench_goal goals[] = {
    { "frame pair, hot", "pair_hot", "mello", "stack", 0.25, false, NULL },
    { "512 frames, then 512 back", "batch512", "mello", "stack", 0.35, false, NULL },
    { "zeroed pair", "pair_hot_zeroed", "mello", "stack", 0.75, false, NULL },
    { "zeroed pair, the limit", NULL, NULL, "rep stosb of 4 KiB", 1.06, false, ratio_zeroed_limit },
    { "known-zero frame", NULL, NULL, "mello's pair_hot_zeroed", 0.08, false, ratio_known_zero },
    { "fill: get", "fill_get", "mello", "stack", 0.6, false, NULL },
    { "fill: free in order", "fill_free", "mello", "stack", 0.6, false, NULL },
    { "free in random order", "random_free", "mello", "stack", 0.6, false, NULL },
    { "get again", "refill", "mello", "stack", 0.6, false, NULL },
    { "90 % full", "full90", "mello", "stack", 0.25, false, NULL },
    { "90 % full, p99.99", NULL, NULL, "timer's p99.99 + 100 ns", 1.0, false, ratio_full90_tail },
    { "last free frame", NULL, NULL, "timer floor + 100 ns", 1.0, false, ratio_last_free },
    { "2 MiB pair", "pair_2m", "mello", "linux", 0.9, false, NULL },
    { "2 MiB blocks found at 90 %", NULL, NULL, "linux", 1.0, true, ratio_found },
    { "a fast no, ns", NULL, NULL, NULL, 1000, false, worst_failure },
    { "2 threads, hot", "mt2_hot", "mello", "stack", 0.25, false, NULL },
    { "2 threads, batch", "mt2_batch", "mello", "stack", 0.2, false, NULL },
    { "2 threads, CPU to CPU", "mt2_cross", "mello", "stack", 0.2, false, NULL },
    { "hot, lock as in a kernel", "pair_hot", "mello", "stack_irq", 0.25, false, NULL },
    { "batch, lock as in a kernel", "batch512", "mello", "stack_irq", 0.35, false, NULL },
    { "90 % full, kernel's lock", "full90", "mello", "stack_irq", 0.25, false, NULL },
    { "metadata, KiB per GiB", "meta_kib_per_gib", "mello", NULL, 34, false, NULL },
    { "ready on 1 TiB, ms", "init_1t", "mello", NULL, 0.25, false, NULL },
    { "ready on 64 TiB, ms", "init_64t", "mello", NULL, 10, false, NULL },
};

/* ---- Plots ---- */

static void plot_latencies(const struct bench *bench, const char *folder)
{
    struct bench_series series[FRAMES_SUBJECTS + 1];

    for (unsigned i = 0; i < frames_count; i++)
        series[i] = (struct bench_series){ frames_subjects[i]->name, &frames_latency[i] };
    series[frames_count] = (struct bench_series){ "timer", &frames_timer };
    bench_plot_latencies(bench, folder, "frames-latency",
                         "Taking a frame, 90 % full: how many calls take longer", series,
                         frames_count + 1);
}

static void frames_plots(struct bench *bench, const char *folder)
{
    static const struct bench_place sizes[] = {
        { "init_1g", NULL, 1 },
        { "init_16g", NULL, 16 },
        { "init_1t", NULL, 1024 },
        { "init_64t", NULL, 65536 },
    };
    static const struct bench_chart init = {
        .name = "frames-init",
        .title = "Time to ready against memory size",
        .settings = "set logscale xy\nset xlabel 'GiB of memory'\nset ylabel 'ms'\n"
                    "set format y '%g'\n",
        .places = sizes,
        .place_count = sizeof sizes / sizeof sizes[0],
    };

    plot_latencies(bench, folder);
    bench_plot_lines(bench, folder, &init);
}

BENCH_SUITE(.name = "frames", .title = "Frames", .place = 1,
            .subjects = "mello,naive,stack,stack_irq,list,linux,mello-bulk,memset,stosb,timer",
            .peers = "naive,stack,stack_irq,list,linux", .run = frames_run_suite,
            .plots = frames_plots)
