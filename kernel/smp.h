/* SPDX-License-Identifier: MIT */
/* The machine's CPUs: started once, then there for whoever has work for all of them.
 *
 * CPUs are numbered from 0, the boot CPU, without gaps among those that run. Each one waits for
 * work in its own thread of control, with interrupts on and its timer running. A test or benchmark
 * needs three calls: smp_call_all() for threads of control, smp_set_timer_function() for interrupt
 * handlers, smp_interrupt_others() for handlers that nest.
 *
 *   level 0  thread       smp_call_all()
 *   level 1  TRAP_TIMER   smp_set_timer_function(): every millisecond on each CPU
 *   level +1 TRAP_CALL    smp_interrupt_others(): also inside a timer function that does sti
 *   level +1 TRAP_SHOOTDOWN */
#ifndef KERNEL_SMP_H
#define KERNEL_SMP_H

#include <mm/types.h>

#define SMP_TIMER_HZ 1000u

/* ---- Start ---- */

struct smp_options {
    bool has_lost;
    uint64_t lost; /* place in the loader's list: released too late, to test what happens then */
    uint64_t most; /* so many of the loader's list are used, the others parked; 0: all */
};

/* Starts the CPUs that the boot loader has parked, switches on the local APICs and their timers
 * and, last, the interrupts of the boot CPU. Says with one line what runs, and one for each CPU
 * that does not.
 *   Context:  boot CPU, after init_memory(), once, interrupts off. */
void smp_start(struct smp_options options);

struct smp_info {
    unsigned listed;  /* CPUs that the boot loader named, the boot CPU included; at least 1 */
    unsigned running; /* of these; CPU numbers are 0 .. running - 1. Each of the others has been
                       * told of: lost, parked for what it lacks, without memory or reachable id; or
                       * was not wanted (smp_options.most) */
    bool has_apic;
    bool x2apic;
    uint32_t timer_hz; /* 0: there is no timer */
    char ids[64];      /* APIC ids of the running ones, as "0-3, 6" */
};

/* What smp_start() made of the machine; before it, one CPU without APIC. */
const struct smp_info *smp_info(void);

/* How many CPUs run: at least 1, at most MM_PORT_MAX_CPUS. */
unsigned smp_cpu_count(void);

/* The number of the CPU that this runs on, at any level, in NMI handlers too. */
unsigned smp_cpu_number(void);

/* How many CPUs may still use memory of the boot loader: those that were let go and never came. 0:
 * all run, or stand in a place of ours.
 *   Context:  after smp_start(). */
uint64_t smp_loader_users(void);

struct smp_cpu_stats {
    uint32_t lapic_id;
    uint64_t interrupts; /* taken since its start, exceptions not counted */
    uint64_t ticks;      /* those of its timer */
};
struct smp_cpu_stats smp_cpu_stats(unsigned number);

/* ---- Work ---- */

/* Runs function(argument) on every CPU at the same time, this one included, in its thread of
 * control (level 0, interrupts on), and returns when all have returned.
 *   Context:  the boot CPU's thread, interrupts on or off there, no lock held; not from inside such
 *             a function. */
void smp_call_all(void (*function)(void *argument), void *argument);

/* Runs function(argument) on every CPU but this one, as an interrupt handler (interrupts off at
 * entry), and returns when all have returned.
 *   Context:  any thread or handler, interrupts on or off, no lock held; callers wait for each
 *             other. While it waits it serves TLB shootdowns, but not such calls: it must not be called
 *             with interrupts off on two CPUs at the same time. */
void smp_interrupt_others(void (*function)(void *argument), void *argument);

/* Sets what every timer interrupt on every CPU calls, at entry with interrupts off (it may switch
 * them on: only TRAP_CALL and TRAP_SHOOTDOWN come then); NULL: nothing, as at first. A tick that
 * comes within half a tick of the function's end is passed over, so that threads go on whatever
 * it takes. When this returns, no CPU is inside the function set before.
 *   Context:  a thread of control, interrupts on; not from a timer function. */
void smp_set_timer_function(void (*function)(void));

/* What a CPU without work does before it halts, and again at each interrupt: a bit of work at a time, as
 * long as it returns true, at most SMP_IDLE_UNITS times. NULL: nothing, as at first. When this returns,
 * no CPU is inside the function set before. Runs as a thread, interrupts on.
 *   Returns:  the function set before.
 *   Context:  a thread of control; not from such a function. */
#define SMP_IDLE_UNITS 16u
typedef bool (*smp_idle_function)(void);
smp_idle_function smp_set_idle_function(smp_idle_function function);

/* ---- End ---- */

/* Stops every other CPU by an NMI and waits (briefly) until they stand, so that a report stays
 * readable. Of CPUs that call it at the same time, one returns; the others stop here. Called
 * again by the CPU for which it has returned, it does nothing.
 *   Context:  any, NMI and machine check handlers too; interrupts are off afterwards. */
void smp_stop_others(void);

#endif
