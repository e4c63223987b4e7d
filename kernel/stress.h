/* SPDX-License-Identifier: MIT */
/* mm.stress=SECONDS: every CPU works the memory manager at once, and everything is checked. */
#ifndef KERNEL_STRESS_H
#define KERNEL_STRESS_H

#include <mm/types.h>

/* Lets all CPUs allocate, free, pass memory on, map and unmap for so long, in threads of control
 * and in interrupt handlers; stops them every half second to check all structures. Ends with one
 * line, `[MM] ✓ stress: cpus=... ops=... interrupts=...` or `[MM] ✗ stress: <the first error>`.
 *   Units:    0 seconds: nothing at all is done.
 *   Returns:  false after an error; memory is then left as it was found wrong.
 *   Context:  boot CPU's thread, interrupts on, after smp_start(), with nobody else using mm. */
MM_MUST_USE bool stress_run(uint32_t seconds);

#endif
