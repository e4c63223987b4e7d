/* SPDX-License-Identifier: MIT */
/* One CPU's own data, reached through the base of GS (SDM vol. 3, 3.4.4.1).
 *
 *   GS:0 slot (for mm)   GS:8 self   then the rest, for others to read too
 *
 * percpu_table[0] is the boot CPU's: all zeroes is good for it, so it can be used before anything
 * else runs. The table lies in the kernel image, so that it is mapped by the loader's page tables
 * as well as by our own. Only its own CPU writes an area, unless a field says otherwise. */
#ifndef ARCH_X86_64_PERCPU_H
#define ARCH_X86_64_PERCPU_H

#include "arch/x86_64/gdt.h"
#include <mm/port_x86_64.h>

#define PERCPU_ALIGN 256 /* no TSS crosses a page (SDM vol. 3, 8.2.1), no two CPUs share a line */

struct percpu {
    struct mm_port_cpu port; /* GS:0 */
    uint32_t number;         /* 0: the boot CPU; written before the CPU starts */
    struct percpu *self;     /* GS:8; set by percpu_load() */
    uint32_t lapic_id;
    uint32_t online;      /* 1: takes interrupts and part in everything; atomic */
    uint64_t interrupts;  /* taken so far, exceptions not counted; others read it */
    uint64_t ticks;       /* of its timer; others read it */
    uint64_t tick_end;    /* when the timer's function last ended, time-stamp counter */
    uint32_t in_tick;     /* 1: inside the timer's handler; others read it */
    uint32_t in_call;     /* 1: inside a function of smp_call_all() */
    uint32_t call_done;   /* the last smp_call_all() that this CPU has answered */
    uint32_t signal_done; /* the last smp_interrupt_others() likewise */
    uint32_t in_idle;     /* 1: inside the idle function; others read it */
    uint64_t stack_top;   /* of its thread of control */
    uint64_t trap_stack_tops[GDT_IST_COUNT];
    struct gdt gdt;
} __attribute__((aligned(PERCPU_ALIGN)));
_Static_assert(offsetof(struct percpu, self) == 8, "percpu_this() reads GS:8");
_Static_assert(sizeof(struct percpu) == PERCPU_ALIGN, "the table is an array of these");

extern struct percpu percpu_table[MM_PORT_MAX_CPUS];

/* Gives an area its number; done by the boot CPU, for the others. */
void percpu_init(unsigned number);

/* Makes GS of this CPU point to the area. Loading a selector into GS afterwards would undo it. */
void percpu_load(struct percpu *cpu);

/* The area of the CPU that this runs on. */
static inline struct percpu *percpu_this(void)
{
    struct percpu *cpu;

    __asm__ volatile("movq %%gs:8, %0" : "=r"(cpu));
    return cpu;
}

/* ---- Interrupt level, as part of the slot ---- */

/* One level up for a handler; MM_PORT_NO_SLOT where there is no level left.
 *   Returns:  what percpu_leave() takes. */
static inline uint32_t percpu_enter(struct percpu *cpu)
{
    uint32_t before = cpu->port.slot;
    bool highest = before % MM_PORT_LEVELS == MM_PORT_LEVELS - 1; /* MM_PORT_NO_SLOT is one too */

    __atomic_store_n(&cpu->port.slot, highest ? MM_PORT_NO_SLOT : before + 1, __ATOMIC_RELAXED);
    return before;
}

/* For handlers in which mm must not be called. */
static inline uint32_t percpu_enter_no_slot(struct percpu *cpu)
{
    uint32_t before = cpu->port.slot;

    __atomic_store_n(&cpu->port.slot, MM_PORT_NO_SLOT, __ATOMIC_RELAXED);
    return before;
}

static inline void percpu_leave(struct percpu *cpu, uint32_t before)
{
    __atomic_store_n(&cpu->port.slot, before, __ATOMIC_RELAXED);
}

#endif
