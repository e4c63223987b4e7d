/* SPDX-License-Identifier: MIT */
/* Asking the physical memory manager: states of frames, counters, the report.
 *
 * pmm->stats counts frames in caches as used (the chunks do). The fast paths count nothing: what lies in
 * the caches is summed up when somebody asks. */
#include "mm/pmm_parts.h"

#define REPORTED_RANGES 16u

/* ---- states ---- */

static enum pmm_frame_state state_of(const struct pmm *pmm, const struct pmm_range *range,
                                     paddr_t address)
{
    enum pmm_frame_state state = pmm_state_of_id(pmm->core, id_of(range, address));

    if ((state == PMM_FRAME_USED && pmm_is_cached(pmm, mm_round_down(address, FRAME_SIZE))) ||
        (state == PMM_FRAME_TABLE && pmm_is_free_table(pmm->core, id_of(range, address))))
        return PMM_FRAME_FREE;
    return state;
}

enum pmm_frame_state pmm_frame_state(struct pmm *pmm, paddr_t address)
{
    enum pmm_frame_state state = PMM_FRAME_OUTSIDE;
    uint64_t saved = mm_port_lock(&pmm->lock);
    const struct pmm_range *range = pmm_range_of(pmm, address);

    if (range != NULL)
        state = state_of(pmm, range, address);
    mm_port_unlock(&pmm->lock, saved);
    return state;
}

/* The count in `stats` is set when every range is: until then the ranges are not looked at. */
enum pmm_frame_state pmm_peek_frame(const struct pmm *pmm, paddr_t address)
{
    const struct pmm_range *range =
        __atomic_load_n(&pmm->stats.range_count, __ATOMIC_ACQUIRE) == pmm->range_count
            ? pmm_range_of(pmm, address)
            : NULL;

    return range == NULL ? PMM_FRAME_OUTSIDE : state_of(pmm, range, address);
}

struct pmm_peek pmm_peek_frames(const struct pmm *pmm, paddr_t address)
{
    const struct pmm_range *range =
        __atomic_load_n(&pmm->stats.range_count, __ATOMIC_ACQUIRE) == pmm->range_count
            ? pmm_range_of(pmm, address)
            : NULL;

    if (range == NULL)
        return (struct pmm_peek){ 0, 0, 0 };
    uint64_t word = id_of(range, address) / BITS_PER_WORD;
    struct pmm_peek peek = { .known = range_mask(range, word) };
    peek.free = pmm_state_mask(pmm->core, word, PMM_FRAME_FREE) |
                pmm_cached_mask(pmm, mm_round_down(address, PMM_PEEK_BYTES));
    peek.table = pmm_state_mask(pmm->core, word, PMM_FRAME_TABLE);
    for (unsigned i = 0; peek.table != 0 && i < BITS_PER_WORD; i++)
        if ((peek.table >> i & 1) != 0 && pmm_is_free_table(pmm->core, word * BITS_PER_WORD + i)) {
            peek.table &= ~((uint64_t)1 << i);
            peek.free |= (uint64_t)1 << i;
        }
    return peek;
}

/* ---- counters ---- */

static struct pmm_stats stats_locked(const struct pmm *pmm)
{
    struct pmm_stats stats = pmm->stats;

    if (pmm->core == NULL)
        return stats;
    stats.cached_frames = pmm_count_cached_locked(pmm, &stats.zeroed_frames);
    stats.free_frames += stats.cached_frames;
    stats.used_frames -= stats.cached_frames - pmm->core->zero_table_count;
    return stats;
}

struct pmm_stats pmm_stats(struct pmm *pmm)
{
    uint64_t saved = mm_port_lock(&pmm->lock);
    struct pmm_stats stats = stats_locked(pmm);

    mm_port_unlock(&pmm->lock, saved);
    return stats;
}

struct mm_extent pmm_range_extent(const struct pmm *pmm, size_t index)
{
    MM_ASSERT(index < pmm->range_count);
    const struct pmm_range *range = &pmm->ranges[index];
    return (struct mm_extent){ range->base, range_end(range) };
}

static uint64_t cached_in(const struct magazine *magazine, const uint64_t *entries,
                          struct mm_extent extent)
{
    uint64_t count = 0;
    int32_t bottom = __atomic_load_n(&magazine->bottom, __ATOMIC_ACQUIRE);

    for (int32_t i = magazine->floor; i < bottom; i++) {
        paddr_t address = bits_load(&entries[i]);
        count += address >= extent.base && address < extent.end;
    }
    return count;
}

/* As pmm_count_cached_locked, of one range. */
static uint64_t count_cached_in(const struct pmm *pmm, struct mm_extent extent, uint64_t *zeroed)
{
    uint64_t dirty = 0;

    for (unsigned i = 0; i < pmm->core->slots_end; i++) {
        const struct pmm_slot *slot = pmm->slots[i];
        if (slot == &pmm_absent_slot)
            continue;
        dirty += cached_in(&slot->dirty, slot->entries + SLOT_FIRST_DIRTY, extent);
        dirty += CHUNK_FRAMES * cached_in(&slot->large, slot->blocks, extent);
        *zeroed += cached_in(&slot->zero, slot->entries + SLOT_FIRST_ZERO, extent);
    }
    return dirty + *zeroed;
}

static uint64_t free_tables_in(const struct pmm_core *core, const struct pmm_range *range)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < core->zero_table_count; i++)
        count += core->zero_tables[i] >= range_first_id(range) &&
                 core->zero_tables[i] < range_end_id(range);
    return count;
}

struct pmm_range_stats pmm_range_stats(struct pmm *pmm, size_t index)
{
    struct mm_extent extent = pmm_range_extent(pmm, index);
    const struct pmm_range *range = &pmm->ranges[index];
    uint64_t saved = mm_port_lock(&pmm->lock);
    uint64_t tables = free_tables_in(pmm->core, range), zeroed = tables;
    uint64_t cached = count_cached_in(pmm, extent, &zeroed);
    struct pmm_range_stats stats = { .extent = extent,
                                     .total_frames = range->frames,
                                     .free_frames = range->free_frames + cached,
                                     .table_frames = range->table_frames - tables,
                                     .reserved_frames = range->reserved_frames,
                                     .cached_frames = cached,
                                     .zeroed_frames = zeroed,
                                     .retired_frames = range->retired_frames };

    mm_port_unlock(&pmm->lock, saved);
    stats.used_frames = stats.total_frames - stats.free_frames - stats.reserved_frames;
    return stats;
}

uint64_t pmm_largest_free(struct pmm *pmm)
{
    uint64_t saved = mm_port_lock(&pmm->lock);
    uint64_t frames = pmm_longest_run_locked(pmm);

    mm_port_unlock(&pmm->lock, saved);
    return frames;
}

/* ---- the report ---- */

static void report_range(struct pmm *pmm, size_t index)
{
    struct pmm_range_stats range = pmm_range_stats(pmm, index);

    mm_info(
        "Frames: 0x%lx-0x%lx: %lu KB: %lu KB free (in caches: %lu KB, zero: %lu KB), %lu KB used "
        "(page tables: %lu KB), %lu KB reserved (retired: %lu KB)",
        range.extent.base, range.extent.end, range.total_frames * 4, range.free_frames * 4,
        range.cached_frames * 4, range.zeroed_frames * 4, range.used_frames * 4,
        range.table_frames * 4, range.reserved_frames * 4, range.retired_frames * 4);
}

void pmm_report(struct pmm *pmm)
{
    struct pmm_stats stats = pmm_stats(pmm);

    mm_info("Frames: %lu KB: %lu KB free, %lu KB used (page tables: %lu KB), %lu KB reserved "
            "(retired: %lu KB)",
            stats.total_frames * 4, stats.free_frames * 4, stats.used_frames * 4,
            stats.table_frames * 4, stats.reserved_frames * 4, stats.retired_frames * 4);
    mm_info("Frames: %lu KB of what is free lie in caches of CPUs, %lu KB are known to be zero; "
            "the largest free block has %lu KB",
            stats.cached_frames * 4, stats.zeroed_frames * 4, pmm_largest_free(pmm) * 4);
    for (size_t i = 0; i < stats.range_count && i < REPORTED_RANGES; i++)
        report_range(pmm, i);
    if (stats.range_count > REPORTED_RANGES)
        mm_info("Frames: and %lu ranges more", stats.range_count - REPORTED_RANGES);
}
