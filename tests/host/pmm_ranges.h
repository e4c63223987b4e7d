/* SPDX-License-Identifier: MIT */
/* The counters of each range, against the states of its frames and against the sums of all ranges. */
#ifndef TESTS_HOST_PMM_RANGES_H
#define TESTS_HOST_PMM_RANGES_H

#include "support.h"

/* Fails unless the counters of each range add up to those of pmm_stats(). Nobody is at work. */
void assert_ranges_add_up(struct pmm *pmm);

/* The same, and the counters of each range are what its frames, asked one by one, say. */
void assert_ranges_are_counted(struct pmm *pmm);

#endif
