/* SPDX-License-Identifier: MIT */
/* What a suite of benchmarks needs: rows, clock, a second thread, histograms, goals.
 *
 *   suite_*.c --BENCH_SUITE--> list of suites --bench.c--> run() --rows--> table, JSON, docs, plots
 *
 * A suite measures workloads x subjects x threads. It asks for a row once for each, and gives it one
 * sample a round; all subjects take their turn in each round, so that a drift of the clock meets
 * all of them. What a row says is the minimum and the median of its samples.
 *
 * memset, memcpy, memmove and memcmp are the kernel's own in every object that is linked into the
 * program (libraries have libc's): what is measured is what a kernel of general registers can do. */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct bench; /* one run of the program */
struct bench_row;

/* ---- What is asked for ---- */

enum bench_size {
    BENCH_TINY,  /* a test that it runs: a second for a suite, numbers mean nothing */
    BENCH_QUICK, /* under 40 s for a suite */
    BENCH_FULL,
};

enum bench_size bench_size(const struct bench *bench);

/* How often each subject is measured; at least 1, at most BENCH_MOST_ROUNDS. Short workloads take up to
 * BENCH_SAMPLES_A_ROUND samples in each. */
#define BENCH_MOST_ROUNDS     512u
#define BENCH_SAMPLES_A_ROUND 5u
unsigned bench_rounds(const struct bench *bench);

/* The same for a workload that takes long: as many as the user asked for, else one of three. */
unsigned bench_rounds_of(const struct bench *bench, unsigned tiny, unsigned quick, unsigned full);

/* False if the user asked for other workloads only (--workload TEXT: those with TEXT in their
 * name). Says on standard error that this one begins. */
bool bench_wants(struct bench *bench, const char *workload);

/* The same, silently: for one of several that a single run gives. */
bool bench_is_wanted(const struct bench *bench, const char *workload);

/* False if the user asked for another subject (--subject NAME). Goals that need both are not judged then. */
bool bench_wants_subject(const struct bench *bench, const char *subject);

/* Makes numbers differ by size: one of three. */
static inline uint64_t bench_pick(const struct bench *bench, uint64_t tiny, uint64_t quick,
                                  uint64_t full)
{
    return bench_size(bench) == BENCH_TINY ? tiny : bench_size(bench) == BENCH_QUICK ? quick : full;
}

/* ---- Rows ---- */

/* The row of this suite with that name; made if there is none. Names and unit must stay. Less is
 * better, unless the unit is "percent". */
struct bench_row *bench_row(struct bench *bench, const char *workload, const char *subject,
                            unsigned threads, const char *unit);

void bench_sample(struct bench_row *row, double value);

/* One more number about the row ("p999"); `name` must stay. The last one given counts. */
void bench_field(struct bench_row *row, const char *name, double value);

/* A line for the reader: a peer that is not installed, a limit of this machine. printf style. */
void bench_note(struct bench *bench, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What was measured, of the suite that runs or is judged: the minimum, "median", or a field. NAN if
 * there is no such row. `field` NULL: the minimum (percent and two threads: the median). */
double bench_value(const struct bench *bench, const char *workload, const char *subject,
                   const char *field);

/* The best minimum among subjects, a list such as "stack,linux"; NAN if none was measured. */
double bench_best(const struct bench *bench, const char *workload, const char *subjects);

/* ---- Goals ---- */

struct bench_goal {
    const char *name;
    const char *workload;
    const char *subject;
    const char *peers; /* compared with the best of them; NULL: the value itself is the ratio */
    double goal;
    bool at_least; /* the ratio is to be the goal or more; else the goal or less */
    /* Instead of all that: computes the ratio, NAN if it was not measured; `peers` is then a text. */
    double (*ratio)(const struct bench *bench);
};

/* ---- Suites ---- */

struct bench_suite {
    const char *name;     /* "frames" */
    const char *title;    /* "Frames" */
    unsigned place;       /* suites run in this order */
    const char *subjects; /* columns of the table, in order; the first is ours. Others follow. */
    const char *peers;    /* those that the table's ratio looks at: the best of them */
    const struct bench_goal *goals;
    unsigned goal_count;
    /* Measures everything. False: it could not, and a note says why. */
    bool (*run)(struct bench *bench);
    /* Writes SVG files into the folder; NULL: none. After run(). */
    void (*plots)(struct bench *bench, const char *folder);
    struct bench_suite *next; /* the list's */
};

void bench_register(struct bench_suite *suite);

/* Defines a suite of these fields with the file's goals[], and enters it: BENCH_SUITE(.name = ...). */
#define BENCH_SUITE(...)                                                                           \
    static __attribute__((constructor)) void register_suite(void)                                  \
    {                                                                                              \
        static struct bench_suite suite = { .goals = goals,                                        \
                                            .goal_count = sizeof goals / sizeof goals[0],          \
                                            __VA_ARGS__ };                                         \
        bench_register(&suite);                                                                    \
    }

/* ---- Clock ---- */

/* Ticks of the time-stamp counter; nothing moves over it. */
static inline uint64_t bench_ticks(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

/* The nanoseconds of so many ticks. */
double bench_ns(uint64_t ticks);

/* ---- CPUs ---- */

/* How many this process may use; the program itself runs on the first of them. */
unsigned bench_cpu_count(void);

/* Keeps the calling thread on one of them: 0 is the first. */
void bench_pin(unsigned cpu);

/* Runs first(a) here, on CPU 0, and second(b) in a thread that is there for it, on CPU 1, both
 * starting together.
 *   Returns:    ticks from the start until both are done. */
uint64_t bench_together(void (*first)(void *), void *a, void (*second)(void *), void *b);

/* Tells of the last bench_together() whether both threads ran all the time: neither was preempted, so
 * that they really met. Rounds of a millisecond may be repeated until that is so. */
bool bench_met(void);

/* ---- Latencies ---- */

#define BENCH_BUCKETS 512u

/* Exact up to 127 ticks, then 1/16 wide. */
struct bench_histogram {
    uint64_t count[BENCH_BUCKETS];
    uint64_t total;
    uint64_t max;
};

void bench_histogram_add(struct bench_histogram *histogram, uint64_t ticks);

/* Nanoseconds that a part (0.999) of all stays at or below. */
double bench_quantile(const struct bench_histogram *histogram, double part);

/* p50, p999, p9999 and max of the histogram as fields of the row. */
void bench_latency_fields(struct bench_row *row, const struct bench_histogram *histogram);

/* What bench_ticks() twice in a row measures: nothing is ever seen to take less. */
void bench_histogram_floor(struct bench_histogram *histogram, unsigned count);

/* Lines "ns part-above" for a plot of the distribution. */
void bench_histogram_print(const struct bench_histogram *histogram, FILE *file);

/* ---- Memory ---- */

/* Address space without memory behind it until it is touched; never NULL (the program ends). `huge`:
 * 2 MiB pages where the kernel has them, as a kernel's own memory is mapped. */
void *bench_reserve(size_t bytes, bool huge);
/* The same, touched. */
void *bench_memory(size_t bytes);
void bench_release(void *memory, size_t bytes);

/* xorshift64*: the same numbers in every run. */
static inline uint64_t bench_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

/* A value is used, and memory may have changed: neither is optimised away. */
static inline void bench_keep(uint64_t value)
{
    __asm__ volatile("" : : "r"(value) : "memory");
}

/* A folder for files of this run, in TMPDIR or /tmp; it goes with them when the program ends. Its name may
 * stand between single quotes.
 *   On failure: NULL; a line on standard error says why. */
const char *bench_scratch(void);

/* ---- Plots: SVG files by gnuplot ---- */

/* One place on a chart's x axis. */
struct bench_place {
    const char *workload;
    const char *label; /* of bars; NULL: the workload's name */
    double x;          /* of lines: where it lies */
};

/* What was measured of a workload and a subject, over the workloads. A subject or a place of which nothing
 * was measured is left out; each subject has the colour of its place in the suite's list. */
struct bench_chart {
    const char *name;  /* of the file, without .svg */
    const char *title; /* what is seen */
    const char
        *settings; /* lines for gnuplot: what the axes say, in which units, and their scales */
    const struct bench_place *places;
    unsigned place_count;
    double headroom; /* bars: the y axis ends so many times above the highest, for its number */
    /* NULL: bench_value(), as the tables have it. NAN: not measured. */
    double (*value)(const struct bench *bench, const char *workload, const char *subject);
};

/* Of the suite that runs, into `folder`/NAME.svg: a line for each subject, or a group of bars for each
 * workload.
 *   On failure: a line on standard error says why, the program will end with status 1, and the file is as
 *               it was. So it is if nothing was measured; that is said, too, and is no failure. */
void bench_plot_lines(const struct bench *bench, const char *folder,
                      const struct bench_chart *chart);
void bench_plot_bars(const struct bench *bench, const char *folder,
                     const struct bench_chart *chart);

/* A distribution of latencies; of one without any nothing is drawn. */
struct bench_series {
    const char *name;
    const struct bench_histogram *histogram;
};

/* Which part of all calls takes longer than so many ns. Fails as the others do. */
void bench_plot_latencies(const struct bench *bench, const char *folder, const char *name,
                          const char *title, const struct bench_series *series, unsigned count);

#endif
