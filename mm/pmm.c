/* SPDX-License-Identifier: MIT */
/* The physical memory manager: one bitmap for each run of RAM.
 *
 * A run is a maximal row of adjacent RAM ranges of the memory map; its bitmap has two planes, so each
 * frame is in one of four states:
 *
 *      taken   special
 *        0        0     free
 *        1        0     used
 *        1        1     reserved (the kernel's, the loader's, mm's own, kept back)
 *        0        1     page table (counts as used; only pmm_free_table gives it back)
 *
 * So a search looks for a zero in (taken | special), and every wrong free is told from the right one.
 * Bits behind the last frame of a run are reserved and not counted. Each run remembers the word where
 * a frame was last allocated, and the pmm the run: the next search goes on there.
 *
 * Invariants (pmm_verify): the counters equal the bits; free + used + reserved = total. */
#include "mm/bits.h"
#include "mm/context.h"

#include <mm/hhdm.h>
#include <mm/log.h>
#include <mm/pmm.h>

struct pmm_range {
    paddr_t base;
    uint64_t frames;
    uint64_t free_frames;
    uint64_t hint; /* word of the bitmap where a frame was last allocated */
    uint64_t *taken;
    uint64_t *special;
};

static uint64_t words_of(uint64_t frames)
{
    return (frames + BITS_PER_WORD - 1) / BITS_PER_WORD;
}

static paddr_t range_end(const struct pmm_range *range)
{
    return range->base + range->frames * FRAME_SIZE;
}

/* ---- states of frames ---- */

static enum pmm_frame_state state_of(const struct pmm_range *range, uint64_t frame)
{
    static const enum pmm_frame_state states[2][2] = {
        { PMM_FRAME_FREE, PMM_FRAME_TABLE },
        { PMM_FRAME_USED, PMM_FRAME_RESERVED },
    };

    return states[bits_test(range->taken, frame)][bits_test(range->special, frame)];
}

static const char *state_name(enum pmm_frame_state state)
{
    switch (state) {
    case PMM_FRAME_FREE:
        return "free";
    case PMM_FRAME_USED:
        return "used";
    case PMM_FRAME_RESERVED:
        return "reserved";
    case PMM_FRAME_TABLE:
        return "page-table";
    default:
        return "outside RAM";
    }
}

static uint64_t *counter_of(struct pmm *pmm, enum pmm_frame_state state)
{
    if (state == PMM_FRAME_FREE)
        return &pmm->stats.free_frames;
    return state == PMM_FRAME_RESERVED ? &pmm->stats.reserved_frames : &pmm->stats.used_frames;
}

/* Moves the frames [from, to) of a run, all in state `old`, to state `new`, with the counters. */
static void change_state_locked(struct pmm *pmm, struct pmm_range *range, uint64_t from,
                                uint64_t to, enum pmm_frame_state old, enum pmm_frame_state new)
{
    bool taken = new == PMM_FRAME_USED || new == PMM_FRAME_RESERVED;
    bool special = new == PMM_FRAME_RESERVED || new == PMM_FRAME_TABLE;
    uint64_t count = to - from;

    for (uint64_t word = from / BITS_PER_WORD; word < words_of(to); word++) {
        uint64_t mask = bits_mask(word, from, to);
        range->taken[word] = taken ? range->taken[word] | mask : range->taken[word] & ~mask;
        range->special[word] = special ? range->special[word] | mask : range->special[word] & ~mask;
    }
    *counter_of(pmm, old) -= count;
    *counter_of(pmm, new) += count;
    range->free_frames -= old == PMM_FRAME_FREE ? count : 0;
    range->free_frames += new == PMM_FRAME_FREE ? count : 0;
    pmm->stats.table_frames -= old == PMM_FRAME_TABLE ? count : 0;
    pmm->stats.table_frames += new == PMM_FRAME_TABLE ? count : 0;
}

/* The first frame in [from, to) that is free, or is not; `to` if there is none. */
static uint64_t find_frame(const struct pmm_range *range, uint64_t from, uint64_t to, bool free)
{
    for (uint64_t word = from / BITS_PER_WORD; word < words_of(to); word++) {
        uint64_t busy = range->taken[word] | range->special[word];
        uint64_t wanted = (free ? ~busy : busy) & bits_mask(word, from, to);
        if (wanted != 0)
            return word * BITS_PER_WORD + bits_lowest(wanted);
    }
    return to;
}

/* The first frame in [from, to) that is not in `state`; `to` if all are. */
static uint64_t find_other_state(const struct pmm_range *range, uint64_t from, uint64_t to,
                                 enum pmm_frame_state state)
{
    uint64_t frame = from;

    while (frame < to && state_of(range, frame) == state)
        frame++;
    return frame;
}

static struct pmm_range *range_of(const struct pmm *pmm, paddr_t address)
{
    size_t low = 0, high = pmm->range_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (range_end(&pmm->ranges[middle]) <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == pmm->range_count || pmm->ranges[low].base > address)
        return NULL;
    return &pmm->ranges[low];
}

static uint64_t frame_index(const struct pmm_range *range, paddr_t address)
{
    return (address - range->base) / FRAME_SIZE;
}

/* ---- starting ---- */

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

uint64_t pmm_metadata_bytes(const struct memmap *map)
{
    uint64_t bytes = 0;
    struct mm_extent run;

    for (size_t index = 0; next_run(map, &index, &run);)
        bytes += sizeof(struct pmm_range) +
                 2 * sizeof(uint64_t) * words_of((run.end - run.base) / FRAME_SIZE);
    return bytes;
}

static void add_range(struct pmm *pmm, struct mm_extent run, uint64_t *bitmap)
{
    struct pmm_range *range = &pmm->ranges[pmm->range_count++];
    uint64_t frames = (run.end - run.base) / FRAME_SIZE;
    uint64_t words = words_of(frames);

    *range = (struct pmm_range){
        .base = run.base, .frames = frames, .taken = bitmap, .special = bitmap + words
    };
    memset(bitmap, 0xff, 2 * words * sizeof(uint64_t));
    pmm->stats.total_frames += frames;
    pmm->stats.reserved_frames += frames;
}

static void free_usable(struct pmm *pmm, const struct mm_range *usable, bool low_memory)
{
    paddr_t lowest = low_memory ? FRAME_SIZE : MM_LOW_MEMORY_END;
    paddr_t base = usable->base < lowest ? lowest : usable->base;

    if (base >= usable->end)
        return;
    struct pmm_range *range = range_of(pmm, base);
    mm_port_memory_freed(phys_to_virt(base), usable->end - base);
    change_state_locked(pmm, range, frame_index(range, base),
                        frame_index(range, usable->end - FRAME_SIZE) + 1, PMM_FRAME_RESERVED,
                        PMM_FRAME_FREE);
}

void pmm_init(struct pmm *pmm, const struct memmap *map, void *metadata,
              const struct pmm_config *config)
{
    bool low_memory = config != NULL && config->low_memory;
    size_t runs = 0;
    struct mm_extent run;

    for (size_t index = 0; next_run(map, &index, &run);)
        runs++;
    *pmm = (struct pmm){ .ranges = metadata };
    uint64_t *bitmap = (uint64_t *)(void *)(pmm->ranges + runs);
    for (size_t index = 0; next_run(map, &index, &run);) {
        add_range(pmm, run, bitmap);
        bitmap += 2 * words_of((run.end - run.base) / FRAME_SIZE);
    }
    pmm->stats.range_count = pmm->range_count;
    for (size_t i = 0; i < map->count; i++)
        if (map->ranges[i].type == BOOT_USABLE)
            free_usable(pmm, &map->ranges[i], low_memory);
}

/* ---- single frames ---- */

/* Takes the free frame next to where the last one was found; false if none is free. */
static bool take_frame_locked(struct pmm *pmm, enum pmm_frame_state new, paddr_t *out)
{
    size_t index = pmm->last_range;

    for (size_t tries = 0; tries < pmm->range_count; tries++) {
        struct pmm_range *range = &pmm->ranges[index];
        if (range->free_frames > 0) {
            uint64_t hint = range->hint * BITS_PER_WORD;
            uint64_t frame = find_frame(range, hint, range->frames, true);
            if (frame == range->frames)
                frame = find_frame(range, 0, hint, true);
            change_state_locked(pmm, range, frame, frame + 1, PMM_FRAME_FREE, new);
            range->hint = frame / BITS_PER_WORD;
            pmm->last_range = index;
            *out = range->base + frame * FRAME_SIZE;
            return true;
        }
        index = index + 1 == pmm->range_count ? 0 : index + 1;
    }
    return false;
}

static mm_status_t take_frame(struct pmm *pmm, enum pmm_frame_state new, unsigned flags,
                              paddr_t *out)
{
    paddr_t frame = 0;

    if (context_is_forbidden("allocation of a frame"))
        return MM_UNSUPPORTED;
    uint64_t saved = mm_port_lock(&pmm->lock);
    bool found = take_frame_locked(pmm, new, &frame);
    mm_port_unlock(&pmm->lock, saved);
    if (!found) {
        mm_debug("pmm: no free frame");
        return MM_OUT_OF_MEMORY;
    }
    void *content = phys_to_virt(frame);
    mm_port_memory_allocated(content, FRAME_SIZE);
    if ((flags & PMM_NOZERO) == 0)
        memset(content, 0, FRAME_SIZE);
    *out = frame;
    mm_debug("pmm: allocated %s frame 0x%lx", state_name(new), frame);
    return MM_OK;
}

/* Gives back one frame that must be in state `old`, or reports what it is instead. */
static void give_frame(struct pmm *pmm, paddr_t address, enum pmm_frame_state old)
{
    enum pmm_frame_state state = PMM_FRAME_OUTSIDE;

    if (context_is_forbidden("free of a frame"))
        return;
    if (!mm_is_aligned(address, FRAME_SIZE)) {
        mm_bug("free of unaligned frame address 0x%lx", address);
        return;
    }
    uint64_t saved = mm_port_lock(&pmm->lock);
    struct pmm_range *range = range_of(pmm, address);
    if (range != NULL) {
        uint64_t frame = frame_index(range, address);
        state = state_of(range, frame);
        if (state == old) {
            mm_port_memory_freed(phys_to_virt(address), FRAME_SIZE);
            change_state_locked(pmm, range, frame, frame + 1, old, PMM_FRAME_FREE);
        }
    }
    mm_port_unlock(&pmm->lock, saved);
    if (state == old)
        mm_debug("pmm: freed %s frame 0x%lx", state_name(old), address);
    else if (state == PMM_FRAME_OUTSIDE)
        mm_bug("free of address 0x%lx, which is outside RAM", address);
    else
        mm_bug("free of a %s frame 0x%lx (expected a %s one)", state_name(state), address,
               state_name(old));
}

mm_status_t pmm_alloc_frame(struct pmm *pmm, paddr_t *out)
{
    return take_frame(pmm, PMM_FRAME_USED, 0, out);
}

mm_status_t pmm_alloc_frame_flags(struct pmm *pmm, unsigned flags, paddr_t *out)
{
    return take_frame(pmm, PMM_FRAME_USED, flags, out);
}

void pmm_free_frame(struct pmm *pmm, paddr_t frame)
{
    give_frame(pmm, frame, PMM_FRAME_USED);
}

void pmm_free_zeroed_frame(struct pmm *pmm, paddr_t frame)
{
    give_frame(pmm, frame, PMM_FRAME_USED);
}

mm_status_t pmm_alloc_frames(struct pmm *pmm, uint64_t count, unsigned flags, paddr_t *out)
{
    for (uint64_t i = 0; i < count; i++) {
        mm_status_t status = take_frame(pmm, PMM_FRAME_USED, flags, &out[i]);
        if (status != MM_OK) {
            pmm_free_frames(pmm, out, i);
            return status;
        }
    }
    return MM_OK;
}

void pmm_free_frames(struct pmm *pmm, const paddr_t *frames, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        pmm_free_frame(pmm, frames[i]);
}

mm_status_t pmm_alloc_table(struct pmm *pmm, paddr_t *out)
{
    return take_frame(pmm, PMM_FRAME_TABLE, 0, out);
}

void pmm_free_table(struct pmm *pmm, paddr_t frame)
{
    give_frame(pmm, frame, PMM_FRAME_TABLE);
}

/* ---- contiguous frames ---- */

/* The lowest block of `count` free frames in the run that starts at a multiple of `align_bytes` and
 * ends at or below `limit`. */
static bool find_block(const struct pmm_range *range, uint64_t count, uint64_t align_bytes,
                       paddr_t limit, uint64_t *out)
{
    uint64_t end = range->frames;

    if (limit < range_end(range))
        end = limit <= range->base ? 0 : (limit - range->base) / FRAME_SIZE;
    for (uint64_t from = 0; from < end;) {
        from = find_frame(range, from, end, true);
        paddr_t start = mm_round_up(range->base + from * FRAME_SIZE, align_bytes);
        if (start < range->base || start >= range_end(range))
            return false;
        from = frame_index(range, start);
        if (from >= end || end - from < count)
            return false;
        uint64_t obstacle = find_frame(range, from, from + count, false);
        if (obstacle == from + count) {
            *out = from;
            return true;
        }
        from = obstacle + 1;
    }
    return false;
}

static bool take_block_locked(struct pmm *pmm, uint64_t count, uint64_t align_bytes, paddr_t limit,
                              paddr_t *out)
{
    uint64_t frame;

    for (size_t i = 0; i < pmm->range_count; i++) {
        struct pmm_range *range = &pmm->ranges[i];
        if (range->free_frames < count || !find_block(range, count, align_bytes, limit, &frame))
            continue;
        change_state_locked(pmm, range, frame, frame + count, PMM_FRAME_FREE, PMM_FRAME_USED);
        *out = range->base + frame * FRAME_SIZE;
        return true;
    }
    return false;
}

mm_status_t pmm_alloc_contiguous(struct pmm *pmm, uint64_t count_frames, uint64_t align_bytes,
                                 paddr_t limit, paddr_t *out)
{
    return pmm_alloc_contiguous_flags(pmm, count_frames, align_bytes, limit, 0, out);
}

mm_status_t pmm_alloc_large(struct pmm *pmm, unsigned flags, paddr_t *out)
{
    return pmm_alloc_contiguous_flags(pmm, LARGE_PAGE_SIZE / FRAME_SIZE, LARGE_PAGE_SIZE,
                                      PMM_NO_LIMIT, flags, out);
}

void pmm_free_large(struct pmm *pmm, paddr_t block)
{
    pmm_free_contiguous(pmm, block, LARGE_PAGE_SIZE / FRAME_SIZE);
}

mm_status_t pmm_alloc_contiguous_flags(struct pmm *pmm, uint64_t count_frames, uint64_t align_bytes,
                                       paddr_t limit, unsigned flags, paddr_t *out)
{
    paddr_t first = 0;

    if (count_frames == 0 || !mm_is_power_of_two(align_bytes) || align_bytes < FRAME_SIZE)
        return MM_INVALID_ARGUMENT;
    if (context_is_forbidden("allocation of contiguous frames"))
        return MM_UNSUPPORTED;
    uint64_t saved = mm_port_lock(&pmm->lock);
    bool found = take_block_locked(pmm, count_frames, align_bytes, limit, &first);
    mm_port_unlock(&pmm->lock, saved);
    if (!found) {
        mm_debug("pmm: no %lu contiguous frames (align 0x%lx, limit 0x%lx)", count_frames,
                 align_bytes, limit);
        return MM_OUT_OF_MEMORY;
    }
    mm_port_memory_allocated(phys_to_virt(first), count_frames * FRAME_SIZE);
    if ((flags & PMM_NOZERO) == 0)
        memset(phys_to_virt(first), 0, count_frames * FRAME_SIZE);
    *out = first;
    mm_debug("pmm: allocated %lu contiguous frames at 0x%lx", count_frames, first);
    return MM_OK;
}

void pmm_free_contiguous(struct pmm *pmm, paddr_t first, uint64_t count_frames)
{
    enum pmm_frame_state state = PMM_FRAME_OUTSIDE;
    paddr_t wrong = first;
    bool done = false;

    if (context_is_forbidden("free of contiguous frames"))
        return;
    if (!mm_is_aligned(first, FRAME_SIZE) || count_frames == 0) {
        mm_bug("free of %lu contiguous frames at 0x%lx: %s", count_frames, first,
               count_frames == 0 ? "the count is 0" : "the address is not aligned");
        return;
    }
    uint64_t saved = mm_port_lock(&pmm->lock);
    struct pmm_range *range = range_of(pmm, first);
    if (range != NULL) {
        uint64_t from = frame_index(range, first);
        uint64_t inside = range->frames - from; /* no wrap: `first` lies in the run */
        uint64_t to = from + (count_frames < inside ? count_frames : inside);
        uint64_t other = find_other_state(range, from, to, PMM_FRAME_USED);
        wrong = range->base + other * FRAME_SIZE;
        if (other < to) {
            state = state_of(range, other);
        } else if (count_frames <= inside) {
            mm_port_memory_freed(phys_to_virt(first), count_frames * FRAME_SIZE);
            change_state_locked(pmm, range, from, to, PMM_FRAME_USED, PMM_FRAME_FREE);
            done = true;
        }
    }
    mm_port_unlock(&pmm->lock, saved);
    if (done)
        mm_debug("pmm: freed %lu contiguous frames at 0x%lx", count_frames, first);
    else
        mm_bug("free of %lu contiguous frames at 0x%lx: frame 0x%lx is %s", count_frames, first,
               wrong, state_name(state));
}

/* ---- reserving ---- */

static mm_status_t change_extent(struct pmm *pmm, paddr_t base, paddr_t end,
                                 enum pmm_frame_state old, enum pmm_frame_state new)
{
    mm_status_t status = MM_NOT_FREE;

    if (!mm_is_aligned(base | end, FRAME_SIZE))
        return MM_NOT_ALIGNED;
    struct pmm_range *range = range_of(pmm, base);
    if (base >= end || range == NULL || end > range_end(range))
        return MM_INVALID_ADDRESS;
    uint64_t from = frame_index(range, base);
    uint64_t to = from + (end - base) / FRAME_SIZE;
    uint64_t saved = mm_port_lock(&pmm->lock);
    if (find_other_state(range, from, to, old) == to) {
        if (new == PMM_FRAME_FREE)
            mm_port_memory_freed(phys_to_virt(base), end - base);
        else
            mm_port_memory_allocated(phys_to_virt(base), end - base);
        change_state_locked(pmm, range, from, to, old, new);
        status = MM_OK;
    }
    mm_port_unlock(&pmm->lock, saved);
    return status;
}

mm_status_t pmm_reserve_range(struct pmm *pmm, paddr_t base, paddr_t end)
{
    return change_extent(pmm, base, end, PMM_FRAME_FREE, PMM_FRAME_RESERVED);
}

mm_status_t pmm_release_range(struct pmm *pmm, paddr_t base, paddr_t end)
{
    if (base < FRAME_SIZE && mm_is_aligned(base | end, FRAME_SIZE))
        return MM_INVALID_ADDRESS; /* frame 0 is never handed out */
    return change_extent(pmm, base, end, PMM_FRAME_RESERVED, PMM_FRAME_FREE);
}

/* ---- asking ---- */

enum pmm_frame_state pmm_frame_state(struct pmm *pmm, paddr_t address)
{
    enum pmm_frame_state state = PMM_FRAME_OUTSIDE;
    uint64_t saved = mm_port_lock(&pmm->lock);
    const struct pmm_range *range = range_of(pmm, address);

    if (range != NULL)
        state = state_of(range, frame_index(range, address));
    mm_port_unlock(&pmm->lock, saved);
    return state;
}

/* The count in `stats` is set when every range is: until then the ranges are not looked at. */
enum pmm_frame_state pmm_peek_frame(const struct pmm *pmm, paddr_t address)
{
    const struct pmm_range *range =
        pmm->stats.range_count == pmm->range_count ? range_of(pmm, address) : NULL;

    return range == NULL ? PMM_FRAME_OUTSIDE : state_of(range, frame_index(range, address));
}

struct pmm_stats pmm_stats(struct pmm *pmm)
{
    uint64_t saved = mm_port_lock(&pmm->lock);
    struct pmm_stats stats = pmm->stats;

    mm_port_unlock(&pmm->lock, saved);
    return stats;
}

struct mm_extent pmm_range_extent(const struct pmm *pmm, size_t index)
{
    MM_ASSERT(index < pmm->range_count);
    const struct pmm_range *range = &pmm->ranges[index];
    return (struct mm_extent){ range->base, range_end(range) };
}

static struct pmm_stats recount_locked(const struct pmm *pmm, bool *ranges_agree)
{
    struct pmm_stats found = { .range_count = pmm->range_count };

    *ranges_agree = true;
    for (size_t i = 0; i < pmm->range_count; i++) {
        const struct pmm_range *range = &pmm->ranges[i];
        uint64_t free_before = found.free_frames;
        for (uint64_t word = 0; word < words_of(range->frames); word++) {
            uint64_t valid = bits_mask(word, 0, range->frames);
            uint64_t taken = range->taken[word], special = range->special[word];
            found.free_frames += bits_count(~taken & ~special & valid);
            found.used_frames += bits_count((taken ^ special) & valid);
            found.table_frames += bits_count(~taken & special & valid);
            found.reserved_frames += bits_count(taken & special & valid);
            *ranges_agree &= (~(taken & special) & ~valid) == 0;
        }
        *ranges_agree &= found.free_frames - free_before == range->free_frames;
        found.total_frames += range->frames;
    }
    return found;
}

bool pmm_verify(struct pmm *pmm)
{
    bool ranges_agree;
    uint64_t saved = mm_port_lock(&pmm->lock);
    struct pmm_stats counted = pmm->stats;
    struct pmm_stats found = recount_locked(pmm, &ranges_agree);

    mm_port_unlock(&pmm->lock, saved);
    if (ranges_agree && memcmp(&counted, &found, sizeof(found)) == 0 &&
        found.free_frames + found.used_frames + found.reserved_frames == found.total_frames)
        return true;
    mm_error("pmm: counters (free %lu used %lu tables %lu reserved %lu of %lu) differ from the "
             "bitmaps (free %lu used %lu tables %lu reserved %lu of %lu)",
             counted.free_frames, counted.used_frames, counted.table_frames,
             counted.reserved_frames, counted.total_frames, found.free_frames, found.used_frames,
             found.table_frames, found.reserved_frames, found.total_frames);
    return false;
}
