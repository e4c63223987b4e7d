/* SPDX-License-Identifier: MIT */
/* Shared by the parts of kernel/smp*.c and nobody else. */
#ifndef KERNEL_SMP_PARTS_H
#define KERNEL_SMP_PARTS_H

#include "arch/x86_64/percpu.h"
#include "kernel/smp.h"

/* Filled by smp_start.c, read by all. */
extern struct smp_info smp_facts;

/* True once the CPU takes interrupts and takes part in everything. */
static inline bool smp_is_online(const struct percpu *cpu)
{
    return __atomic_load_n(&cpu->online, __ATOMIC_ACQUIRE) != 0;
}

/* smp.c: sets the handlers of TRAP_CALL, TRAP_TIMER, TRAP_NMI and the APIC's own vectors. */
void smp_init_handlers(void);

/* smp.c: what a CPU does for the rest of its life. Interrupts come on here. */
_Noreturn void smp_wait_for_work(void);

#endif
