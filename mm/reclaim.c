/* SPDX-License-Identifier: MIT */
/* The boot loader's memory comes back.
 *
 *   map       | usable | loader | usable | executable | loader |      type 5 of the map: all of it
 *   tables          ^                ^                                live tables that lay elsewhere
 *
 * Owns nothing. A loader's answers, stack, descriptor tables and page tables lie in memory that its map
 * calls loader-reclaimable; init.c has kept back those page tables that a bad map calls usable. Both are
 * given to the frame allocator here, once, when the kernel says that nobody uses them any more.
 *
 * Invariants: a frame is released only if it is still reserved; memory below 1 MiB stays as pmm_init()
 * has left it; what the caller keeps is not touched; the loader's tables are all found before the
 * first of them is released, and followed only through RAM of the map, for nothing else is mapped. */
#include <mm/mm.h>

#define TABLE_PRESENT ((uint64_t)1 << 0)
#define TABLE_LEAF    ((uint64_t)1 << 7) /* PS, in a level that has such leaves */
#define TABLE_ADDRESS 0x000ffffffffff000u

struct reclaim {
    struct mm *mm;
    const struct mm_release *how;
    uint64_t released_frames;
};

/* ---- ranges ---- */

static void fill(const struct reclaim *reclaim, paddr_t base, paddr_t end)
{
    if (reclaim->how->fill)
        memset(phys_to_virt(base), reclaim->how->pattern, end - base);
}

static bool release_run(struct reclaim *reclaim, paddr_t base, paddr_t end)
{
    fill(reclaim, base, end);
    if (pmm_release_range(&reclaim->mm->pmm, base, end) != MM_OK)
        return false;
    reclaim->released_frames += (end - base) / FRAME_SIZE;
    return true;
}

/* In one piece, or frame by frame where some of them are not reserved (any more): bad RAM. */
static void release_range(struct reclaim *reclaim, paddr_t base, paddr_t end)
{
    bool whole = true;

    for (paddr_t frame = base; frame < end && whole; frame += FRAME_SIZE)
        whole = pmm_frame_state(&reclaim->mm->pmm, frame) == PMM_FRAME_RESERVED;
    if (whole && release_run(reclaim, base, end))
        return;
    for (paddr_t frame = base; frame < end; frame += FRAME_SIZE)
        if (pmm_frame_state(&reclaim->mm->pmm, frame) == PMM_FRAME_RESERVED)
            (void)release_run(reclaim, frame, frame + FRAME_SIZE);
}

/* The kept extent with the lowest end above `from`, of those that begin below `end`; NULL: none. */
static const struct mm_extent *next_kept(const struct reclaim *reclaim, paddr_t from, paddr_t end)
{
    const struct mm_extent *next = NULL;

    for (size_t i = 0; i < reclaim->how->keep_count; i++) {
        const struct mm_extent *kept = &reclaim->how->keep[i];
        if (kept->base < kept->end && kept->end > from && kept->base < end &&
            (next == NULL || kept->base < next->base))
            next = kept;
    }
    return next;
}

/* Returns true if all of the range came back. */
static bool release_loader_range(struct reclaim *reclaim, const struct mm_range *range)
{
    paddr_t lowest = reclaim->mm->options.low_memory ? FRAME_SIZE : MM_LOW_MEMORY_END;
    paddr_t from = range->base < lowest ? lowest : range->base;
    uint64_t before = reclaim->released_frames;
    const struct mm_extent *kept;

    while (from < range->end && (kept = next_kept(reclaim, from, range->end)) != NULL) {
        if (kept->base > from)
            release_range(reclaim, from, mm_round_down(kept->base, FRAME_SIZE));
        from = mm_round_up(kept->end, FRAME_SIZE);
    }
    if (from < range->end)
        release_range(reclaim, from, range->end);
    return reclaim->released_frames - before == (range->end - range->base) / FRAME_SIZE;
}

static void release_ranges(struct reclaim *reclaim)
{
    struct memmap *map = &reclaim->mm->map;

    for (size_t i = 0; i < map->count; i++) {
        if (map->ranges[i].type != BOOT_LOADER_RECLAIMABLE ||
            !release_loader_range(reclaim, &map->ranges[i]))
            continue;
        map->ranges[i].type = BOOT_USABLE;
        map->usable_bytes += map->ranges[i].end - map->ranges[i].base;
    }
    memmap_merge(map);
}

/* ---- page tables in memory that the map calls usable ---- */

struct table_list {
    struct mm *mm;
    paddr_t *tables;
    size_t count;
    size_t capacity;
};

static void list_table(struct table_list *list, paddr_t table)
{
    const struct mm_range *range = memmap_find(&list->mm->map, table);

    if (range == NULL || range->type != BOOT_USABLE || table < MM_LOW_MEMORY_END ||
        list->count == list->capacity ||
        pmm_frame_state(&list->mm->pmm, table) != PMM_FRAME_RESERVED)
        return;
    for (size_t i = 0; i < list->count; i++)
        if (list->tables[i] == table)
            return;
    list->tables[list->count++] = table;
}

static bool is_ram(const struct mm *mm, paddr_t address)
{
    const struct mm_range *range = memmap_find(&mm->map, address);

    return range != NULL && memmap_type_is_ram(range->type);
}

static void list_tables(struct table_list *list, paddr_t table, unsigned level)
{
    if (!is_ram(list->mm, table))
        return;
    list_table(list, table);
    for (size_t i = 0; level > 1 && i < PAGING_ENTRIES; i++) {
        uint64_t entry = ((const uint64_t *)phys_to_virt(table))[i];
        if ((entry & TABLE_PRESENT) != 0 && (level > 3 || (entry & TABLE_LEAF) == 0))
            list_tables(list, entry & TABLE_ADDRESS, level - 1);
    }
}

/* Their list takes memory for a moment; without it they stay kept back. */
static void release_tables(struct reclaim *reclaim)
{
    struct mm *mm = reclaim->mm;
    struct table_list list = { .mm = mm, .capacity = mm->loader_tables_kept };

    if (list.capacity == 0)
        return;
    list.tables = kheap_alloc(mm->heap, list.capacity * sizeof(list.tables[0]));
    if (list.tables == NULL)
        return;
    list_tables(&list, mm->loader_tables.root, mm->loader_tables.levels);
    for (size_t i = 0; i < list.count; i++)
        release_range(reclaim, list.tables[i], list.tables[i] + FRAME_SIZE);
    kheap_free(mm->heap, list.tables);
    mm->loader_tables_kept -= list.count;
}

/* ---- all of it ---- */

uint64_t mm_release_loader_memory(struct mm *mm, const struct mm_release *how)
{
    struct reclaim reclaim = { .mm = mm, .how = how };

    release_tables(&reclaim); /* first, while what lies in the ranges can still be walked */
    release_ranges(&reclaim);
    mm->boot.map = NULL;
    mm->boot.map_count = 0;
    mm->loader_bytes = reclaim.released_frames * FRAME_SIZE;
    mm_info("loader memory: %lu KB given back", mm->loader_bytes >> 10);
    return mm->loader_bytes;
}
