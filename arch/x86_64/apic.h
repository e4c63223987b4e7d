/* SPDX-License-Identifier: MIT */
/* The local APIC of each CPU: interrupts from one CPU to another, and a timer.
 *
 * Two ways to its registers, chosen by the boot loader for all CPUs alike: xAPIC, memory at a
 * physical address that the HHDM does not show, and x2APIC, model-specific registers. */
#ifndef ARCH_X86_64_APIC_H
#define ARCH_X86_64_APIC_H

#include <mm/types.h>

#define APIC_REGISTER_BYTES 4096u

enum apic_mode {
    APIC_NONE, /* this CPU has none */
    APIC_X,
    APIC_X2,
};

/* What the CPU that this runs on has, as CPUID and IA32_APIC_BASE say. One that is switched off
 * counts as APIC_X. */
enum apic_mode apic_mode_of_cpu(void);

/* Where the registers lie in physical memory (APIC_X). */
paddr_t apic_physical_base(void);

/* Says how registers are reached from now on, on all CPUs.
 *   Units:    `registers`: where the APIC_REGISTER_BYTES are mapped, uncached; not used in APIC_X2.
 *   Context:  boot CPU, once, before any other function of this part. */
void apic_init(enum apic_mode mode, vaddr_t registers);
enum apic_mode apic_mode(void);

/* The largest id that can be sent to. */
uint32_t apic_highest_id(void);

/* Switches this CPU's local APIC on: every local source masked but errors and LINT1, which is NMI,
 * as firmware wires it; nothing in service.
 *   Returns:  false if this CPU's APIC is not in the mode of the boot CPU's.
 *   Context:  interrupts off. */
bool apic_enable(void);

/* The id of the CPU that this runs on. */
uint32_t apic_id(void);

/* Reports the end of the interrupt being handled (SDM vol. 3, 10.8.5). */
void apic_end_interrupt(void);

/* Sends an interrupt, or an NMI, to one CPU. All that was written before is seen by the handler.
 *   Context:  any but between two halves of the same call: from an NMI handler only on the way
 *             to the end. */
void apic_send(uint32_t id, unsigned vector);
void apic_send_nmi(uint32_t id);

/* Measures this CPU's timer against the time-stamp counter, in about 10 ms.
 *   Returns:  timer ticks in a second (of the divided clock), 0 if there is no clock to compare.
 *   Context:  interrupts off. */
uint64_t apic_measure_timer(void);

/* Starts this CPU's timer: TRAP_TIMER every `ticks` of the divided clock, for ever. */
void apic_start_timer(uint32_t ticks);

/* What the errors since the last call were (SDM vol. 3, figure 10-9); 0: none. */
uint32_t apic_take_errors(void);

#endif
