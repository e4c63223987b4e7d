/* SPDX-License-Identifier: MIT */
/* What mm/port/x86_64.c asks of the kernel that links it. This header is part of the public API of
 * mm/, for kernels on bare metal that take the ready-made port; others need not look at it.
 *
 * Two things: a word at the base of GS on each CPU, from which mm_port_cpu_slot() reads, and a
 * function that a CPU calls while it waits for a lock. Both must stand before the second CPU calls
 * mm; a kernel with one CPU sets the word to 0 and leaves the function empty. */
#ifndef MM_PORT_X86_64_H
#define MM_PORT_X86_64_H

#include <mm/port.h>

MM_BEGIN_DECLS

/* What GS points to (IA32_GS_BASE, SDM vol. 3, 3.4.4.1), at its very beginning.
 *   The kernel raises `slot` by one when it enters an exception or interrupt handler and restores
 *   it when it leaves; in an NMI or machine check handler, and deeper than MM_PORT_LEVELS, it is
 *   MM_PORT_NO_SLOT. */
struct mm_port_cpu {
    uint32_t slot; /* CPU number * MM_PORT_LEVELS + interrupt level */
};

/* Serves what other CPUs ask of this one with mm_port_tlb_shootdown() and mm_port_cpu_barrier(); nothing
 * if nobody asks.
 *   Context:  interrupts off; called again and again while mm_port_lock() waits. Takes no lock.
 *   Cost:     nobody asks: a few loads of a line that only this CPU reads. */
void mm_port_serve_shootdowns(void);

MM_END_DECLS
#endif
