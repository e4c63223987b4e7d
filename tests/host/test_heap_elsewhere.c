/* SPDX-License-Identifier: MIT */
/* Blocks that another CPU than their span's owner frees: the short way (heap_free_elsewhere) takes the right
 * ones, reports come from the other one, and all of them come home.
 *
 *   another CPU    takes the blocks
 *   the test's     frees them: ALLOCATED -> REMOTE, its own list, with that full their spans */
#include "heap_fixture.h"
#include "threads.h"

#include "mm/heap_parts.h"

#define BLOCKS (3 * HEAP_REMOTE_MAX + 5)

static size_t bytes;
static unsigned char *blocks[BLOCKS], *again[BLOCKS];

static void *take_blocks(void *argument)
{
    (void)argument;
    for (size_t i = 0; i < BLOCKS; i++)
        blocks[i] = kheap_alloc(heap, bytes);
    return NULL;
}

/* The owner of the blocks takes as many once more. */
static void *take_again(void *argument)
{
    (void)argument;
    for (size_t i = 0; i < BLOCKS; i++)
        again[i] = kheap_alloc(heap, bytes);
    return NULL;
}

static void on_other_cpu(void *(*body)(void *))
{
    pthread_t thread;

    threads_start(&thread, 1, body);
    threads_join(&thread, 1);
}

/* The test's CPU has a cache, so that it may take the short way. */
static void set_up(size_t of_bytes)
{
    heap_set_up(MM_MIB(8));
    kheap_free(heap, kheap_alloc(heap, 16));
    bytes = of_bytes;
    on_other_cpu(take_blocks);
    for (size_t i = 0; i < BLOCKS; i++)
        assert_non_null(blocks[i]);
}

static struct heap_span *span_of(const void *block)
{
    return heap_span_at(heap, (uintptr_t)block);
}

static uint8_t *state_at(const void *block)
{
    unsigned index;
    bool first;

    assert_true(heap_block_index(span_of(block), (uintptr_t)block, &index, &first));
    return &span_of(block)->states[index];
}

static uint8_t state_of(const void *block)
{
    return *state_at(block);
}

/* More than the list holds, so that they are with their owner, who has not looked yet. */
static void free_and_deliver(void)
{
    set_up(64);
    for (size_t i = 0; i < HEAP_REMOTE_MAX + 1; i++)
        kheap_free(heap, blocks[i]);
}

static struct heap_cache *own_cache(void)
{
    return heap_cache_at(heap, mm_port_cpu_slot());
}

static unsigned waiting(void)
{
    return magazine_count_locked(&own_cache()->remote.magazine);
}

static void blocks_wait_in_a_list_and_come_home(void **state)
{
    (void)state;
    set_up(64);
    for (unsigned i = 0; i < HEAP_REMOTE_MAX; i++) {
        assert_int_not_equal(span_of(blocks[i])->front.owner, mm_port_cpu_slot());
        kheap_free(heap, blocks[i]);
        assert_int_equal(state_of(blocks[i]), KHEAP_BYTE_REMOTE);
        assert_int_equal(waiting(), i + 1);
        assert_null(own_cache()->pin);
    }
    kheap_free(heap, blocks[HEAP_REMOTE_MAX]); /* no more fits: all of them go */
    assert_int_equal(waiting(), 0);
    for (unsigned i = HEAP_REMOTE_MAX + 1; i < BLOCKS; i++)
        kheap_free(heap, blocks[i]);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_all_free();
    assert_int_equal(log_lines(), 0);
}

/* What came home is handed out again, each block once, by its owner, which looks for it by itself. */
static void owner_takes_what_came_home(void **state)
{
    (void)state;
    set_up(256);
    for (size_t i = 0; i < BLOCKS; i++)
        kheap_free(heap, blocks[i]);
    on_other_cpu(take_again);
    for (size_t i = 0; i < BLOCKS; i++) {
        assert_non_null(again[i]);
        for (size_t j = 0; j < 256; j++)
            assert_int_equal(again[i][j], 0);
        memset(again[i], 0xa5, 256);
    }
    assert_int_equal(kheap_stats(heap).used_blocks, BLOCKS);
    for (size_t i = 0; i < BLOCKS; i++)
        kheap_free(heap, again[i]);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_heap_sound();
    assert_int_equal(log_lines(), 0);
}

/* Twice, inside, below the first and at the end of the last block of the span. */
static void wrong_frees_are_reported_and_change_nothing(void **state)
{
    const struct heap_span *span;
    unsigned char *base;

    (void)state;
    set_up(208);
    span = span_of(blocks[3]);
    base = (unsigned char *)span->front.base;
    kheap_free(heap, blocks[3]);
    EXPECT_BUG_UNCHANGED(address_words("kfree", blocks[3]), kheap_free(heap, blocks[3]));
    for (size_t inside = 1; inside < 208; inside++)
        EXPECT_BUG_UNCHANGED(address_words("kfree", blocks[4] + inside),
                             kheap_free(heap, blocks[4] + inside));
    EXPECT_BUG_UNCHANGED(address_words("kfree", base + span->front.blocks * 208),
                         kheap_free(heap, base + span->front.blocks * 208));
    assert_int_equal(waiting(), 1);
    assert_int_equal(state_of(blocks[4]), KHEAP_BYTE_ALLOCATED);
}

/* Blocks of more than 8 KiB would be much memory: they do not wait, nor does what waited before them. */
static void large_blocks_do_not_wait(void **state)
{
    (void)state;
    set_up(64);
    kheap_free(heap, blocks[0]);
    kheap_free(heap, blocks[1]);
    assert_int_equal(waiting(), 2);
    bytes = MM_KIB(10);
    on_other_cpu(take_blocks);
    kheap_free(heap, blocks[0]);
    assert_int_equal(state_of(blocks[0]), KHEAP_BYTE_REMOTE);
    assert_int_equal(waiting(), 0);
}

static void *free_first(void *argument)
{
    (void)argument;
    kheap_free(heap, blocks[0]);
    return NULL;
}

/* The entry from which the owner took it last still names it. */
static void owner_does_not_free_what_another_cpu_has(void **state)
{
    (void)state;
    set_up(64);
    void *filler = kheap_alloc(heap, 64); /* fills the cache */
    blocks[0] = kheap_alloc(heap, 64);
    on_other_cpu(free_first);
    assert_int_equal(state_of(blocks[0]), KHEAP_BYTE_REMOTE);
    EXPECT_BUG_UNCHANGED(address_words("kfree", blocks[0]), kheap_free(heap, blocks[0]));
    assert_int_equal(state_of(blocks[0]), KHEAP_BYTE_REMOTE);
    kheap_free(heap, filler);
}

static void size_is_checked(void **state)
{
    (void)state;
    set_up(112);
    EXPECT_BUG_UNCHANGED(address_words("kfree_sized", blocks[0]), (kfree_sized)(blocks[0], 96));
    EXPECT_BUG_UNCHANGED(address_words("kfree_sized", blocks[0]), (kfree_sized)(blocks[0], 113));
    assert_int_equal(state_of(blocks[0]), KHEAP_BYTE_ALLOCATED);
    (kfree_sized)(blocks[0], 97); /* the same class */
    assert_int_equal(state_of(blocks[0]), KHEAP_BYTE_REMOTE);
    assert_int_equal(waiting(), 1);
}

/* The state of a block is not REMOTE any more when its owner comes to it, as after a free of the owner's own at
 * the same moment: that one stays, and the other is reported. */
static void owner_believes_only_what_it_finds(void **state)
{
    (void)state;
    free_and_deliver();
    *state_at(blocks[5]) = KHEAP_BYTE_FREE;
    EXPECT_BUG(address_words("free", blocks[5]), on_other_cpu(take_again));
    for (size_t i = 0; i < BLOCKS; i++)
        assert_ptr_not_equal(again[i], blocks[5]);
}

/* More than there is room for to name: the others are counted. */
static void many_at_once_are_all_reported(void **state)
{
    (void)state;
    free_and_deliver();
    for (size_t i = 0; i < HEAP_DOUBLES_NAMED + 7; i++)
        *state_at(blocks[i]) = KHEAP_BYTE_FREE;
    bugs_count_begin();
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(bugs_count_end(), HEAP_DOUBLES_NAMED + 1);
}

/* A span with new blocks is the last to be taken from, so that its owner does not take what another CPU
 * frees next to it at the same time. */
static void spans_with_new_blocks_are_the_last(void **state)
{
    (void)state;
    set_up(512);
    struct heap_span *first = span_of(blocks[0]), *last = span_of(blocks[BLOCKS - 1]);
    struct heap_link *head = &heap_cache_at(heap, first->front.owner)->partial[kheap_class_of(512)];
    assert_ptr_not_equal(first, last);
    assert_int_equal(first->free_count, 0);
    for (size_t i = 0; i < BLOCKS / 2; i++)
        if (span_of(blocks[i]) == first && i % 2 == 0)
            kheap_free(heap, blocks[i]);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_not_equal(first->free_count, 0);
    assert_ptr_equal(head->next, &last->link);
    assert_ptr_equal(head->prev, &first->link);
}

static unsigned pending_of(unsigned slot)
{
    const struct heap_link *head = &heap_cache_at(heap, slot)->pending;
    unsigned count = 0;

    for (const struct heap_link *link = head->next; link != head; link = link->next)
        count++;
    return count;
}

static uint64_t locks_taken;

static void *take_one(void *argument)
{
    uint64_t before = hosted_cpu()->lock_section;

    (void)argument;
    again[0] = kheap_alloc(heap, 16);
    locks_taken = (hosted_cpu()->lock_section - before) / 2;
    return NULL;
}

/* However many spans have blocks that others have freed, the owner looks at some with each lock that it takes,
 * so that its CPU's interrupts and other CPUs come in between; but at all of them before it goes on. */
static void many_spans_come_home_under_several_locks(void **state)
{
    (void)state;
    set_up(MM_KIB(8));
    unsigned owner = span_of(blocks[0])->front.owner;
    for (size_t i = 0; i < BLOCKS; i++)
        kheap_free(heap, blocks[i]);
    kheap_drain(heap, mm_port_cpu_slot());
    unsigned spans = pending_of(owner);
    assert_true(spans > 64);
    on_other_cpu(take_one);
    assert_non_null(again[0]);
    assert_int_equal(span_of(again[0])->front.owner, owner);
    assert_int_equal(pending_of(owner), 0);
    assert_int_equal(locks_taken, (spans + 63) / 64);
    assert_int_equal(kheap_stats(heap).used_blocks, 1);
    assert_heap_sound();
    assert_int_equal(log_lines(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(blocks_wait_in_a_list_and_come_home),
        TEST(owner_takes_what_came_home),
        TEST(wrong_frees_are_reported_and_change_nothing),
        TEST(large_blocks_do_not_wait),
        TEST(owner_does_not_free_what_another_cpu_has),
        TEST(size_is_checked),
        TEST(owner_believes_only_what_it_finds),
        TEST(many_at_once_are_all_reported),
        TEST(spans_with_new_blocks_are_the_last),
        TEST(many_spans_come_home_under_several_locks),
    };

    return RUN_TESTS(tests);
}
