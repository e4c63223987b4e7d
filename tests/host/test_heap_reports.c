/* SPDX-License-Identifier: MIT */
/* Reports at the full level about blocks that come and go meanwhile: the spans end under the eyes of those
 * who call wrongly, and their records go to other spans.
 *
 *   thread 1   takes blocks, frees them, empties the quarantine: spans end       | again
 *   others     free what is no block's first byte, ask for its size, resize it   | each one reported
 *
 * A report follows nothing that has gone: it looks the block and its record up with the lock held. The link
 * puts __wrap_heap_block_index() in front of the function. */
#include "heap_fixture.h"
#include "threads.h"

#include <string.h>

#define OTHERS 2u
#define BLOCKS 24u
#define ROUNDS 40u

static unsigned unlocked, locked; /* look-ups of the test's CPU */

bool __real_heap_block_index(const struct heap_span *span, vaddr_t address, unsigned *index,
                             bool *first);
bool __wrap_heap_block_index(const struct heap_span *span, vaddr_t address, unsigned *index,
                             bool *first);

bool __wrap_heap_block_index(const struct heap_span *span, vaddr_t address, unsigned *index,
                             bool *first)
{
    count(hosted_cpu()->locks_held != 0 ? &locked : &unlocked);
    return __real_heap_block_index(span, address, index, first);
}

static const size_t sizes[] = { 64, 300, 4096, MM_KIB(100) };

static uintptr_t blocks[BLOCKS]; /* of thread 1, living or not; others only take their addresses */
static bool over;
static unsigned calls; /* wrong ones */

static void come_and_go(void)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < BLOCKS; i++) {
            void *block = kheap_alloc(heap, sizes[round % COUNT_OF(sizes)]);
            __atomic_store_n(&blocks[i], (uintptr_t)block, __ATOMIC_RELAXED);
        }
        for (unsigned i = 0; i < BLOCKS; i++)
            kheap_free(heap, (void *)blocks[i]);
        kheap_drain(heap, KHEAP_ALL_SLOTS);
    }
}

static void call_wrongly(uint64_t *random)
{
    uintptr_t block = __atomic_load_n(&blocks[next_random_below(random, BLOCKS)], __ATOMIC_RELAXED);
    void *wrong = (void *)(block + 8);

    switch (next_random_below(random, 3)) {
    case 0:
        kheap_free(heap, wrong);
        break;
    case 1:
        (void)kheap_size(heap, wrong);
        break;
    default:
        (void)kheap_realloc(heap, wrong, 100);
        break;
    }
    count(&calls);
}

static void *body(void *argument)
{
    uint64_t random = (uintptr_t)argument;

    threads_meet();
    if (random == 1) {
        come_and_go();
        __atomic_store_n(&over, true, __ATOMIC_RELEASE);
    } else {
        do
            call_wrongly(&random);
        while (!__atomic_load_n(&over, __ATOMIC_ACQUIRE));
    }
    return NULL;
}

static void wrong_calls_beside_ending_spans_are_reported(void **state)
{
    (void)state;
    heap_set_up_growing(MM_MIB(32), NULL);
    kheap_set_level(heap, KHEAP_FULL);
    for (unsigned i = 0; i < BLOCKS; i++)
        blocks[i] = heap->front.base + i * PAGE_SIZE;
    over = false;
    bugs_count_begin();
    threads_run(1 + OTHERS, body);
    assert_int_equal(bugs_count_end(), counted(&calls));
    assert_non_null(strstr(bug_last(), "0x"));
    assert_all_free();
}

static void expect_one_unlocked_look(void *wrong, void (*call)(void *wrong))
{
    unlocked = locked = 0;
    EXPECT_BUG(address_words("allocated by", wrong), call(wrong));
    assert_int_equal(unlocked, 1); /* by which the call knows that the span is a guarded one */
    assert_true(locked > 0);
}

static void free_it(void *wrong)
{
    kheap_free(heap, wrong);
}

static void ask_for_its_size(void *wrong)
{
    assert_int_equal(kheap_size(heap, wrong), 0);
}

static void resize_it(void *wrong)
{
    assert_null(kheap_realloc(heap, wrong, 100));
}

static void report_looks_its_block_up_with_the_lock(void **state)
{
    (void)state;
    heap_set_up_growing(MM_MIB(32), NULL);
    kheap_set_level(heap, KHEAP_FULL);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        unsigned char *block = kheap_alloc(heap, sizes[i]);

        expect_one_unlocked_look(block + 8, free_it);
        expect_one_unlocked_look(block + 8, ask_for_its_size);
        expect_one_unlocked_look(block + 8, resize_it);
        kheap_free(heap, block);
        expect_one_unlocked_look(block, free_it);
    }
    assert_all_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(report_looks_its_block_up_with_the_lock),
        TEST(wrong_calls_beside_ending_spans_are_reported),
    };

    return RUN_TESTS(tests);
}
