/* SPDX-License-Identifier: MIT */
/* What the files here share: a kernel whose memory manager is wrong about wrong uses, to prove that
 * mello.test=misuse sees it (make BREAK=misuse/name; tests/boot/cases_misuse.py).
 *
 * Each file has one line "wrap:" with the functions for the linker, and one "seen as:" with a pattern of
 * the failure. A break touches nothing but wrong calls, so the boot before the test is sound. */
#ifndef TESTS_BOOT_BROKEN_MISUSE_H
#define TESTS_BOOT_BROKEN_MISUSE_H

#include <mm/mm.h>

/* Declares the sound function and the broken one. */
#define BROKEN_WRAPS(type, name, ...)                                                              \
    type __real_##name(__VA_ARGS__);                                                               \
    type __wrap_##name(__VA_ARGS__)

/* What mm_bug() does. */
static inline void broken_report(const char *format, va_list arguments)
{
    char text[MM_LOG_LINE_MAX - 16], line[MM_LOG_LINE_MAX];

    (void)mm_vformat(text, sizeof(text), format, arguments);
    (void)mm_format(line, sizeof(line), "[MM] ERROR: %s", text);
    mm_port_log(MM_LOG_ERROR, line);
    mm_port_bug(line);
}

#endif
