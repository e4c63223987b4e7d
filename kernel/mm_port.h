/* SPDX-License-Identifier: MIT */
/* Who is told of a wrong use of mm; the rest of the kernel's part of <mm/port.h> is called by mm alone. */
#ifndef KERNEL_MM_PORT_H
#define KERNEL_MM_PORT_H

/* From now on mm_port_bug() hands its line to `taker` and returns, instead of ending in a panic; NULL: a
 * panic again. For tests that misuse mm on purpose.
 *   Context:  nobody else uses mm. `taker` is called in whatever context, on whatever CPU, was wrong. */
void mm_port_set_bug_taker(void (*taker)(const char *line));

#endif
