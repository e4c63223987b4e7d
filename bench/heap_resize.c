/* SPDX-License-Identifier: MIT */
/* Blocks that grow:
 *
 *      realloc_grow       64 B -> 4 MiB, half as much again each time, then freed; one call of realloc
 *      realloc_1m_large   1 MiB -> 16 MiB likewise: whose pages could be moved
 *
 * What is new is written to, once in every page. mello's krealloc clears it, that of the peers does not: they
 * do less. The seed had no such call. */
#include "bench/heap.h"

struct growth {
    const char *workload;
    size_t from, to;
};

static uint64_t calls_of(const struct growth *growth)
{
    uint64_t calls = 0;

    for (size_t bytes = growth->from; bytes < growth->to; bytes += bytes / 2)
        calls++;
    return calls;
}

static uint64_t time_growth(const struct heap_subject *subject, const struct growth *growth)
{
    uint64_t start = bench_ticks();
    size_t bytes = growth->from;
    char *block = subject->alloc(bytes);

    heap_touch(subject, block);
    while (bytes < growth->to) {
        size_t old = bytes;

        bytes += bytes / 2;
        block = subject->resize(block, bytes);
        heap_touch(subject, block);
        heap_touch_pages(block + old, bytes - old);
        block[bytes - 1] = 1;
    }
    subject->release(block);
    return bench_ticks() - start;
}

static const struct growth growths[] = {
    { "realloc_grow", 64, MM_MIB(4) },
    { "realloc_1m_large", MM_MIB(1), MM_MIB(16) },
};

/* The best of some, in nanoseconds for a call. */
static double one_growth(const struct bench *bench, const struct heap_subject *subject,
                         const struct growth *growth)
{
    uint64_t best = UINT64_MAX;

    heap_enter(subject);
    for (uint64_t i = bench_pick(bench, 1, 4, 8); i > 0; i--)
        best = heap_best_slice(best, time_growth(subject, growth));
    heap_leave(subject);
    return bench_ns(best) / (double)calls_of(growth);
}

void heap_measure_resize(struct bench *bench)
{
    for (size_t i = 0; i < sizeof growths / sizeof growths[0]; i++) {
        if (!bench_wants(bench, growths[i].workload))
            continue;
        for (unsigned round = 0; round < bench_rounds(bench); round++)
            for (unsigned j = 0; j < heap_subject_count; j++)
                if (heap_subjects[j].resize != NULL)
                    bench_sample(bench_row(bench, growths[i].workload, heap_subjects[j].name, 1,
                                           "ns"),
                                 one_growth(bench, &heap_subjects[j], &growths[i]));
    }
}
