/* SPDX-License-Identifier: MIT */
/* The page tables as the CPU sees them: from CR3 on, one entry per level, for fault reports. */
#ifndef KERNEL_WALK_H
#define KERNEL_WALK_H

#include <mm/types.h>

#define WALK_LEVELS_MAX 5u

enum walk_end {
    WALK_LEAF,          /* the last entry maps the address */
    WALK_NOT_PRESENT,   /* the last entry is not present */
    WALK_RESERVED_BIT,  /* the last entry has a bit set that must be 0 */
    WALK_UNREADABLE,    /* the next table does not lie in memory that is known and mapped */
    WALK_NOT_CANONICAL, /* no entry belongs to the address */
};

struct walk_entry {
    unsigned level; /* 5 (PML5) ... 1 (page table) */
    unsigned index;
    paddr_t at;
    uint64_t value;
    uint64_t reserved; /* bits of `value` that must be 0 (SDM vol. 3, 4.5.4) */
};

struct walk {
    struct walk_entry entry[WALK_LEVELS_MAX]; /* from the root on */
    unsigned count;
    enum walk_end end;
    paddr_t table; /* WALK_UNREADABLE: the table that was not read */
};

/* Walks the live tables (CR3, CR4.LA57) to the address.
 *   Returns:    every entry read, and how it ended, in *out.
 *   Locking:    none. Context: any, before mm is up too; only memory is read that the map calls RAM. */
void walk_tables(vaddr_t address, struct walk *out);

/* True if the address is mapped and every level lets user code in. As walk_tables(). */
bool walk_is_user_page(vaddr_t address);

/* Prints the walk, one line per level, then what all levels together say. */
void walk_print(vaddr_t address);

#endif
