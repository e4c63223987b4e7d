/* SPDX-License-Identifier: MIT */
/* Waiting with an end: for what another CPU must do, and might never.
 *
 * Time is the time-stamp counter's, as far as this CPU was there to see it pass: where it is virtual, and
 * its host does not run it for a while, the others have perhaps not run either, and that while counts as
 * PATIENCE_STEP_NS at most. On a machine without a known counter, polls are counted, at a rate that a CPU
 * does not exceed. Owns nothing. */
#ifndef ARCH_X86_64_PATIENCE_H
#define ARCH_X86_64_PATIENCE_H

#include "arch/x86_64/tsc.h"
#include <stdbool.h>

#define PATIENCE_POLLS_PER_MS 1000000u
#define PATIENCE_STEP_NS      10000000u

struct patience {
    uint64_t left_ns;
    uint64_t seen_ns; /* when it was asked last */
    uint64_t polls_left;
};

static inline struct patience patience_of_ms(uint64_t ms)
{
    struct patience patience = { ms * 1000000u, tsc_time_ns(), ms * PATIENCE_POLLS_PER_MS };

    return patience;
}

/* To be called once for each poll; lets the other thread of the core run.
 *   Returns:  true while there is time left. */
static inline bool patience_lasts(struct patience *patience)
{
    uint64_t now, passed;

    __builtin_ia32_pause();
    if (tsc_hz() == 0)
        return patience->polls_left-- > 0;
    now = tsc_time_ns();
    passed = now - patience->seen_ns;
    if (passed > PATIENCE_STEP_NS)
        passed = PATIENCE_STEP_NS;
    patience->seen_ns = now;
    patience->left_ns -= passed < patience->left_ns ? passed : patience->left_ns;
    return patience->left_ns != 0;
}

#endif
