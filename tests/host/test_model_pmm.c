/* SPDX-License-Identifier: MIT */
/* Random programs of calls on random small maps; the pmm against a naive model, compared after every
 * call: counters, the frames that the call touched and one more; every frame now and then. See
 * pmm_model.h. */
#include "pmm_model.h"

/* A million calls and more in the suite; a sanitizer's build does a part. */
#define MACHINES 2000u
#define CALLS    1000u

static void run_machine(void)
{
    unsigned flags = pmm_model_set_up(random_below);
    unsigned calls = support_is_sanitized() ? CALLS / 5 : CALLS;

    for (unsigned i = 0; i < calls; i++) {
        pmm_model_step(flags);
        if (i % 256 == 255)
            pmm_model_check();
    }
    pmm_model_finish();
}

static void pmm_random_programs_agree_with_the_model(void **state)
{
    (void)state;
    for (seeds_begin(support_is_short() ? MACHINES / 10 : MACHINES); seeds_next();)
        run_machine();
}

/* With a debug line for each call the fast paths are off; what is handed out is still right. */
static void pmm_random_programs_with_a_trace_agree_with_the_model(void **state)
{
    (void)state;
    mm_log_level = MM_LOG_DEBUG;
    for (seeds_begin(40); seeds_next();)
        run_machine();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pmm_random_programs_agree_with_the_model),
        TEST(pmm_random_programs_with_a_trace_agree_with_the_model),
    };

    return RUN_TESTS(tests);
}
