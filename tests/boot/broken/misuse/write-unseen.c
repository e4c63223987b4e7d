/* SPDX-License-Identifier: MIT */
/* wrap: mm_bug */
/* Writes outside of blocks and after their free are not reported; wrong frees are.
 *
 * seen as: written behind its end, 64 bytes, full level: 0 reports of kfree\(block\) with 0x[0-9a-f]+, not one */
#include "tests/boot/broken/misuse/misuse.h"

BROKEN_WRAPS(void, mm_bug, const char *format, ...);

/* The reports of writes begin with what was written. */
void __wrap_mm_bug(const char *format, ...)
{
    va_list arguments;

    if (format[0] == '%' && format[1] == 's' && format[3] == 't')
        return;
    va_start(arguments, format);
    broken_report(format, arguments);
    va_end(arguments);
}
