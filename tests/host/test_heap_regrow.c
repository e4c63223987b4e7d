/* SPDX-License-Identifier: MIT */
/* What a large block may take to grow where something is short. The pmm has no frame left, but the heap keeps
 * wholly free chunks:
 *
 *   pmm: nothing      heap: | block ....... |  | spare chunk |  | spare chunk |   -->   | block ........... | */
#include "window_fixture.h"

#define OLD  (MM_MIB(6) - STEP)
#define RUN  MM_KIB(256) /* a chunk in a heap with so little memory, which grows by pieces */
#define RUNS 24u
#define MORE (HEAP_SPARE_CHUNKS * RUN - 2 * STEP)

/* `nearby`: another block stands behind it, so that it has to move. */
static unsigned char *block_with_spare_chunks(bool nearby, unsigned char **beside)
{
    void *runs[RUNS];

    window_set_up();
    unsigned char *block = kheap_alloc(heap, OLD);
    *beside = nearby ? kheap_alloc(heap, MM_MIB(1) + 1) : NULL;
    assert_true(block != NULL && (!nearby || *beside != NULL));
    window_fill(block, 0, OLD);
    for (size_t i = 0; i < RUNS; i++)
        assert_non_null(runs[i] = kheap_alloc(heap, RUN));
    for (size_t i = 0; i < RUNS; i++)
        kheap_free(heap, runs[i]);
    assert_int_equal(heap->spare_chunks, HEAP_SPARE_CHUNKS);
    (void)pmm_drain_to(&heap_machine.pmm, 0, NULL, 0);
    return block;
}

static void large_block_grows_by_what_the_heap_keeps(void **state)
{
    (void)state;
    for (unsigned nearby = 0; nearby < 2; nearby++) {
        unsigned char *beside, *block = block_with_spare_chunks(nearby, &beside);
        unsigned char *grown = kheap_realloc(heap, block, OLD + MORE);
        assert_non_null(grown);
        assert_int_equal(grown != block, nearby);
        assert_int_equal(window_moves, nearby);
        window_expect_filled(grown, OLD);
        assert_true(is_zero(grown + OLD, MORE));
        assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
        assert_int_equal(kheap_stats(heap).failed_allocations, 0);
        assert_true(kheap_verify(heap));
        kheap_free(heap, beside);
        kheap_free(heap, grown);
        assert_all_free();
    }
}

/* More than there is: refused once, and nothing has changed. */
static void large_block_that_wants_more_than_the_heap_keeps_is_as_before(void **state)
{
    (void)state;
    for (unsigned nearby = 0; nearby < 2; nearby++) {
        unsigned char *beside, *block = block_with_spare_chunks(nearby, &beside);
        assert_null(kheap_realloc(heap, block, OLD + HEAP_SPARE_CHUNKS * RUN + STEP));
        window_expect_filled(block, OLD);
        assert_int_equal(kheap_size(heap, block), OLD);
        assert_int_equal(kheap_stats(heap).failed_allocations, 1);
        assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
        assert_true(kheap_verify(heap));
        kheap_free(heap, beside);
        kheap_free(heap, block);
        assert_all_free();
    }
}

/* Nor does it grow without addresses, of which there may be more later. */
static void large_block_without_addresses_is_as_before(void **state)
{
    uint64_t taken[WINDOW_BYTES / LARGE_PAGE_SIZE];
    size_t count = 0;

    (void)state;
    window_set_up();
    unsigned char *block = kheap_alloc(heap, OLD), *beside = kheap_alloc(heap, MM_MIB(1) + 1);
    assert_true(block != NULL && beside != NULL);
    window_fill(block, 0, OLD);
    while (heap_window_reserve(heap, LARGE_PAGE_SIZE, &taken[count]))
        count++;
    assert_true(count > OLD / LARGE_PAGE_SIZE + 2);
    assert_null(kheap_realloc(heap, block, OLD + MORE));
    window_expect_filled(block, OLD);
    assert_int_equal(kheap_size(heap, block), OLD);
    assert_int_equal(kheap_stats(heap).failed_allocations, 1);
    assert_int_equal(kheap_stats(heap).region_bytes, window_committed_bytes());
    assert_int_equal(window_taken_addresses(), WINDOW_BYTES / LARGE_PAGE_SIZE);
    while (count > 0)
        heap_window_unreserve(heap, taken[--count], LARGE_PAGE_SIZE);
    unsigned char *grown = kheap_realloc(heap, block, OLD + MORE);
    assert_true(grown != NULL && grown != block && window_moves == 1);
    window_expect_filled(grown, OLD);
    assert_true(kheap_verify(heap));
    kheap_free(heap, beside);
    kheap_free(heap, grown);
    assert_all_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(large_block_grows_by_what_the_heap_keeps),
        TEST(large_block_that_wants_more_than_the_heap_keeps_is_as_before),
        TEST(large_block_without_addresses_is_as_before),
    };

    return RUN_TESTS(tests);
}
