/* SPDX-License-Identifier: MIT */
/* A look at the page tables without a lock.
 *
 *      root -> PML5e (with LA57) -> PML4e -> PDPTe -> PDe -> PTe       an entry with PS is a leaf
 *
 *      63 NX | 51..12 address | 8 G | 7 PS | 2 U | 1 W | 0 P           (SDM vol. 3, 4.5)
 *
 * Apart from paging.c on purpose: nothing that is read is believed. Invariant: a table is read only if
 * the pmm says that the frame is one; at most one entry a level. */
#include "mm/walk.h"

#include <mm/hhdm.h>

#define PRESENT ((uint64_t)1 << 0)
#define WRITE   ((uint64_t)1 << 1)
#define USER    ((uint64_t)1 << 2)
#define LARGE   ((uint64_t)1 << 7)
#define GLOBAL  ((uint64_t)1 << 8)
#define NX      ((uint64_t)1 << 63)
#define ADDRESS 0x000ffffffffff000u

bool walk_entry_is_present(uint64_t entry)
{
    return (entry & PRESENT) != 0;
}

paging_rights_t walk_entry_rights(uint64_t entry)
{
    return ((entry & WRITE) != 0 ? PAGING_WRITE : 0) | ((entry & USER) != 0 ? PAGING_USER : 0) |
           ((entry & GLOBAL) != 0 ? PAGING_GLOBAL : 0) | ((entry & NX) == 0 ? PAGING_EXECUTE : 0);
}

static bool is_leaf(uint64_t entry, unsigned level)
{
    return level == 1 || (level <= 3 && (entry & LARGE) != 0);
}

/* Reads the entry of one level; false if the table is none, or the entry leads no further. */
static bool step_down(const struct address_space *space, vaddr_t address, paddr_t table,
                      unsigned level, struct walk *out)
{
    size_t index = (address >> (FRAME_SHIFT + 9 * (level - 1))) & (PAGING_ENTRIES - 1);

    if (pmm_peek_frame(space->pmm, table) != PMM_FRAME_TABLE)
        return false;
    const uint64_t *entries = (const uint64_t *)(uintptr_t)(hhdm_offset() + table);
    uint64_t entry = __atomic_load_n(&entries[index], __ATOMIC_RELAXED);
    out->step[out->count++] = (struct walk_step){ level, entry };
    return walk_entry_is_present(entry);
}

bool walk_peek(const struct address_space *space, vaddr_t address, struct walk *out)
{
    paging_rights_t rights = PAGING_WRITE | PAGING_EXECUTE | PAGING_USER;
    paddr_t table = space->root;

    *out = (struct walk){ 0 };
    if (space->pmm == NULL || !paging_is_canonical(address, space->levels))
        return false;
    for (unsigned level = space->levels; level > 0; level--) {
        if (!step_down(space, address, table, level, out))
            return false;
        uint64_t entry = out->step[out->count - 1].entry;
        uint64_t bytes = (uint64_t)1 << (FRAME_SHIFT + 9 * (level - 1));
        rights &= walk_entry_rights(entry);
        table = entry & ADDRESS;
        if (!is_leaf(entry, level))
            continue;
        out->frame = mm_round_down(table, bytes);
        out->leaf_bytes = bytes;
        out->rights = rights | (walk_entry_rights(entry) & PAGING_GLOBAL);
        return true;
    }
    return false;
}
