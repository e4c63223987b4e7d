/* SPDX-License-Identifier: MIT */
/* A further CPU's step from the loader's memory into ours. */
#ifndef ARCH_X86_64_AP_H
#define ARCH_X86_64_AP_H

#include <mm/types.h>

/* Loads CR3 with no translation surviving (PGE is off while it is loaded), takes the stack and
 * calls enter(argument), which does not return. The old stack is not touched. In ap.S.
 *   Context:  interrupts off. Code, `enter` and `argument` are mapped in both hierarchies. */
_Noreturn void ap_switch(uint64_t cr3, uint64_t cr4, vaddr_t stack_top,
                         void (*enter)(void *argument), void *argument);

#endif
