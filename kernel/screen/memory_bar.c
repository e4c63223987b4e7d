/* SPDX-License-Identifier: MIT */
/* Owns the scale of the bar. Addresses alone are no good scale: a hole of a terabyte below a
 * machine's last gigabyte would leave nothing else to see, and a kernel of 400 KB in 64 GB would
 * vanish.
 *
 *   0        640K      3G         4G        6G                 fd00000000
 *   | usable |r| usable | ~break~ | usable  |  (not memory: left out)
 *
 * The bar ends with the last range that is memory. Below it, what is no memory (reserved,
 * framebuffer, or in no row) is a break of fixed length if it is long, else drawn like the rest: in
 * proportion, with a least length for what would be too small to be seen. Invariants: segments are
 * disjoint, in the order of their addresses, and their pixels add up to the bar. */
#include "kernel/screen/memory_bar.h"

#define MEMORY_BAR_BREAK_PART 64u /* of all memory: from here on, no memory is a break */
#define MEMORY_BAR_ROUNDS     64  /* of finding out which segments are too small */

static bool memory_bar_is_memory(uint64_t type)
{
    return memmap_type_is_ram(type) || type == BOOT_ACPI_RECLAIMABLE || type == BOOT_ACPI_NVS ||
           type == BOOT_BAD;
}

/* The next piece without its pixels: a range of the map, or the hole before it. */
static bool memory_bar_step(const struct memory_bar *bar, struct memory_bar_walk *walk,
                            struct memory_segment *out)
{
    const struct mm_range *range = &bar->ranges[walk->index];

    if (walk->index == bar->count || range->base >= bar->end)
        return false;
    out->base = walk->at;
    if (walk->at < range->base) {
        out->end = range->base;
        out->type = MEMORY_BAR_HOLE;
    } else {
        out->end = range->end;
        out->type = range->type;
        walk->index++;
    }
    walk->at = out->end;
    out->is_break = !memory_bar_is_memory(out->type) && out->end - out->base >= bar->break_bytes;
    return true;
}

/* Pixels of a piece in proportion. Whole units, so that more bytes are never fewer pixels; below 16
 * TB a unit is a frame, and nothing is rounded. */
static uint64_t memory_bar_share(const struct memory_bar *bar, uint64_t bytes)
{
    uint64_t shared_units = bar->shared_bytes >> bar->unit_shift;

    return shared_units == 0 ? 0 : (bytes >> bar->unit_shift) * bar->shared_pixels / shared_units;
}

static bool memory_bar_is_small(const struct memory_bar *bar, const struct memory_segment *segment)
{
    return !segment->is_break &&
           memory_bar_share(bar, segment->end - segment->base) < bar->least_pixels;
}

static void memory_bar_find_end(struct memory_bar *bar)
{
    uint64_t bytes = 0;

    bar->end = 0;
    for (size_t i = 0; i < bar->count; i++) {
        if (!memory_bar_is_memory(bar->ranges[i].type))
            continue;
        bytes += bar->ranges[i].end - bar->ranges[i].base;
        bar->end = bar->ranges[i].end;
    }
    bar->break_bytes = bytes / MEMORY_BAR_BREAK_PART + 1;
    bar->unit_shift = FRAME_SHIFT;
    while (bar->end >> bar->unit_shift >> 32 != 0)
        bar->unit_shift++;
}

/* One round: breaks and small segments have fixed lengths, the others share the rest.
 *   Returns:  false if the fixed lengths leave less than half of the bar. */
static bool memory_bar_share_out(struct memory_bar *bar)
{
    struct memory_bar_walk walk = { .index = 0 };
    struct memory_segment segment;
    uint64_t shared = 0, fixed = 0;

    while (memory_bar_step(bar, &walk, &segment)) {
        if (segment.is_break)
            fixed += bar->break_pixels;
        else if (memory_bar_is_small(bar, &segment))
            fixed += bar->least_pixels;
        else
            shared += segment.end - segment.base;
    }
    if (fixed > bar->pixels / 2)
        return false;
    bar->shared_bytes = shared;
    bar->shared_pixels = bar->pixels - (uint32_t)fixed;
    return true;
}

/* A smaller rest can make a further segment small, hence rounds, until nothing changes.
 *   Returns:  false if it does not come to rest. */
static bool memory_bar_plan(struct memory_bar *bar)
{
    struct memory_bar_walk walk = { .index = 0 };
    struct memory_segment segment;

    /* Without its breaks: beside a hole of a terabyte all memory would be small. */
    bar->shared_bytes = 0;
    bar->shared_pixels = bar->pixels;
    while (memory_bar_step(bar, &walk, &segment))
        bar->shared_bytes += segment.is_break ? 0 : segment.end - segment.base;
    for (int i = 0; i < MEMORY_BAR_ROUNDS; i++) {
        uint64_t bytes = bar->shared_bytes;
        uint32_t pixels = bar->shared_pixels;

        if (!memory_bar_share_out(bar))
            return false;
        if (bar->shared_bytes == bytes && bar->shared_pixels == pixels)
            return true;
    }
    return false;
}

void memory_bar_init(struct memory_bar *bar)
{
    memory_bar_find_end(bar);
    /* So many ranges that their least lengths fill the bar: the smallest stay unseen. Without any
     * fixed length there is nothing to plan, so this ends. */
    while (!memory_bar_plan(bar)) {
        if (bar->least_pixels > 0)
            bar->least_pixels--;
        else
            bar->break_pixels /= 2;
    }
}

bool memory_bar_next(const struct memory_bar *bar, struct memory_bar_walk *walk,
                     struct memory_segment *out)
{
    uint64_t before = memory_bar_share(bar, walk->shared_before) + walk->fixed_before;

    if (!memory_bar_step(bar, walk, out))
        return false;
    if (out->is_break)
        walk->fixed_before += bar->break_pixels;
    else if (memory_bar_is_small(bar, out))
        walk->fixed_before += bar->least_pixels;
    else
        walk->shared_before += out->end - out->base;
    out->x = (uint32_t)before;
    out->width =
        (uint32_t)(memory_bar_share(bar, walk->shared_before) + walk->fixed_before - before);
    return true;
}
