/* SPDX-License-Identifier: MIT */
/* A heap with a window grows, and the pmm fails: for n = 1, 2, ... until the call succeeds, either from the
 * n-th call on, as when memory is gone, or in the n-th call alone, where the heap may find another way.
 *
 *   heap without a free block --> call --> frames for the window, for chunks, spans and records
 *
 * A call that fails has changed nothing: used frames, but for what has become state; the counters; the
 * addresses of the window; the block that was to be resized. */
#include "window_fixture.h"

#include <string.h>

#define TRIES_MAX    60u
#define STATE_FRAMES 8u /* at most, that one call makes state of */

static const size_t sizes[] = { 64, 4096, MM_KIB(256), MM_MIB(4) };

struct picture {
    struct kheap_stats heap;
    uint64_t used_frames;
    size_t addresses;
};

static struct picture take_picture(void)
{
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    return (struct picture){ kheap_stats(heap), pmm_stats(&heap_machine.pmm).used_frames,
                             window_taken_addresses() };
}

/* All memory that the heap has is used; the pmm has more. */
static void **fill_heap(void)
{
    pmm_fault_inject(&heap_machine.pmm, 1, 1);
    void **all = window_take_all();
    pmm_fault_inject(&heap_machine.pmm, 0, 0);
    return all;
}

static void assert_sound(void)
{
    assert_true(kheap_verify(heap));
    assert_pmm_sound(&heap_machine.pmm);
    assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
}

static void assert_unchanged(const struct picture *before)
{
    struct picture now = take_picture();
    uint64_t state = now.heap.frames - before->heap.frames;

    assert_int_equal(now.heap.failed_allocations, before->heap.failed_allocations + 1);
    assert_int_equal(now.heap.used_blocks, before->heap.used_blocks);
    assert_int_equal(now.heap.used_bytes, before->heap.used_bytes);
    assert_int_equal(now.heap.region_bytes, before->heap.region_bytes);
    assert_int_equal(now.addresses, before->addresses);
    assert_true(state <= STATE_FRAMES);
    assert_int_equal(now.used_frames, before->used_frames + state);
    assert_sound();
}

/* Returns: true if the call has failed. `old`: a block to be resized, of half the size, or NULL. */
static bool fail_nth(size_t bytes, bool resizes, uint64_t n, bool from_then_on)
{
    unsigned char *old = resizes ? kheap_alloc(heap, bytes / 2) : NULL;

    assert_true(!resizes || old != NULL);
    if (resizes)
        window_fill(old, 0, bytes / 2);
    void **all = fill_heap();
    struct picture before = take_picture();
    pmm_fault_inject(&heap_machine.pmm, n, from_then_on);
    unsigned char *block = resizes ? kheap_realloc(heap, old, bytes) : kheap_alloc(heap, bytes);
    pmm_fault_inject(&heap_machine.pmm, 0, 0);
    bool failed = block == NULL;
    if (failed) {
        assert_unchanged(&before);
        if (resizes)
            window_expect_filled(old, bytes / 2);
        block = resizes ? kheap_realloc(heap, old, bytes) : kheap_alloc(heap, bytes);
    }
    assert_non_null(block);
    size_t kept = resizes ? bytes / 2 : 0;
    window_expect_filled(block, kept);
    assert_true(is_zero(block + kept, kheap_size(heap, block) - kept));
    kheap_free(heap, block);
    window_free_all(all);
    assert_all_free();
    assert_sound();
    return failed;
}

/* Each in a heap of its own: what one failure leaves as state would help the next. */
static void fail_all(enum kheap_level level, bool resizes)
{
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        uint64_t n = 0;
        bool failed = true;

        while (failed) {
            assert_true(++n < TRIES_MAX);
            window_set_up();
            kheap_set_level(heap, level);
            failed = fail_nth(sizes[i], resizes, n, true);
        }
        assert_true(n > 1); /* it needs a frame */
        for (uint64_t alone = 1; alone < n; alone++) {
            window_set_up();
            kheap_set_level(heap, level);
            (void)fail_nth(sizes[i], resizes, alone, false);
        }
    }
}

static void growth_of_a_window_that_fails_changes_nothing(void **state)
{
    (void)state;
    mm_log_level = MM_LOG_ERROR;
    fail_all(KHEAP_DEFAULT, false);
    fail_all(KHEAP_FULL, false);
}

static void growth_for_a_larger_block_that_fails_changes_nothing(void **state)
{
    (void)state;
    mm_log_level = MM_LOG_ERROR;
    fail_all(KHEAP_DEFAULT, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(growth_of_a_window_that_fails_changes_nothing),
        TEST(growth_for_a_larger_block_that_fails_changes_nothing),
    };

    return RUN_TESTS(tests);
}
