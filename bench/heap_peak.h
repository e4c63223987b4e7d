/* SPDX-License-Identifier: MIT */
/* Peak memory over live memory, in a process of its own. */
#ifndef BENCH_HEAP_PEAK_H
#define BENCH_HEAP_PEAK_H

#include "bench/heap_subjects.h"

/* Runs the program again with that subject alone, which allocates, keeps and frees `steps` blocks.
 *   Returns:    resident bytes at their highest (over what the process had before) by bytes in living
 *               blocks at their highest; NAN if the child failed. */
double heap_peak_over_live(const struct heap_subject *subject, uint64_t steps);

#endif
