/* SPDX-License-Identifier: MIT */
/* Random programs of calls on two address spaces, one sharing the other's upper half, against a naive
 * map; after every call the pages that it touched and one anywhere are compared by an independent walk,
 * and used by a CPU that forgets no translation; so are the bytes that all leaves map, and every page
 * at every 1024th call. See paging_model.h. */
#include "paging_model.h"

#define MACHINES 400u
#define CALLS    4000u

static void paging_random_programs_agree_with_the_model(void **state)
{
    unsigned calls = support_is_sanitized() ? CALLS / 4 : CALLS;

    (void)state;
    for (seeds_begin(support_is_short() ? MACHINES / 5 : MACHINES); seeds_next();) {
        paging_model_set_up(random_below);
        for (unsigned i = 0; i < calls; i++) {
            paging_model_step();
            if (i % 1024 == 1023)
                paging_model_check();
        }
        paging_model_finish();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(paging_random_programs_agree_with_the_model),
    };

    return RUN_TESTS(tests);
}
