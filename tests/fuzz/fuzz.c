/* SPDX-License-Identifier: MIT */
/* See fuzz.h. A decision takes as few bytes as its bound needs, so that a changed byte changes one
 * decision and leaves the others where they are. */
#include "fuzz.h"

static const uint8_t *next, *end;

uint64_t fuzz_choose(uint64_t bound)
{
    uint64_t value = 0;

    for (uint64_t left = bound - 1; left > 0 && next < end; left >>= 8)
        value = value << 8 | *next++;
    return value % bound;
}

bool fuzz_goes_on(void)
{
    return next < end;
}

void fuzz_run(const uint8_t *data, size_t bytes, void (*program)(void))
{
    void *state = NULL;

    next = data;
    end = data + bytes;
    support_setup(&state);
    program();
    support_teardown(&state);
}
