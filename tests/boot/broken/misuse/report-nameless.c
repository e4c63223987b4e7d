/* SPDX-License-Identifier: MIT */
/* wrap: mm_bug */
/* Reports do not say what was wrong, nor where.
 *
 * seen as: freed twice: a report does not name 0x[0-9a-f]+: \[MM\] ERROR: somebody was wrong */
#include "tests/boot/broken/misuse/misuse.h"

BROKEN_WRAPS(void, mm_bug, const char *format, ...);

void __wrap_mm_bug(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    broken_report("somebody was wrong", arguments);
    va_end(arguments);
}
