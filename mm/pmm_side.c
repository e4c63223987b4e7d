/* SPDX-License-Identifier: MIT */
/* Sides: what the set bits of a MIXED chunk are. Few chunks are mixed (at the ends of the kernel, of the
 * loader's memory, of mm's own), so the sides are a small table beside the bitmap.
 *
 *      refs    [ chunk 0 | 4 ]  [ chunk 7 | 0 ]  [ chunk 8 | 2 ] ...      sorted by chunk
 *      sides   0: chunk 7   1: unused -> 3   2: chunk 8   3: unused   4: chunk 0
 *
 * The table lies in the metadata, sized by the map with some to spare. When that runs out it moves into
 * frames of the pmm, which become reserved; marking them needs sides itself, so the last two are kept
 * for that.
 *
 * Invariants: refs is sorted; each side is in refs or in the chain of unused ones. */
#include "mm/pmm_parts.h"

#define SIDES_KEPT 2u

/* The place in refs of the chunk, or where it would be. Read by pmm_peek_frame without the lock. */
static uint32_t place_of(const struct pmm_core *core, uint64_t chunk)
{
    uint32_t low = 0, high = __atomic_load_n(&core->side_count, __ATOMIC_RELAXED);

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (bits_load(&core->refs[middle]) >> 32 < chunk)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct pmm_side *side_find(const struct pmm_core *core, uint64_t chunk)
{
    uint32_t place = place_of(core, chunk);

    if (place >= __atomic_load_n(&core->side_count, __ATOMIC_RELAXED))
        return NULL;
    uint64_t ref = bits_load(&core->refs[place]);
    return ref >> 32 == chunk ? &core->sides[(uint32_t)ref] : NULL;
}

struct pmm_side *side_add_locked(struct pmm_core *core, uint64_t chunk)
{
    uint32_t place = place_of(core, chunk), index = core->side_free;

    MM_ASSERT(index < core->side_capacity);
    struct pmm_side *side = &core->sides[index];
    core->side_free = (uint32_t)side->reserved[0];
    memset(side, 0, sizeof(*side));
    for (uint32_t i = core->side_count; i > place; i--)
        bits_store(&core->refs[i], core->refs[i - 1]);
    bits_store(&core->refs[place], chunk << 32 | index);
    __atomic_store_n(&core->side_count, core->side_count + 1, __ATOMIC_RELAXED);
    return side;
}

void side_drop_locked(struct pmm_core *core, uint64_t chunk)
{
    uint32_t place = place_of(core, chunk), index = (uint32_t)core->refs[place];

    MM_ASSERT(place < core->side_count && core->refs[place] >> 32 == chunk);
    __atomic_store_n(&core->side_count, core->side_count - 1, __ATOMIC_RELAXED);
    for (uint32_t i = place; i < core->side_count; i++)
        bits_store(&core->refs[i], core->refs[i + 1]);
    bits_store(&core->sides[index].reserved[0], core->side_free);
    core->side_free = index;
}

/* Moves all sides to `memory`, of `capacity` sides and as many refs behind them. */
static void move_locked(struct pmm_core *core, void *memory, uint32_t capacity)
{
    struct pmm_side *sides = memory;
    uint64_t *refs = (uint64_t *)(void *)(sides + capacity);

    memcpy(sides, core->sides, core->side_capacity * sizeof(*sides));
    memcpy(refs, core->refs, core->side_count * sizeof(*refs));
    for (uint32_t i = capacity; i > core->side_capacity; i--) {
        sides[i - 1].reserved[0] =
            core->side_free == core->side_capacity ? capacity : core->side_free;
        core->side_free = i - 1;
    }
    core->sides = sides;
    core->refs = refs;
    core->side_capacity = capacity;
}

static bool grow_locked(struct pmm *pmm, uint32_t wanted)
{
    struct pmm_core *core = pmm->core;
    uint64_t each = sizeof(struct pmm_side) + sizeof(uint64_t);
    uint64_t bytes = mm_round_up(2 * (uint64_t)wanted * each, FRAME_SIZE);
    uint64_t frames = bytes / FRAME_SIZE, first;
    struct pmm_range *range;
    paddr_t old_at = core->sides_at;
    uint64_t old_frames = core->sides_frames;

    /* The end of the chain is the capacity, which changes: mark it before it does. */
    if (!pmm_find_block_locked(pmm, frames, FRAME_SIZE, PMM_NO_LIMIT, &range, &first))
        return false;
    pmm_change_locked(pmm, range, first, first + frames, PMM_FRAME_FREE, PMM_FRAME_RESERVED);
    mm_port_memory_allocated(phys_to_virt(address_of(range, first)), bytes);
    uint32_t index = core->side_free, end = core->side_capacity;
    uint32_t capacity = (uint32_t)(bytes / each);
    while (index != end && core->sides[index].reserved[0] != end)
        index = (uint32_t)core->sides[index].reserved[0];
    if (index != end)
        core->sides[index].reserved[0] = capacity;
    move_locked(core, phys_to_virt(address_of(range, first)), capacity);
    core->sides_at = address_of(range, first);
    core->sides_frames = frames;
    if (old_frames != 0) {
        range = pmm_range_of(pmm, old_at);
        first = id_of(range, old_at);
        mm_port_memory_freed(phys_to_virt(old_at), old_frames * FRAME_SIZE);
        pmm_change_locked(pmm, range, first, first + old_frames, PMM_FRAME_RESERVED,
                          PMM_FRAME_FREE);
    }
    return true;
}

bool side_ensure_locked(struct pmm *pmm, uint32_t count)
{
    struct pmm_core *core = pmm->core;

    if (core->side_capacity - core->side_count >= count + SIDES_KEPT)
        return true;
    return grow_locked(pmm, core->side_capacity + count + 2 * SIDES_KEPT);
}
