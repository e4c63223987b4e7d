/* SPDX-License-Identifier: MIT */
/* How much memory an allocator takes for what lives in it.
 *
 *   bench --MELLO_BENCH_PEAK=name:steps, itself again--> child: one subject, one program of blocks
 *         <----------------- one line: the ratio ------
 *
 * 10 000 blocks live, 16 B to 64 KiB, evenly over the doublings; each step frees one and makes another. Now
 * and then the sizes shift: for a while small ones only, then large ones only, as the phases of a
 * program do. Every byte that lives is written, as a program would, before the resident size is looked at.
 * The child does it before main, in a constructor: what runs there is the allocator and nothing else. */
#define _GNU_SOURCE 1
#include "bench/heap_peak.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define VARIABLE "MELLO_BENCH_PEAK"
#define LIVE     10000u

/* ---- the child ---- */

struct living {
    void *block;
    size_t bytes;
};

/* By /proc/self/smaps_rollup's exact count, not the one of statm, which lags behind. Without stdio: it
 * would allocate. */
static size_t resident_kib(void)
{
    char text[1024];
    size_t kib;
    int file = open("/proc/self/smaps_rollup", O_RDONLY);
    ssize_t length = file >= 0 ? read(file, text, sizeof text - 1) : -1;

    text[length > 0 ? length : 0] = '\0';
    const char *found = strstr(text, "\nRss:");
    if (found == NULL || sscanf(found, "\nRss: %zu", &kib) != 1)
        _exit(4); /* a ratio without it would be made up */
    close(file);
    return kib;
}

/* 16 B to 64 KiB; phase 1: below 1 KiB, phase 2: above. */
static size_t draw_bytes(uint64_t *random, unsigned phase)
{
    unsigned first = phase == 2 ? 10 : 4, last = phase == 1 ? 10 : 16;
    unsigned doubling = first + (unsigned)(bench_random(random) % (last - first));
    size_t bytes = (size_t)1 << doubling;

    return bytes + bench_random(random) % bytes;
}

static void replace(const struct heap_subject *subject, struct living *living, size_t bytes,
                    size_t *live_bytes)
{
    if (living->block != NULL)
        subject->release(living->block);
    *live_bytes -= living->bytes;
    living->block = subject->alloc(bytes);
    living->bytes = bytes;
    if (living->block == NULL)
        _exit(3);
    memset(living->block, 0x55, bytes);
    *live_bytes += bytes;
}

static void run_child(const struct heap_subject *subject, uint64_t steps)
{
    static struct living living[LIVE];
    uint64_t random = 88172645463325252u;
    size_t live_bytes = 0, most_live = 0, most_resident = 0;
    size_t before = resident_kib();

    for (uint64_t i = 0; i < steps; i++) {
        unsigned phase = (unsigned)(i * 8 / (steps + 1)); /* mixed but for a while of each kind */
        size_t at = i < LIVE ? i : bench_random(&random) % LIVE;

        replace(subject, &living[at],
                draw_bytes(&random, phase == 3   ? 1
                                    : phase == 5 ? 2
                                                 : 0),
                &live_bytes);
        if (live_bytes > most_live)
            most_live = live_bytes;
        if (i % 1000 == 0 || i + 1 == steps) {
            size_t now = resident_kib();

            most_resident = now > most_resident ? now : most_resident;
        }
    }
    dprintf(STDOUT_FILENO, "%.6f\n", (double)(most_resident - before) * 1024 / (double)(most_live));
    _exit(0);
}

/* Behind the constructor that starts the program again (default priority: later). */
static __attribute__((constructor)) void be_the_child(void)
{
    const char *order = getenv(VARIABLE);
    struct heap_subject subject;
    char name[32];
    unsigned long long steps;

    if (order == NULL)
        return;
    if (sscanf(order, "%31[^:]:%llu", name, &steps) != 2 || !heap_subject_start(name, &subject))
        _exit(2);
    if (subject.enter != NULL)
        subject.enter();
    (void)subject.alloc(64); /* what it sets up once does not count */
    run_child(&subject, steps);
}

/* ---- the parent ---- */

double heap_peak_over_live(const struct heap_subject *subject, uint64_t steps)
{
    char command[128];
    double ratio = NAN;

    snprintf(command, sizeof command, "%s:%llu", subject->name, (unsigned long long)steps);
    setenv(VARIABLE, command, 1);
    snprintf(command, sizeof command, "exec /proc/%ld/exe", (long)getpid());
    FILE *child = popen(command, "r");
    unsetenv(VARIABLE);
    if (child == NULL)
        return NAN;
    if (fscanf(child, "%lf", &ratio) != 1)
        ratio = NAN;
    return pclose(child) == 0 ? ratio : NAN;
}
