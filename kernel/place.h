/* SPDX-License-Identifier: MIT */
/* What lies at a virtual address, in words, for reports of failures. */
#ifndef KERNEL_PLACE_H
#define KERNEL_PLACE_H

#include <mm/types.h>

#define PLACE_TEXT_MAX 128

/* Where the kernel image lies in physical memory, so that it is known in the direct map too. */
void place_set_image(paddr_t image);

/* Writes what the address is into text[PLACE_TEXT_MAX], such as "kernel text" or "the heap"; never
 * empty. Reads no page table, takes no lock and touches nothing at the address.
 *   Context:  any. */
void place_describe(vaddr_t address, char *text);

/* True if the address lies in a guard page that a stack reaches when it overflows. */
bool place_is_stack_overflow(vaddr_t address);

/* True if [address, address + bytes) lies inside one kernel stack, and so can be read. */
bool place_is_on_stack(vaddr_t address, uint64_t bytes);

/* True if the address lies in the kernel's code. */
bool place_is_text(vaddr_t address);

#endif
