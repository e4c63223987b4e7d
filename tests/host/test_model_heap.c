/* SPDX-License-Identifier: MIT */
/* Random programs of calls on the heap, against a list of living blocks; contents are checked, at
 * every call those that it touched, all of them now and then. See heap_model.h. */
#include "heap_model.h"

#define HEAPS 100u
#define CALLS 10000u

static void run_heaps(enum heap_model_kind kind, enum kheap_level level, unsigned heaps)
{
    unsigned calls = support_is_sanitized() ? CALLS / 4 : CALLS;

    for (seeds_begin(support_is_short() ? heaps / 5 : heaps); seeds_next();) {
        heap_model_set_up(random_below, kind, level);
        for (unsigned i = 0; i < calls; i++) {
            heap_model_step();
            if (i % 2048 == 2047)
                heap_model_check();
        }
        heap_model_finish();
    }
}

static void heap_random_programs_agree_with_the_model(void **state)
{
    (void)state;
    run_heaps(HEAP_MODEL_REGION, KHEAP_DEFAULT, HEAPS);
}

static void heap_random_programs_at_the_full_level_agree_with_the_model(void **state)
{
    (void)state;
    run_heaps(HEAP_MODEL_REGION, KHEAP_FULL, HEAPS / 4);
}

static void heap_that_grows_agrees_with_the_model(void **state)
{
    (void)state;
    run_heaps(HEAP_MODEL_GROWN, KHEAP_DEFAULT, HEAPS);
}

static void heap_that_grows_at_the_full_level_agrees_with_the_model(void **state)
{
    (void)state;
    run_heaps(HEAP_MODEL_GROWN, KHEAP_FULL, HEAPS / 4);
}

#define MANY       6000u
#define MANY_BYTES 2048u

/* What grows when memory is taken falls by the same when it is given back, and not before. */
static void heap_region_bytes_say_what_it_holds(void **state)
{
    static void *blocks[MANY];
    struct kheap_stats before, with;
    void *large;

    (void)state;
    heap_model_set_up(random_below, HEAP_MODEL_GROWN, KHEAP_DEFAULT);
    before = kheap_stats(heap_model_heap());
    large = kheap_alloc(heap_model_heap(), 2 * MAX_BLOCK_SIZE);
    assert_non_null(large);
    with = kheap_stats(heap_model_heap());
    assert_int_equal(with.region_bytes, before.region_bytes + kheap_size(heap_model_heap(), large));
    assert_int_equal(with.free_bytes, before.free_bytes);
    kheap_free(heap_model_heap(), large);
    assert_int_equal(kheap_stats(heap_model_heap()).region_bytes, before.region_bytes);
    for (unsigned i = 0; i < MANY; i++)
        assert_non_null(blocks[i] = kheap_alloc(heap_model_heap(), MANY_BYTES));
    with = kheap_stats(heap_model_heap());
    assert_true(with.region_bytes >= with.used_bytes && with.region_bytes > before.region_bytes);
    assert_true(with.free_bytes <= with.region_bytes - with.used_bytes);
    for (unsigned i = 0; i < MANY; i++)
        kheap_free(heap_model_heap(), blocks[i]);
    kheap_drain(heap_model_heap(), KHEAP_ALL_SLOTS);
    heap_model_finish(); /* no more than the frames that it has now */
    assert_true(kheap_stats(heap_model_heap()).region_bytes < with.region_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(heap_random_programs_agree_with_the_model),
        TEST(heap_random_programs_at_the_full_level_agree_with_the_model),
        TEST(heap_that_grows_agrees_with_the_model),
        TEST(heap_that_grows_at_the_full_level_agrees_with_the_model),
        TEST(heap_region_bytes_say_what_it_holds),
    };

    return RUN_TESTS(tests);
}
