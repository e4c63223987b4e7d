/* SPDX-License-Identifier: MIT */
/* Looks at page tables as a whole, from the entry layout of SDM vol. 3, 4.5 alone: which frames are
 * tables, what stands in them. Single addresses are the business of hosted_cpu_walk(). */
#ifndef TESTS_HOST_WALKER_H
#define TESTS_HOST_WALKER_H

#include "support.h"

struct walker_summary {
    uint64_t tables;       /* the root included */
    uint64_t empty_tables; /* without the root */
    uint64_t leaves[3];    /* of 4 KiB, 2 MiB, 1 GiB */
    uint64_t hash;         /* over address and content of every table, without accessed and dirty */
};

struct walker_summary walker_look(paddr_t root, unsigned levels);

/* Calls visit for every table, the root first. */
void walker_for_each(paddr_t root, unsigned levels, void (*visit)(void *context, paddr_t table),
                     void *context);

/* One leaf, with the rights that all levels together give. */
struct walker_leaf {
    vaddr_t page;
    paddr_t frame;
    uint64_t bytes;
    bool write, execute, user, global;
};

/* Calls visit for every leaf, lowest address of each half first. */
void walker_for_each_leaf(const struct address_space *space,
                          void (*visit)(void *context, const struct walker_leaf *leaf),
                          void *context);

/* Everything that must not change when a call fails. */
struct walker_snapshot {
    struct walker_summary tables;
    struct paging_stats stats;
    struct pmm_stats pmm;
};

struct walker_snapshot walker_snapshot(struct address_space *space);
void assert_snapshot_equal(struct address_space *space, const struct walker_snapshot *before);

/* The space's own counters and the pmm's agree with what the walk finds; no table is empty. */
void assert_space_sound(struct address_space *space);

/* Points the fake CPU's MMU at the space, without loading CR3: for hosted_cpu_walk(). */
void walker_use(const struct address_space *space);

#endif
