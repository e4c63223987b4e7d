/* SPDX-License-Identifier: MIT */
/* The kernel's part of <mm/port.h>: where mm's lines go, what its reports lead to, what time it
 * is. The CPU's part is mm/port/x86_64.c.
 *
 * Owns nothing. Invariant: nothing here calls back into mm but its formatter, which keeps no
 * state. */
#include <mm/port.h>
#include "arch/x86_64/tsc.h"
#include "kernel/console.h"
#include "kernel/panic.h"
#include "kernel/power.h"

void mm_port_log(enum mm_log_level level, const char *line)
{
    console_log(level, line);
}

/* The line itself was logged just before, so it is not repeated. */
void mm_port_bug(const char *line)
{
    (void)line;
    panic("the kernel misused its memory manager");
}

_Noreturn void mm_port_halt(const char *line)
{
    (void)line;
    power_end(POWER_PANIC);
}

uint64_t mm_port_time_ns(void)
{
    return tsc_time_ns();
}
