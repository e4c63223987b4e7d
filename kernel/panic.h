/* SPDX-License-Identifier: MIT */
/* The end that nobody wanted. */
#ifndef KERNEL_PANIC_H
#define KERNEL_PANIC_H

#include <mm/types.h>

/* To be called before a report is written. Returns for the first caller only; a failure while the
 * report is being written prints one line with `what` and `where` and ends, and a failure in that
 * line ends at once. */
void panic_begin(const char *what, vaddr_t where);

/* Prints who called whom, from the innermost on, along the frame pointers; ends at the first one
 * that does not lie on a known stack or that leads elsewhere than into the kernel's code. */
void panic_print_callers(uint64_t frame_pointer);

/* Prints `PANIC: <text>` and the callers, and ends with POWER_PANIC.
 *   Context:  any. */
MM_COLD _Noreturn void panic(const char *format, ...) MM_PRINTF(1, 2);

#endif
