/* SPDX-License-Identifier: MIT */
/* A look at the page tables without a lock, for what must answer while somebody holds it. Internal to mm.
 *
 * A table is read only where the pmm knows a page table, so that a table that was freed meanwhile leads
 * nowhere. Tables that another CPU changes give the answer of this or of the last moment. */
#ifndef MM_WALK_H
#define MM_WALK_H

#include <mm/paging.h>

#define WALK_LEVELS 5u

struct walk_step {
    unsigned level; /* 5 or 4 .. 1 */
    uint64_t entry; /* as the CPU reads it */
};

struct walk {
    struct walk_step step[WALK_LEVELS]; /* from the root down */
    unsigned count;
    paddr_t frame; /* of the leaf; these three only if there is one */
    uint64_t leaf_bytes;
    paging_rights_t rights; /* of write, execute, user and global: what all levels together allow */
};

/* Follows the address from the root of the space.
 *   Returns:   true if a leaf maps it; *out is filled either way, as far as the tables go.
 *   Context:   any. */
bool walk_peek(const struct address_space *space, vaddr_t address, struct walk *out);

/* The rights of one entry on its own. */
paging_rights_t walk_entry_rights(uint64_t entry);

/* True if the entry is present. */
bool walk_entry_is_present(uint64_t entry);

#endif
