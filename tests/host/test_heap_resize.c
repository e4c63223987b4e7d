/* SPDX-License-Identifier: MIT */
/* Large blocks that change their size where they stand. In a process the heap has no window, so a block
 * can give back its tail here; test_heap_window.c has a window and sees it grow, too.
 *
 *   | 5 MiB ......................... |  krealloc 3 MiB  | 3 MiB ......... | frames of the pmm again | */
#include "heap_fixture.h"

#include <string.h>

#define OLD MM_MIB(5)
#define NEW (MM_MIB(3) + 100)

static uint64_t used_frames(void)
{
    return pmm_stats(&heap_machine.pmm).used_frames;
}

static unsigned char *old_block(size_t align)
{
    unsigned char *block =
        align == 1 ? kheap_alloc(heap, OLD) : kheap_alloc_aligned(heap, OLD, align);

    assert_non_null(block);
    for (size_t at = 0; at < OLD; at += 512)
        block[at] = (unsigned char)(1 + at / 4096 % 200);
    block[NEW] = block[NEW + 1] = 7;
    return block;
}

static void expect_old_content(const unsigned char *block, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 512)
        assert_int_equal(block[at], (unsigned char)(1 + at / 4096 % 200));
}

static void large_block_gives_its_tail_back_in_place(void **state)
{
    static const size_t aligns[] = { 1, MM_KIB(64), MM_MIB(2) };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(aligns); i++) {
        struct kheap_stats before;
        unsigned char *block;
        uint64_t frames;

        heap_set_up_growing(MM_MIB(48), NULL);
        block = old_block(aligns[i]);
        frames = used_frames();
        before = kheap_stats(heap);
        assert_ptr_equal(kheap_realloc(heap, block, NEW), block);
        expect_old_content(block, NEW);
        assert_true(is_zero(block + NEW, kheap_size(heap, block) - NEW));
        assert_int_equal(kheap_size(heap, block), mm_round_up(NEW, PAGE_SIZE));
        uint64_t given = (OLD - mm_round_up(NEW, PAGE_SIZE)) / FRAME_SIZE;
        assert_int_equal(used_frames(), frames - given);
        assert_int_equal(kheap_stats(heap).region_bytes, before.region_bytes - given * FRAME_SIZE);
        assert_int_equal(kheap_stats(heap).used_bytes, kheap_size(heap, block));
        assert_int_equal(kheap_stats(heap).frames, before.frames - given);
        assert_true(kheap_verify(heap));
        /* The tail is nobody's, and the block is one as before. */
        EXPECT_BUG(address_words("kfree", block + MM_MIB(4)), kheap_free(heap, block + MM_MIB(4)));
        kheap_free(heap, block);
        EXPECT_BUG(address_words("kfree", block), kheap_free(heap, block));
        assert_all_free();
    }
}

/* Again and again, down to the least large block, beside a neighbour in the same 2 MiB. */
static void large_block_shrinks_step_by_step(void **state)
{
    unsigned char *block, *beside;
    uint64_t frames;

    (void)state;
    heap_set_up_growing(MM_MIB(48), NULL);
    block = old_block(1);
    kheap_free(heap, kheap_alloc(heap, MM_MIB(1) + 1));
    kheap_free(heap, block);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    frames = used_frames(); /* with the state for all of it, which stays */
    block = old_block(1);
    assert_non_null(beside = kheap_alloc(heap, MM_MIB(1) + 1));
    memset(beside, 0x5a, MM_MIB(1) + 1);
    for (size_t bytes = OLD; bytes > MM_MIB(1) + MM_KIB(300); bytes -= bytes / 7) {
        block = kheap_realloc(heap, block, bytes);
        assert_non_null(block);
        block[bytes - 1] = 1;
        expect_old_content(block, bytes - 1 < NEW ? bytes - 1 : NEW);
        assert_true(kheap_verify(heap));
    }
    for (size_t at = 0; at < MM_MIB(1) + 1; at++)
        assert_int_equal(beside[at], 0x5a);
    kheap_free(heap, beside);
    kheap_free(heap, block);
    assert_all_free();
    assert_int_equal(used_frames(), frames);
}

/* Where each call is to be seen, nothing is resized behind its back. */
static void large_block_moves_when_faults_are_injected(void **state)
{
    const struct kheap_faults next = { .nth = 1 };
    unsigned char *block;

    (void)state;
    heap_set_up_growing(MM_MIB(48), NULL);
    block = old_block(1);
    kheap_inject(heap, &next);
    assert_null(kheap_realloc(heap, block, OLD * 2));
    assert_int_equal(kheap_injected(heap), 1);
    expect_old_content(block, NEW);
    assert_int_equal(kheap_size(heap, block), OLD);
    kheap_inject(heap, NULL);
    kheap_free(heap, block);
    assert_all_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(large_block_gives_its_tail_back_in_place),
        TEST(large_block_shrinks_step_by_step),
        TEST(large_block_moves_when_faults_are_injected),
    };

    return RUN_TESTS(tests);
}
