/* SPDX-License-Identifier: MIT */
/* Mapping: leaves where none are.
 *
 * A range is cut by the entries that it meets. One that it fills and whose frame is aligned becomes
 * a leaf; else the table below gets the rest, a new one if there is none. A new table is filled before
 * the entry that leads to it is written, and what was not present is in no CPU's caches, so nothing
 * need be dropped (but where a table on the way lets user code in for the first time).
 *
 * A single page goes a short way first: the table of the last change, under the lock. */
#include "mm/paging_change.h"

static bool is_leaf_piece(const struct change *change, unsigned level, struct piece piece)
{
    unsigned highest = change->space->huge_pages ? 3 : 2;

    return level > 1 && level <= highest && change->frames == NULL &&
           piece.bytes == level_bytes(level) &&
           mm_is_aligned(piece.page | piece.frame, level_bytes(level));
}

/* ---- plan ---- */

static mm_status_t plan_pages(const uint64_t *table, struct piece piece)
{
    const uint64_t *entry = &table[entry_index(piece.page, 1)];
    uint64_t any = 0;

    for (uint64_t i = 0; i < piece.bytes / PAGE_SIZE; i++)
        any |= entry[i];
    return any == 0 ? MM_OK : MM_ALREADY_MAPPED;
}

/* Checks that nothing is mapped in `rest` and adds the tables that mapping it takes. `table` is NULL
 * below a table that does not exist yet. */
static mm_status_t plan_map(const struct change *change, const uint64_t *table, unsigned level,
                            struct piece rest, uint64_t *tables)
{
    mm_status_t status = MM_OK;

    if (level == 1)
        return table == NULL ? MM_OK : plan_pages(table, rest);
    while (status == MM_OK && rest.bytes > 0) {
        struct piece piece = piece_split(&rest, level);
        uint64_t entry = table == NULL ? 0 : table[entry_index(piece.page, level)];

        if (entry_is_present(entry)) {
            /* A table has a present entry, so a piece that fills this one meets it. */
            if (entry_is_leaf(entry, level) || piece.bytes == level_bytes(level))
                return MM_ALREADY_MAPPED;
            status = plan_map(change, table_below(entry), level - 1, piece, tables);
        } else if (!is_leaf_piece(change, level, piece)) {
            (*tables)++;
            if (level > 2)
                status = plan_map(change, NULL, level - 1, piece, tables);
        }
    }
    return status;
}

/* ---- apply ---- */

/* Writes the leaves of one level-1 table. Other CPUs may walk it: each store is one of 8 bytes. */
static void map_pages(struct change *change, uint64_t *table, struct piece piece, uint64_t *parent)
{
    uint64_t *entry = &table[entry_index(piece.page, 1)];
    uint64_t count = piece.bytes / PAGE_SIZE;
    uint64_t value = piece.frame | change->attributes;

    if (change->frames == NULL) {
        for (uint64_t i = 0; i < count; i++)
            entry_set(&entry[i], value + i * FRAME_SIZE);
    } else {
        const paddr_t *frames = &change->frames[(piece.page - change->base) / PAGE_SIZE];
        for (uint64_t i = 0; i < count; i++)
            entry_set(&entry[i], frames[i] | change->attributes);
    }
    entry_add_count(parent, (int64_t)count);
    change->space->stats.leaves[0] += count;
}

static void apply_map(struct change *change, uint64_t *table, unsigned level, struct piece rest,
                      uint64_t *parent)
{
    uint64_t user = change->attributes & ENTRY_USER;

    if (level == 1) {
        map_pages(change, table, rest, parent);
        return;
    }
    while (rest.bytes > 0) {
        struct piece piece = piece_split(&rest, level);
        uint64_t *entry = &table[entry_index(piece.page, level)];
        uint64_t hook = *entry;

        if (is_leaf_piece(change, level, piece)) {
            entry_set(entry, leaf_entry(piece.frame, level, change->attributes));
            entry_add_count(parent, 1);
            change->space->stats.leaves[level - 1]++;
            continue;
        }
        if (entry_is_present(hook)) {
            change_let_user_in(change, entry, level, piece.page);
            apply_map(change, table_below(hook), level - 1, piece, entry);
        } else {
            hook = table_list_take(&change->fresh) | ENTRY_PRESENT | ENTRY_WRITE | user;
            apply_map(change, table_below(hook), level - 1, piece, &hook);
            change_set_table_entry(change, entry, level, hook);
            change->space->stats.table_frames++;
            entry_add_count(parent, 1);
        }
        if (level == 2)
            change_remember(change->space, piece.page, table_below(hook), entry);
    }
}

/* ---- the calls ---- */

mm_status_t paging_map_range(struct address_space *space, vaddr_t page, paddr_t frame,
                             uint64_t bytes, paging_rights_t rights)
{
    struct change change;
    mm_status_t status = change_check_pages(space, page, bytes);

    change_init(&change, space, CHANGE_MAP, page);
    if (status == MM_OK)
        status = change_check_frames(space, frame, bytes);
    if (status == MM_OK)
        status = change_check_rights(space, rights, &change.attributes);
    if (status != MM_OK)
        return status;
    return change_run(&change, (struct piece){ page, frame, bytes }, plan_map, apply_map);
}

mm_status_t paging_map_frames(struct address_space *space, vaddr_t page, const paddr_t *frames,
                              uint64_t count, paging_rights_t rights)
{
    struct change change;
    mm_status_t status = MM_INVALID_ADDRESS;

    change_init(&change, space, CHANGE_MAP, page);
    change.frames = frames;
    if (count <= UINT64_MAX / PAGE_SIZE)
        status = change_check_pages(space, page, count * PAGE_SIZE);
    for (uint64_t i = 0; status == MM_OK && i < count; i++)
        status = change_check_frames(space, frames[i], FRAME_SIZE);
    if (status == MM_OK)
        status = change_check_rights(space, rights, &change.attributes);
    if (status != MM_OK)
        return status;
    return change_run(&change, (struct piece){ page, 0, count * PAGE_SIZE }, plan_map, apply_map);
}

mm_status_t paging_map_page(struct address_space *space, vaddr_t page, paddr_t frame,
                            paging_rights_t rights)
{
    uint64_t attributes = attributes_of(rights);
    bool is_plain = attributes != 0 && ((page | frame) & (PAGE_SIZE - 1)) == 0 &&
                    frame >> space->physical_bits == 0 &&
                    ((rights & PAGING_GLOBAL) == 0 || space->kernel == NULL);

    if (__builtin_expect(is_plain, 1)) {
        uint64_t saved = mm_port_lock(&space->lock);
        if (__builtin_expect(space->last.region == page / LARGE_PAGE_SIZE, 1) &&
            (attributes & ~*space->last.entry & ENTRY_USER) == 0) {
            uint64_t *entry = &space->last.table[entry_index(page, 1)];
            bool is_free = *entry == 0;
            if (is_free) {
                entry_set(entry, frame | attributes);
                entry_add_count(space->last.entry, 1);
                space->stats.leaves[0]++;
            }
            mm_port_unlock(&space->lock, saved);
            return is_free ? MM_OK : MM_ALREADY_MAPPED;
        }
        mm_port_unlock(&space->lock, saved);
    }
    return paging_map_range(space, page, frame, PAGE_SIZE, rights);
}
