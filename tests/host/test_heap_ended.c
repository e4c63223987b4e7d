/* SPDX-License-Identifier: MIT */
/* The memory of a span that has ended: it waits until no slot has the span pinned, and serves again as soon
 * as there is nothing else.
 *
 *   live -- last block freed --> ended, pinned? -- a barrier --> serves the next span */
#include "heap_fixture.h"

#include <string.h>

#define RAM   MM_MIB(16)
#define LARGE MM_MIB(5)

static size_t ended_spans(void)
{
    return heap->ended_count[0] + heap->ended_count[1];
}

/* What is left for spans that nothing else has. */
static void take_span_memory(void)
{
    uint64_t saved = kheap_lock_all(heap);

    while (heap_span_memory_take_locked(heap, 1, HEAP_USUAL) != NULL)
        continue;
    kheap_unlock_all(heap, saved);
}

/* Everything is taken but what the large block gives back, and that is just one of its size. */
static void last_large_block_can_be_taken_again(void **state)
{
    void *large, **rest = NULL;

    (void)state;
    heap_set_up_growing(RAM, NULL);
    large = kheap_alloc(heap, LARGE);
    assert_non_null(large);
    for (size_t bytes = MM_KIB(256); bytes >= 64; bytes /= 2)
        for (void **block; (block = kheap_alloc(heap, bytes)) != NULL; rest = block)
            *block = rest;
    (void)pmm_drain_to(&heap_machine.pmm, 0, NULL, 0);
    take_span_memory();
    for (unsigned i = 0; i < 3; i++) {
        kheap_free(heap, large);
        large = kheap_alloc(heap, LARGE);
        assert_non_null(large);
    }
    kheap_free(heap, large);
    for (void **next; rest != NULL; rest = next) {
        next = *rest;
        kheap_free(heap, rest);
    }
    assert_all_free();
}

/* A thread that is missing in the child of a fork() was in the middle of a free. */
static void span_that_a_missing_thread_has_pinned_serves_again_after_a_fork(void **state)
{
    struct heap_cache *cache;
    struct heap_span *span;
    void *block;

    (void)state;
    heap_set_up_growing(RAM, NULL);
    assert_non_null(cache = heap_cache_here(heap, MM_PORT_LEVELS));
    assert_non_null(block = kheap_alloc(heap, MM_KIB(100)));
    assert_non_null(span = heap_span_at(heap, (uintptr_t)block));
    cache->pin = span;
    kheap_free(heap, block);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(ended_spans(), 1);
    uint64_t saved = kheap_lock_all(heap);
    kheap_forked(heap);
    kheap_unlock_all(heap, saved);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(ended_spans(), 0);
    assert_null(cache->pin);
    assert_all_free();
}

/* Who looks a block up without the lock may meet a span that is being made of its memory. */
static void span_that_is_no_span_yet_holds_no_block(void **state)
{
    static struct heap_span span;
    unsigned index;
    bool first;

    (void)state;
    memset(&span, 0, sizeof span);
    assert_false(heap_block_index(&span, 0xffff800000001000, &index, &first));
    span.front.blocks = 8; /* and one of its blocks is not found 2^32 blocks behind it */
    span.front.block_bytes = 16 * 3;
    span.front.shift = 4;
    span.front.inverse = 0xaaaaaaaaaaaaaaab;
    assert_true(heap_block_index(&span, 48 * 7 + 1, &index, &first));
    assert_int_equal(index, 7);
    assert_false(heap_block_index(&span, (48ul << 32) + 1, &index, &first));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(last_large_block_can_be_taken_again),
        TEST(span_that_a_missing_thread_has_pinned_serves_again_after_a_fork),
        TEST(span_that_is_no_span_yet_holds_no_block),
    };

    return RUN_TESTS(tests);
}
