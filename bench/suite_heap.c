/* SPDX-License-Identifier: MIT */
/* The heap suite: kmalloc against the mallocs of others, in one process, called through pointers.
 *
 *      calloc_free_SIZE   take a zeroed block, write to each of its pages, give it back; one pair
 *      malloc_free_SIZE   the same without the zeroes
 *      const_SIZE         mello alone inlined, its size known to the compiler; the peers called, calloc
 *      live10k            10 000 living blocks, 16 B to 64 KiB: free one at random, make another
 *      larson2            two threads, 1000 blocks each, 16 B to 1000 B; they swap what they hold
 *      cross_free         one thread allocates, the other one frees
 *      worst_op           the longest of some 10 000 calls, and the latencies of all of them
 *      peak_over_live     resident memory over living memory, each subject in a process of its own
 *
 * The kernel's heap clears what it hands out, so the fair peer is calloc. A second thread runs from the
 * beginning: a malloc that skips its locks while there is one thread only does not measure here. All
 * subjects stand on 4 KiB pages. */
#include "bench/heap_peak.h"
#include "bench/heap_subjects.h"

#include <mm/kheap.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define PEERS "glibc,jemalloc,mimalloc,tcmalloc"
#define LIVE  10000u
#define HELD  1000u /* blocks of each thread in larson2 */
#define RING  1024u /* blocks on their way in cross_free */

static struct heap_subject subjects[HEAP_SUBJECTS_MAX];
static unsigned subject_count;

static void fail_without_memory(const struct heap_subject *subject)
{
    fprintf(stderr, "bench: %s is out of memory\n", subject->name);
    exit(1);
}

static inline void touch(const struct heap_subject *subject, void *block)
{
    if (__builtin_expect(block == NULL, 0))
        fail_without_memory(subject);
    *(volatile uint64_t *)block = 1;
}

/* And once in every page: who asks for zeroes uses them, so a malloc that only promises pages of the
 * kernel pays for them here as its callers would. */
static inline void touch_pages(void *block, size_t bytes)
{
    for (size_t at = PAGE_SIZE; at < bytes; at += PAGE_SIZE)
        *(volatile uint64_t *)((char *)block + at) = 1;
}

/* ---- pairs of one size ---- */

struct pair {
    const char *workload;
    size_t bytes;
    bool zeroed;
};

static const struct pair pairs[] = {
    { "calloc_free_16", 16, true },      { "calloc_free_64", 64, true },
    { "calloc_free_256", 256, true },    { "calloc_free_1k", 1024, true },
    { "calloc_free_4k", 4096, true },    { "calloc_free_64k", 65536, true },
    { "calloc_free_1m", 1048576, true }, { "malloc_free_16", 16, false },
    { "malloc_free_64", 64, false },     { "malloc_free_256", 256, false },
    { "malloc_free_1k", 1024, false },   { "malloc_free_4k", 4096, false },
    { "malloc_free_64k", 65536, false }, { "malloc_free_1m", 1048576, false },
};

static uint64_t time_pairs(const struct heap_subject *subject, size_t bytes, bool zeroed,
                           uint64_t count)
{
    uint64_t start = bench_ticks();

    for (uint64_t i = 0; i < count; i++) {
        void *block = zeroed ? heap_zeroed(subject, bytes) : subject->alloc(bytes);

        touch(subject, block);
        if (bytes > PAGE_SIZE)
            touch_pages(block, bytes);
        subject->release(block);
    }
    return bench_ticks() - start;
}

/* What a caller writes: the size is a constant, the free names it again. */
#define DEFINE_CONST(bytes)                                                                        \
    static uint64_t time_const_##bytes(const struct heap_subject *subject, uint64_t count)         \
    {                                                                                              \
        uint64_t start = bench_ticks();                                                            \
                                                                                                   \
        for (uint64_t i = 0; i < count; i++) {                                                     \
            void *block = kmalloc(bytes);                                                          \
                                                                                                   \
            touch(subject, block);                                                                 \
            kfree_sized(block, bytes);                                                             \
        }                                                                                          \
        return bench_ticks() - start;                                                              \
    }
DEFINE_CONST(64)
DEFINE_CONST(256)

static bool is_mello(const struct heap_subject *subject)
{
    return subject->zeroed == kmalloc;
}

static uint64_t time_const(const struct heap_subject *subject, size_t bytes, uint64_t count)
{
    if (!is_mello(subject))
        return time_pairs(subject, bytes, true, count);
    return bytes == 64 ? time_const_64(subject, count) : time_const_256(subject, count);
}

/* Some milliseconds for a sample: a pair is about 10 ns and what clearing takes. */
static uint64_t pair_count(const struct bench *bench, size_t bytes, bool zeroed)
{
    uint64_t one_ns = 10 + (zeroed ? bytes / 64 : 0);

    return bench_pick(bench, 10000, 2000000, 4000000) / one_ns + 1;
}

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

    return blocks[subject - subjects];
}

static void fill_live(const struct heap_subject *subject)
{
    uint64_t *random = &random_of[subject - subjects];
    void **blocks = live_blocks(subject);

    *random = 88172645463325252u;
    for (unsigned i = 0; i < LIVE; i++) {
        blocks[i] = heap_zeroed(subject, draw_bytes(random));
        touch(subject, blocks[i]);
    }
}

static uint64_t time_live(const struct heap_subject *subject, uint64_t count)
{
    uint64_t *random = &random_of[subject - subjects];
    void **blocks = live_blocks(subject);
    uint64_t start = bench_ticks();

    for (uint64_t i = 0; i < count; i++) {
        void **place = &blocks[bench_random(random) % LIVE];

        subject->release(*place);
        *place = heap_zeroed(subject, draw_bytes(random));
        touch(subject, *place);
    }
    return bench_ticks() - start;
}

static void empty_live(const struct heap_subject *subject)
{
    for (unsigned i = 0; i < LIVE; i++)
        subject->release(live_blocks(subject)[i]);
}

/* ---- two threads ---- */

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
        touch(worker->subject, *place);
    }
}

static void *held[HEAP_SUBJECTS_MAX][2][HELD];

/* Each time the threads have changed their sides, as larson's are replaced by new ones. */
static uint64_t time_larson(const struct heap_subject *subject, uint64_t count, unsigned round)
{
    unsigned index = (unsigned)(subject - subjects), side = round % 2;
    struct worker first = { subject, held[index][side], 11 + round, count };
    struct worker second = { subject, held[index][1 - side], 22 + round, count };

    return bench_together(run_larson, &first, run_larson, &second);
}

static void empty_held(const struct heap_subject *subject)
{
    void **blocks = held[subject - subjects][0];

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

        touch(worker->subject, block);
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
            touch(subject, blocks[have]);
        have = grow ? have + 1 : have - 1;
    }
    while (have > 0)
        subject->release(blocks[--have]);
    return worst;
}

/* ---- rounds ---- */

static void enter(const struct heap_subject *subject)
{
    if (subject->enter != NULL)
        subject->enter();
}

static void leave(const struct heap_subject *subject)
{
    if (subject->leave != NULL)
        subject->leave();
}

struct amount {
    size_t bytes;
    bool zeroed;
    uint64_t count;
};

typedef uint64_t time_one_fn(const struct heap_subject *subject, unsigned round,
                             const struct amount *amount);

/* One sample for each subject and round, the subjects taking turns: the time of one call, or, if not
 * `each`, what was measured. */
static void measure(struct bench *bench, const char *workload, unsigned threads, bool each,
                    time_one_fn *time_one, const struct amount *amount)
{
    for (unsigned round = 0; round < bench_rounds(bench); round++) {
        for (unsigned i = 0; i < subject_count; i++) {
            const struct heap_subject *subject = &subjects[i];
            struct amount own = *amount;

            if (subject->slow != 0)
                own.count = own.count / subject->slow + 1;
            enter(subject);
            uint64_t ticks = time_one(subject, round, &own);
            leave(subject);
            bench_sample(bench_row(bench, workload, subject->name, threads, "ns"),
                         bench_ns(ticks) / (each ? (double)own.count : 1));
        }
    }
}

/* The best of some slices, as if all had been as good: a slice is short enough that some are not cut by
 * another program or an interrupt. */
#define SLICES 16u

static uint64_t best_slice(uint64_t best, uint64_t ticks)
{
    return ticks < best ? ticks : best;
}

static uint64_t slice_count(const struct amount *amount)
{
    return amount->count / SLICES + 1;
}

static uint64_t scale_up(uint64_t ticks, const struct amount *amount)
{
    return (uint64_t)((double)ticks * (double)amount->count / (double)slice_count(amount));
}

static uint64_t one_pairs(const struct heap_subject *subject, unsigned round,
                          const struct amount *amount)
{
    uint64_t best = UINT64_MAX;

    (void)round;
    for (unsigned i = 0; i < SLICES; i++)
        best = best_slice(best,
                          time_pairs(subject, amount->bytes, amount->zeroed, slice_count(amount)));
    return scale_up(best, amount);
}

static uint64_t one_const(const struct heap_subject *subject, unsigned round,
                          const struct amount *amount)
{
    uint64_t best = UINT64_MAX;

    (void)round;
    for (unsigned i = 0; i < SLICES; i++)
        best = best_slice(best, time_const(subject, amount->bytes, slice_count(amount)));
    return scale_up(best, amount);
}

static uint64_t one_live(const struct heap_subject *subject, unsigned round,
                         const struct amount *amount)
{
    uint64_t best = UINT64_MAX;

    (void)round;
    for (unsigned i = 0; i < SLICES; i++)
        best = best_slice(best, time_live(subject, slice_count(amount)));
    return scale_up(best, amount);
}

static uint64_t one_larson(const struct heap_subject *subject, unsigned round,
                           const struct amount *amount)
{
    return time_larson(subject, amount->count, round);
}

static uint64_t one_cross(const struct heap_subject *subject, unsigned round,
                          const struct amount *amount)
{
    (void)round;
    return time_cross(subject, amount->count);
}

static struct bench_histogram latencies[HEAP_SUBJECTS_MAX];

static uint64_t one_worst(const struct heap_subject *subject, unsigned round,
                          const struct amount *amount)
{
    (void)round;
    return time_worst(subject, amount->count, &latencies[subject - subjects]);
}

/* ---- workloads ---- */

static void run_pairs(struct bench *bench)
{
    static const struct pair consts[] = { { "const_64", 64, true }, { "const_256", 256, true } };

    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        struct amount amount = { pairs[i].bytes, pairs[i].zeroed,
                                 pair_count(bench, pairs[i].bytes, pairs[i].zeroed) };

        if (bench_wants(bench, pairs[i].workload))
            measure(bench, pairs[i].workload, 1, true, one_pairs, &amount);
    }
    for (size_t i = 0; i < 2; i++) {
        struct amount amount = { consts[i].bytes, true, pair_count(bench, consts[i].bytes, false) };

        if (bench_wants(bench, consts[i].workload))
            measure(bench, consts[i].workload, 1, true, one_const, &amount);
    }
}

static void run_live(struct bench *bench)
{
    struct amount amount = { .count = bench_pick(bench, 100, 10000, 30000) };

    if (!bench_wants(bench, "live10k"))
        return;
    for (unsigned i = 0; i < subject_count; i++) {
        enter(&subjects[i]);
        fill_live(&subjects[i]);
        leave(&subjects[i]);
    }
    measure(bench, "live10k", 1, true, one_live, &amount);
    for (unsigned i = 0; i < subject_count; i++)
        empty_live(&subjects[i]);
}

static void run_threads(struct bench *bench)
{
    struct amount amount = { .count = bench_pick(bench, 500, 50000, 200000) };

    if (bench_cpu_count() < 2)
        bench_note(bench, "heap: one CPU only: larson2 and cross_free say little");
    if (bench_wants(bench, "larson2")) {
        measure(bench, "larson2", 2, true, one_larson, &amount);
        for (unsigned i = 0; i < subject_count; i++)
            empty_held(&subjects[i]);
    }
    if (bench_wants(bench, "cross_free"))
        measure(bench, "cross_free", 2, true, one_cross, &amount);
}

static void run_worst(struct bench *bench)
{
    struct amount amount = { .count = bench_pick(bench, 5000, 50000, 200000) };

    if (!bench_wants(bench, "worst_op"))
        return;
    memset(latencies, 0, sizeof latencies);
    measure(bench, "worst_op", 1, false, one_worst, &amount);
    for (unsigned i = 0; i < subject_count; i++)
        bench_latency_fields(bench_row(bench, "worst_op", subjects[i].name, 1, "ns"),
                             &latencies[i]);
}

static bool run_peak(struct bench *bench)
{
    uint64_t steps = bench_pick(bench, 2000, 60000, 200000);

    if (!bench_wants(bench, "peak_over_live"))
        return true;
    for (unsigned i = 0; i < subject_count; i++) {
        double ratio = heap_peak_over_live(&subjects[i], steps);

        if (isnan(ratio)) {
            bench_note(bench, "heap: the child that measures %s's memory failed", subjects[i].name);
            return false;
        }
        bench_sample(bench_row(bench, "peak_over_live", subjects[i].name, 1, "ratio"), ratio);
    }
    return true;
}

static void do_nothing(void *argument)
{
    (void)argument;
}

static bool run_suite(struct bench *bench)
{
    if (!heap_subjects_start(bench, subjects, &subject_count))
        return false;
    bench_together(do_nothing, NULL, do_nothing, NULL);
    run_pairs(bench);
    run_live(bench);
    run_threads(bench);
    run_worst(bench);
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

    for (unsigned i = 0; i < subject_count; i++)
        series[i] = (struct bench_series){ subjects[i].name, &latencies[i] };
    bench_plot_latencies(bench, folder, "heap-latency",
                         "Blocks of 16 B to 2 KiB in bursts: how many calls take longer", series,
                         subject_count);
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
