/* SPDX-License-Identifier: MIT */
/* Segments and the task state segment of the boot CPU.
 *
 * Long mode ignores base and limit of code and data segments; what counts is that the loader's
 * table is left behind (its memory is given back later) and that the TSS names the stacks on which
 * the exceptions run that must not trust the current one. */
#ifndef ARCH_X86_64_GDT_H
#define ARCH_X86_64_GDT_H

#include <stdint.h>

#define GDT_KERNEL_CODE 0x08u
#define GDT_KERNEL_DATA 0x10u
#define GDT_TSS         0x18u

/* Entries of the interrupt stack table, as gates name them: 1..7, 0 means the current stack. */
enum gdt_ist {
    GDT_IST_NONE = 0,
    GDT_IST_DOUBLE_FAULT = 1,
    GDT_IST_NMI = 2,
    GDT_IST_MACHINE_CHECK = 3,
    GDT_IST_COUNT = 4,
};

/* Loads the table, the segment registers and the task register.
 *   Units:    `stack_tops[enum gdt_ist]`: the address just above each stack, 16-byte aligned;
 *             element 0 is not used.
 *   Context:  boot CPU, interrupts off. */
void gdt_init(const uint64_t stack_tops[GDT_IST_COUNT]);

#endif
