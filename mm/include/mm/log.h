/* SPDX-License-Identifier: MIT */
/* Log lines and the formatter behind them. This header is part of the public API of mm/.
 *
 * Every line begins with "[MM] " and goes to mm_port_log() whole. A level that is off costs one load
 * and one compare. Hexadecimal addresses are written 0x..., sizes in bytes, KB (1024) or MB (1024^2). */
#ifndef MM_LOG_H
#define MM_LOG_H

#include <mm/port.h>
#include <stdarg.h>

MM_BEGIN_DECLS

#define MM_LOG_LINE_MAX 384 /* bytes of one line with its end; a longer one is cut */

/* Lines above this level are dropped; MM_LOG_INFO at first. */
extern enum mm_log_level mm_log_level;

/* Formats into buffer[capacity] like snprintf.
 *   Knows:    %c %s %d %i %u %x %X %p %%, lengths hh h l ll z j t, flags 0 - #, width and precision
 *             as digits or *. An unknown conversion is copied as it stands.
 *   Returns:  the length that the whole text has or would have, without the terminating zero. */
size_t mm_vformat(char *buffer, size_t capacity, const char *format, va_list arguments)
    MM_PRINTF(3, 0);
size_t mm_format(char *buffer, size_t capacity, const char *format, ...) MM_PRINTF(3, 4);

/* Writes one line; use the macros below. */
void mm_log_write(enum mm_log_level level, const char *format, ...) MM_PRINTF(2, 3);

#define mm_log_at(level, ...)                                                                      \
    do {                                                                                           \
        if ((level) <= mm_log_level)                                                               \
            mm_log_write((level), __VA_ARGS__);                                                    \
    } while (0)
#define mm_error(...) mm_log_at(MM_LOG_ERROR, "ERROR: " __VA_ARGS__)
#define mm_info(...)  mm_log_at(MM_LOG_INFO, __VA_ARGS__)
#define mm_debug(...) mm_log_at(MM_LOG_DEBUG, __VA_ARGS__)

/* Reports a caller's bug: one `[MM] ERROR:` line, then mm_port_bug(). It may return. */
MM_COLD void mm_bug(const char *format, ...) MM_PRINTF(1, 2);

/* Gives up: one `[MM] ERROR:` line, then mm_port_halt(). */
MM_COLD MM_NORETURN void mm_fatal(const char *format, ...) MM_PRINTF(1, 2);

/* An invariant of mm itself, checked in debug builds. */
#if MM_DEBUG
#define MM_ASSERT(condition)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            mm_fatal("assertion failed: %s (%s:%d)", #condition, __FILE__, __LINE__);              \
    } while (0)
#else
#define MM_ASSERT(condition) ((void)sizeof(!(condition)))
#endif

MM_END_DECLS
#endif
