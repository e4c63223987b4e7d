/* SPDX-License-Identifier: MIT */
/* Exceptions: from here on each one ends in a report. */
#ifndef KERNEL_TRAP_H
#define KERNEL_TRAP_H

/* Loads the kernel's own descriptor tables.
 *   Context:  boot CPU, interrupts off, once. */
void trap_init(void);

#endif
