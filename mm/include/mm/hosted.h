/* SPDX-License-Identifier: MIT */
/* The hosted port: mm inside a Linux process. Part of the public API of mm/.
 *
 * A program that only wants the allocator calls mello_host_init() and then kmalloc() and kfree().
 * The rest of this header is for tests: hooks behind the port's functions, fake RAM with holes, and
 * a fake CPU for each thread. That CPU has CPUID leaves, control registers, an MMU that walks the
 * tables at CR3, and a TLB that keeps every translation as long as the SDM lets a processor keep
 * it. What no correct mm may do (a #GP, a lock taken twice, a port call under a lock, the use of a
 * translation that the tables no longer give) is a violation. */
#ifndef MM_HOSTED_H
#define MM_HOSTED_H

#include <mm/port.h>

MM_BEGIN_DECLS

#define HOSTED_MIN_BYTES MM_MIB(4) /* least memory that mello_host_init takes */

/* Brings mm up on the memory [base, base + bytes), which becomes fake RAM from physical address 0
 * on (base is the HHDM offset); afterwards kmalloc and kfree work on it. Only error lines are
 * logged.
 *   Units:      `base` page-aligned; `bytes` at least HOSTED_MIN_BYTES, rounded down to pages.
 *   Returns:    true; a second call starts anew on other memory.
 *   On failure: false (NULL, unaligned, too small; or mm gave up, and an error line says why); mm is as
 *               it was before.
 *   Context:    one thread, before others use mm. */
MM_MUST_USE bool mello_host_init(void *base, size_t bytes);

/* ---- Hooks ---- */

/* What stands behind the port's functions; NULL means the default. */
struct hosted_hooks {
    void (*log)(enum mm_log_level level, const char *line); /* default: to standard error */
    void (*bug)(const char *line);                          /* default: abort() */
    void (*halt)(const char *line);      /* default: abort(); must not return (longjmp) */
    uint64_t (*time_ns)(void);           /* default: CLOCK_MONOTONIC */
    void (*violation)(const char *what); /* default: to standard error, and abort() */
};

/* Replaces all hooks; NULL restores the defaults. Context: while no other thread is in mm. */
void hosted_set_hooks(const struct hosted_hooks *hooks);

/* Reports a violation in printf style. */
void hosted_violation(const char *format, ...) MM_PRINTF(1, 2);

/* ---- Fake RAM ---- */

/* Reserves fake RAM for the physical addresses [0, end), all zero; only touched pages cost memory.
 *   Returns:  its first byte, 1 GiB aligned: the HHDM offset. NULL if there is no address space.
 *   It is the RAM in which the MMU of every fake CPU walks; the one before it must be gone. */
void *hosted_ram_create(paddr_t end);
void hosted_ram_destroy(void);

/* Makes memory that the caller owns the fake RAM of the MMU; no other must exist. */
void hosted_ram_use(void *base, paddr_t end);

/* Makes [base, end), page-aligned, a hole: whoever touches it through the HHDM gets SIGSEGV. */
void hosted_ram_make_hole(paddr_t base, paddr_t end);

/* Where a physical address of the fake RAM stands in this process; NULL outside. */
void *hosted_ram_at(paddr_t address);

/* ---- Fake CPU: one for each thread ---- */

struct hosted_tlb_entry;

#define HOSTED_TLB_BUCKETS 256u
#define HOSTED_RECENT      8u

struct hosted_cpu {
    /* CPUID; subleaf 0 only. A leaf above the highest that leaf 0 or 0x80000000 tells is zero. */
    struct mm_port_cpuid leaf_0, leaf_1, leaf_7, leaf_8000_0000, leaf_8000_0001, leaf_8000_0008;
    uint64_t cr0, cr3, cr4, efer, pat;
    /* Broken hardware: bits that keep their value whatever is written. */
    uint64_t stuck_cr0, stuck_cr4, stuck_efer, stuck_pat;
    /* Broken flushes: what a kernel that forgot one would see. */
    bool ignore_invlpg, ignore_cr3_flush, ignore_pge_flush;
    uint64_t skip_invlpg; /* the n-th INVLPG alone does nothing; 0: none */
    /* After each flush, walk the addresses used last again, as a speculating CPU may (SDM vol. 3,
     * 4.10.2.3 and 4.10.3.1); on at first. */
    bool speculate;
    bool interrupts;       /* RFLAGS.IF */
    bool ignore_shootdown; /* the IPI left out: shootdowns of other CPUs do not reach this one */
    /* Counters; the last three: shootdowns that this CPU made, those of others that reached it, and
     * interrupt handlers that ran here. */
    uint64_t invlpg_count, cr3_loads, pge_flushes, stale_uses;
    uint64_t shootdown_count, shootdowns_served, interrupts_served;
    uint32_t locks_held;
    uint64_t lock_section; /* odd while locks are held; each such time has another number */
    /* Where this CPU is: its number (kept by a reset), how deep in interrupt handlers and NMIs. */
    unsigned number, level, nmi_depth;
    uint32_t pending, in_service; /* interrupts: one bit for each line */
    /* The TLB and the paging-structure caches. */
    struct hosted_tlb_entry *tlb[HOSTED_TLB_BUCKETS];
    vaddr_t recent[HOSTED_RECENT];
    unsigned recent_next;
};

/* The CPU of this thread. A new one gets the lowest free number, a thread that exits gives its
 * number back. One thread more than MM_PORT_MAX_CPUS at once is told so and ends the process. */
struct hosted_cpu *hosted_cpu(void);

/* How many there are. */
unsigned hosted_cpu_count(void);

/* Reset: every feature that mm knows but LA57, MAXPHYADDR 52; CR0, CR4, EFER and PAT as the Limine
 * protocol leaves them; CR3 = 0; empty TLB. `levels` is 4 or 5 (CR4.LA57). */
void hosted_cpu_reset(unsigned levels);

/* Drops everything that this CPU has cached, whatever broken flushes are set. */
void hosted_cpu_forget(void);

/* ---- Interrupts and NMIs ----
 *
 * A handler is what runs between enter and leave: it has another slot than what it interrupts, and
 * may itself be interrupted. */

#define HOSTED_LINES (MM_PORT_LEVELS - 1)

/* Goes one interrupt level up.
 *   Returns:    true; hosted_interrupt_leave() must follow.
 *   On failure: false and a violation: interrupts are off, or MM_PORT_LEVELS - 1 handlers run. */
MM_MUST_USE bool hosted_interrupt_enter(void);

/* Goes one level down; a violation if interrupts are off or a lock is held now. */
void hosted_interrupt_leave(void);

/* Begins and ends an NMI handler: there mm_port_cpu_slot() is MM_PORT_NO_SLOT, and no interrupt is
 * delivered. */
void hosted_nmi_enter(void);
void hosted_nmi_leave(void);

/* Makes `handler` what interrupt line `line` (0 to HOSTED_LINES - 1) runs, on the CPU where it comes
 * in. It comes in when hosted_interrupt_raise() is called, or with the signal (0: with none). While
 * interrupts are off, or a handler of the same or a higher line runs, it waits, as in a local APIC
 * (SDM vol. 3, 10.8); several that wait on one line become one run. So handlers interrupt threads
 * and lower handlers wherever mm has its interrupts on, and never while it holds a lock.
 *   Passed:     a handler that calls nothing but mm, hosted_interrupt_raise() and what a signal
 *               handler may call (signal-safety(7)); no hosted_cpu_access(). The log hook is called
 *               with interrupts off, so it may take locks of its own.
 *   On failure: false: no such line, one that is attached, or sigaction() fails.
 *   Context:    while no signal of that line is on its way; a thread that gets one has a fake CPU
 *               already (it has called hosted_cpu()), else the signal is ignored. */
MM_MUST_USE bool hosted_interrupt_attach(unsigned line, int signal, void (*handler)(void));
void hosted_interrupt_detach(unsigned line);

/* An interrupt comes in on this CPU. */
void hosted_interrupt_raise(unsigned line);

/* What an access is; flags. */
enum hosted_access {
    HOSTED_READ = 0,
    HOSTED_WRITE = 1,
    HOSTED_EXECUTE = 2,
    HOSTED_USER = 4, /* CPL 3; else supervisor mode with RFLAGS.AC clear */
};

enum hosted_outcome {
    HOSTED_OK,
    HOSTED_NOT_CANONICAL, /* #GP */
    HOSTED_NOT_PRESENT,   /* #PF */
    HOSTED_FORBIDDEN,     /* #PF: rights */
    HOSTED_RESERVED_BIT,  /* #PF: a reserved bit of an entry is set */
};

/* What a successful access saw. */
struct hosted_translation {
    paddr_t address;     /* of the byte */
    uint64_t leaf_bytes; /* 4 KiB, 2 MiB or 1 GiB */
    bool write, execute, user, global;
    uint8_t memory_type; /* by the PAT: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB, 7 UC- */
};

/* Performs an access as the CPU would: through the TLB, else by a walk, which fills it and sets
 * accessed and dirty bits. Each cached entry that is used is compared with the tables: a difference
 * is a violation, "stale ...", and counts in stale_uses. While another CPU holds a lock of mm, the
 * difference may be a change whose shootdown is still to come: the access then takes place after
 * that CPU has released it.
 *   Returns:  the outcome; *out (which may be NULL) is set if it is HOSTED_OK. */
enum hosted_outcome hosted_cpu_access(vaddr_t address, unsigned access,
                                      struct hosted_translation *out);

/* The same by a walk alone: nothing is cached, checked against the TLB or written. */
enum hosted_outcome hosted_cpu_walk(vaddr_t address, unsigned access,
                                    struct hosted_translation *out);

MM_END_DECLS
#endif
