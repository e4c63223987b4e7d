/* SPDX-License-Identifier: MIT */
/* Exceptions and interrupts: from the CPU to one C function.
 *
 * Every vector leads through its stub in traps.S to interrupt_dispatch() (interrupt.h), and from
 * there to the handler of its vector, or, where it has none, to trap_handle(), which the kernel
 * supplies. */
#ifndef ARCH_X86_64_IDT_H
#define ARCH_X86_64_IDT_H

#include <stdint.h>

enum trap_vector {
    TRAP_NMI = 2,
    TRAP_DOUBLE_FAULT = 8,
    TRAP_INVALID_TSS = 10,
    TRAP_STACK_SEGMENT = 12,
    TRAP_GENERAL_PROTECTION = 13,
    TRAP_PAGE_FAULT = 14,
    TRAP_MACHINE_CHECK = 18,
    TRAP_EXCEPTIONS = 32, /* vectors below are the CPU's own (SDM vol. 3, 6.2) */

    /* Of the local APIC. The upper 4 bits are the priority: while a handler runs with interrupts
     * on, only vectors of a higher class come through (SDM vol. 3, 10.8.3.1), so a timer handler
     * can be interrupted by a call and that by a shootdown: MM_PORT_LEVELS levels in all. */
    TRAP_PIC = 0x20, /* 16 vectors of the old interrupt controllers, which are masked */
    TRAP_TIMER = 0x40,
    TRAP_CALL = 0x50,
    TRAP_SHOOTDOWN = 0x60,
    TRAP_APIC_ERROR = 0xfe,
    TRAP_SPURIOUS = 0xff,

    TRAP_VECTORS = 256,
};

/* Exceptions for which the CPU pushes an error code, one bit each: 8, 10..14, 17, 21, 29, 30 (SDM
 * vol. 3, table 6-1; AMD APM vol. 2, table 8-1). */
#define TRAP_ERROR_CODES 0x60227d00u

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

/* Fills the table, which all CPUs share, and loads it. The GDT with its TSS must be up.
 *   Context:  boot CPU, interrupts off. */
void idt_init(void);

/* Loads the table on a further CPU; also lets machine checks come as exceptions there (CR4.MCE),
 * as idt_init() does. Without it they would reset the machine (SDM vol. 3, 15.3). */
void idt_load(void);

/* Supplied by the kernel: what became of a vector without a handler. Does not return.
 *   Context:  interrupts off; the current stack, or one of the interrupt stack table. */
_Noreturn void trap_handle(const struct trap_frame *frame);

#endif
