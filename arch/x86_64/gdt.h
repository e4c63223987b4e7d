/* SPDX-License-Identifier: MIT */
/* Segments and the task state segment, of which each CPU has its own.
 *
 * Long mode ignores base and limit of code and data segments; what counts is that the loader's
 * table is left behind (its memory is given back later) and that the TSS names the stacks on which
 * the exceptions run that must not trust the current one. A TSS belongs to one CPU, and so does the
 * descriptor that names it; hence a table for each. */
#ifndef ARCH_X86_64_GDT_H
#define ARCH_X86_64_GDT_H

#include <stdint.h>

#define GDT_KERNEL_CODE 0x08u
#define GDT_KERNEL_DATA 0x10u
#define GDT_TSS         0x18u
#define GDT_ENTRIES     5u

/* Entries of the interrupt stack table, as gates name them: 1..7, 0 means the current stack. */
enum gdt_ist {
    GDT_IST_NONE = 0,
    GDT_IST_DOUBLE_FAULT = 1,
    GDT_IST_NMI = 2,
    GDT_IST_MACHINE_CHECK = 3,
    GDT_IST_COUNT = 4,
};

struct gdt_tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7]; /* ist[0] is entry 1 */
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t io_map_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct gdt_tss) == 104, "SDM vol. 3, figure 8-11");

struct gdt {
    uint64_t table[GDT_ENTRIES];
    struct gdt_tss tss;
};

struct percpu;

/* Loads this CPU's own table, the segment registers, the task register and GS.
 *   Units:    `stack_tops[enum gdt_ist]`: the address just above each stack, 16-byte aligned;
 *             element 0 is not used.
 *   Context:  the CPU that `cpu` belongs to, interrupts off, once. */
void gdt_init_cpu(struct percpu *cpu, const uint64_t stack_tops[GDT_IST_COUNT]);

/* The same on the boot CPU. */
void gdt_init(const uint64_t stack_tops[GDT_IST_COUNT]);

#endif
