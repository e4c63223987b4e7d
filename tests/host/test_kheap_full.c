/* SPDX-License-Identifier: MIT */
/* The full level of the heap: writes beside and after a block, wrong frees, blocks of both levels. */
#include "heap_fixture.h"

#include <string.h>

/* ---- The full level ---- */

static const size_t row_sizes[] = { 1, 24, 64, 100, 4096, 5000, 70000, 262144 };

static void full_blocks_are_zero_aligned_and_exact(void **state)
{
    (void)state;
    heap_set_up_full(MM_MIB(8));
    for (size_t i = 0; i < COUNT_OF(row_sizes); i++) {
        size_t bytes = row_sizes[i];
        size_t align = (bytes & (bytes - 1)) == 0 && bytes >= 16 && bytes <= 4096 ? bytes : 16;

        for (unsigned round = 0; round < 20; round++) {
            unsigned char *block = kheap_alloc(heap, bytes);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % align, 0);
            assert_int_equal(kheap_size(heap, block), bytes);
            assert_true(is_zero(block, bytes));
            memset(block, 0xee, bytes);
            assert_int_equal(kheap_stats(heap).used_blocks, 1);
            kheap_free(heap, block);
            assert_true(is_zero(block, bytes)); /* read after free: zeroes */
        }
    }
    assert_true(kheap_verify(heap));
    kheap_set_level(heap, KHEAP_DEFAULT);
    assert_all_free();
}

static void full_writes_around_a_block_are_reported_at_its_free(void **state)
{
    (void)state;
    heap_set_up_full(MM_MIB(8));
    for (size_t i = 0; i < COUNT_OF(row_sizes); i++) {
        size_t bytes = row_sizes[i];
        unsigned char *block = kheap_alloc(heap, bytes);

        block[bytes] = 1;
        assert_false(kheap_verify(heap));
        log_clear();
        EXPECT_BUG("write behind the end|allocated by 0x", kheap_free(heap, block));
        memset(block + bytes, 2, 8);
        EXPECT_BUG("write behind the end", kheap_free(heap, block));
        block[-1] = 1;
        EXPECT_BUG("write before the beginning", kheap_free(heap, block));
        block[-8] = 1;
        EXPECT_BUG("write before the beginning", kheap_free(heap, block));
        kheap_free(heap, block); /* repaired */
        EXPECT_BUG("free|quarantine|freed by 0x", kheap_free(heap, block));
    }
    assert_true(kheap_verify(heap));
}

static void full_writes_after_a_free_are_reported(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(row_sizes); i++) {
        size_t bytes = row_sizes[i];
        unsigned char *block;

        heap_set_up_full(MM_MIB(8));
        block = kheap_alloc(heap, bytes);
        kheap_free(heap, block);
        block[bytes / 2] = 0x77;
        EXPECT_BUG("write after the free|is 0x77", kheap_set_level(heap, KHEAP_DEFAULT));
        assert_all_free();
    }
}

static void full_wrong_frees_are_reported(void **state)
{
    (void)state;
    heap_set_up_full(MM_MIB(8));
    for (size_t i = 0; i < COUNT_OF(row_sizes); i++) {
        size_t bytes = row_sizes[i];
        unsigned char *block = kheap_alloc(heap, bytes);

        EXPECT_BUG("inside", kheap_free(heap, block + 1));
        EXPECT_BUG("inside", kheap_free(heap, block - 8));
        if (bytes > 16)
            EXPECT_BUG("16 bytes inside", kheap_free(heap, block + 16));
        EXPECT_BUG("kfree_sized", kfree_sized(block, bytes + 1));
        block = kheap_realloc(heap, block, bytes + 1);
        assert_int_equal(kheap_size(heap, block), bytes + 1);
        kheap_free(heap, block);
    }
}

static void blocks_of_both_levels_live_side_by_side(void **state)
{
    void *plain, *guarded;

    (void)state;
    heap_set_up(MM_MIB(4));
    plain = kheap_alloc(heap, 100);
    kheap_set_level(heap, KHEAP_FULL);
    guarded = kheap_alloc(heap, 100);
    kheap_free(heap, plain);
    EXPECT_BUG("free", kheap_free(heap, plain));
    kheap_set_level(heap, KHEAP_DEFAULT);
    assert_int_equal(kheap_size(heap, guarded), 100);
    kheap_free(heap, guarded);
    EXPECT_BUG("free", kheap_free(heap, guarded));
    kheap_set_level(heap, KHEAP_DEFAULT);
    assert_all_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(full_blocks_are_zero_aligned_and_exact),
        TEST(full_writes_around_a_block_are_reported_at_its_free),
        TEST(full_writes_after_a_free_are_reported),
        TEST(full_wrong_frees_are_reported),
        TEST(blocks_of_both_levels_live_side_by_side),
    };

    return RUN_TESTS(tests);
}
