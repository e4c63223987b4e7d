/* SPDX-License-Identifier: MIT */
/* Large blocks that cannot grow where they stand move to other addresses with their frames:
 *
 *   | block | guard | beside | ...       -->   | ............. | beside | guard | block ......... | guard | */
#include "window_fixture.h"

#include "threads.h"

#include <string.h>

#define OLD  (MM_MIB(3) + 100)
#define PAGE (OLD / PAGE_SIZE * PAGE_SIZE)

static unsigned char *block, *beside;

/* A block of `bytes`, filled, and another one behind it. */
static void stand_side_by_side(size_t bytes, size_t align)
{
    block = align == 1 ? kheap_alloc(heap, bytes) : kheap_alloc_aligned(heap, bytes, align);
    beside = kheap_alloc(heap, MM_MIB(2));
    assert_true(block != NULL && beside > block && beside - block < (long)MM_MIB(24));
    window_fill(block, 0, bytes);
    window_fill(beside, 0, MM_MIB(2));
}

static void assert_beside_and_counters(const unsigned char *moved)
{
    window_expect_filled(beside, MM_MIB(2));
    assert_int_equal(kheap_stats(heap).used_bytes, kheap_size(heap, moved) + MM_MIB(2));
    assert_int_equal(kheap_stats(heap).used_blocks, 2);
    assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
    assert_true(kheap_verify(heap));
}

static void assert_all_back(unsigned char *moved)
{
    kheap_free(heap, beside);
    kheap_free(heap, moved);
    assert_all_free();
    assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
    assert_int_equal(window_taken_addresses(), 1); /* the first memory */
}

static void large_block_moves_with_its_frames(void **state)
{
    static const size_t aligns[] = { 1, MM_KIB(64), MM_MIB(4) };
    static const size_t sizes[] = { MM_MIB(7), MM_MIB(7) + PAGE_SIZE + 1 };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(aligns); i++) {
        for (size_t j = 0; j < COUNT_OF(sizes); j++) {
            window_set_up();
            stand_side_by_side(OLD, aligns[i]);
            assert_int_equal(kheap_size(heap, block), mm_round_up(OLD, PAGE_SIZE));
            paddr_t first = window_frame_at(block), last = window_frame_at(block + PAGE);
            unsigned char *moved = kheap_realloc(heap, block, sizes[j]);
            assert_true(moved != NULL && moved != block && window_moves == 1);
            assert_int_equal((uintptr_t)moved % aligns[i], 0);
            assert_int_equal(window_frame_at(moved), first);
            assert_int_equal(window_frame_at(moved + PAGE), last);
            window_expect_filled(moved, OLD);
            assert_int_equal(kheap_size(heap, moved), mm_round_up(sizes[j], PAGE_SIZE));
            assert_true(is_zero(moved + OLD, kheap_size(heap, moved) - OLD));
            /* Around it nothing is, and nothing where it was. */
            assert_false(window_is_committed(window_step_of(moved - 1)));
            assert_false(window_is_committed(window_step_of(moved + sizes[j] + STEP)));
            for (size_t at = 0; at < OLD; at += STEP)
                assert_false(window_is_committed(window_step_of(block + at)));
            assert_beside_and_counters(moved);
            EXPECT_BUG(address_words("kfree", block), kheap_free(heap, block));
            EXPECT_BUG(address_words("krealloc", block),
                       assert_null(kheap_realloc(heap, block, MM_MIB(9))));
            EXPECT_BUG(address_words("kfree", moved + 16), kheap_free(heap, moved + 16));
            /* And again: it is a block as before. */
            uint64_t behind =
                mm_round_up((uintptr_t)moved + sizes[j] + STEP, LARGE_PAGE_SIZE) - heap->front.base;
            assert_true(heap_window_reserve_at(heap, behind, LARGE_PAGE_SIZE));
            block = moved;
            moved = kheap_realloc(heap, block, MM_MIB(11));
            assert_true(moved != NULL && moved != block && window_moves == 2);
            assert_int_equal((uintptr_t)moved % aligns[i], 0);
            window_expect_filled(moved, OLD);
            heap_window_unreserve(heap, behind, LARGE_PAGE_SIZE);
            moved = kheap_realloc(heap, moved, MM_KIB(500));
            assert_int_equal((uintptr_t)moved % aligns[i], 0);
            assert_all_back(moved);
        }
    }
}

/* Pages of the last step that nobody has asked for may hold anything. */
static void large_block_that_moves_is_zero_behind_its_old_pages(void **state)
{
    (void)state;
    window_set_up();
    stand_side_by_side(MM_MIB(4) - 2 * STEP + 1, 1); /* one page of its last step */
    memset(block + MM_MIB(4) - 2 * STEP + PAGE_SIZE, 0x77, STEP - PAGE_SIZE);
    unsigned char *moved = kheap_realloc(heap, block, MM_MIB(6));
    assert_true(moved != block && window_moves == 1);
    window_expect_filled(moved, MM_MIB(4) - 2 * STEP + 1);
    assert_true(is_zero(moved + MM_MIB(4) - 2 * STEP + 1, MM_MIB(2) + 2 * STEP - 1));
    assert_beside_and_counters(moved);
    assert_all_back(moved);
}

/* Two blocks take turns, each in the other's way; the addresses that they leave are used again. */
static void large_blocks_move_again_and_again(void **state)
{
    size_t sizes[2] = { MM_MIB(1) + 1, MM_MIB(2) };
    unsigned char *blocks[2];

    (void)state;
    window_set_up();
    stand_side_by_side(sizes[0], 1);
    blocks[0] = block;
    blocks[1] = beside;
    for (unsigned i = 0; i < 40; i++) {
        size_t *size = &sizes[i % 2], bytes = *size + MM_KIB(700);
        if (bytes > MM_MIB(9))
            bytes = MM_MIB(1) + PAGE_SIZE;
        blocks[i % 2] = kheap_realloc(heap, blocks[i % 2], bytes);
        assert_non_null(blocks[i % 2]);
        window_expect_filled(blocks[i % 2], bytes < *size ? bytes : *size);
        window_fill(blocks[i % 2], bytes < *size ? bytes : *size, bytes);
        *size = bytes;
        assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
        assert_true(kheap_verify(heap));
    }
    assert_true(window_moves >= 5);
    window_expect_filled(blocks[0], sizes[0]);
    window_expect_filled(blocks[1], sizes[1]);
    beside = blocks[0];
    assert_all_back(blocks[1]);
}

/* ---- Failing ---- */

#define SHORT (MM_MIB(4) - STEP)
#define LONG  MM_MIB(6)

/* So many frames are left for what it takes beside those of the block, or the nth commit or move fails.
 *   Returns:  where the block is then, NULL if it could not grow: all is as it was. */
static unsigned char *moves_with(uint64_t left, unsigned commit, unsigned move)
{
    static paddr_t taken[WINDOW_RAM / FRAME_SIZE];
    uint64_t count = (LONG - SHORT) / FRAME_SIZE + left;
    struct kheap_stats before;

    window_set_up();
    stand_side_by_side(SHORT, 1);
    assert_true(pmm_drain_to(&heap_machine.pmm, 0, taken, COUNT_OF(taken)) > count);
    void **rest = window_take_all();
    pmm_free_frames(&heap_machine.pmm, taken, count);
    before = kheap_stats(heap);
    window_commits_to_fail = commit;
    window_moves_to_fail = move;
    unsigned char *again = kheap_realloc(heap, block, LONG);
    window_commits_to_fail = window_moves_to_fail = 0;
    unsigned char *now = again != NULL ? again : block;
    size_t size = again != NULL ? LONG : SHORT;
    window_expect_filled(now, SHORT);
    assert_true(is_zero(now + SHORT, size - SHORT));
    assert_int_equal(kheap_size(heap, now), size);
    assert_int_equal(kheap_stats(heap).used_bytes, before.used_bytes + size - SHORT);
    assert_int_equal(kheap_stats(heap).used_blocks, before.used_blocks);
    assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
    assert_true(kheap_verify(heap));
    window_free_all(rest);
    assert_all_back(now);
    return again;
}

static void large_block_that_cannot_move_is_as_before(void **state)
{
    uint64_t left = 0;

    (void)state;
    while (moves_with(left, 0, 0) == NULL)
        left++;
    assert_int_equal(window_moves, 1);
    assert_true(left > 0 && left < 12); /* the last failures are inside, when the pages are there */
    assert_null(moves_with(left, 1, 0));
    assert_null(moves_with(left, 0, 1));
    assert_int_equal(window_moves, 0);
}

/* Page tables could not be had, but there is memory for a copy. */
static void large_block_that_cannot_move_is_copied(void **state)
{
    (void)state;
    assert_non_null(moves_with(SHORT / FRAME_SIZE + 100, 0, 1));
    assert_int_equal(window_moves, 0);
}

/* ---- Where each call is to be seen it is copied, as before ---- */

static void large_block_is_copied_at_the_full_level(void **state)
{
    (void)state;
    window_set_up();
    kheap_set_level(heap, KHEAP_FULL);
    stand_side_by_side(OLD, 1);
    unsigned char *moved = kheap_realloc(heap, block, MM_MIB(5));
    assert_true(moved != NULL && moved != block && window_moves == 0);
    window_expect_filled(moved, OLD);
    assert_true(is_zero(moved + OLD, MM_MIB(5) - OLD));
    EXPECT_BUG(address_words("quarantine", block), kheap_free(heap, block));
    /* A block that was made at the default level, too. */
    kheap_set_level(heap, KHEAP_DEFAULT);
    unsigned char *plain = kheap_alloc(heap, OLD), *other;
    window_fill(plain, 0, OLD);
    kheap_set_level(heap, KHEAP_FULL);
    other = kheap_realloc(heap, plain, MM_MIB(4));
    assert_true(other != NULL && other != plain && window_moves == 0);
    window_expect_filled(other, OLD);
    other[MM_MIB(4)] = 1;
    EXPECT_BUG(address_words("write behind the end of", other), kheap_free(heap, other));
    kheap_free(heap, other);
    kheap_free(heap, beside);
    kheap_free(heap, moved);
    kheap_set_level(heap, KHEAP_DEFAULT);
    assert_all_free();
}

static unsigned char *resized;

static void resize_in_handler(void)
{
    resized = kheap_realloc(heap, block, MM_MIB(5));
}

/* A handler cannot wait for other CPUs to forget a page. */
static void large_block_is_not_moved_in_a_handler(void **state)
{
    (void)state;
    window_set_up();
    stand_side_by_side(OLD, 1);
    assert_true(hosted_interrupt_attach(0, 0, resize_in_handler));
    hosted_interrupt_raise(0);
    hosted_interrupt_detach(0);
    assert_true(resized != NULL && resized != block && window_moves == 0);
    window_expect_filled(resized, OLD);
    assert_all_back(resized);
}

/* ---- Others come in between ---- */

static void *use_it_wrongly(void *argument)
{
    (void)argument;
    kheap_free(heap, window_moving_from);
    kheap_free(heap, window_moving_from + PAGE_SIZE);
    kheap_free(heap, window_moving_to);
    assert_null(kheap_realloc(heap, window_moving_from, MM_MIB(8)));
    assert_null(kheap_realloc(heap, window_moving_to, MM_MIB(8)));
    kheap_free(heap, kheap_alloc(heap, MM_MIB(1) + 1));
    return NULL;
}

/* While it moves, it is nobody's: each wrong call is reported, and no other takes its addresses. */
static void large_block_that_moves_cannot_be_freed(void **state)
{
    (void)state;
    window_set_up();
    stand_side_by_side(OLD, 1);
    window_beside_move = use_it_wrongly;
    bugs_count_begin();
    unsigned char *moved = kheap_realloc(heap, block, MM_MIB(5));
    assert_int_equal(bugs_count_end(), 10);
    assert_true(moved != NULL && moved != block && window_moves == 1);
    window_expect_filled(moved, OLD);
    assert_beside_and_counters(moved);
    assert_all_back(moved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(large_block_moves_with_its_frames),
        TEST(large_block_that_moves_is_zero_behind_its_old_pages),
        TEST(large_blocks_move_again_and_again),
        TEST(large_block_that_cannot_move_is_as_before),
        TEST(large_block_that_cannot_move_is_copied),
        TEST(large_block_is_copied_at_the_full_level),
        TEST(large_block_is_not_moved_in_a_handler),
        TEST(large_block_that_moves_cannot_be_freed),
    };

    return RUN_TESTS(tests);
}
