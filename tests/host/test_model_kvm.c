/* SPDX-License-Identifier: MIT */
/* Random programs of calls on kernel virtual memory against a naive list of what stands there; after
 * every call what it touched, one more and all counters, everything now and then. See kvm_model.h. */
#include "kvm_model.h"

#define MACHINES 100u
#define CALLS    1500u

static void kvm_random_programs_agree_with_the_model(void **state)
{
    unsigned calls = support_is_sanitized() ? CALLS / 3 : CALLS;

    (void)state;
    for (seeds_begin(support_is_short() ? MACHINES / 5 : MACHINES); seeds_next();) {
        kvm_model_set_up(random_below);
        for (unsigned i = 0; i < calls; i++) {
            kvm_model_step();
            if (i % 256 == 255)
                kvm_model_check();
        }
        kvm_model_finish();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_random_programs_agree_with_the_model),
    };

    return RUN_TESTS(tests);
}
