/* SPDX-License-Identifier: MIT */
/* Where the kernel's lines go: whole lines, to every output there is. */
#ifndef KERNEL_CONSOLE_H
#define KERNEL_CONSOLE_H

#include <mm/log.h>

/* Brings up the outputs. Lines written before are lost. */
void console_init(void);

/* Colours for the memory manager's lines: green, errors red, debug grey. Off at first. */
void console_set_colour(bool on);

/* Writes one line of the kernel, formatted as mm_format() does; the newline is added. A line
 * longer than CONSOLE_LINE_MAX is cut.
 *   Context:  any. */
#define CONSOLE_LINE_MAX 512
void console_print(const char *format, ...) MM_PRINTF(1, 2);

/* Writes one finished line of any length as it stands; the newline is added. */
void console_print_text(const char *line);

/* Writes one line of the memory manager, in its colour. */
void console_log(enum mm_log_level level, const char *line);

/* From here on nothing waits for the console's lock: for reports of failures, whose holder may be
 * what failed. */
void console_take_over(void);

#endif
