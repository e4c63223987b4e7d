/* SPDX-License-Identifier: MIT */
/* Names for addresses of the kernel image: functions and objects. */
#ifndef KERNEL_SYMBOLS_H
#define KERNEL_SYMBOLS_H

#include <mm/types.h>

struct symbol {
    const char *name; /* constant, in the kernel's own .rodata */
    vaddr_t begin;
    uint64_t bytes;
};

/* Finds the function or object that holds the address.
 *   Returns:    true and the symbol in *out; false between symbols and outside the image.
 *   Context:    any; reads nothing but the table.
 *   Cost:       O(log n). */
MM_MUST_USE bool symbols_find(vaddr_t address, struct symbol *out);

#endif
