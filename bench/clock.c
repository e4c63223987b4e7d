/* SPDX-License-Identifier: MIT */
/* Time, CPUs and latencies.
 *
 * The time-stamp counter is compared with CLOCK_MONOTONIC_RAW once. The second thread is made once,
 * pinned, and waits by spinning only while a pair of functions is about to start; between pairs it
 * sleeps, so that it takes nothing from the first.
 *
 *   histogram buckets:  0 ... 127 | 128, 136, ... (16 for each doubling)
 *
 * Invariant: the program runs on the first CPU that it may use, the second thread on the second. */
#define _GNU_SOURCE 1
#include "bench/parts.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static double ns_per_tick;
static unsigned cpu_numbers[2];
static unsigned cpu_total;

/* ---- Time ---- */

static uint64_t raw_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The clock between two readings of the counter that lie as close together as they were ever seen:
 * a preemption in between would count as time. */
static uint64_t read_both(uint64_t *ticks)
{
    uint64_t best = UINT64_MAX, ns = 0;

    for (unsigned i = 0; i < 100; i++) {
        uint64_t before = bench_ticks(), now = raw_ns(), after = bench_ticks();

        if (after - before < best) {
            best = after - before;
            *ticks = before + (after - before) / 2;
            ns = now;
        }
    }
    return ns;
}

static void calibrate(void)
{
    uint64_t ticks[2] = { 0, 0 }, ns[2];

    ns[0] = read_both(&ticks[0]);
    while (raw_ns() - ns[0] < 50000000u)
        ;
    ns[1] = read_both(&ticks[1]);
    ns_per_tick = (double)(ns[1] - ns[0]) / (double)(ticks[1] - ticks[0]);
}

double bench_ns(uint64_t ticks)
{
    return (double)ticks * ns_per_tick;
}

/* ---- CPUs ---- */

unsigned bench_cpu_count(void)
{
    return cpu_total;
}

void bench_pin(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu_numbers[cpu % 2], &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void find_cpus(void)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    for (unsigned i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &set))
            continue;
        if (cpu_total < 2)
            cpu_numbers[cpu_total] = i;
        cpu_total++;
    }
    if (cpu_total == 1)
        cpu_numbers[1] = cpu_numbers[0];
}

void bench_clock_init(void)
{
    find_cpus();
    bench_pin(0);
    calibrate();
}

/* ---- The second thread ---- */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t wanted;
    void (*function)(void *);
    void *argument;
    bool started;
    uint32_t here, done;                        /* flags that both spin on */
    long switches_of_first, switches_of_second; /* context switches in the last round */
} second = { .mutex = PTHREAD_MUTEX_INITIALIZER, .wanted = PTHREAD_COND_INITIALIZER };

static void set_flag(uint32_t *flag, uint32_t value)
{
    __atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

/* On one CPU alone the other thread has to be let in. */
static void await_flag(const uint32_t *flag, uint32_t value)
{
    while (__atomic_load_n(flag, __ATOMIC_ACQUIRE) != value) {
        if (cpu_total == 1)
            sched_yield();
        else
            __builtin_ia32_pause();
    }
}

static long context_switches(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_THREAD, &usage) != 0)
        return 0;
    return usage.ru_nvcsw + usage.ru_nivcsw;
}

static void *second_main(void *argument)
{
    (void)argument;
    bench_pin(1);
    for (;;) {
        pthread_mutex_lock(&second.mutex);
        while (second.function == NULL)
            pthread_cond_wait(&second.wanted, &second.mutex);
        void (*function)(void *) = second.function;
        second.function = NULL;
        pthread_mutex_unlock(&second.mutex);
        long switches = context_switches();
        set_flag(&second.here, 1);
        await_flag(&second.here, 2); /* the start, given by the first */
        function(second.argument);
        second.switches_of_second = context_switches() - switches;
        set_flag(&second.done, 1);
    }
    return NULL;
}

static void start_second(void)
{
    pthread_t thread;

    if (second.started)
        return;
    if (pthread_create(&thread, NULL, second_main, NULL) != 0) {
        fprintf(stderr, "bench: no second thread\n");
        exit(1);
    }
    pthread_detach(thread);
    second.started = true;
}

uint64_t bench_together(void (*first)(void *), void *a, void (*other)(void *), void *b)
{
    uint64_t start;

    start_second();
    set_flag(&second.here, 0);
    set_flag(&second.done, 0);
    pthread_mutex_lock(&second.mutex);
    second.argument = b;
    second.function = other;
    pthread_cond_signal(&second.wanted);
    pthread_mutex_unlock(&second.mutex);
    await_flag(&second.here, 1);
    long switches = context_switches();
    start = bench_ticks();
    set_flag(&second.here, 2);
    first(a);
    await_flag(&second.done, 1);
    uint64_t ticks = bench_ticks() - start;
    second.switches_of_first = context_switches() - switches;
    return ticks;
}

bool bench_met(void)
{
    return second.switches_of_first == 0 && second.switches_of_second == 0;
}

/* ---- Latencies ---- */

static unsigned bucket_of(uint64_t ticks)
{
    unsigned shift, bucket;

    if (ticks < 128)
        return (unsigned)ticks;
    shift = 63u - (unsigned)__builtin_clzll(ticks) - 4u; /* five bits stay: 16 to 31 */
    bucket = 128u + (shift - 3u) * 16u + (unsigned)(ticks >> shift) - 16u;
    return bucket < BENCH_BUCKETS ? bucket : BENCH_BUCKETS - 1;
}

/* The highest number of ticks that falls into the bucket. */
static uint64_t bucket_top(unsigned bucket)
{
    unsigned shift;

    if (bucket < 128)
        return bucket;
    shift = (bucket - 128u) / 16u + 3u;
    return (((uint64_t)(bucket - 128u) % 16u + 17u) << shift) - 1;
}

void bench_histogram_add(struct bench_histogram *histogram, uint64_t ticks)
{
    histogram->count[bucket_of(ticks)]++;
    histogram->total++;
    if (ticks > histogram->max)
        histogram->max = ticks;
}

double bench_quantile(const struct bench_histogram *histogram, double part)
{
    uint64_t wanted = (uint64_t)fmax(1, ceil(part * (double)histogram->total)), seen = 0;

    for (unsigned i = 0; i < BENCH_BUCKETS; i++) {
        seen += histogram->count[i];
        if (seen >= wanted)
            return bench_ns(bucket_top(i) < histogram->max ? bucket_top(i) : histogram->max);
    }
    return bench_ns(histogram->max);
}

void bench_latency_fields(struct bench_row *row, const struct bench_histogram *histogram)
{
    bench_field(row, "p50", bench_quantile(histogram, 0.5));
    bench_field(row, "p999", bench_quantile(histogram, 0.999));
    bench_field(row, "p9999", bench_quantile(histogram, 0.9999));
    bench_field(row, "max", bench_ns(histogram->max));
}

void bench_histogram_floor(struct bench_histogram *histogram, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t start = bench_ticks();

        bench_histogram_add(histogram, bench_ticks() - start);
    }
}

void bench_histogram_print(const struct bench_histogram *histogram, FILE *file)
{
    uint64_t above = histogram->total;

    for (unsigned i = 0; i < BENCH_BUCKETS && above > 0; i++) {
        if (histogram->count[i] == 0)
            continue;
        fprintf(file, "%.1f %.9f\n", bench_ns(bucket_top(i)),
                (double)above / (double)histogram->total);
        above -= histogram->count[i];
    }
}
