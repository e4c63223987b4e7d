/* SPDX-License-Identifier: MIT */
/* Where CPUs stand that do not run: refused, lacking something, late, or never wanted. */
#ifndef KERNEL_SMP_PARK_H
#define KERNEL_SMP_PARK_H

#include <mm/types.h>

/* Builds the place. `image` is the physical address of __kernel_begin.
 *   Context:  boot CPU, once, before a CPU is sent to smp_park(). */
void smp_park_init(paddr_t image);

/* Leaves everything of the loader's behind and stands still, for good. A CPU that cannot live in the
 * place (it lacks NX) halts where it is, and is not counted.
 *   Context:  a CPU that the loader has sent, on its stack and tables, interrupts off. */
_Noreturn void smp_park(void);

/* How many CPUs stand there and use nothing else any more. */
uint32_t smp_parked_count(void);

#endif
