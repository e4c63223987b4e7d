/* SPDX-License-Identifier: MIT */
/* The kernel's part of <mm/port.h>: where mm's lines go, what its reports lead to, what time it
 * is. The CPU's part is mm/port/x86_64.c.
 *
 * Owns who is told of a wrong use of mm. Invariant: nothing here calls back into mm but its formatter,
 * which keeps no state. */
#include "kernel/mm_port.h"
#include <mm/port.h>
#include "arch/x86_64/tsc.h"
#include "kernel/console.h"
#include "kernel/panic.h"
#include "kernel/power.h"

void mm_port_log(enum mm_log_level level, const char *line)
{
    console_log(level, line);
}

static void (*mm_port_bug_taker)(const char *line); /* atomic */

void mm_port_set_bug_taker(void (*taker)(const char *line))
{
    __atomic_store_n(&mm_port_bug_taker, taker, __ATOMIC_RELEASE);
}

/* The line itself was logged just before, so it is not repeated. */
void mm_port_bug(const char *line)
{
    void (*taker)(const char *) = __atomic_load_n(&mm_port_bug_taker, __ATOMIC_ACQUIRE);

    if (taker == NULL)
        panic("the kernel misused its memory manager");
    taker(line);
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
