/* SPDX-License-Identifier: MIT */
/* What the files of the hosted port share and nobody else sees: hosted.c (hooks, locks, RAM,
 * start), hosted_cpu.c (CPUID and registers), hosted_mmu.c (walk and TLB), hosted_smp.c (numbers of
 * CPUs, shootdown, interrupts). */
#ifndef MM_PORT_HOSTED_PARTS_H
#define MM_PORT_HOSTED_PARTS_H

#include <mm/hosted.h>

/* CR4 (SDM vol. 3, 2.5), CR0, EFER (SDM vol. 3, 2.2.1). */
#define CR0_WP   ((uint64_t)1 << 16)
#define CR4_PGE  ((uint64_t)1 << 7)
#define CR4_UMIP ((uint64_t)1 << 11)
#define CR4_LA57 ((uint64_t)1 << 12)
#define CR4_SMEP ((uint64_t)1 << 20)
#define CR4_SMAP ((uint64_t)1 << 21)
#define EFER_NXE ((uint64_t)1 << 11)

/* MAXPHYADDR of this thread's CPU: leaf 0x80000008, else 36. */
unsigned hosted_cpu_physical_bits(void);
bool hosted_cpu_has_1gb_pages(void);

/* The CPU of this thread; NULL if it has none yet. */
struct hosted_cpu *hosted_cpu_if_any(void);

/* Enters a CPU in the registry and gives it its number; takes it out, with all that it caches. */
void hosted_smp_add(struct hosted_cpu *self);
void hosted_smp_remove(struct hosted_cpu *self);

/* Guards the registry and the TLBs of all CPUs; interrupts are off meanwhile. No hook may be called,
 * as hooks of tests may not come back. _locked: between the two. */
bool hosted_smp_lock(struct hosted_cpu *self);
void hosted_smp_unlock(struct hosted_cpu *self, bool saved);

/* The CPUs that hold a lock, so that they may be in the middle of a change. */
struct hosted_changes {
    unsigned end; /* 0: none */
    uint64_t section[MM_PORT_MAX_CPUS];
};

/* Takes note that this CPU holds its first lock now, or none any more. */
static inline void hosted_smp_change_section(struct hosted_cpu *self)
{
    __atomic_store_n(&self->lock_section, self->lock_section + 1, __ATOMIC_RELEASE);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* on x86 what follows is seen later, too */
}

/* Notes the changes of other CPUs under way; asks if all of them are over. */
void hosted_smp_note_changes_locked(const struct hosted_cpu *self, struct hosted_changes *changes);
bool hosted_smp_are_over_locked(const struct hosted_changes *changes);

/* Switches the interrupts of this CPU off, or back to what they were; then runs what is pending. */
bool hosted_interrupts_off(struct hosted_cpu *self);
void hosted_interrupts_restore(struct hosted_cpu *self, bool saved);
void hosted_interrupts_deliver(struct hosted_cpu *self);

/* The ways in which translations go (SDM vol. 3, 4.10.4.1). */
void hosted_tlb_drop_page(struct hosted_cpu *self, vaddr_t address);
void hosted_tlb_drop_local(struct hosted_cpu *self);
void hosted_tlb_drop_all(struct hosted_cpu *self);
void hosted_tlb_drop_page_locked(struct hosted_cpu *cpu, vaddr_t address);
void hosted_tlb_drop_all_locked(struct hosted_cpu *cpu);

/* Walks the addresses used last once more and caches what it finds, if the CPU speculates. */
void hosted_tlb_speculate(struct hosted_cpu *self);

#endif
