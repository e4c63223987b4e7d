/* SPDX-License-Identifier: MIT */
/* Large blocks that grow and shrink where they stand, in a heap with a window. */
#include "window_fixture.h"

/* Each way of a size to another: behind the old content zeroes, also where there was a longer one before. */
static void large_block_in_a_window_changes_its_size_in_place(void **state)
{
    static const size_t sizes[] = {
        MM_MIB(3) + 1,           MM_MIB(3) + PAGE_SIZE + 1,
        MM_MIB(3) + STEP,        MM_MIB(3) + STEP + 1,
        MM_MIB(2) + 500,         MM_MIB(4) - STEP,
        MM_MIB(4) - PAGE_SIZE,   MM_MIB(4),
        MM_MIB(4) + 1,           MM_MIB(1) + PAGE_SIZE,
        MM_MIB(9) + MM_KIB(100), MM_MIB(6),
        MM_MIB(6) + 2 * STEP,    MM_MIB(1) + 1,
    };
    unsigned char *block;
    size_t old = MM_MIB(1) + 100;

    (void)state;
    window_set_up();
    block = kheap_alloc(heap, old);
    assert_non_null(block);
    window_fill(block, 0, old);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        size_t bytes = sizes[i], kept = old < bytes ? old : bytes;
        assert_ptr_equal(kheap_realloc(heap, block, bytes), block);
        window_expect_filled(block, kept);
        assert_true(is_zero(block + kept, kheap_size(heap, block) - kept));
        window_expect_block(block, bytes);
        window_fill(block, kept, bytes);
        old = bytes;
    }
    kheap_free(heap, block);
    assert_all_free();
    assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
}

/* The last step has the pages already: that needs no memory. */
static void large_block_grows_within_its_step_without_memory(void **state)
{
    unsigned char *block;

    (void)state;
    window_set_up();
    block = kheap_alloc(heap, MM_MIB(3) + 1);
    assert_non_null(block);
    window_fill(block, 0, MM_MIB(3) + 1);
    (void)pmm_drain_to(&heap_machine.pmm, 0, NULL, 0);
    for (size_t bytes = MM_MIB(3) + 2 * PAGE_SIZE; bytes <= MM_MIB(3) + STEP; bytes += PAGE_SIZE) {
        assert_ptr_equal(kheap_realloc(heap, block, bytes), block);
        assert_int_equal(kheap_size(heap, block), bytes);
        window_expect_block(block, bytes);
    }
    assert_null(kheap_realloc(heap, block, MM_MIB(3) + STEP + 1));
    window_expect_filled(block, MM_MIB(3) + 1);
    assert_true(is_zero(block + MM_MIB(3) + 1, STEP - 1));
    window_expect_block(block, MM_MIB(3) + STEP);
    kheap_free(heap, block);
    assert_all_free();
}

#define SHORT (MM_MIB(4) - STEP)
#define LONG  MM_MIB(6)

/* So many frames are left for what it takes beside those of the block, or the nth commit fails.
 *   Returns:  true if it has grown nevertheless. */
static bool grows_with(uint64_t left, unsigned nth)
{
    static paddr_t taken[WINDOW_RAM / FRAME_SIZE];
    struct kheap_stats before;
    unsigned char *block;
    uint64_t count = (LONG - SHORT) / FRAME_SIZE + left;
    void **rest;

    window_set_up();
    block = kheap_alloc(heap, SHORT);
    assert_non_null(block);
    window_fill(block, 0, SHORT);
    assert_true(pmm_drain_to(&heap_machine.pmm, 0, taken, COUNT_OF(taken)) > count);
    rest = window_take_all();
    pmm_free_frames(&heap_machine.pmm, taken, count);
    before = kheap_stats(heap);
    window_commits_to_fail = nth;
    unsigned char *again = kheap_realloc(heap, block, LONG);
    window_commits_to_fail = 0;
    assert_true(again == NULL || again == block);
    size_t size = again == NULL ? SHORT : LONG;
    window_expect_filled(block, SHORT);
    assert_true(is_zero(block + SHORT, size - SHORT));
    assert_int_equal(kheap_size(heap, block), size);
    assert_int_equal(kheap_stats(heap).used_bytes, before.used_bytes + size - SHORT);
    assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
    assert_true(window_is_committed(window_step_of(block + size) - 1));
    assert_false(window_is_committed(window_step_of(block + size)));
    assert_true(kheap_verify(heap));
    kheap_free(heap, block);
    /* Its addresses are free again, and so are those behind it. */
    assert_ptr_equal(kheap_alloc(heap, SHORT), block);
    kheap_free(heap, block);
    window_free_all(rest);
    assert_all_free();
    assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
    assert_int_equal(window_taken_addresses(), 1); /* the first memory */
    return again != NULL;
}

static void large_block_that_cannot_grow_is_as_before(void **state)
{
    uint64_t left = 0;

    (void)state;
    while (!grows_with(left, 0))
        left++;
    assert_true(left > 0 && left < 8); /* the last failures are inside, when the pages are there */
    assert_false(grows_with(left, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(large_block_in_a_window_changes_its_size_in_place),
        TEST(large_block_grows_within_its_step_without_memory),
        TEST(large_block_that_cannot_grow_is_as_before),
    };

    return RUN_TESTS(tests);
}
