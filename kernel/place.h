/* SPDX-License-Identifier: MIT */
/* What lies at a virtual address, in words, for reports of failures. */
#ifndef KERNEL_PLACE_H
#define KERNEL_PLACE_H

#include <mm/types.h>

#define PLACE_TEXT_MAX  192
#define PLACE_FAULT_MAX (PLACE_TEXT_MAX + 48)

/* Where the kernel image lies in physical memory, so that it is known in the HHDM too. */
void place_set_image(paddr_t image);

/* Writes what the address is into text[PLACE_TEXT_MAX], such as "text of function kmain + 0x12",
 * "guard page below the boot stack (stack overflow)", or what mm_explain() says; never empty. Reads
 * no page table, takes no lock and touches nothing at the address.
 *   Context:  any. */
void place_describe(vaddr_t address, char *text);

/* Writes what was tried where into text[PLACE_FAULT_MAX]: "write to 0x18: null + 0x18". `error` is the page
 * fault's error code. As place_describe(). */
void place_describe_fault(vaddr_t address, uint64_t error, char *text);

/* Writes the function that a return address leads back into: "kmain + 0x12". A call that does not
 * return may be the last instruction of its function, so the byte before the address counts. */
void place_describe_return(vaddr_t address, char *text);

/* True if the address lies where a stack that overflows arrives. */
bool place_is_stack_overflow(vaddr_t address);

/* True if [address, address + bytes) lies inside one kernel stack, and so can be read. */
bool place_is_on_stack(vaddr_t address, uint64_t bytes);

/* True if the address lies in the kernel's code. */
bool place_is_text(vaddr_t address);

#endif
