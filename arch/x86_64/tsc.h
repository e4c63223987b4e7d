/* SPDX-License-Identifier: MIT */
/* A clock of nanoseconds from the time-stamp counter. */
#ifndef ARCH_X86_64_TSC_H
#define ARCH_X86_64_TSC_H

#include <stdint.h>

/* Finds out how fast the counter runs; takes a few milliseconds, a second at worst.
 *   Context:  boot CPU, interrupts off. */
void tsc_init(void);

/* Ticks in a second; 0 if nothing on this machine could tell. */
uint64_t tsc_hz(void);

/* Nanoseconds since tsc_init(); 0 always where tsc_hz() is 0. */
uint64_t tsc_time_ns(void);

#endif
