/* SPDX-License-Identifier: MIT */
/* Exceptions and interrupts: from the CPU to one C function.
 *
 * Every vector leads through its stub in traps.S to trap_handle(), which the kernel supplies. */
#ifndef ARCH_X86_64_IDT_H
#define ARCH_X86_64_IDT_H

#include <stdint.h>

enum trap_vector {
    TRAP_NMI = 2,
    TRAP_DOUBLE_FAULT = 8,
    TRAP_GENERAL_PROTECTION = 13,
    TRAP_PAGE_FAULT = 14,
    TRAP_MACHINE_CHECK = 18,
    TRAP_EXCEPTIONS = 32, /* vectors below are the CPU's own (SDM vol. 3, 6.2) */
    TRAP_VECTORS = 256,
};

/* Bits of a page fault's error code (SDM vol. 3, 4.7). */
#define TRAP_PF_PRESENT  0x1u
#define TRAP_PF_WRITE    0x2u
#define TRAP_PF_USER     0x4u
#define TRAP_PF_RESERVED 0x8u
#define TRAP_PF_FETCH    0x10u

/* What traps.S leaves on the stack, lowest address first. */
struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
    uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;            /* error: 0 where the CPU pushes none */
    uint64_t rip, cs, rflags, rsp, ss; /* pushed by the CPU (SDM vol. 3, 6.14.2) */
};

/* Loads the table. The GDT with its TSS must be up.
 *   Context:  boot CPU, interrupts off. */
void idt_init(void);

/* Supplied by the kernel. Does not return: no exception of this kernel is one that it expects.
 *   Context:  interrupts off; the current stack, or one of the interrupt stack table. */
_Noreturn void trap_handle(const struct trap_frame *frame);

#endif
