/* SPDX-License-Identifier: MIT */
/* The heap suite: kmalloc against the mallocs of others, in one process, called through pointers.
 *
 *      calloc_free_* malloc_free_* const_*   pairs of one size                    heap_pairs.c
 *      realloc_grow realloc_1m_large         blocks that grow                     heap_resize.c
 *      live10k worst_op                      blocks that live for a while         heap_live.c
 *      larson1 larson2 cross_free            one thread, two threads              heap_threads.c
 *      peak_over_live                        resident memory over living memory,
 *                                            each subject in a process of its own heap_peak.c
 *
 * The kernel's heap clears what it hands out, so the fair peer is calloc. A second thread runs from the
 * beginning: a malloc that skips its locks while there is one thread only does not measure here. All
 * subjects stand on 4 KiB pages. */
#include "bench/heap.h"
#include "bench/heap_peak.h"

#include <stdlib.h>

#define PEERS "glibc,jemalloc,mimalloc,tcmalloc"

struct heap_subject heap_subjects[HEAP_SUBJECTS_MAX];
unsigned heap_subject_count;

_Noreturn void heap_die_without_memory(const struct heap_subject *subject)
{
    fprintf(stderr, "bench: %s is out of memory\n", subject->name);
    exit(1);
}

/* ---- rounds ---- */

void heap_enter(const struct heap_subject *subject)
{
    if (subject->enter != NULL)
        subject->enter();
}

void heap_leave(const struct heap_subject *subject)
{
    if (subject->leave != NULL)
        subject->leave();
}

void heap_measure(struct bench *bench, const char *workload, unsigned threads, bool each,
                  heap_time_fn *time_one, const struct heap_amount *amount)
{
    for (unsigned round = 0; round < bench_rounds(bench); round++) {
        for (unsigned i = 0; i < heap_subject_count; i++) {
            const struct heap_subject *subject = &heap_subjects[i];
            struct heap_amount own = *amount;

            if (subject->slow != 0)
                own.count = own.count / subject->slow + 1;
            heap_enter(subject);
            uint64_t ticks = time_one(subject, round, &own);
            heap_leave(subject);
            bench_sample(bench_row(bench, workload, subject->name, threads, "ns"),
                         bench_ns(ticks) / (each ? (double)own.count : 1));
        }
    }
}

/* ---- the suite ---- */

static bool run_peak(struct bench *bench)
{
    uint64_t steps = bench_pick(bench, 2000, 60000, 200000);

    if (!bench_wants(bench, "peak_over_live"))
        return true;
    for (unsigned i = 0; i < heap_subject_count; i++) {
        double ratio = heap_peak_over_live(&heap_subjects[i], steps);

        if (isnan(ratio)) {
            bench_note(bench, "heap: the child that measures %s's memory failed",
                       heap_subjects[i].name);
            return false;
        }
        bench_sample(bench_row(bench, "peak_over_live", heap_subjects[i].name, 1, "ratio"), ratio);
    }
    return true;
}

static void do_nothing(void *argument)
{
    (void)argument;
}

static bool run_suite(struct bench *bench)
{
    if (!heap_subjects_start(bench, heap_subjects, &heap_subject_count))
        return false;
    bench_together(do_nothing, NULL, do_nothing, NULL);
    heap_measure_pairs(bench);
    heap_measure_resize(bench);
    heap_measure_live(bench);
    heap_measure_threads(bench);
    heap_measure_worst(bench);
    return run_peak(bench);
}

/* ---- goals ---- */

static double const_to_malloc(const struct bench *bench, const char *constant, const char *plain)
{
    return bench_value(bench, constant, "mello", NULL) / bench_best(bench, plain, PEERS);
}

static double const_64_to_malloc(const struct bench *bench)
{
    return const_to_malloc(bench, "const_64", "malloc_free_64");
}

static double const_256_to_malloc(const struct bench *bench)
{
    return const_to_malloc(bench, "const_256", "malloc_free_256");
}

#define GOAL(workload_name, limit)                                                                 \
    {                                                                                              \
        .name = workload_name, .workload = workload_name, .subject = "mello", .peers = PEERS,      \
        .goal = (limit)                                                                            \
    }

static const struct bench_goal goals[] = {
    GOAL("const_64", 0.5),
    GOAL("const_256", 0.5),
    { .name = "const_64 to plain malloc",
      .workload = "const_64",
      .subject = "mello",
      .peers = "best malloc_free_64",
      .goal = 1.0,
      .ratio = const_64_to_malloc },
    { .name = "const_256 to plain malloc",
      .workload = "const_256",
      .subject = "mello",
      .peers = "best malloc_free_256",
      .goal = 1.0,
      .ratio = const_256_to_malloc },
    GOAL("calloc_free_64", 1.0),
    GOAL("calloc_free_256", 1.0),
    GOAL("calloc_free_1k", 1.5),
    GOAL("calloc_free_4k", 1.0),
    GOAL("calloc_free_64k", 1.0),
    GOAL("calloc_free_1m", 1.0),
    GOAL("live10k", 1.0),
    GOAL("larson2", 1.0),
    GOAL("cross_free", 1.0),
    { .name = "peak_over_live", .workload = "peak_over_live", .subject = "mello", .goal = 1.15 },
};

/* ---- plots ---- */

static void plot_worst(const struct bench *bench, const char *folder)
{
    struct bench_series series[HEAP_SUBJECTS_MAX];

    for (unsigned i = 0; i < heap_subject_count; i++)
        series[i] = (struct bench_series){ heap_subjects[i].name, &heap_latencies[i] };
    bench_plot_latencies(bench, folder, "heap-latency",
                         "Blocks of 16 B to 2 KiB in bursts: how many calls take longer", series,
                         heap_subject_count);
}

#define SIZES(prefix)                                                                              \
    {                                                                                              \
        { prefix "16", NULL, 16 }, { prefix "64", NULL, 64 }, { prefix "256", NULL, 256 },         \
            { prefix "1k", NULL, 1024 }, { prefix "4k", NULL, 4096 },                              \
            { prefix "64k", NULL, 65536 }, { prefix "1m", NULL, 1048576 },                         \
    }

#define SIZES_SETTINGS                                                                             \
    "set logscale xy\nset xlabel 'size of the block'\nset ylabel 'ns for a pair'\n"                \
    "set xtics ('16 B' 16, '64 B' 64, '256 B' 256, '1 KiB' 1024, '4 KiB' 4096, "                   \
    "'64 KiB' 65536, '1 MiB' 1048576)\nset format y '%g'\n"

static void heap_plots(struct bench *bench, const char *folder)
{
    static const struct bench_place zeroed[] = SIZES("calloc_free_");
    static const struct bench_place plain[] = SIZES("malloc_free_");
    static const struct bench_place peak[] = { { "peak_over_live", "peak_over_live", 0 } };
    static const struct bench_chart zeroed_chart = {
        .name = "heap-calloc",
        .title = "calloc and free of one size (mello: kmalloc and kfree)",
        .settings = SIZES_SETTINGS,
        .places = zeroed,
        .place_count = sizeof zeroed / sizeof zeroed[0],
    };
    static const struct bench_chart plain_chart = {
        .name = "heap-malloc",
        .title = "malloc and free of one size (mello: kmalloc_nozero and kfree)",
        .settings = SIZES_SETTINGS,
        .places = plain,
        .place_count = sizeof plain / sizeof plain[0],
    };
    static const struct bench_chart peak_chart = {
        .name = "heap-peak",
        .title = "Resident memory over living memory, at their highest",
        .settings = "set ylabel 'resident bytes / living bytes'\nset yrange [0:]\n",
        .places = peak,
        .place_count = 1,
        .headroom = 1.12,
    };

    bench_plot_lines(bench, folder, &zeroed_chart);
    bench_plot_lines(bench, folder, &plain_chart);
    plot_worst(bench, folder);
    bench_plot_bars(bench, folder, &peak_chart);
}

BENCH_SUITE(.name = "heap", .title = "Heap", .place = 30,
            .subjects = "mello,mello_full," PEERS ",seed", .peers = PEERS, .run = run_suite,
            .plots = heap_plots)
