/* SPDX-License-Identifier: MIT */
/* The whole of mm, started in one call. This header is part of the public API of mm/.
 *
 * A kernel that boots through mm calls init_memory(); one that wants only a part includes that
 * part's header and calls its *_init().
 *
 * Who may call what, once it is up, from any CPU:
 *
 *      thread of control       everything
 *      interrupt handler,      frames: all of pmm.h but pmm_init and pmm_verify
 *      nested or not           heap: what takes, resizes and gives back blocks of up to 1 MiB;
 *                              kheap.h says what else, and what not at the full level
 *                              phys_to_virt, virt_to_phys, mm_explain*, and the log
 *      fault handler           mm_explain*, kheap_peek, kvm_peek, paging_peek, pmm_peek_*: these
 *                              take no lock (paging_fault says for itself when it may be called)
 *      NMI, machine check      as a fault handler; allocation and free of frames and blocks are
 *                              refused with a report
 *
 * Each header says it for its functions; where this list and a header differ, the header is right.
 * paging_* and kvm_* take the lock of an address space and may wait for other CPUs: not in
 * interrupt handlers, but for kvm_heap_commit() within 2 MiB, and for what takes no lock
 * (paging_translate, paging_peek, kvm_peek).
 *
 * A thread that takes frames or blocks, or gives blocks back, may find itself giving memory of the
 * heap back (pmm_set_low_water, kheap.h): that unmaps, and waits for the other CPUs. So it must
 * hold no lock for which another CPU may spin with interrupts off, but those of mm_port_lock(),
 * which answer meanwhile. Nor may the code that a handler interrupts, if the handler takes frames or
 * blocks: it unmaps nothing, but the last free frames lie in caches of other CPUs, and the heap grows in
 * a space that one of them may own. Each of these takes an mm_port_cpu_barrier(). */
#ifndef MM_MM_H
#define MM_MM_H

#include <mm/bootinfo.h>
#include <mm/cmdline.h>
#include <mm/config.h>
#include <mm/cpu.h>
#include <mm/hhdm.h>
#include <mm/kheap.h>
#include <mm/kvm.h>
#include <mm/log.h>
#include <mm/memmap.h>
#include <mm/paging.h>
#include <mm/pmm.h>
#include <mm/port.h>
#include <mm/status.h>

MM_BEGIN_DECLS

struct mm_test_result {
    unsigned passed;
    unsigned failed;
};

/* One memory manager: what init_memory() built. */
struct mm {
    struct boot_info boot; /* a copy; its map belongs to the loader */
    struct mm_options options;
    struct mm_cpu_features cpu;
    struct memmap map;
    struct pmm pmm;
    struct address_space kernel_space; /* not used if paging is foreign */
    struct kvm kvm;                    /* likewise */
    struct kheap *heap;
    /* Tables that were live while mm started, and how many of them lay in memory that the map calls
     * usable: kept back until mm_release_loader_memory(). */
    struct paging_root loader_tables;
    uint64_t loader_tables_kept;
    uint64_t loader_bytes;       /* what mm_release_loader_memory() has given back */
    uint64_t pmm_ns;             /* time that map and frames took, without their log lines */
    struct mm_test_result tests; /* of init_memory()'s self-tests */
    uint64_t total_ns;           /* time until everything stood, log lines included */
};

/* Brings up memory management in the order: log, HHDM offset, memory map, frames, CPU protection, own
 * page tables, windows, heap. Logs what it does. The low-water callback of the frames
 * (pmm_set_low_water, at a 64th of all) is the heap's from here on: kheap_drain() of all slots. Who
 * sets another one replaces it, and calls kheap_drain(mm->heap, KHEAP_ALL_SLOTS) in it.
 *   On failure: one `[MM] ERROR: ...` line, then mm_port_halt(). It returns only with everything up.
 *   Context:    boot CPU, once for each `mm`, interrupts off. */
void mm_init(struct mm *mm, const struct boot_info *boot);

/* Logs `[MM] READY total_kb=... usable_kb=... free_kb=... ranges=... pmm_us=... total_us=...`. */
void mm_log_ready(struct mm *mm);

/* mm_init() for the kernel's own memory manager, then the self-tests and the READY line. kmalloc and
 * kfree work from here on.
 *   Returns:    true if every self-test passed; else false, and no READY line was logged. */
MM_MUST_USE bool init_memory(const struct boot_info *boot);

/* How the loader's memory is given back. */
struct mm_release {
    const struct mm_extent *keep; /* physical, any order: what somebody still uses */
    size_t keep_count;
    bool fill; /* for tests: writes `pattern` over everything before it is released */
    uint8_t pattern;
};

/* Gives the memory of the boot loader to the frame allocator: the map's loader-reclaimable ranges above
 * 1 MiB (with mm.lowmem=on also below), and page tables of the loader that were kept back. Logs
 * `[MM] loader memory: N KB given back`. Ranges that come back whole are usable from then on in
 * mm->map; the rows of the map that mm was started with are not known any more.
 *   Units:      the caller has copied what it needs of the loader's answers, and no CPU uses the
 *               loader's stacks, descriptor tables or page tables any more.
 *   Returns:    how many bytes.
 *   Context:    one thread of control, once, after init_memory(); others may use mm meanwhile. */
uint64_t mm_release_loader_memory(struct mm *mm, const struct mm_release *how);

/* The kernel's own memory manager, the one that init_memory() built. */
struct mm *mm_kernel(void);

/* The self-tests: those of the frames, of the page tables, of the heap, and all of them between two
 * banner lines. Each case is one line, `[MM] ✓ <part>: <case>` or
 * `[MM] ✗ <part>: <case>: <expected, got>`. They leave mm as they found it. Where memory does not keep
 * what is written, one line says so, and no later case is run or counted.
 *   Context:    boot CPU, with nobody else using mm. */
struct mm_test_result test_pmm(struct mm *mm);
struct mm_test_result test_paging(struct mm *mm);
struct mm_test_result test_allocator(struct mm *mm);
struct mm_test_result run_memory_tests(struct mm *mm);

MM_END_DECLS
#endif
