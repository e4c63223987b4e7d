/* SPDX-License-Identifier: MIT */
/* A further CPU's step from the loader's memory into ours: to work, or to stand still. */
#ifndef ARCH_X86_64_AP_H
#define ARCH_X86_64_AP_H

#include <mm/types.h>

/* Loads CR3 with no translation surviving (PGE is off while it is loaded), takes the stack and
 * calls enter(argument), which does not return. The old stack is not touched. In ap.S.
 *   Context:  interrupts off. Code, `enter` and `argument` are mapped in both hierarchies. */
_Noreturn void ap_switch(uint64_t cr3, uint64_t cr4, vaddr_t stack_top,
                         void (*enter)(void *argument), void *argument);

/* What LGDT and LIDT take (SDM vol. 2, LGDT). */
struct ap_table {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

/* Where a CPU stands still; the layout is known to ap.S. */
struct ap_park_place {
    uint64_t cr3, cr4; /* cr4: PGE off */
    vaddr_t stack_top;
    const struct ap_table *gdt,
        *idt;        /* GDT_KERNEL_CODE and _DATA, accessed; all at their address */
    uint32_t *count; /* one is added when nothing else is used any more */
};

/* Loads all of it and halts for good. `place` is read before the tables change. In ap.S, in one
 * page; ap_park_halt is the halt, to which exceptions may lead.
 *   Context:  interrupts off, EFER.NXE on. This code, gdt, idt, stack and count are mapped at the same
 *             addresses in both hierarchies. */
_Noreturn void ap_park(const struct ap_park_place *place);
extern const char ap_park_halt[];

#endif
