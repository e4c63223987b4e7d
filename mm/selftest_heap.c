/* SPDX-License-Identifier: MIT */
/* The self-tests of the heap. */
#include "mm/selftest_parts.h"

bool heap_case_alloc(struct test_run *run)
{
    void *block = kheap_alloc(run->mm->heap, 1024);

    REQUIRE(block != NULL, "expected a block of 1024 bytes, got NULL");
    REQUIRE(mm_is_aligned((uintptr_t)block, 1024), "expected alignment to 1024, got 0x%lx",
            (uintptr_t)block);
    size_t bytes = kheap_size(run->mm->heap, block);
    kheap_free(run->mm->heap, block);
    REQUIRE(bytes == 1024, "expected a size of 1024, got %lu", bytes);
    return true;
}

bool heap_case_zero(struct test_run *run)
{
    void *block = kheap_alloc(run->mm->heap, 4096);

    REQUIRE(block != NULL, "expected a block of 4096 bytes, got NULL");
    memset(block, 0xa5, 4096);
    kheap_free(run->mm->heap, block);
    block = kheap_alloc(run->mm->heap, 4096);
    REQUIRE(block != NULL, "expected a block of 4096 bytes, got NULL");
    size_t other = first_other_byte(block, 0, 4096);
    kheap_free(run->mm->heap, block);
    REQUIRE(other == 4096, "expected zeroes, got another byte at offset %lu", other);
    return true;
}

bool heap_case_write(struct test_run *run)
{
    volatile uint64_t *block = kheap_alloc(run->mm->heap, 1024);
    uint64_t wrong = 0;

    REQUIRE(block != NULL, "expected a block of 1024 bytes, got NULL");
    for (uint64_t i = 0; i < 128; i++)
        block[i] = i * 0x9e3779b97f4a7c15u;
    for (uint64_t i = 0; i < 128; i++)
        wrong += block[i] != i * 0x9e3779b97f4a7c15u;
    kheap_free(run->mm->heap, (void *)(uintptr_t)block);
    REQUIRE(wrong == 0, "expected to read what was written, got %lu other words of 128", wrong);
    return true;
}

bool heap_case_free(struct test_run *run)
{
    struct kheap_stats before = kheap_stats(run->mm->heap);
    void *block = kheap_alloc(run->mm->heap, 1024);

    REQUIRE(block != NULL, "expected a block of 1024 bytes, got NULL");
    kheap_free(run->mm->heap, block);
    struct kheap_stats after = kheap_stats(run->mm->heap);
    REQUIRE(after.free_bytes == before.free_bytes &&
                after.largest_free_block == before.largest_free_block,
            "expected %lu bytes free, %lu in one block, got %lu and %lu", before.free_bytes,
            before.largest_free_block, after.free_bytes, after.largest_free_block);
    return true;
}

bool heap_case_ten(struct test_run *run)
{
    uint8_t *blocks[10];

    for (uint8_t i = 0; i < 10; i++) {
        blocks[i] = kheap_alloc(run->mm->heap, 64);
        REQUIRE(blocks[i] != NULL, "expected 10 blocks of 64 bytes, got %u", i);
        memset(blocks[i], i + 1, 64);
    }
    for (uint8_t i = 0; i < 10; i++) {
        size_t other = first_other_byte(blocks[i], (uint8_t)(i + 1), 64);
        REQUIRE(other == 64, "expected block %u untouched by the others, got byte %u at offset %lu",
                i, blocks[i][other], other);
    }
    for (uint8_t i = 0; i < 10; i++)
        kheap_free(run->mm->heap, blocks[i]);
    return true;
}

bool heap_case_limits(struct test_run *run)
{
    struct kheap *heap = run->mm->heap;
    void *nothing = kheap_alloc(heap, 0);

    REQUIRE(nothing == NULL, "expected NULL for 0 bytes, got 0x%lx", (uintptr_t)nothing);
    kheap_free(heap, NULL);
    uint64_t largest = kheap_stats(heap).largest_free_block;
    void *block = kheap_alloc(heap, largest);
    REQUIRE(block != NULL, "expected the largest free block, %lu bytes, got NULL", largest);
    kheap_free(heap, block);
    return true;
}

bool heap_case_physical(struct test_run *run)
{
    volatile uint64_t *block = kheap_alloc(run->mm->heap, 64);
    paddr_t frame;

    REQUIRE(block != NULL, "expected a block of 64 bytes, got NULL");
    block[3] = 0xfeedbeef;
    REQUIRE_STATUS(MM_OK, kheap_to_phys(run->mm->heap, (void *)(uintptr_t)block, 64, &frame));
    uint64_t found = word_of_frame(frame)[3];
    kheap_free(run->mm->heap, (void *)(uintptr_t)block);
    REQUIRE(found == 0xfeedbeef, "expected 0xfeedbeef at physical 0x%lx, got 0x%lx", frame, found);
    return true;
}

bool heap_case_state(struct test_run *run)
{
    uint64_t blocks = kheap_stats(run->mm->heap).used_blocks;

    REQUIRE(kheap_verify(run->mm->heap), "expected a consistent heap, got a difference");
    mm_format(run->note, NOTE_BYTES, "%lu blocks in use", blocks);
    return true;
}
