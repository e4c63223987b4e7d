/* SPDX-License-Identifier: MIT */
/* The loader's voice: lines that begin with "[loader] " on COM1, and the one way to stop. */
#ifndef LOADER_PRINT_H
#define LOADER_PRINT_H

#include "loader/base.h"

/* Sets COM1 to 115200 8N1. Nothing may be printed before. */
void print_init(void);

/* Makes print_fail() also tell QEMU (isa-debug-exit); asked for by mello.exit=qemu. */
void print_fail_exits_qemu(void);

/* Prints one "[loader] " line. Understands %s %c %u %lu %x %lx, '#' for 0x, and %%. */
void print_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints one "[loader] ERROR: " line, on the screen too where there is one, and halts for ever.
 * Same format. */
_Noreturn void print_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
