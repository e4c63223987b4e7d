/* SPDX-License-Identifier: MIT */
/* x86-64 page tables. This header is part of the public API of mm/.
 *
 * An address space is a root table (PML4, or PML5 with LA57) whose tables are frames of a pmm and
 * are reached through the HHDM. Rights are an own type, not hardware bits; a mapping that is both
 * writable and executable is refused. Source: Intel SDM vol. 3, 4.5; AMD APM vol. 2, 5.3. */
#ifndef MM_PAGING_H
#define MM_PAGING_H

#include <mm/cpu.h>
#include <mm/pmm.h>

MM_BEGIN_DECLS

/* Rights and memory type of a mapping; every mapping is readable. */
typedef uint32_t paging_rights_t;
#define PAGING_READ            ((paging_rights_t)0)
#define PAGING_WRITE           ((paging_rights_t)1 << 0)
#define PAGING_EXECUTE         ((paging_rights_t)1 << 1)
#define PAGING_USER            ((paging_rights_t)1 << 2)
#define PAGING_GLOBAL          ((paging_rights_t)1 << 3)
#define PAGING_WRITE_COMBINING ((paging_rights_t)1 << 4)
#define PAGING_UNCACHED        ((paging_rights_t)1 << 5)
#define PAGING_RIGHTS_ALL      ((paging_rights_t)0x3f)

#define PAGING_ENTRIES 512u /* entries of a table at every level */

struct paging_stats {
    uint64_t table_frames; /* tables of this space, the root included */
    uint64_t leaves[3];    /* mapped leaves of 4 KiB, 2 MiB, 1 GiB */
};

struct address_space {
    struct mm_port_lock lock; /* guards the tables and stats */
    paddr_t root;             /* constant */
    struct pmm *pmm;          /* constant: where tables come from */
    unsigned levels;          /* constant: 4 or 5 */
    unsigned physical_bits;   /* constant: MAXPHYADDR */
    bool huge_pages;          /* constant: 1 GiB leaves may be used */
    struct paging_stats stats;
};

/* Makes an empty address space; nothing is shared with any other.
 *   Returns:    MM_OK; *space is ready; nothing is mapped.
 *   On failure: MM_OUT_OF_MEMORY. */
MM_MUST_USE mm_status_t paging_init(struct address_space *space, struct pmm *pmm,
                                    const struct mm_cpu_features *features);

/* Gives back every table of the space, the root too. The frames that it maps stay as they are.
 * The space must not be the active one. */
void paging_destroy(struct address_space *space);

/* Maps one 4 KiB page.
 *   On failure: MM_NOT_ALIGNED; MM_INVALID_ADDRESS (not canonical, or beyond MAXPHYADDR);
 *               MM_INVALID_ARGUMENT (unknown rights, write with execute, two memory types);
 *               MM_ALREADY_MAPPED (also by a larger leaf); MM_OUT_OF_MEMORY. Nothing changed.
 *   Locking:    takes the lock of the space, then the lock of the pmm.
 *   Context:    any CPU; not from interrupt handlers. */
MM_MUST_USE mm_status_t paging_map_page(struct address_space *space, vaddr_t page, paddr_t frame,
                                        paging_rights_t rights);

/* Maps [page, page + bytes) to [frame, frame + bytes) with the largest leaves that alignment and the
 * CPU allow (4 KiB, 2 MiB, 1 GiB).
 *   On failure: as paging_map_page, also MM_INVALID_ARGUMENT for 0 bytes and MM_INVALID_ADDRESS for a
 *               range that wraps or crosses the canonical hole; nothing changed. */
MM_MUST_USE mm_status_t paging_map_range(struct address_space *space, vaddr_t page, paddr_t frame,
                                         uint64_t bytes, paging_rights_t rights);

/* Unmaps one 4 KiB page, drops its translation from the TLB of every CPU and frees tables that became
 * empty.
 *   Returns:    MM_OK and, unless `frame` is NULL, the frame that was mapped. It stays allocated.
 *   On failure: MM_NOT_ALIGNED, MM_INVALID_ADDRESS, MM_NOT_MAPPED, MM_LARGE_PAGE (the page is a part
 *               of a large leaf: unmap that by paging_unmap_range). Nothing changed. */
MM_MUST_USE mm_status_t paging_unmap_page(struct address_space *space, vaddr_t page,
                                          paddr_t *frame);

/* Unmaps [page, page + bytes), all of which must be mapped; a large leaf must lie in it whole.
 *   On failure: as paging_unmap_page; nothing changed. */
MM_MUST_USE mm_status_t paging_unmap_range(struct address_space *space, vaddr_t page,
                                           uint64_t bytes);

/* Where a virtual address leads; its offset in the page is kept.
 *   On failure: MM_INVALID_ADDRESS, MM_NOT_MAPPED. */
MM_MUST_USE mm_status_t paging_translate(struct address_space *space, vaddr_t address,
                                         paddr_t *out);

struct paging_mapping {
    paddr_t frame;          /* of the leaf's first byte */
    uint64_t leaf_bytes;    /* 4 KiB, 2 MiB or 1 GiB */
    paging_rights_t rights; /* effective: what all levels together allow */
};

/* As paging_translate, with the whole leaf. */
MM_MUST_USE mm_status_t paging_query(struct address_space *space, vaddr_t address,
                                     struct paging_mapping *out);

/* Makes the space the one this CPU uses, and drops every translation, global ones too (toggles
 * CR4.PGE: SDM vol. 3, 4.10.4.1). Leaves CR4.PGE on where the CPU has it. */
void paging_activate(struct address_space *space, const struct mm_cpu_features *features);

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

/* True if bits 63..(9 * levels + 11) of the address are equal. */
bool paging_is_canonical(vaddr_t address, unsigned levels);

MM_END_DECLS
#endif
