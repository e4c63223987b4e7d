/* SPDX-License-Identifier: MIT */
/* TLB shootdown: mm_port_tlb_shootdown() of <mm/port.h> and mm_port_serve_shootdowns() of
 * <mm/port_x86_64.h>, over interrupts from CPU to CPU. The protocol is told in shootdown.c. */
#ifndef KERNEL_SHOOTDOWN_H
#define KERNEL_SHOOTDOWN_H

#include <mm/port.h>

/* Sets the handler of TRAP_SHOOTDOWN. Until a second CPU joins, a shootdown is a local flush.
 *   Context:  boot CPU, once. */
void shootdown_init(void);

/* The CPU takes part from now on: every shootdown that begins later waits for it. To be called
 * before it loads the kernel's CR3, with interrupts off; shootdowns are then answered by
 * mm_port_serve_shootdowns() until its interrupts are on. */
void shootdown_join(unsigned number);

/* Drops the batch on this CPU alone.
 *   Context:  interrupts off. */
void shootdown_flush(const struct mm_tlb_batch *batch);

struct shootdown_stats {
    uint64_t sent;   /* shootdowns that went to other CPUs */
    uint64_t served; /* requests that CPUs have answered */
};
struct shootdown_stats shootdown_stats(void);

#endif
