/* SPDX-License-Identifier: MIT */
/* wrap: mm_bug */
/* A wrong call is reported, and something has changed all the same: a block more is taken.
 *
 * seen as: freed twice, 64 bytes, default level: not so: after\.used_blocks == heap\.used_blocks .* */
#include "tests/boot/broken/misuse/misuse.h"

BROKEN_WRAPS(void, mm_bug, const char *format, ...);

void __wrap_mm_bug(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    broken_report(format, arguments);
    va_end(arguments);
    (void)kmalloc_nozero(16);
}
