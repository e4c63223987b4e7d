/* SPDX-License-Identifier: MIT */
/* See walker.h. Bit 0 of an entry is P, bit 7 is PS (levels 2 and 3), bits 51..12 the address; bits
 * 5 and 6, accessed and dirty, are the CPU's to write and left out of the hash. */
#include "walker.h"

#include <string.h>

#define ENTRY_ADDRESS        0x000ffffffffff000u
#define ENTRY_ACCESSED_DIRTY 0x60u

static bool refers_to_table(uint64_t entry, unsigned level)
{
    return (entry & 1) != 0 && level > 1 && !((level == 2 || level == 3) && (entry & 0x80) != 0);
}

void walker_for_each(paddr_t root, unsigned levels, void (*visit)(void *context, paddr_t table),
                     void *context)
{
    const uint64_t *entries = hosted_ram_at(root);

    assert_non_null(entries);
    visit(context, root);
    for (size_t i = 0; i < 512; i++)
        if (refers_to_table(entries[i], levels))
            walker_for_each(entries[i] & ENTRY_ADDRESS, levels - 1, visit, context);
}

struct leaf_walk {
    unsigned levels;
    void (*visit)(void *context, const struct walker_leaf *leaf);
    void *context;
};

static void walk_leaves(const struct leaf_walk *walk, paddr_t table, unsigned level,
                        struct walker_leaf above)
{
    const uint64_t *entries = hosted_ram_at(table);
    unsigned shift = 12 + 9 * (level - 1);

    assert_non_null(entries);
    for (uint64_t i = 0; i < 512; i++) {
        struct walker_leaf leaf = above;

        if ((entries[i] & 1) == 0)
            continue;
        leaf.page |= i << shift;
        if (level == walk->levels && i >= 256)
            leaf.page |= ~(uint64_t)0 << (shift + 9);
        leaf.write &= (entries[i] & 2) != 0;
        leaf.user &= (entries[i] & 4) != 0;
        leaf.execute &= entries[i] >> 63 == 0;
        if (refers_to_table(entries[i], level)) {
            walk_leaves(walk, entries[i] & ENTRY_ADDRESS, level - 1, leaf);
            continue;
        }
        leaf.bytes = (uint64_t)1 << shift;
        leaf.frame = entries[i] & ENTRY_ADDRESS & ~(leaf.bytes - 1);
        leaf.global = (entries[i] & 0x100) != 0;
        walk->visit(walk->context, &leaf);
    }
}

void walker_for_each_leaf(const struct address_space *space,
                          void (*visit)(void *context, const struct walker_leaf *leaf),
                          void *context)
{
    const struct leaf_walk walk = { space->levels, visit, context };
    const struct walker_leaf all = { .write = true, .execute = true, .user = true };

    walk_leaves(&walk, space->root, space->levels, all);
}

static void mix(struct walker_summary *summary, uint64_t value)
{
    summary->hash = (summary->hash ^ value) * 0x100000001b3u;
    summary->hash ^= summary->hash >> 29;
}

static void look(struct walker_summary *summary, paddr_t table, unsigned level, bool is_root)
{
    const uint64_t *entries = hosted_ram_at(table);
    size_t present = 0;

    assert_non_null(entries);
    summary->tables++;
    mix(summary, table);
    for (size_t i = 0; i < 512; i++) {
        uint64_t entry = entries[i];

        mix(summary, entry & ~(uint64_t)ENTRY_ACCESSED_DIRTY);
        if ((entry & 1) == 0)
            continue;
        present++;
        if (refers_to_table(entry, level))
            look(summary, entry & ENTRY_ADDRESS, level - 1, false);
        else
            summary->leaves[level - 1]++;
    }
    summary->empty_tables += present == 0 && !is_root;
}

struct walker_summary walker_look(paddr_t root, unsigned levels)
{
    struct walker_summary summary = { .hash = 0xcbf29ce484222325u };

    look(&summary, root, levels, true);
    return summary;
}

struct walker_snapshot walker_snapshot(struct address_space *space)
{
    return (struct walker_snapshot){ walker_look(space->root, space->levels), space->stats,
                                     pmm_stats(space->pmm) };
}

void assert_snapshot_equal(struct address_space *space, const struct walker_snapshot *before)
{
    struct walker_snapshot now = walker_snapshot(space);

    assert_memory_equal(&now.tables, &before->tables, sizeof now.tables);
    assert_memory_equal(&now.stats, &before->stats, sizeof now.stats);
    assert_pmm_stats_equal(now.pmm, before->pmm);
}

void assert_space_sound(struct address_space *space)
{
    struct walker_summary summary = walker_look(space->root, space->levels);

    assert_int_equal(summary.empty_tables, 0);
    assert_int_equal(summary.tables, space->stats.table_frames);
    assert_memory_equal(summary.leaves, space->stats.leaves, sizeof summary.leaves);
}

void walker_use(const struct address_space *space)
{
    hosted_cpu()->cr3 = space->root;
}
