/* SPDX-License-Identifier: MIT */
/* Taking memory out of service and putting it back: reserve, release, and bad RAM.
 *
 *      free      --reserve-->  reserved  --release-->  free
 *      free, reserved  --retire-->  retired              for ever
 *      used, table     --retire-->  marked bad  --its free-->  retired
 *      a slot's cache  --retire-->  suspended   --its owner comes by-->  retired
 *
 * A frame in a cache is free: where one lies in the range, all caches are emptied first. */
#include "mm/pmm_parts.h"

/* ---- reserve and release ---- */

/* True if some frame of [from, to) that its chunk calls taken is free nevertheless: cached. */
static bool some_are_cached(const struct pmm *pmm, const struct pmm_range *range, uint64_t from,
                            uint64_t to)
{
    const struct pmm_core *core = pmm->core;

    if (core->slots_present == 0 && core->zero_table_count == 0)
        return false;
    for (uint64_t id = from; id < to; id++)
        if (pmm_is_cached(pmm, address_of(range, id)) || pmm_is_free_table(core, id))
            return true;
    return false;
}

/* True if all of [from, to) are free, once what lies in caches has come back. */
static bool are_free_locked(struct pmm *pmm, const struct pmm_range *range, uint64_t from,
                            uint64_t to, struct pmm_bugs *bugs)
{
    uint64_t other = pmm_find_other_locked(pmm, from, to, PMM_FRAME_FREE);

    if (other == to)
        return true;
    /* One that is used and not cached decides; it is most often the first. */
    if (!some_are_cached(pmm, range, other, other + 1))
        return false;
    (void)pmm_take_back_locked(pmm, bugs);
    return pmm_find_other_locked(pmm, from, to, PMM_FRAME_FREE) == to;
}

/* All of [from, to) are reserved or retired, and at least one is reserved. */
static bool can_be_released(const struct pmm *pmm, uint64_t from, uint64_t to)
{
    bool any = false;

    for (uint64_t word = from / BITS_PER_WORD; word * BITS_PER_WORD < to; word++) {
        uint64_t mask = bits_mask(word, from, to);
        uint64_t reserved = pmm_state_mask(pmm->core, word, PMM_FRAME_RESERVED) & mask;
        if ((reserved | (pmm_state_mask(pmm->core, word, PMM_FRAME_RETIRED) & mask)) != mask)
            return false;
        any |= reserved != 0;
    }
    return any;
}

static bool meets(const void *thing, const void *thing_end, uintptr_t base, uintptr_t end)
{
    return (uintptr_t)thing < end && (uintptr_t)thing_end > base;
}

/* True if something that the pmm keeps itself lies in the frames: metadata, caches, sides. */
static bool holds_own(const struct pmm *pmm, const struct pmm_range *range, uint64_t from,
                      uint64_t to)
{
    const struct pmm_core *core = pmm->core;
    uintptr_t base = (uintptr_t)frame_content(pmm, address_of(range, from));
    uintptr_t end = base + (to - from) * FRAME_SIZE;

    if (meets(core, core->sides + core->sides_first, base, end))
        return true;
    for (unsigned i = 0; i < core->slots_end; i++)
        if (pmm->slots[i] != &pmm_absent_slot && meets(pmm->slots[i], pmm->slots[i] + 1, base, end))
            return true;
    return side_lies_in(core, range, from, to);
}

static void release_locked(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to)
{
    while (from < to) {
        uint64_t end = pmm_find_other_locked(pmm, from, to, PMM_FRAME_RESERVED);
        if (from < end) {
            mm_port_memory_freed(phys_to_virt(address_of(range, from)), (end - from) * FRAME_SIZE);
            pmm_change_locked(pmm, range, from, end, PMM_FRAME_RESERVED, PMM_FRAME_FREE);
        }
        from = end == to ? to : pmm_find_other_locked(pmm, end, to, PMM_FRAME_RETIRED);
    }
    /* Two sides at most, one for each end, of those that are kept; now there is a frame for more. */
    bool ensured = side_ensure_locked(pmm, 0);
    MM_ASSERT(ensured);
    (void)ensured;
}

static mm_status_t check_extent(const struct pmm *pmm, const char *call, paddr_t base, paddr_t end,
                                struct pmm_range **range)
{
    if (pmm_is_forbidden(call))
        return MM_UNSUPPORTED;
    if (!mm_is_aligned(base | end, FRAME_SIZE))
        return MM_NOT_ALIGNED;
    *range = pmm_range_of(pmm, base);
    return base >= end || *range == NULL || end > range_end(*range) ? MM_INVALID_ADDRESS : MM_OK;
}

mm_status_t pmm_reserve_range(struct pmm *pmm, paddr_t base, paddr_t end)
{
    struct pmm_bugs bugs = { 0 };
    struct pmm_range *range;
    mm_status_t status = check_extent(pmm, "reserving of frames", base, end, &range);

    if (status != MM_OK)
        return status;
    uint64_t from = id_of(range, base), to = from + (end - base) / FRAME_SIZE;
    uint64_t saved = mm_port_lock(&pmm->lock);
    pmm_arm_low_water_locked(pmm);
    if (are_free_locked(pmm, range, from, to, &bugs)) {
        pmm_keep_clear_locked(pmm, from, to);
        status = side_ensure_all_locked(pmm, 2, &bugs) ? MM_OK : MM_OUT_OF_MEMORY;
        pmm_keep_clear_locked(pmm, 0, 0);
        if (status == MM_OK) {
            pmm_change_locked(pmm, range, from, to, PMM_FRAME_FREE, PMM_FRAME_RESERVED);
            mm_port_memory_allocated(phys_to_virt(base), end - base);
        }
    } else {
        status = MM_NOT_FREE;
    }
    pmm_unlock_after_alloc(pmm, saved, &bugs);
    return status;
}

mm_status_t pmm_release_range(struct pmm *pmm, paddr_t base, paddr_t end)
{
    struct pmm_range *range;
    mm_status_t status = check_extent(pmm, "release of frames", base, end, &range);

    if (status == MM_OK && base < FRAME_SIZE)
        status = MM_INVALID_ADDRESS; /* frame 0 is never handed out */
    if (status != MM_OK)
        return status;
    uint64_t from = id_of(range, base), to = from + (end - base) / FRAME_SIZE;
    uint64_t saved = mm_port_lock(&pmm->lock);
    if (!can_be_released(pmm, from, to) || holds_own(pmm, range, from, to))
        status = MM_NOT_FREE;
    else
        release_locked(pmm, range, from, to);
    mm_port_unlock(&pmm->lock, saved);
    return status;
}

/* ---- bad RAM ---- */

/* Marks frames that are in use as bad; they leave when they are freed. */
static void mark_bad(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to)
{
    struct pmm_core *core = pmm->core;
    uint64_t chunk = from / CHUNK_FRAMES;

    chunk_open_locked(pmm, range, chunk);
    struct pmm_side *side = side_find(core, chunk);
    if (chunk_kind(core, chunk) != CHUNK_MIXED) {
        side = side_add_locked(core, chunk);
        chunk_set_info(core, chunk, CHUNK_MIXED, 0);
    }
    for (uint64_t id = from; id < to; id++)
        bits_set(side->bad, id % CHUNK_FRAMES);
    chunk_settle_locked(pmm, range, chunk);
}

/* The frames [from, to) of one chunk.
 *   Returns:  how many are still in use. */
static uint64_t retire_part(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to)
{
    static const enum pmm_frame_state states[] = { PMM_FRAME_FREE, PMM_FRAME_RESERVED,
                                                   PMM_FRAME_USED, PMM_FRAME_TABLE,
                                                   PMM_FRAME_RETIRED };
    uint64_t waiting = 0;

    while (from < to) {
        enum pmm_frame_state state = pmm_state_of_id(pmm->core, from);
        uint64_t end = from;
        for (size_t i = 0; i < sizeof(states) / sizeof(states[0]) && end == from; i++)
            end = states[i] == state ? pmm_find_other_locked(pmm, from, to, state) : end;
        if (state == PMM_FRAME_RESERVED) {
            uint64_t slot = slot_leave_locked(pmm, range, from, end);
            if (slot == from) {
                waiting++;
                end = from + 1;
                state = PMM_FRAME_RETIRED; /* when its owner has left it */
            } else {
                end = slot;
            }
        }
        if (state == PMM_FRAME_FREE || state == PMM_FRAME_RESERVED) {
            pmm_change_locked(pmm, range, from, end, state, PMM_FRAME_RETIRED);
        } else if (state != PMM_FRAME_RETIRED) {
            mark_bad(pmm, range, from, end);
            waiting += end - from;
        }
        from = end;
    }
    return waiting;
}

static mm_status_t retire_locked(struct pmm *pmm, struct pmm_range *range, uint64_t from,
                                 uint64_t to, uint64_t *waiting, struct pmm_bugs *bugs)
{
    mm_status_t status = MM_OK;

    pmm_keep_clear_locked(pmm, from, to);
    if (!side_leave_locked(pmm, range, from, to))
        status = MM_OUT_OF_MEMORY;
    slot_leave_own_locked(pmm, range, from, to, bugs);
    for (uint64_t at = from; at < to && status == MM_OK;) {
        uint64_t end = (at / CHUNK_FRAMES + 1) * CHUNK_FRAMES;
        end = end < to ? end : to;
        if (side_ensure_locked(pmm, 1))
            *waiting += retire_part(pmm, range, at, end);
        else
            status = MM_OUT_OF_MEMORY;
        at = end;
    }
    pmm_keep_clear_locked(pmm, 0, 0);
    return status;
}

mm_status_t pmm_retire_range(struct pmm *pmm, paddr_t base, paddr_t end, uint64_t *waiting)
{
    struct pmm_bugs bugs = { 0 };
    mm_status_t status = MM_OK;
    uint64_t in_use = 0;

    if (pmm_is_forbidden("retiring of frames"))
        return MM_UNSUPPORTED;
    if (!mm_is_aligned(base | end, FRAME_SIZE))
        return MM_NOT_ALIGNED;
    if (base >= end)
        return MM_INVALID_ADDRESS;
    uint64_t saved = mm_port_lock(&pmm->lock);
    pmm_arm_low_water_locked(pmm);
    pmm_suspend_locked(pmm, &bugs);
    for (size_t i = pmm_range_from(pmm, base); i < pmm->range_count && pmm->ranges[i].base < end;
         i++) {
        struct pmm_range *range = &pmm->ranges[i];
        paddr_t from = range->base > base ? range->base : base;
        paddr_t to = range_end(range) < end ? range_end(range) : end;
        mm_status_t one =
            retire_locked(pmm, range, id_of(range, from),
                          id_of(range, from) + (to - from) / FRAME_SIZE, &in_use, &bugs);
        status = one != MM_OK ? one : status;
    }
    pmm_unlock_after_alloc(pmm, saved, &bugs);
    if (waiting != NULL)
        *waiting = in_use;
    return status;
}
