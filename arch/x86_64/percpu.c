/* SPDX-License-Identifier: MIT */
/* Owns the areas of all CPUs: one array, indexed by CPU number.
 *
 * Invariants: an area's number, self and slot are set before GS points to it; the boot CPU's number
 * and slot are 0 from the start. */
#include "arch/x86_64/percpu.h"

#define MSR_GS_BASE 0xc0000101u

_Static_assert(MM_PORT_NO_SLOT % MM_PORT_LEVELS == MM_PORT_LEVELS - 1,
               "percpu_enter() stays at MM_PORT_NO_SLOT");

struct percpu percpu_table[MM_PORT_MAX_CPUS];

void percpu_init(unsigned number)
{
    struct percpu *cpu = &percpu_table[number];

    cpu->number = number;
    cpu->port.slot = number * MM_PORT_LEVELS;
}

void percpu_load(struct percpu *cpu)
{
    cpu->self = cpu;
    mm_port_write_msr(MSR_GS_BASE, (uint64_t)cpu);
}
