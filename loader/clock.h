/* SPDX-License-Identifier: MIT */
/* Elapsed time for the few waits that hardware asks for. */
#ifndef LOADER_CLOCK_H
#define LOADER_CLOCK_H

#include "loader/base.h"

#define CLOCK_HZ 1193182ul

void clock_start(void);

/* Ticks seen since clock_start(). Between two calls at most 55 ms are seen: who polls too rarely
 * waits longer, never shorter. */
uint64_t clock_ticks(void);

void clock_wait_us(uint64_t us);

#endif
