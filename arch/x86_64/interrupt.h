/* SPDX-License-Identifier: MIT */
/* From a vector to the function that handles it, at the right interrupt level. */
#ifndef ARCH_X86_64_INTERRUPT_H
#define ARCH_X86_64_INTERRUPT_H

#include "arch/x86_64/idt.h"

/* Called with interrupts off. It may switch them on (after which vectors of a higher class nest)
 * and need not switch them off again. Whoever must be told that the interrupt was handled (the
 * local APIC) is told by the handler. */
typedef void (*interrupt_handler)(const struct trap_frame *frame);

/* Sets the handler of a vector, on all CPUs; NULL: the vector is a failure (trap_handle). */
void interrupt_set_handler(unsigned vector, interrupt_handler handler);

/* From traps.S: raises the interrupt level (MM_PORT_NO_SLOT for NMI and machine check), calls the
 * handler, restores the level. */
void interrupt_dispatch(const struct trap_frame *frame);

#endif
