/* SPDX-License-Identifier: MIT */
/* Owns the table of handlers, one for each vector, and the rise and fall of the interrupt level.
 *
 *   traps.S -> interrupt_dispatch() -> interrupt_handlers[vector] -> back
 *                                   -> trap_handle(), which does not come back
 *
 * Invariants: the level (part of percpu.port.slot) is raised before any handler's code runs and is
 * what it was when the interrupted code goes on; both happen with interrupts off. An NMI between
 * the two sees and restores whichever value stands there. */
#include "arch/x86_64/interrupt.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/percpu.h"

static interrupt_handler interrupt_handlers[TRAP_VECTORS];

void interrupt_set_handler(unsigned vector, interrupt_handler handler)
{
    __atomic_store_n(&interrupt_handlers[vector], handler, __ATOMIC_RELEASE);
}

static bool interrupt_is_unmaskable(uint64_t vector)
{
    return vector == TRAP_NMI || vector == TRAP_MACHINE_CHECK;
}

void interrupt_dispatch(const struct trap_frame *frame)
{
    struct percpu *cpu = percpu_this();
    uint32_t before =
        interrupt_is_unmaskable(frame->vector) ? percpu_enter_no_slot(cpu) : percpu_enter(cpu);
    interrupt_handler handler =
        __atomic_load_n(&interrupt_handlers[frame->vector], __ATOMIC_ACQUIRE);

    if (handler == NULL)
        trap_handle(frame);
    if (frame->vector >= TRAP_EXCEPTIONS)
        __atomic_store_n(&cpu->interrupts, cpu->interrupts + 1, __ATOMIC_RELAXED);
    handler(frame);
    cpu_interrupts_off();
    percpu_leave(cpu, before);
}
