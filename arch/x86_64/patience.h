/* SPDX-License-Identifier: MIT */
/* Waiting with an end: for what another CPU must do, and might never.
 *
 * Time is the time-stamp counter's; on a machine without a known one, polls are counted, at a rate
 * that a CPU does not exceed. Owns nothing. */
#ifndef ARCH_X86_64_PATIENCE_H
#define ARCH_X86_64_PATIENCE_H

#include "arch/x86_64/tsc.h"
#include <stdbool.h>

#define PATIENCE_POLLS_PER_MS 1000000u

struct patience {
    uint64_t end_ns;
    uint64_t polls_left;
};

static inline struct patience patience_of_ms(uint64_t ms)
{
    struct patience patience = { tsc_time_ns() + ms * 1000000u, ms * PATIENCE_POLLS_PER_MS };

    return patience;
}

/* To be called once for each poll; lets the other thread of the core run.
 *   Returns:  true while there is time left. */
static inline bool patience_lasts(struct patience *patience)
{
    __builtin_ia32_pause();
    if (tsc_hz() != 0)
        return tsc_time_ns() < patience->end_ns;
    return patience->polls_left-- > 0;
}

#endif
