/* SPDX-License-Identifier: MIT */
/* Large blocks on their way between the heap and the pmm: freed in an interrupt handler, which cannot give
 * their pages back, or by another CPU that is in the middle of it.
 *
 *   handler:   kfree: free at once, pages wait | thread: next slow call, drain, or shortage: pages go
 *   CPU A:     kfree ... in neither place ... pages in the pmm
 *   CPU B:              asks: is not told that there is no memory
 *
 * The link puts __wrap_pmm_free_contiguous() and __wrap_heap_may_find_more() in front of the functions. */
#include "heap_fixture.h"
#include "threads.h"

#include <semaphore.h>

#define LARGE MM_MIB(5)
#define RAM   MM_MIB(16)

/* ---- in a handler ---- */

static void *late;

static void free_late(void)
{
    kheap_free(heap, late);
}

static uint64_t free_frames(void)
{
    return pmm_stats(&heap_machine.pmm).free_frames;
}

/* Frees `late` in a handler: it is free for everybody but the pmm. */
static void free_in_handler(void)
{
    uint64_t frames = free_frames();

    assert_non_null(late);
    assert_true(hosted_interrupt_attach(0, 0, free_late));
    hosted_interrupt_raise(0);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_int_equal(kheap_stats(heap).used_bytes, 0);
    assert_true(free_frames() <= frames);
    assert_true(kheap_verify(heap));
    hosted_interrupt_detach(0);
}

static void large_block_freed_in_a_handler_goes_with_the_next_slow_call(void **state)
{
    uint64_t before;

    (void)state;
    heap_set_up_growing(RAM, NULL);
    kheap_free(heap, kheap_alloc(heap, 10000));
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    before = free_frames();
    late = kheap_alloc(heap, LARGE);
    free_in_handler();
    kheap_free(heap, kheap_alloc(heap, 20000));
    assert_true(free_frames() + LARGE_PAGE_SIZE / FRAME_SIZE * 2 >= before);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    late = kheap_alloc(heap, LARGE);
    before = free_frames();
    free_in_handler();
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(free_frames(), before + LARGE / FRAME_SIZE);
    assert_all_free();
}

static void large_block_freed_in_a_handler_and_again_is_reported(void **state)
{
    (void)state;
    heap_set_up_growing(RAM, NULL);
    late = kheap_alloc(heap, LARGE);
    free_in_handler();
    EXPECT_BUG(address_words("kfree|which is free|double free", late), kheap_free(heap, late));
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_all_free();
}

/* Memory is not out as long as a handler's is still to go. */
static void large_block_freed_in_a_handler_is_memory_for_the_next(void **state)
{
    void *large, *rest[64];
    size_t count = 0;

    (void)state;
    heap_set_up_growing(RAM, NULL);
    late = kheap_alloc(heap, LARGE);
    free_in_handler();
    large = kheap_alloc(heap, RAM / 2);
    assert_non_null(large);
    kheap_free(heap, large);
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    late = kheap_alloc(heap, LARGE);
    while (count < COUNT_OF(rest) && (rest[count] = kheap_alloc(heap, MM_KIB(512))) != NULL)
        count++;
    assert_true(count > 0 && count < COUNT_OF(rest));
    assert_true(hosted_interrupt_attach(0, 0, free_late));
    hosted_interrupt_raise(0);
    hosted_interrupt_detach(0);
    assert_non_null(rest[count] = kheap_alloc(heap, MM_KIB(512)));
    for (size_t i = 0; i <= count; i++)
        kheap_free(heap, rest[i]);
    assert_all_free();
}

/* At the full level the handler's free goes to the quarantine, and another one's leaves it. */
static void large_block_that_a_handler_puts_out_of_quarantine_waits(void **state)
{
    (void)state;
    heap_set_up_growing(RAM, NULL);
    kheap_set_level(heap, KHEAP_FULL);
    late = kheap_alloc(heap, LARGE);
    assert_true(hosted_interrupt_attach(0, 0, free_late));
    hosted_interrupt_raise(0);
    EXPECT_BUG(address_words("kfree|which is free", late), kheap_free(heap, late));
    late = kheap_alloc(heap, LARGE);
    assert_non_null(late);
    hosted_interrupt_raise(0);
    hosted_interrupt_detach(0);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_true(kheap_verify(heap));
    assert_all_free();
}

/* ---- on another CPU ---- */

static sem_t asked_again, given;
static size_t wanted_bytes; /* 0: nobody asks */
static void *wanted;
static pthread_t asker;
static __thread bool is_asker;

void __wrap_pmm_free_contiguous(struct pmm *pmm, paddr_t base, uint64_t count);
void __real_pmm_free_contiguous(struct pmm *pmm, paddr_t base, uint64_t count);
bool __wrap_heap_may_find_more(struct kheap *of, uint64_t moves, unsigned tries);
bool __real_heap_may_find_more(struct kheap *of, uint64_t moves, unsigned tries);

/* Who asks has found nothing, and is told to look again: the memory comes now. */
bool __wrap_heap_may_find_more(struct kheap *of, uint64_t moves, unsigned tries)
{
    bool may = __real_heap_may_find_more(of, moves, tries);

    if (may && is_asker) {
        is_asker = false;
        sem_post(&asked_again);
        sem_wait(&given);
    }
    return may;
}

static void *ask(void *argument)
{
    (void)argument;
    is_asker = true;
    wanted = kheap_alloc(heap, wanted_bytes);
    sem_post(&asked_again);
    return NULL;
}

/* The memory of the block that is being freed is in neither place yet. */
void __wrap_pmm_free_contiguous(struct pmm *pmm, paddr_t base, uint64_t count)
{
    bool stops = wanted_bytes != 0 && count == LARGE / FRAME_SIZE;

    if (stops) {
        threads_start(&asker, 1, ask);
        sem_wait(&asked_again);
    }
    __real_pmm_free_contiguous(pmm, base, count);
    if (stops)
        sem_post(&given);
}

static void memory_that_another_cpu_gives_back_is_waited_for(void **state)
{
    static const size_t sizes[] = { MM_MIB(2), MM_KIB(256), MM_KIB(4) };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        void *large, **rest = NULL;
        heap_set_up_growing(RAM, NULL);
        assert_int_equal(sem_init(&asked_again, 0, 0), 0);
        assert_int_equal(sem_init(&given, 0, 0), 0);
        large = kheap_alloc(heap, LARGE);
        assert_non_null(large);
        for (void **block; (block = kheap_alloc(heap, sizes[i])) != NULL; rest = block)
            *block = rest;
        wanted = NULL;
        wanted_bytes = sizes[i];
        kheap_free(heap, large);
        wanted_bytes = 0;
        threads_join(&asker, 1);
        assert_non_null(wanted);
        kheap_free(heap, wanted);
        while (rest != NULL) {
            void **next = *rest;
            kheap_free(heap, rest);
            rest = next;
        }
        assert_all_free();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(large_block_freed_in_a_handler_goes_with_the_next_slow_call),
        TEST(large_block_freed_in_a_handler_and_again_is_reported),
        TEST(large_block_freed_in_a_handler_is_memory_for_the_next),
        TEST(large_block_that_a_handler_puts_out_of_quarantine_waits),
        TEST(memory_that_another_cpu_gives_back_is_waited_for),
    };

    return RUN_TESTS(tests);
}
