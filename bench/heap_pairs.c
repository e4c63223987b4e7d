/* SPDX-License-Identifier: MIT */
/* Pairs of one size, a block taken and given back at once:
 *
 *      calloc_free_SIZE   take a zeroed block, write to each of its pages, give it back; one pair
 *      malloc_free_SIZE   the same without the zeroes
 *      const_SIZE         mello alone inlined, its size known to the compiler; the peers called, calloc */
#include "bench/heap.h"

#include <mm/kheap.h>

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

        heap_touch(subject, block);
        if (bytes > PAGE_SIZE)
            heap_touch_pages(block, bytes);
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
            heap_touch(subject, block);                                                            \
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

static uint64_t one_pairs(const struct heap_subject *subject, unsigned round,
                          const struct heap_amount *amount)
{
    uint64_t best = UINT64_MAX;

    (void)round;
    for (unsigned i = 0; i < HEAP_SLICES; i++)
        best = heap_best_slice(best, time_pairs(subject, amount->bytes, amount->zeroed,
                                                heap_slice_count(amount)));
    return heap_scale_up(best, amount);
}

static uint64_t one_const(const struct heap_subject *subject, unsigned round,
                          const struct heap_amount *amount)
{
    uint64_t best = UINT64_MAX;

    (void)round;
    for (unsigned i = 0; i < HEAP_SLICES; i++)
        best = heap_best_slice(best, time_const(subject, amount->bytes, heap_slice_count(amount)));
    return heap_scale_up(best, amount);
}

void heap_measure_pairs(struct bench *bench)
{
    static const struct pair consts[] = { { "const_64", 64, true }, { "const_256", 256, true } };

    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        struct heap_amount amount = { pairs[i].bytes, pairs[i].zeroed,
                                      pair_count(bench, pairs[i].bytes, pairs[i].zeroed) };

        if (bench_wants(bench, pairs[i].workload))
            heap_measure(bench, pairs[i].workload, 1, true, one_pairs, &amount);
    }
    for (size_t i = 0; i < 2; i++) {
        struct heap_amount amount = { consts[i].bytes, true,
                                      pair_count(bench, consts[i].bytes, false) };

        if (bench_wants(bench, consts[i].workload))
            heap_measure(bench, consts[i].workload, 1, true, one_const, &amount);
    }
}
