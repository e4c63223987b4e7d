/* SPDX-License-Identifier: MIT */
/* x86-64 page tables. This header is part of the public API of mm/.
 *
 * An address space is a root table (PML4, or PML5 with LA57) whose tables are frames of a pmm and
 * are reached through the HHDM. Rights are an own type, not hardware bits; a mapping that is both
 * writable and executable is refused. Source: Intel SDM vol. 3, 4.5; AMD APM vol. 2, 5.3.
 *
 *      kernel space                   spaces made by paging_create_user()
 *      root: | lower half | upper |   root: | own lower half | the same upper half |
 *
 * The upper half belongs to the kernel space alone: a shared space answers questions about it, but
 * changes to it are made in the kernel space. An entry of the kernel's root table in the upper half
 * that comes, changes or goes is written into the root of every space that shares it, in the same
 * call, before its shootdown; so all of them see each kernel mapping from the moment it is made.
 *
 * Every call that changes a space either does all of it or nothing. Ranges that do not fit large
 * leaves split them: the other pages of the leaf keep frame, rights and memory type. Tables that a
 * change needs are taken before anything is written, tables that become empty are given back.
 *
 * Context of all calls but paging_translate, paging_peek and paging_fault: thread of control, not an
 * interrupt handler. They may wait for other CPUs (TLB shootdown; a barrier, where another CPU owns the
 * space). */
#ifndef MM_PAGING_H
#define MM_PAGING_H

#include <mm/cpu.h>
#include <mm/pmm.h>

MM_BEGIN_DECLS

/* Rights and memory type of a mapping; every mapping is readable. At most one memory type; none is
 * write-back. Types are bits of the entry that select a row of the PAT as enable_cpu_protection()
 * has programmed and read it back; QEMU's TCG does no caching, so what tests can check is these
 * bits, not their effect. */
typedef uint32_t paging_rights_t;
#define PAGING_READ            ((paging_rights_t)0)
#define PAGING_WRITE           ((paging_rights_t)1 << 0)
#define PAGING_EXECUTE         ((paging_rights_t)1 << 1)
#define PAGING_USER            ((paging_rights_t)1 << 2)
#define PAGING_GLOBAL          ((paging_rights_t)1 << 3)
#define PAGING_WRITE_BACK      ((paging_rights_t)0)
#define PAGING_WRITE_COMBINING ((paging_rights_t)1 << 4)
#define PAGING_UNCACHED        ((paging_rights_t)1 << 5)
#define PAGING_WRITE_THROUGH   ((paging_rights_t)1 << 6)
#define PAGING_MEMORY_TYPES    (PAGING_WRITE_COMBINING | PAGING_UNCACHED | PAGING_WRITE_THROUGH)
#define PAGING_RIGHTS_ALL      ((paging_rights_t)0x7f)

#define PAGING_ENTRIES    512u /* entries of a table at every level */
#define PAGING_LEVELS_MAX 5u

struct paging_stats {
    uint64_t table_frames; /* tables of this space, the root included; shared ones not */
    uint64_t leaves[3];    /* mapped leaves of 4 KiB, 2 MiB, 1 GiB; shared ones not */
};

struct paging_window;
struct space_place; /* internal */

/* Letters: c constant; l guarded by lock; k guarded by the lock of the kernel space; o read without
 * a lock, written under it. A CPU that uses the space alone comes to own it and does without the lock for
 * single pages, until another one wants the space (mm/paging_owner.h). */
struct address_space {
    struct mm_port_lock lock; /*   guards the tables and what is marked l */
    uint32_t visits;  /* l single pages that `visitor` takes the lock for until it owns it */
    uint32_t visitor; /* l a slot */
    uint32_t revoked; /* l how often an owner was sent away */
    struct space_place *owner;    /* o the place of who needs no lock, or NULL */
    unsigned levels;              /* c 4 or 5 */
    unsigned physical_bits;       /* c MAXPHYADDR */
    bool huge_pages;              /* c 1 GiB leaves may be used */
    bool activated;               /* o some CPU has used it */
    paddr_t root;                 /* c */
    uint64_t hhdm;                /* c the HHDM's offset */
    struct pmm *pmm;              /* c where tables come from */
    struct address_space *kernel; /* c whose upper half it shares; NULL: its own */
    struct address_space *shared; /* k kernel space: first that shares; else: the next one */
    uint64_t unhooked;            /* o tables that were ever taken out: paging_translate() */
    struct paging_window *window; /* o see paging_watch() */
    struct {             /* l (or by the owner) the table of the last 4 KiB leaf that was changed */
        uint64_t region; /*   address / 2 MiB, or UINT64_MAX: none */
        uint64_t *table;
        uint64_t *entry; /*   of the table above that leads to it */
    } last;
    struct paging_stats stats; /* l (or by the owner) */
};

/* ---- spaces ---- */

/* Makes an empty address space with both halves of its own: the kernel's, or a test's.
 *   Returns:    MM_OK; *space is ready; nothing is mapped.
 *   On failure: MM_OUT_OF_MEMORY; *space is as before. */
MM_MUST_USE mm_status_t paging_init(struct address_space *space, struct pmm *pmm,
                                    const struct mm_cpu_features *features);

/* Makes a space with an empty lower half, and the upper half of `kernel`, now and later.
 *   Returns:    MM_OK; *space is ready and must stay where it is until paging_destroy().
 *   On failure: MM_OUT_OF_MEMORY; MM_INVALID_ARGUMENT (`kernel` itself shares another's half);
 *               *space is as before.
 *   Cost:       one table, half of it copied. */
MM_MUST_USE mm_status_t paging_create_user(struct address_space *space,
                                           struct address_space *kernel);

/* Gives back every table of the space, the root too, but none of the shared half. The frames that it
 * maps stay as they are. A space that this CPU uses, or whose upper half others share, is a bug of
 * the caller, as is NULL or a space that is gone; then nothing changes. That no other CPU uses it
 * is for the caller to know. */
void paging_destroy(struct address_space *space);

/* Makes the space the one this CPU uses, and drops every translation, global ones too (toggles
 * CR4.PGE: SDM vol. 3, 4.10.4.1). Leaves CR4.PGE on where the CPU has it. */
void paging_activate(struct address_space *space, const struct mm_cpu_features *features);

/* Makes the space the one this CPU uses. Global translations stay: they are those of the kernel half,
 * the same in all spaces that share it. Nothing is done if it is in use already.
 *   Context:    any with interrupts off, or a thread that stays on its CPU.
 *   Cost:       one load of CR3, which drops all other translations. */
void paging_switch(struct address_space *space);

/* ---- mapping ---- */

/* Maps one 4 KiB page.
 *   On failure: MM_NOT_ALIGNED; MM_INVALID_ADDRESS (not canonical, beyond MAXPHYADDR, or the upper
 *               half of a space that shares it);
 *               MM_INVALID_ARGUMENT (unknown rights; write with execute, unless the build option
 *               MM_ALLOW_WRITE_EXECUTE allows it; two memory types; global in a space that shares its
 *               upper half);
 *               MM_ALREADY_MAPPED (also by a larger leaf); MM_OUT_OF_MEMORY. Nothing changed.
 *   Locking:    takes the lock of the space, unless the caller's slot owns it; the lock of the pmm not
 *               under it.
 *   Cost:       in the table of the last change: the lock, or two stores and a compare of its owner; one
 *               compare and three stores. */
MM_MUST_USE mm_status_t paging_map_page(struct address_space *space, vaddr_t page, paddr_t frame,
                                        paging_rights_t rights);

/* Maps [page, page + bytes) to [frame, frame + bytes) with the largest leaves that alignment and the
 * CPU allow (4 KiB, 2 MiB, 1 GiB).
 *   On failure: as paging_map_page, also MM_INVALID_ARGUMENT for 0 bytes and MM_INVALID_ADDRESS for a
 *               range that wraps or crosses the canonical hole; nothing changed. */
MM_MUST_USE mm_status_t paging_map_range(struct address_space *space, vaddr_t page, paddr_t frame,
                                         uint64_t bytes, paging_rights_t rights);

/* Maps `count` pages from `page` on, each to the frame of its place in frames[count]: memory that is
 * contiguous in the space and scattered in the machine.
 *   On failure: as paging_map_range; nothing changed.
 *   Cost:       one lock for all; a load and a store for each page. */
MM_MUST_USE mm_status_t paging_map_frames(struct address_space *space, vaddr_t page,
                                          const paddr_t *frames, uint64_t count,
                                          paging_rights_t rights);

/* Unmaps one 4 KiB page, drops its translation from the TLB of every CPU and frees tables that became
 * empty. A part of a large leaf: the leaf is split.
 *   Returns:    MM_OK and, unless `frame` is NULL, the frame that was mapped. It stays allocated.
 *   On failure: MM_NOT_ALIGNED, MM_INVALID_ADDRESS, MM_NOT_MAPPED; MM_OUT_OF_MEMORY only if a large
 *               leaf had to be split. Nothing changed.
 *   Locking:    as paging_map_page; the shootdown is under it.
 *   Cost:       as paging_map_page, and a load and the shootdown. */
MM_MUST_USE mm_status_t paging_unmap_page(struct address_space *space, vaddr_t page,
                                          paddr_t *frame);

/* Unmaps [page, page + bytes), all of which must be mapped, by leaves of any size; a large leaf that
 * lies in it in part is split.
 *   On failure: as paging_unmap_page; nothing changed. */
MM_MUST_USE mm_status_t paging_unmap_range(struct address_space *space, vaddr_t page,
                                           uint64_t bytes);

/* Unmaps `count` pages from `page` on and tells what they led to: frames[count] can go back to the
 * pmm when the call returns, since no CPU has a translation to them then.
 *   On failure: as paging_unmap_page; nothing changed, frames[] neither. */
MM_MUST_USE mm_status_t paging_unmap_frames(struct address_space *space, vaddr_t page,
                                            paddr_t *frames, uint64_t count);

/* Gives [page, page + bytes), all of which must be mapped, other rights and memory type; frames stay.
 * A large leaf that lies in it in part is split. What does not change needs no shootdown.
 *   On failure: as paging_unmap_range, also MM_INVALID_ARGUMENT for the rights as paging_map_page;
 *               nothing changed. */
MM_MUST_USE mm_status_t paging_protect_page(struct address_space *space, vaddr_t page,
                                            paging_rights_t rights);
MM_MUST_USE mm_status_t paging_protect_range(struct address_space *space, vaddr_t page,
                                             uint64_t bytes, paging_rights_t rights);

/* Leads [page, page + bytes), all of which must be mapped, to [frame, frame + bytes) with these rights
 * instead; no page is ever unmapped in between. Leaves stay as large as they are where the new frames
 * are aligned for it, and are split else.
 *   Returns:    MM_OK; no CPU has a translation to the old frames any more.
 *   On failure: as paging_map_range, but MM_NOT_MAPPED instead of MM_ALREADY_MAPPED; nothing changed. */
MM_MUST_USE mm_status_t paging_remap_range(struct address_space *space, vaddr_t page, paddr_t frame,
                                           uint64_t bytes, paging_rights_t rights);

/* ---- asking ---- */

/* Where a virtual address leads; its offset in the page is kept.
 *   On failure: MM_INVALID_ADDRESS, MM_NOT_MAPPED; *out is as before.
 *   Locking:    none: the tables are read as they are, and read again under the lock in the rare case
 *               that one was taken out of the space meanwhile.
 *   Cost:       one load for each level, and one more that hits the cache. */
MM_MUST_USE mm_status_t paging_translate(struct address_space *space, vaddr_t address,
                                         paddr_t *out);

struct paging_mapping {
    paddr_t frame;          /* of the leaf's first byte */
    uint64_t leaf_bytes;    /* 4 KiB, 2 MiB or 1 GiB */
    paging_rights_t rights; /* effective: what all levels together allow; the leaf's memory type */
};

/* As paging_translate, with the whole leaf.
 *   Locking:    takes the lock of the space whose tables they are. */
MM_MUST_USE mm_status_t paging_query(struct address_space *space, vaddr_t address,
                                     struct paging_mapping *out);

/* A run of leaves, of whatever sizes, that go on in both virtual and physical addresses, with the
 * same effective rights and memory type. */
struct paging_run {
    vaddr_t begin;
    vaddr_t last; /* last byte, as a run may end at 2^64 */
    paddr_t frame;
    paging_rights_t rights;
    uint64_t leaves[3]; /* of 4 KiB, 2 MiB, 1 GiB */
};

/* The first run that begins at or behind `from`; the part from there on of a run that has begun
 * before. To see all: begin at 0 and go on at last + 1 until that is 0.
 *   Returns:    true and the run in *out; false if nothing more is mapped.
 *   Locking:    takes the lock of the space whose tables they are, for each run. */
MM_MUST_USE bool paging_next_run(struct address_space *space, vaddr_t from, struct paging_run *out);

/* Logs every run at level info, one line each:
 *   [MM] map 0x<begin>-0x<end> <rights> <sizes> -> 0x<first frame>
 * rights: five places, "rwxug" or "-" (read, write, execute, user, global), then "-wc", "-uc" or "-wt"
 * unless write-back; sizes: "4K", "2M", "1G" joined by "+". An end of 2^64 is 0x10000000000000000.
 *   Locking:    as paging_next_run, none while it logs. */
void paging_dump(struct address_space *space);

/* One entry on the way to an address, for fault reports. */
struct paging_level {
    unsigned level; /* 5 or 4 (root) to 1 */
    paddr_t table;  /* that holds the entry */
    uint64_t entry; /* as it stands there */
    bool present;
    bool leaf;
    paging_rights_t rights; /* what this entry alone allows; a leaf's memory type */
};

/* Reads the entries on the way to `address`, the root's first, until one is not present or is a leaf.
 *   Returns:    how many it read: at least 1, at most PAGING_LEVELS_MAX; 0 for an address that is not
 *               canonical.
 *   Locking:    none; while another CPU changes the tables, what stood there a moment ago or does
 *               then. Nothing outside of RAM of the space's pmm is touched.
 *   Context:    any. */
size_t paging_peek(const struct address_space *space, vaddr_t address,
                   struct paging_level levels[PAGING_LEVELS_MAX]);

/* True if bits 63..(9 * levels + 11) of the address are equal. */
bool paging_is_canonical(vaddr_t address, unsigned levels);

/* "rwxug" with "-" for what is not there, and the memory type: as in paging_dump(). */
#define PAGING_RIGHTS_TEXT 12
void paging_rights_text(paging_rights_t rights, char text[PAGING_RIGHTS_TEXT]);

/* ---- page faults ---- */

/* A range of a space that is filled on demand. The caller's memory; all but `next` is set by it. */
struct paging_window {
    vaddr_t base;
    uint64_t bytes;
    /* Handles a fault at `address`: maps something there, say.
     *   Returns:    true if the access can be tried again; false: nobody handled it.
     *   Context:    that of paging_fault(); no lock of mm is held, paging_* may be called. */
    bool (*fill)(void *context, struct address_space *space, vaddr_t address, uint64_t error);
    void *context;
    struct paging_window *next;
};

/* Registers a window.
 *   On failure: MM_NOT_ALIGNED, MM_INVALID_ARGUMENT (0 bytes, no function), MM_INVALID_ADDRESS (wraps,
 *               not canonical, or the upper half of a space that shares it), MM_ALREADY_MAPPED (it
 *               meets another window). Nothing changed. */
MM_MUST_USE mm_status_t paging_watch(struct address_space *space, struct paging_window *window);

/* Takes a window out again; one that is not registered is a bug of the caller. The caller sees to it
 * that no CPU handles a fault in it while, or after, it goes. */
void paging_unwatch(struct address_space *space, struct paging_window *window);

/* For the kernel's page-fault handler: `address` is CR2, `error` the error code (SDM vol. 3, 4.7).
 *   Returns:    true if a window's function has handled it: return from the exception.
 *   Context:    an exception handler of code that had interrupts on (so it held no lock of mm); a
 *               fault with interrupts off is not handed to this.
 *   Locking:    none, apart from what the function does. */
MM_MUST_USE bool paging_fault(struct address_space *space, vaddr_t address, uint64_t error);

/* ---- a loader's tables ---- */

/* Tells whether a table of the hierarchy at `root` (a raw CR3, of the loader) lies in [base, end);
 * an obstacle function for memmap_build. `context` points to a struct paging_root. */
struct paging_root {
    paddr_t root;
    unsigned levels;
};
paddr_t paging_tables_obstacle(void *context, paddr_t base, paddr_t end);

/* Calls visit(context, table) for each table frame of the hierarchy at `root`, the root too, before the
 * entries of that table are read. */
void paging_for_each_table(struct paging_root root, void (*visit)(void *context, paddr_t table),
                           void *context);

MM_END_DECLS
#endif
