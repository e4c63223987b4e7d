/* SPDX-License-Identifier: MIT */
/* A heap that takes memory from the pmm and gives it back: large blocks, no frames, who moves memory. */
#include "heap_fixture.h"

#include <string.h>

/* ---- Growing ---- */

static void heap_grows_and_gives_memory_back(void **state)
{
    static unsigned char *blocks[300];
    uint64_t used;
    struct kheap_stats before;

    (void)state;
    heap_set_up_growing(MM_MIB(48), NULL);
    before = kheap_stats(heap);
    used = pmm_stats(&heap_machine.pmm).used_frames;
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        blocks[i] = kheap_alloc(heap, 50000 + i * 300);
        assert_non_null(blocks[i]);
        assert_true(is_zero(blocks[i], 50000));
        memset(blocks[i], 0xab, 50000 + i * 300);
    }
    assert_true(kheap_stats(heap).region_bytes > before.region_bytes);
    assert_int_equal(pmm_stats(&heap_machine.pmm).used_frames - used,
                     kheap_stats(heap).frames - before.frames);
    assert_true(kheap_verify(heap));
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        kheap_free(heap, blocks[i]);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_true(kheap_verify(heap));
    assert_int_equal(pmm_stats(&heap_machine.pmm).used_frames - used,
                     kheap_stats(heap).frames - before.frames);
    assert_true(kheap_stats(heap).frames - before.frames < 100); /* state stays for reuse */
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
}

static void large_blocks_have_pages_of_their_own(void **state)
{
    (void)state;
    heap_set_up_growing(MM_MIB(48), NULL);
    for (size_t bytes = MM_MIB(1) + 1; bytes <= MM_MIB(20); bytes = bytes * 3 / 2) {
        unsigned char *block = kheap_alloc(heap, bytes);

        assert_non_null(block);
        assert_true(is_zero(block, bytes));
        memset(block, 0xcd, bytes);
        assert_true(kheap_size(heap, block) >= bytes);
        EXPECT_BUG("inside", kheap_free(heap, block + bytes / 2));
        kheap_free(heap, block);
        EXPECT_BUG("kfree", kheap_free(heap, block));
        assert_true(kheap_verify(heap));
    }
    for (size_t align = MM_MIB(1); align <= MM_MIB(16); align *= 2) {
        unsigned char *block = kheap_alloc_aligned(heap, 5000, align);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % align, 0);
        kheap_free(heap, block);
    }
    log_clear();
    assert_null(kheap_alloc(heap, MM_MIB(60)));
    log_expect_count("[MM] ERROR:", 1);
    assert_null(kheap_alloc(heap, SIZE_MAX));
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_true(kheap_verify(heap));
}

/* Memory that came, and went because nothing was left for its state: a search that ran meanwhile has missed
 * it, and is told to look again. */
static void memory_that_cannot_be_added_counts_as_moved(void **state)
{
    paddr_t base, frame;
    uint64_t moves;

    (void)state;
    heap_set_up_growing(MM_MIB(48), NULL);
    assert_ok(pmm_alloc_contiguous(&heap_machine.pmm, 16, MM_KIB(64), PMM_NO_LIMIT, &base));
    while (pmm_alloc_frame(&heap_machine.pmm, &frame) == MM_OK)
        ;
    while (heap_state_alloc(heap, heap_chunk_state_bytes()) != NULL)
        ;
    /* No chunk is there: the 64 KiB are the first of their 2 MiB. */
    assert_null(heap_chunk_at(heap, base));
    pmm_free_contiguous(&heap_machine.pmm, base, 16);
    moves = heap->moves;
    assert_false(heap_supply(heap, HEAP_NEEDS_PAGES, PAGE_SIZE));
    assert_true(heap->moves > moves);
    assert_true(heap_may_find_more(heap, moves, 0));
    assert_ok(pmm_alloc_contiguous(&heap_machine.pmm, 16, MM_KIB(64), PMM_NO_LIMIT, &base));
}

/* The pmm's low-water mark calls in the allocation that has crossed it, once: also a handler's. */
static void what_a_handler_drains_goes_back_with_the_next_slow_call(void **state)
{
    void *blocks[4], *block;
    uint64_t frames;

    (void)state;
    heap_set_up_growing(MM_MIB(48), NULL);
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        assert_non_null(blocks[i] = kheap_alloc(heap, MAX_BLOCK_SIZE));
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        kheap_free(heap, blocks[i]);
    frames = kheap_stats(heap).frames;
    assert_int_not_equal(heap->spare_chunks, 0); /* kept, as long as there are few */
    assert_true(hosted_interrupt_enter());
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_non_null(block = kheap_alloc(heap, 40));
    hosted_interrupt_leave();
    assert_int_not_equal(heap->spare_chunks, 0);
    kheap_free(heap, block);
    assert_non_null(block = kheap_alloc(heap, 400));
    assert_int_equal(heap->spare_chunks, 0);
    assert_true(kheap_stats(heap).frames < frames);
    kheap_free(heap, block);
    assert_all_free();
}

/* Who was moving memory is not there in the child of a fork(). */
static void nobody_moves_memory_after_a_fork(void **state)
{
    uint64_t saved;

    (void)state;
    heap_set_up_growing(MM_MIB(48), NULL);
    heap->moving = 1;
    assert_true(heap_may_find_more(heap, heap->moves, 0));
    saved = kheap_lock_all(heap);
    kheap_forked(heap);
    kheap_unlock_all(heap, saved);
    assert_false(heap_may_find_more(heap, heap->moves, 0));
}

static void threads_are_told_from_handlers_by_their_slot(void **state)
{
    (void)state;
    for (unsigned slot = 0; slot < MM_PORT_SLOTS; slot++)
        assert_int_equal(heap_slot_is_thread(slot), slot % MM_PORT_LEVELS == 0);
    assert_true(heap_slot_is_thread(MM_PORT_SHARED_SLOT));
    assert_false(heap_slot_is_thread(MM_PORT_NO_SLOT));
}

/* So many frames are left, from 0 on: NULL, and nothing is lost. */
static void heap_without_frames_gives_null_and_loses_nothing(void **state)
{
    (void)state;
    for (uint64_t left = 0; left < 40; left++) {
        static paddr_t taken[16384];
        size_t count;
        unsigned char *blocks[4];
        static const size_t sizes[4] = { 16, 3000, 70000, 3000000 };

        heap_set_up_growing(MM_MIB(24), NULL);
        mm_log_level = MM_LOG_ERROR;
        count = pmm_drain_to(&heap_machine.pmm, left, taken, COUNT_OF(taken));
        for (size_t i = 0; i < 4; i++) {
            void *chain = NULL, *next;
            while ((next = kheap_alloc(heap, sizes[i])) != NULL) {
                *(void **)next = chain;
                chain = next;
            }
            assert_true(kheap_verify(heap));
            for (; chain != NULL; chain = next) {
                next = *(void **)chain;
                kheap_free(heap, chain);
            }
            kheap_drain(heap, KHEAP_ALL_SLOTS);
        }
        assert_int_equal(kheap_stats(heap).used_blocks, 0);
        assert_true(kheap_verify(heap));
        pmm_free_frames(&heap_machine.pmm, taken, count);
        for (size_t i = 0; i < 4; i++) {
            blocks[i] = kheap_alloc(heap, sizes[i]);
            assert_non_null(blocks[i]);
            kheap_free(heap, blocks[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(heap_grows_and_gives_memory_back),
        TEST(large_blocks_have_pages_of_their_own),
        TEST(memory_that_cannot_be_added_counts_as_moved),
        TEST(what_a_handler_drains_goes_back_with_the_next_slow_call),
        TEST(nobody_moves_memory_after_a_fork),
        TEST(threads_are_told_from_handlers_by_their_slot),
        TEST(heap_without_frames_gives_null_and_loses_nothing),
    };

    return RUN_TESTS(tests);
}
