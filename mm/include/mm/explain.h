/* SPDX-License-Identifier: MIT */
/* What a virtual address is, in words, for fault reports. Part of the public API of mm/.
 *
 * Everything here is read without a lock, because the holder of the lock may be what failed; while
 * another CPU changes the place that is looked at, the answer may be that of a moment ago. */
#ifndef MM_EXPLAIN_H
#define MM_EXPLAIN_H

#include <mm/mm.h>

MM_BEGIN_DECLS

/* Writes what the address is into buffer[capacity], such as
 *   "null + 0x18", "not canonical", "kernel text + 0x12",
 *   "heap block 0x... of 64 bytes, byte 12", "free heap block 0x... of 64 bytes, byte 12",
 *   "heap guard, 1 byte below the heap", "kernel stack 3, 16 bytes below its top",
 *   "guard page below kernel stack 3 (stack overflow)", "window of device registers + 0x1000",
 *   "HHDM of frame 0x1000, byte 8 (usable, free)"; never empty.
 *   Locking:    none.
 *   Context:    any, also before and during mm_init(); nothing at the address is touched. */
void mm_explain(const struct mm *mm, vaddr_t address, char *buffer, size_t capacity);

/* True if the address lies where the overflow of a stack made by kvm_alloc_stack() arrives: below
 * the stack, in its slot.
 *   Context:    as mm_explain. */
bool mm_is_stack_overflow(const struct mm *mm, vaddr_t address);

MM_END_DECLS
#endif
