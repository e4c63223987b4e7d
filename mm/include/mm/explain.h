/* SPDX-License-Identifier: MIT */
/* What a virtual address is, in words, for fault reports. Part of the public API of mm/.
 *
 * Everything here is read without a lock, because the holder of the lock may be what failed; while
 * another CPU changes the place that is looked at, the answer may be that of a moment ago.
 *
 *      mm_explain_fault   write to 0x...: 17 bytes past the end of the 100-byte heap block 0x...
 *      mm_explain                         17 bytes past the end of the 100-byte heap block 0x...
 *      mm_explain_more    window of the heap, 0x...-0x...
 *                         page tables: PML4e rwxu-, PDPTe rwxu-, PDe rw--g (2 MB) -> 0x...
 *                         frame 0x...: usable, used
 *                         below: heap block 0x... of 112 bytes      above: free heap block 0x... */
#ifndef MM_EXPLAIN_H
#define MM_EXPLAIN_H

#include <mm/mm.h>

MM_BEGIN_DECLS

/* Writes what the address is into buffer[capacity], such as
 *   "null + 0x18", "not canonical", "text of function kmain + 0x12", "kernel text + 0x12",
 *   "guard page below the boot stack",
 *   "heap block 0x... of 64 bytes, byte 12", "free heap block 0x... of 64 bytes, byte 12",
 *   "17 bytes past the end of the 100-byte heap block 0x...",
 *   "heap guard, 1 byte below the heap", "kernel stack 3, 16 bytes below its top",
 *   "guard page below kernel stack 3 (stack overflow)",
 *   "block 0x... of 12288 bytes, byte 5", "0 bytes past the end of the 12288-byte block 0x... (guard)",
 *   "device at physical 0x..., byte 16 of its pages", "guard page below the device at 0x...",
 *   "window of device registers + 0x1000, where no device is",
 *   "HHDM of frame 0x1000, byte 8 (usable, free)", "HHDM of frame 0x1000: text of function kmain + 0x12",
 *   "lower half, a page mapped to physical 0x5000", "lower half, outside everything that mm maps";
 * never empty.
 *   Locking:    none.
 *   Context:    any, also before and during mm_init(); nothing at the address is touched. */
void mm_explain(const struct mm *mm, vaddr_t address, char *buffer, size_t capacity);

/* "write to", "read of" or "instruction fetch from". `error` is the error code of the page fault (SDM vol. 3,
 * 4.7). */
const char *mm_explain_access(uint64_t error);

/* The same as mm_explain() behind what was tried: "write to 0x...: 17 bytes past the end of ...". */
void mm_explain_fault(const struct mm *mm, vaddr_t address, uint64_t error, char *buffer,
                      size_t capacity);

/* Hands further lines to print(context, line), those of which something is known: the window, the rights
 * at each level of the page tables, the frame with its state and owner, the neighbours in the heap.
 *   Locking:    none. A line is built on the stack (MM_LOG_LINE_MAX bytes).
 *   Cost:       for a used frame seen through the HHDM, its owner is searched in the windows: up to
 *               EXPLAIN_SEARCH_PAGES looks at the page tables, some 0.1 s. */
#define EXPLAIN_SEARCH_PAGES ((uint64_t)1 << 21)
void mm_explain_more(const struct mm *mm, vaddr_t address,
                     void (*print)(void *context, const char *line), void *context);

/* True if the address lies where the overflow of a stack made by kvm_alloc_stack() arrives: below
 * the stack, in its slot.
 *   Context:    as mm_explain. */
bool mm_is_stack_overflow(const struct mm *mm, vaddr_t address);

MM_END_DECLS
#endif
