/* SPDX-License-Identifier: MIT */
/* Owns the interrupt descriptor table: 256 gates of 16 bytes, each to its stub in traps.S.
 *
 *   bits 15..0 offset | 31..16 selector | 34..32 IST | 47..40 type | 63..48 offset | 95..64 offset
 *
 * Invariants: every gate is an interrupt gate (interrupts off on entry) of ring 0. Double fault,
 * NMI and machine check switch stacks, because they may strike when the stack pointer is not to be
 * trusted. Source: SDM vol. 3, 6.14. */
#include "arch/x86_64/idt.h"
#include "arch/x86_64/gdt.h"
#include <mm/port.h>

#define IDT_INTERRUPT_GATE 0x8eull /* present, ring 0, type 14 */
#define IDT_STUB_BYTES     16u     /* distance of two stubs in traps.S */
#define IDT_CPUID_MCE      (1u << 7)
#define IDT_CR4_MCE        ((uint64_t)1 << 6)

struct idt_gate {
    uint64_t low, high;
};

struct idt_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

extern const char trap_stubs[];

static MM_RO_AFTER_INIT struct idt_gate idt_table[TRAP_VECTORS] __attribute__((aligned(16)));

static MM_INIT enum gdt_ist idt_stack_of(unsigned vector)
{
    switch (vector) {
    case TRAP_DOUBLE_FAULT:
        return GDT_IST_DOUBLE_FAULT;
    case TRAP_NMI:
        return GDT_IST_NMI;
    case TRAP_MACHINE_CHECK:
        return GDT_IST_MACHINE_CHECK;
    default:
        return GDT_IST_NONE;
    }
}

static MM_INIT struct idt_gate idt_gate_of(unsigned vector)
{
    uint64_t stub = (uint64_t)trap_stubs + (uint64_t)vector * IDT_STUB_BYTES;
    struct idt_gate gate = {
        .low = (stub & 0xffff) | (uint64_t)GDT_KERNEL_CODE << 16 |
               (uint64_t)idt_stack_of(vector) << 32 | IDT_INTERRUPT_GATE << 40 |
               (stub >> 16 & 0xffff) << 48,
        .high = stub >> 32,
    };

    return gate;
}

void idt_load(void)
{
    struct idt_pointer pointer = { sizeof(idt_table) - 1, (uint64_t)idt_table };

    __asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
    if ((mm_port_cpuid(1, 0).edx & IDT_CPUID_MCE) != 0)
        mm_port_write_cr(4, mm_port_read_cr(4) | IDT_CR4_MCE);
}

MM_INIT void idt_init(void)
{
    for (unsigned vector = 0; vector < TRAP_VECTORS; vector++)
        idt_table[vector] = idt_gate_of(vector);
    idt_load();
}
