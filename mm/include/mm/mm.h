/* SPDX-License-Identifier: MIT */
/* The whole of mm, started in one call. This header is part of the public API of mm/.
 *
 * A kernel that boots through mm calls init_memory(); one that wants only a part includes that
 * part's header and calls its *_init().
 *
 * Who may call what, once it is up, from any CPU:
 *
 *      thread of control       everything
 *      interrupt handler,      pmm_alloc_*, pmm_free_*, pmm_frame_state, pmm_stats, kmalloc, kfree,
 *      nested or not           kheap_alloc, kheap_free, kheap_size, kheap_stats, phys_to_virt,
 *                              virt_to_phys, mm_explain, and the log
 *      fault handler           mm_explain and the *_peek functions: they take no lock
 *      NMI, machine check      as a fault handler; allocation and free of frames and blocks are
 *                              refused with a report
 *
 * paging_*, kvm_* and kheap_to_phys take the lock of an address space and may wait for other CPUs: not
 * in interrupt handlers. */
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
    uint64_t pmm_ns;             /* time that map and frames took, without their log lines */
    struct mm_test_result tests; /* of init_memory()'s self-tests */
    uint64_t total_ns;           /* time until everything stood, log lines included */
};

/* Brings up memory management in the order: log, HHDM offset, memory map, frames, CPU protection, own
 * page tables, windows, heap. Logs what it does.
 *   On failure: one `[MM] ERROR: ...` line, then mm_port_halt(). It returns only with everything up.
 *   Context:    boot CPU, once for each `mm`, interrupts off. */
void mm_init(struct mm *mm, const struct boot_info *boot);

/* Logs `[MM] READY total_kb=... usable_kb=... free_kb=... ranges=... pmm_us=... total_us=...`. */
void mm_log_ready(struct mm *mm);

/* mm_init() for the kernel's own memory manager, then the self-tests and the READY line. kmalloc and
 * kfree work from here on.
 *   Returns:    true if every self-test passed; else false, and no READY line was logged. */
MM_MUST_USE bool init_memory(const struct boot_info *boot);

/* The kernel's own memory manager, the one that init_memory() built. */
struct mm *mm_kernel(void);

/* The self-tests: those of the frames, of the page tables, of the heap, and all of them between two
 * banner lines. Each case is one line, `[MM] ✓ <part>: <case>` or
 * `[MM] ✗ <part>: <case>: <expected, got>`. They leave mm as they found it.
 *   Context:    boot CPU, with nobody else using mm. */
struct mm_test_result test_pmm(struct mm *mm);
struct mm_test_result test_paging(struct mm *mm);
struct mm_test_result test_allocator(struct mm *mm);
struct mm_test_result run_memory_tests(struct mm *mm);

MM_END_DECLS
#endif
