/* SPDX-License-Identifier: MIT */
/* The end that nobody wanted. */
#ifndef KERNEL_PANIC_H
#define KERNEL_PANIC_H

#include <mm/types.h>

/* To be called before a report is written. Returns for the first caller only; a failure while the
 * report is being written prints one line with `what` and `where` and ends, and a failure in that
 * line ends at once. */
void panic_begin(const char *what, vaddr_t where);

/* What a failure says first if it comes while the report has not said it yet; NULL: nothing (more). The line
 * stays the caller's. */
void panic_keep(const char *line);

/* Prints who called whom, from the innermost on, along the frame pointers, with function names; says
 * so if the chain ends elsewhere than at its bottom: at a frame pointer that does not lie on a known
 * stack, or beside a return address that does not lie in the kernel's code. `return_address` is
 * that of a caller before the first frame, 0 if there is none. */
void panic_print_callers(vaddr_t return_address, uint64_t frame_pointer);

/* Prints `PANIC: <text>` and the callers, and ends with POWER_PANIC.
 *   Context:  any. */
MM_COLD _Noreturn void panic(const char *format, ...) MM_PRINTF(1, 2);

#endif
