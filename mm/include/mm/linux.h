/* SPDX-License-Identifier: MIT */
/* The lean port of mm to a Linux process. Part of the public API of mm/.
 *
 * For programs that want mm's speed: benchmarks, and a malloc. Threads are CPUs: each gets a slot
 * of its own when it first needs one, and gives it back when it ends. There is no fake CPU and no
 * fake MMU; those are in <mm/hosted.h>, the port of the tests. A program links one of the two.
 *
 * Nothing here calls malloc, stdio or anything else that might, so a malloc can stand on it. errno
 * is left alone. Build with -DMM_PORT_INLINE_TLS (port_slot.h). */
#ifndef MM_LINUX_H
#define MM_LINUX_H

#include <mm/port.h>

MM_BEGIN_DECLS

#define MM_LINUX_MIN_BYTES MM_MIB(4) /* least memory that mello_linux_init takes */

/* Brings the kernel's memory manager (mm_kernel()) up on the memory [base, base + bytes), which
 * becomes RAM from physical address 0 on: base is the HHDM offset, and page tables are foreign.
 * kmalloc and kfree work afterwards.
 *   Units:      `base` page-aligned; `bytes` at least MM_LINUX_MIN_BYTES, rounded down to pages;
 *               reading it may give anything, but untouched pages of an anonymous mapping stay so.
 *   `options`:  a kernel command line ("mm.harden=full"), NULL for none; it is copied. Only error
 *               lines are logged unless it says mm.log=...
 *   Returns:    true.
 *   On failure: false (NULL, unaligned, too small, too large for this CPU's physical addresses, or
 *               options longer than 480 bytes); what mm itself cannot live with ends the process
 *               after a line that says why.
 *   Context:    one thread, before others use mm. */
MM_MUST_USE bool mello_linux_init(void *base, size_t bytes, const char *options);

/* Has this lender (bootinfo.h) told what the heap takes and gives; it must stay. NULL: nobody.
 *   Context:    before mello_linux_init(). */
struct boot_lender;
void mm_linux_set_lender(const struct boot_lender *lender);

/* What stands behind the port's functions; NULL means the default. */
struct mm_linux_hooks {
    void (*log)(enum mm_log_level level, const char *line); /* default: to standard error */
    void (*bug)(const char *line);                          /* default: abort() */
};

/* Replaces all hooks; NULL restores the defaults. Context: while no other thread is in mm. */
void mm_linux_set_hooks(const struct mm_linux_hooks *hooks);

/* Has `leave(slot)` called whenever a thread is about to lose its slot, in that thread (after a
 * fork: in the child's only thread), so that what is cached for the slot goes back.
 *   On failure: false: MM_LINUX_LEAVE_MAX functions are there already.
 *   Context:    one thread, before others use mm. */
#define MM_LINUX_LEAVE_MAX 4u
MM_MUST_USE bool mm_linux_on_thread_exit(void (*leave)(unsigned slot));

/* In the child after fork(): takes the slots back of the threads that are not there any more. What
 * such a thread had just taken out of a cache at that moment is lost to the child.
 *   Context:    after every lock of mm has been released in the child (who calls fork in a process
 *               of several threads takes them before it). */
void mm_linux_after_fork(void);

MM_END_DECLS
#endif
