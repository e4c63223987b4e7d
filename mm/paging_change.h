/* SPDX-License-Identifier: MIT */
/* A change of page tables in three steps. Internal to mm: paging_map.c and paging_alter.c say what the
 * steps are, paging_change.c takes them.
 *
 *      plan    under the lock: may all of it be done, and how many tables does it take?
 *      stock   without the lock, since the pmm may log: take that many from the pmm
 *      apply   under the lock, after a new plan that says the same: write; nothing can fail
 *
 * Translations that become stale are collected in a batch, which mm_port_tlb_shootdown() drops from
 * every CPU while the lock is held. Tables that leave the space go back to the pmm after that:
 *
 *      fresh      taken, not used yet; all zero but for the link
 *      raw        taken, not used yet; any content: all its entries will be written
 *      emptied    left the space; all zero but for the link
 *      unhooked   left the space as they were: other CPUs may still walk through them until the
 *                 shootdown, so nothing is written there before but the link
 *
 * The link stands in the first entry: a frame's address, so the present bit is clear. A table that
 * left is not used again in the same change, for the same reason. */
#ifndef MM_PAGING_CHANGE_H
#define MM_PAGING_CHANGE_H

#include "mm/paging_entry.h"
#include "mm/paging_owner.h"

#include <mm/hhdm.h>
#include <mm/log.h>

struct table_list {
    paddr_t first;
    uint64_t count;
};

/* How many tables a change takes: zeroed ones, and such that it fills. */
struct table_need {
    uint64_t fresh, raw;
};

enum change_kind { CHANGE_MAP, CHANGE_UNMAP, CHANGE_PROTECT, CHANGE_REMAP };

struct change {
    struct address_space *space;
    enum change_kind kind;
    uint64_t attributes;   /* of the new leaves */
    vaddr_t base;          /* of the whole range: what frames[0] stands for */
    const paddr_t *frames; /* map: of each page; NULL: contiguous */
    paddr_t *taken;        /* unmap: where the frame of each page goes; NULL: nowhere */
    struct table_list fresh, raw, emptied, unhooked;
    struct mm_tlb_batch batch;
};

typedef mm_status_t (*change_plan_fn)(const struct change *change, const uint64_t *table,
                                      unsigned level, struct piece rest, struct table_need *need);
typedef void (*change_apply_fn)(struct change *change, uint64_t *table, unsigned level,
                                struct piece rest, uint64_t *parent);

/* Begins a change: sets everything but the batch's pages, which need not be. */
void change_init(struct change *change, struct address_space *space, enum change_kind kind,
                 vaddr_t base);

/* Runs plan and apply on the piece, which has been checked.
 *   On failure: what plan said, or MM_OUT_OF_MEMORY; nothing changed. */
mm_status_t change_run(struct change *change, struct piece piece, change_plan_fn plan,
                       change_apply_fn apply);

/* The same with its checks, where neighbouring frames are given to the pages with `rights`. */
mm_status_t change_run_to_frames(struct change *change, struct piece piece, paging_rights_t rights,
                                 change_plan_fn plan, change_apply_fn apply);

/* Whether the pages may be changed in this space, and rights and frames be given to them. */
mm_status_t change_check_pages(const struct address_space *space, vaddr_t page, uint64_t bytes);
mm_status_t change_check_frames(const struct address_space *space, paddr_t frame, uint64_t bytes);
mm_status_t change_check_rights(const struct address_space *space, paging_rights_t rights,
                                uint64_t *attributes);

/* ---- for plan and apply ---- */

static inline uint64_t *table_at(paddr_t table)
{
    return phys_to_virt(table);
}

static inline uint64_t *table_below(uint64_t entry)
{
    return table_at(entry & ENTRY_ADDRESS);
}

paddr_t table_list_take(struct table_list *list);
void table_list_put(struct table_list *list, paddr_t table);

/* Writes an entry that leads to a table or did so; one of the kernel's root in the upper half is
 * written into the roots of the spaces that share it. */
void change_set_table_entry(struct change *change, uint64_t *entry, unsigned level, uint64_t value);

/* Lets user code through an entry that leads to a table, if the new leaves are the user's. */
void change_let_user_in(struct change *change, uint64_t *entry, unsigned level, vaddr_t page);

/* Takes the table below an entry out of the space. `is_zero`: all its entries are. */
void change_unhook(struct change *change, uint64_t *entry, unsigned level, bool is_zero);

/* The table and the entry that the next change of a 4 KiB leaf begins with. */
static inline void change_remember(struct address_space *space, vaddr_t page, uint64_t *table,
                                   uint64_t *entry)
{
    space->last.region = page / LARGE_PAGE_SIZE;
    space->last.table = table;
    space->last.entry = entry;
}

/* Adds translations that become stale. A page may be told several times in a row: for each level. */
static inline void batch_add(struct mm_tlb_batch *batch, vaddr_t page)
{
    if (batch->count > 0 && batch->pages[batch->count - 1] == page)
        return;
    if (batch->count < MM_TLB_BATCH_MAX)
        batch->pages[batch->count++] = page;
    else
        batch->everything = true;
}

static inline void batch_add_pages(struct mm_tlb_batch *batch, vaddr_t page, uint64_t count)
{
    for (uint64_t i = 0; i < count && !batch->everything; i++)
        batch_add(batch, page + i * PAGE_SIZE);
}

#endif
