/* SPDX-License-Identifier: MIT */
/* The free pages of a chunk, as runs: which one fits best. Internal to mm.
 *
 *      free     0111 0000 0110 1111 1100 ...     a bit for each unit
 *      longest  6                                units of the longest run of free ones
 *
 * The buddy system knows blocks of a power of two at multiples of their size; a run of nine pages has to
 * look for one of sixteen there. Here it is any nine that lie side by side. The map is eight words, so what
 * looks at all of them has a bound. The caller holds the lock of the heap. */
#ifndef MM_RUNS_H
#define MM_RUNS_H

#include "mm/bits.h"

#include <mm/types.h>

#define RUNS_UNITS 512u
#define RUNS_WORDS (RUNS_UNITS / BITS_PER_WORD)

struct runs {
    uint64_t free[RUNS_WORDS];
    unsigned longest;
};

/* No unit is free. */
void runs_init(struct runs *runs);

/* Takes `units` (1 ... runs->longest) out of the shortest run that holds them, the lowest of those: its
 * beginning.
 *   Returns:  the first unit. */
unsigned runs_alloc(struct runs *runs, unsigned units);

/* Takes these, which are free. */
void runs_take(struct runs *runs, unsigned first, unsigned units);

/* Makes these free, which are not. */
void runs_give(struct runs *runs, unsigned first, unsigned units);

/* True if `longest` is what the map says. */
bool runs_is_consistent(const struct runs *runs);

#endif
