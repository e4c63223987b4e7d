/* SPDX-License-Identifier: MIT */
/* What the files of the hosted port share and nobody else sees: hosted.c (hooks, locks, RAM,
 * start), hosted_cpu.c (CPUID and registers), hosted_mmu.c (walk and TLB). */
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

/* The four ways in which translations go (SDM vol. 3, 4.10.4.1). */
void hosted_tlb_drop_page(struct hosted_cpu *cpu, vaddr_t address);
void hosted_tlb_drop_local(struct hosted_cpu *cpu);
void hosted_tlb_drop_all(struct hosted_cpu *cpu);

/* Walks the addresses used last once more and caches what it finds, if the CPU speculates. */
void hosted_tlb_speculate(struct hosted_cpu *cpu);

#endif
