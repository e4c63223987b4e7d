/* SPDX-License-Identifier: MIT */
/* Random programs of calls on the heap, against a list of living blocks; contents are checked, at
 * every call those that it touched, all of them now and then. See heap_model.h. */
#include "heap_model.h"

#define HEAPS 100u
#define CALLS 10000u

static void run_heaps(enum heap_model_kind kind, enum kheap_level level, unsigned heaps)
{
    unsigned calls = support_is_sanitized() ? CALLS / 4 : CALLS;

    for (seeds_begin(support_is_sanitized() ? heaps / 5 : heaps); seeds_next();) {
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(heap_random_programs_agree_with_the_model),
        TEST(heap_random_programs_at_the_full_level_agree_with_the_model),
        TEST(heap_that_grows_agrees_with_the_model),
        TEST(heap_that_grows_at_the_full_level_agrees_with_the_model),
    };

    return RUN_TESTS(tests);
}
