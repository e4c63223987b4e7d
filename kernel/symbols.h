/* SPDX-License-Identifier: MIT */
/* Names for addresses of the kernel image: functions and objects. */
#ifndef KERNEL_SYMBOLS_H
#define KERNEL_SYMBOLS_H

#include <mm/bootinfo.h>

/* Finds the function or object that holds the address; what boot_info.find_symbol is.
 *   Returns:    true and the symbol in *out, its name in the kernel's own .rodata; false between
 *               symbols and outside the image.
 *   Context:    any; reads nothing but the table.
 *   Cost:       O(log n). */
MM_MUST_USE bool symbols_find(vaddr_t address, struct boot_symbol *out);

#endif
