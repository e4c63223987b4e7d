/* SPDX-License-Identifier: MIT */
/* The heap suite of the kernel's benchmark: pairs of one allocation and one free, by size; a value is
 * that of one pair.
 *
 *   malloc_free_N   kmalloc_nozero and kfree, the size not known to the compiler
 *   calloc_free_N   kmalloc and kfree, likewise
 *   const_N         kmalloc and kfree_sized of a constant
 *   batch_mixed     512 blocks of 16 bytes to 4 KiB, then all back in another order
 *   realloc_N       krealloc of a block of 64 KiB less than N to N, where another one stands behind it; a
 *                   value is that of one such call */
#include "kernel/bench_parts.h"

#define BENCH_BLOCKS 512u

static void *bench_blocks[BENCH_BLOCKS];

/* Hides a number from the compiler. */
static inline size_t hidden(size_t bytes)
{
    __asm__ volatile("" : "+r"(bytes));
    return bytes;
}

static bool heap_malloc(uint64_t count, size_t bytes)
{
    for (uint64_t i = 0; i < count; i++) {
        void *block = kmalloc_nozero(hidden(bytes));

        if (block == NULL)
            return false;
        kfree(block);
    }
    return true;
}

static bool heap_calloc(uint64_t count, size_t bytes)
{
    for (uint64_t i = 0; i < count; i++) {
        void *block = kmalloc(hidden(bytes));

        if (block == NULL)
            return false;
        kfree(block);
    }
    return true;
}

#define HEAP_WORKS(name, bytes)                                                                    \
    static bool heap_malloc_##name(struct mm *mm, uint64_t count)                                  \
    {                                                                                              \
        (void)mm;                                                                                  \
        return heap_malloc(count, bytes);                                                          \
    }                                                                                              \
    static bool heap_calloc_##name(struct mm *mm, uint64_t count)                                  \
    {                                                                                              \
        (void)mm;                                                                                  \
        return heap_calloc(count, bytes);                                                          \
    }

HEAP_WORKS(16, 16)
HEAP_WORKS(64, 64)
HEAP_WORKS(256, 256)
HEAP_WORKS(1k, 1024)
HEAP_WORKS(4k, 4096)
HEAP_WORKS(64k, 65536)

#define HEAP_CONSTANT(bytes)                                                                       \
    static bool heap_const_##bytes(struct mm *mm, uint64_t count)                                  \
    {                                                                                              \
        (void)mm;                                                                                  \
        for (uint64_t i = 0; i < count; i++) {                                                     \
            void *block = kmalloc(bytes);                                                          \
                                                                                                   \
            if (block == NULL)                                                                     \
                return false;                                                                      \
            kfree_sized(block, bytes);                                                             \
        }                                                                                          \
        return true;                                                                               \
    }

HEAP_CONSTANT(64)
HEAP_CONSTANT(256)

static bool heap_batch_mixed(struct mm *mm, uint64_t count)
{
    (void)mm;
    for (uint64_t done = 0; done < count; done += BENCH_BLOCKS) {
        bool all = true;

        for (unsigned i = 0; i < BENCH_BLOCKS; i++) {
            bench_blocks[i] = kmalloc_nozero((size_t)16 << i % 9);
            all &= bench_blocks[i] != NULL;
        }
        for (unsigned i = 0; i < BENCH_BLOCKS; i++)
            kfree(bench_blocks[i * 57 % BENCH_BLOCKS]); /* odd: each once */
        if (!all)
            return false;
    }
    return true;
}

/* A word in each page says which one it is. */
static void mark_pages(uint64_t *block, size_t bytes)
{
    for (size_t i = 0; i < bytes / PAGE_SIZE; i++)
        block[i * (PAGE_SIZE / 8)] = i + 1;
}

static bool pages_are_marked(const uint64_t *block, size_t bytes)
{
    for (size_t i = 0; i < bytes / PAGE_SIZE; i++)
        if (block[i * (PAGE_SIZE / 8)] != i + 1)
            return false;
    return true;
}

/* The block takes the first addresses of the window that are free, and the other one those behind it. */
static bool heap_realloc(struct mm *mm, size_t bytes)
{
    size_t old = bytes - MM_KIB(64);

    if (pmm_stats(&mm->pmm).free_frames * FRAME_SIZE < bytes + MM_MIB(8))
        return false;
    void *block = kmalloc(old), *behind = kmalloc(MM_MIB(2)), *moved = NULL;
    if (block != NULL && behind != NULL) {
        mark_pages(block, old);
        bench_clock_start();
        moved = krealloc(block, bytes);
        bench_clock_stop();
    }
    bool right = moved != NULL && moved != block && pages_are_marked(moved, old);
    kfree(moved != NULL ? moved : block);
    kfree(behind);
    return right;
}

static bool heap_realloc_2m(struct mm *mm, uint64_t count)
{
    (void)count;
    return heap_realloc(mm, MM_MIB(2));
}

static bool heap_realloc_16m(struct mm *mm, uint64_t count)
{
    (void)count;
    return heap_realloc(mm, MM_MIB(16));
}

static const struct bench_work heap_works[] = {
    { "malloc_free_16", heap_malloc_16, 1000 },   { "malloc_free_64", heap_malloc_64, 1000 },
    { "malloc_free_256", heap_malloc_256, 1000 }, { "malloc_free_1k", heap_malloc_1k, 1000 },
    { "malloc_free_4k", heap_malloc_4k, 1000 },   { "malloc_free_64k", heap_malloc_64k, 100 },
    { "calloc_free_16", heap_calloc_16, 1000 },   { "calloc_free_64", heap_calloc_64, 1000 },
    { "calloc_free_256", heap_calloc_256, 1000 }, { "calloc_free_1k", heap_calloc_1k, 1000 },
    { "calloc_free_4k", heap_calloc_4k, 1000 },   { "calloc_free_64k", heap_calloc_64k, 100 },
    { "const_64", heap_const_64, 1000 },          { "const_256", heap_const_256, 1000 },
    { "batch_mixed", heap_batch_mixed, 4096 },    { "realloc_2m", heap_realloc_2m, 1 },
    { "realloc_16m", heap_realloc_16m, 1 },
};

const struct bench_part bench_heap = {
    .name = "heap",
    .works = heap_works,
    .work_count = sizeof(heap_works) / sizeof(heap_works[0]),
};
