/* SPDX-License-Identifier: MIT */
/* Starting: from the ranges of the memory map to chunks, without touching anything for each frame.
 *
 *      metadata   core | ranges | taken 64 B | sets | info | plain | clean | groups | sides
 *                                \---------- for each chunk of 2 MiB ---/
 *
 * A run of RAM consists of segments, free and reserved by turns. A chunk that a segment covers takes a bit
 * in `whole`, or the kind RESERVED. A chunk with a border in it, or at an end of the run, begins as
 * RESERVED, and the free segments then free their part of it as pmm_release_range would. */
#include "mm/pmm_parts.h"

#define SPARE_SIDES 9u /* the metadata itself, low memory, tables, and three kept (pmm_side.c) */
#define HIGH_MEMORY MM_GIB(4)

/* ---- the map: runs and segments ---- */

/* Takes the run of RAM that begins at or behind map->ranges[*index]; false if there is none. */
static bool next_run(const struct memmap *map, size_t *index, struct mm_extent *run)
{
    while (*index < map->count && !memmap_type_is_ram(map->ranges[*index].type))
        (*index)++;
    if (*index == map->count)
        return false;
    *run = (struct mm_extent){ map->ranges[*index].base, map->ranges[*index].end };
    while (++*index < map->count && memmap_type_is_ram(map->ranges[*index].type) &&
           map->ranges[*index].base == run->end)
        run->end = map->ranges[*index].end;
    return true;
}

static uint64_t chunks_of(struct mm_extent run)
{
    return (mm_round_up(run.end, LARGE_PAGE_SIZE) - mm_round_down(run.base, LARGE_PAGE_SIZE)) /
           LARGE_PAGE_SIZE;
}

static bool may_be_free(uint64_t type)
{
    return type == BOOT_USABLE || type == BOOT_METADATA;
}

/* ---- the layout ---- */

struct layout {
    uint64_t runs, chunks, sides;
    uint64_t ranges, taken, partial, whole, tables, info, plain, clean, groups, side; /* offsets */
    uint64_t bytes;
};

static uint64_t place(struct layout *layout, uint64_t bytes)
{
    uint64_t at = layout->bytes;

    layout->bytes = mm_round_up(at + bytes, 64);
    return at;
}

/* The same before and after memmap_take() has made metadata of usable memory. */
static struct layout layout_of(const struct memmap *map)
{
    struct layout layout = { .sides = SPARE_SIDES };
    struct mm_extent run;

    for (size_t index = 0; next_run(map, &index, &run); layout.runs++)
        layout.chunks += chunks_of(run);
    for (size_t i = 1; i < map->count; i++)
        if (map->ranges[i - 1].end == map->ranges[i].base &&
            may_be_free(map->ranges[i - 1].type) != may_be_free(map->ranges[i].type))
            layout.sides++;
    uint64_t set = bittree_words(layout.chunks) * sizeof(uint64_t);
    (void)place(&layout, sizeof(struct pmm_core));
    layout.ranges = place(&layout, layout.runs * sizeof(struct pmm_range));
    layout.taken = place(&layout, layout.chunks * CHUNK_WORDS * sizeof(uint64_t));
    layout.partial = place(&layout, set);
    layout.whole = place(&layout, set);
    layout.tables = place(&layout, set);
    layout.info = place(&layout, layout.chunks * sizeof(uint16_t));
    layout.plain = place(&layout, mm_round_up(layout.chunks, sizeof(uint64_t)));
    layout.clean = place(&layout, (layout.chunks + 63) / 64 * sizeof(uint64_t));
    layout.groups = place(&layout, (layout.chunks + RUN_GROUP - 1) / RUN_GROUP);
    layout.side = place(&layout, layout.sides * sizeof(struct pmm_side));
    return layout;
}

uint64_t pmm_metadata_bytes(const struct memmap *map)
{
    return layout_of(map).bytes;
}

static struct pmm_core *place_core(void *metadata, const struct layout *layout, bool clean)
{
    uint8_t *at = metadata;
    struct pmm_core *core = metadata;

    *core = (struct pmm_core){ .chunks = layout->chunks,
                               .taken = (void *)(at + layout->taken),
                               .info = (void *)(at + layout->info),
                               .plain = (void *)(at + layout->plain),
                               .clean = (void *)(at + layout->clean),
                               .run_groups = (void *)(at + layout->groups),
                               .hint = CHUNK_NONE,
                               .table_hint = CHUNK_NONE,
                               .large_hint = CHUNK_NONE };
    bittree_init(&core->partial, layout->chunks, (void *)(at + layout->partial));
    bittree_init(&core->whole, layout->chunks, (void *)(at + layout->whole));
    bittree_init(&core->tables, layout->chunks, (void *)(at + layout->tables));
    memset(core->plain, 0, mm_round_up(layout->chunks, sizeof(uint64_t)));
    memset(core->clean, clean ? 0xff : 0, (layout->chunks + 63) / 64 * sizeof(uint64_t));
    memset(core->run_groups, 0, (layout->chunks + RUN_GROUP - 1) / RUN_GROUP);
    side_start(core, (void *)(at + layout->side), layout->sides);
    return core;
}

/* ---- the runs ---- */

/* Chunks of [base, end) of a run begin as RESERVED: those covered, and those that it begins or ends in. */
static void reserve_segment(struct pmm *pmm, const struct pmm_range *range, paddr_t base,
                            paddr_t end)
{
    uint64_t first = id_of(range, base) / CHUNK_FRAMES;
    uint64_t last = (id_of(range, end - FRAME_SIZE)) / CHUNK_FRAMES;

    for (uint64_t chunk = first; chunk <= last; chunk++)
        chunk_set_info(pmm->core, chunk, CHUNK_RESERVED, 0);
}

static void free_piece(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to)
{
    bool clean = bits_test(pmm->core->clean, from / CHUNK_FRAMES);

    pmm_change_locked(pmm, range, from, to, PMM_FRAME_RESERVED, PMM_FRAME_FREE);
    if (clean)
        bits_set(pmm->core->clean, from / CHUNK_FRAMES);
}

static void free_segment(struct pmm *pmm, struct pmm_range *range, paddr_t base, paddr_t end)
{
    struct pmm_core *core = pmm->core;
    uint64_t from = id_of(range, base), to = from + (end - base) / FRAME_SIZE;
    uint64_t first = (from + CHUNK_FRAMES - 1) / CHUNK_FRAMES, last = to / CHUNK_FRAMES;

    mm_port_memory_freed(phys_to_virt(base), end - base);
    if (first > last) {
        free_piece(pmm, range, from, to);
        return;
    }
    if (from < first * CHUNK_FRAMES)
        free_piece(pmm, range, from, first * CHUNK_FRAMES);
    if (last * CHUNK_FRAMES < to)
        free_piece(pmm, range, last * CHUNK_FRAMES, to);
    if (first == last)
        return;
    bittree_add_range(&core->whole, first, last);
    core->whole_count += last - first;
    range->free_frames += (last - first) * CHUNK_FRAMES;
    range->reserved_frames -= (last - first) * CHUNK_FRAMES;
    pmm->stats.free_frames += (last - first) * CHUNK_FRAMES;
    pmm->stats.reserved_frames -= (last - first) * CHUNK_FRAMES;
}

static void add_run(struct pmm *pmm, struct mm_extent run)
{
    struct pmm_core *core = pmm->core;
    struct pmm_range *range = &pmm->ranges[pmm->range_count++];
    uint64_t first_chunk =
        pmm->range_count == 1 ? 0 : (range_end_id(range - 1) + CHUNK_FRAMES - 1) / CHUNK_FRAMES;

    *range = (struct pmm_range){
        .base = run.base,
        .frames = (run.end - run.base) / FRAME_SIZE,
        .reserved_frames = (run.end - run.base) / FRAME_SIZE,
        .bias =
            first_chunk * CHUNK_FRAMES - (mm_round_down(run.base, LARGE_PAGE_SIZE) >> FRAME_SHIFT),
    };
    pmm->stats.total_frames += range->frames;
    pmm->stats.reserved_frames += range->frames;
    if (run.base < HIGH_MEMORY)
        core->high_chunk = run.end <= HIGH_MEMORY ? first_chunk + chunks_of(run)
                                                  : id_of(range, HIGH_MEMORY) / CHUNK_FRAMES;
    /* The ends; then free segments free their part of them. */
    if (!mm_is_aligned(run.base, LARGE_PAGE_SIZE))
        reserve_segment(pmm, range, run.base, run.base + FRAME_SIZE);
    if (!mm_is_aligned(run.end, LARGE_PAGE_SIZE))
        reserve_segment(pmm, range, run.end - FRAME_SIZE, run.end);
}

/* A range of the map, for all reserved ones first (`free` is false), then for all usable ones. */
static void add_segment(struct pmm *pmm, const struct mm_range *part, paddr_t lowest, bool free)
{
    paddr_t base = part->base, border = part->type == BOOT_USABLE ? lowest : part->end;

    border = border < base ? base : border > part->end ? part->end : border;
    struct pmm_range *range = pmm_range_of(pmm, base);
    if (!free && base < border)
        reserve_segment(pmm, range, base, border);
    if (free && border < part->end)
        free_segment(pmm, range, border, part->end);
}

/* ---- all of it ---- */

static void set_caches(struct pmm *pmm, const struct pmm_config *config)
{
    struct pmm_core *core = pmm->core;
    uint64_t wanted = config->magazine_frames == 0 ? SLOT_DIRTY : config->magazine_frames;

    core->dirty_capacity = wanted > SLOT_DIRTY ? SLOT_DIRTY : (uint32_t)wanted;
    core->zero_capacity = core->dirty_capacity < 8 ? 1 : core->dirty_capacity / 8;
    core->small =
        config->magazine_frames == 0 && pmm->stats.total_frames * FRAME_SIZE < PMM_SMALL_BYTES;
    core->full = config->full_harden;
    core->trace = config->trace;
    core->cached = !core->small && !core->full && !core->trace;
}

void pmm_init(struct pmm *pmm, const struct memmap *map, void *metadata,
              const struct pmm_config *config)
{
    static const struct pmm_config usual;
    struct layout layout = layout_of(map);
    struct mm_extent run;

    config = config == NULL ? &usual : config;
    paddr_t lowest = config->low_memory ? FRAME_SIZE : MM_LOW_MEMORY_END;
    memset(pmm, 0, sizeof(*pmm));
    for (size_t i = 0; i < MM_PORT_SLOT_TABLE; i++)
        pmm->slots[i] = &pmm_absent_slot;
    pmm->core = place_core(metadata, &layout, config->memory_is_zero);
    pmm->ranges = (struct pmm_range *)(void *)((uint8_t *)metadata + layout.ranges);
    pmm->hhdm = hhdm_offset();
    pmm->taken = pmm->core->taken;
    pmm->plain = pmm->core->plain;
    for (size_t index = 0; next_run(map, &index, &run);)
        add_run(pmm, run);
    for (unsigned free = 0; free < 2; free++)
        for (size_t i = 0; i < map->count; i++)
            if (memmap_type_is_ram(map->ranges[i].type))
                add_segment(pmm, &map->ranges[i], lowest, free != 0);
    pmm->core->block_chunk = pmm->core->high_chunk < pmm->core->chunks ? pmm->core->high_chunk : 0;
    set_caches(pmm, config);
    /* From here on pmm_peek_frame looks. */
    __atomic_store_n(&pmm->stats.range_count, pmm->range_count, __ATOMIC_RELEASE);
}
