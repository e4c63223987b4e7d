/* SPDX-License-Identifier: MIT */
/* What mm needs from the machine and the kernel around it: the whole list, resolved at link time.
 * This header is part of the public API of mm/.
 *
 * mm/port/x86_64.c supplies the part marked CPU for bare metal. A kernel supplies the part marked
 * KERNEL. mm/port/hosted.c supplies both for a Linux process. Besides these functions mm calls
 * memcpy, memset, memmove and memcmp and nothing else.
 *
 * mm never holds one of its locks across mm_port_log, mm_port_bug or mm_port_time_ns, except where it
 * gives up for good (mm_fatal: a log line, then mm_port_halt). It holds the lock of an address space,
 * or has interrupts off as its owner, across mm_port_tlb_shootdown. */
#ifndef MM_PORT_H
#define MM_PORT_H

#include <mm/config.h>
#include <mm/status.h>

MM_BEGIN_DECLS

/* ---- C library (a freestanding compiler calls them too) ---- */
#ifndef __cplusplus
void *memcpy(void *to, const void *from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);
#endif

/* ---- KERNEL ---- */

enum mm_log_level {
    MM_LOG_ERROR = 0,
    MM_LOG_INFO = 1,
    MM_LOG_DEBUG = 2,
};

/* Takes one finished log line, "[MM] ...", without a newline.
 *   Passed:   `line` is terminated by a zero and valid during the call only.
 *   Context:  any in which mm is called. Must not call mm. */
void mm_port_log(enum mm_log_level level, const char *line);

/* Is told of a caller's bug after its `[MM] ERROR:` line was logged; `line` is that line.
 *   A kernel panics. If it returns (tests do), the call that found the bug has changed nothing. */
void mm_port_bug(const char *line);

/* Ends the system after a failure that mm cannot live with; its `[MM] ERROR:` line was logged. */
MM_NORETURN void mm_port_halt(const char *line);

/* Nanoseconds since any fixed moment, never going back; 0 always if the kernel has no clock. */
uint64_t mm_port_time_ns(void);

/* ---- CPU ---- */

/* A lock that also keeps interrupts of this CPU away while it is held. All zeroes is unlocked. */
struct mm_port_lock {
    uint32_t word;
};

/* Takes the lock; returns what mm_port_unlock needs to restore the interrupt state. */
uint64_t mm_port_lock(struct mm_port_lock *lock);
void mm_port_unlock(struct mm_port_lock *lock, uint64_t saved);

/* Keeps interrupts of this CPU away as the lock does, without a lock: for what only one CPU may do at
 * the moment and a handler must not find half done. May stand inside of itself or under a lock.
 *   Returns:  what mm_port_interrupts_restore needs. mm's fast paths ask mm_port_pin() (port_slot.h). */
uint64_t mm_port_interrupts_off(void);
void mm_port_interrupts_restore(uint64_t saved);

struct mm_port_cpuid {
    uint32_t eax, ebx, ecx, edx;
};

/* CPUID of a leaf and subleaf (SDM vol. 2, CPUID). A leaf above the highest is all zeroes. */
struct mm_port_cpuid mm_port_cpuid(uint32_t leaf, uint32_t subleaf);

/* Model-specific registers (SDM vol. 4). Only registers that CPUID announces are touched. */
uint64_t mm_port_read_msr(uint32_t index);
void mm_port_write_msr(uint32_t index, uint64_t value);

/* Control registers (SDM vol. 3, 2.5). `number` is 0, 3 or 4. */
uint64_t mm_port_read_cr(unsigned number);
void mm_port_write_cr(unsigned number, uint64_t value);

/* Drops this CPU's translation of the page that holds `address` (SDM vol. 3, 4.10.4.1). What
 * mm_port_tlb_shootdown() is made of; the core calls that one. */
void mm_port_invlpg(vaddr_t address);

/* ---- CPUS ---- */

/* A slot is a place for per-CPU data that needs no lock: one for each CPU and interrupt level, so that
 * a handler never meets the data of the thread that it interrupted. */
#ifndef MM_PORT_MAX_CPUS
#define MM_PORT_MAX_CPUS 256u
#endif
#define MM_PORT_LEVELS 4u /* thread of control, and interrupt handlers nested up to three deep */
#define MM_PORT_SLOTS  (MM_PORT_MAX_CPUS * MM_PORT_LEVELS)

/* Slots of code that has no place of its own. They count like the others in a table of
 * MM_PORT_SLOT_TABLE entries, where mm keeps empty caches for them, so that its fast paths need no
 * test. */
#define MM_PORT_UNKNOWN_SLOT MM_PORT_SLOTS        /* mm_port_slot(): ask mm_port_cpu_slot() */
#define MM_PORT_SHARED_SLOT  (MM_PORT_SLOTS + 1u) /* more threads than slots: mm works, uncached */
#define MM_PORT_NO_SLOT      (MM_PORT_SLOTS + 3u) /* NMI, machine check: mm must not be called */
#define MM_PORT_SLOT_TABLE   (MM_PORT_SLOTS + 4u)

/* The slot of the running code: CPU number * MM_PORT_LEVELS + interrupt level; MM_PORT_SHARED_SLOT;
 * or MM_PORT_NO_SLOT. mm's fast paths ask mm_port_slot() (port_slot.h), which may be inline.
 *   Context:  any. The caller stays on this CPU and at this level while it uses the slot.
 *   Cost:     one load relative to GS on bare metal. */
unsigned mm_port_cpu_slot(void);

/* Returns when each other CPU that uses mm has executed a full memory barrier since the call began, and
 * this CPU too: what it had stored before is seen by all, and the other way round. It is what lets
 * one CPU look into the caches of another, whose fast path has no barrier.
 *   Context:  interrupts off, a lock of the pmm, of a heap or of a space held. Takes no lock of mm, and while it
 *             waits it serves the requests of other CPUs, as mm_port_tlb_shootdown() does.
 *   Cost:     an interrupt to each CPU; a system call in a Linux process. Not for fast paths. */
void mm_port_cpu_barrier(void);

/* Pages whose translations are to be dropped. */
#define MM_TLB_BATCH_MAX 32u
struct mm_tlb_batch {
    bool everything; /* all translations, global ones too; `pages` is not looked at */
    unsigned count;
    vaddr_t pages[MM_TLB_BATCH_MAX];
};

/* Drops the batch from the TLB of every CPU, this one included (SDM vol. 3, 4.10.5).
 *   Returns:  when no CPU can use one of these translations any more.
 *   Context:  interrupts off, an address space held: its lock, or it is this CPU's. Takes no lock of mm, and while it
 *             waits it serves the requests of other CPUs; so does mm_port_lock() while it spins, or two
 *             CPUs could wait for each other. */
void mm_port_tlb_shootdown(const struct mm_tlb_batch *batch);

/* ---- only with MM_MEMORY_HOOKS ---- */
#if MM_MEMORY_HOOKS
/* The bytes now belong to nobody: mm itself does not touch them until they are allocated. */
void mm_port_memory_freed(void *start, size_t bytes);
/* The bytes now belong to a caller (or to mm's own bookkeeping). */
void mm_port_memory_allocated(void *start, size_t bytes);
#else
/* Not even their arguments are computed: phys_to_virt() would be called in fast paths for nothing. */
#define mm_port_memory_freed(start, bytes)     ((void)sizeof(start), (void)sizeof(bytes))
#define mm_port_memory_allocated(start, bytes) ((void)sizeof(start), (void)sizeof(bytes))
#endif

MM_END_DECLS
#endif
