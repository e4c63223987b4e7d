/* SPDX-License-Identifier: MIT */
/* Physical memory as a bar: which pixels belong to which range of the memory map. */
#ifndef KERNEL_SCREEN_MEMORY_BAR_H
#define KERNEL_SCREEN_MEMORY_BAR_H

#include <mm/memmap.h>

#define MEMORY_BAR_HOLE BOOT_RANGE_TYPES /* as a type: no row of the map says anything about it */

/* A map, and how it goes onto a bar. The fields below `pixels` are set by memory_bar_init(). */
struct memory_bar {
    const struct mm_range *ranges; /* sorted, disjoint */
    size_t count;
    uint32_t pixels;        /* length of the bar */
    uint32_t break_pixels;  /* length of a break */
    uint32_t least_pixels;  /* of a segment that is too small to be seen */
    paddr_t end;            /* of the last range that is memory; what lies above is left out */
    unsigned unit_shift;    /* proportions are reckoned in units of 2^unit_shift bytes */
    uint64_t break_bytes;   /* what is no memory and at least as long is a break */
    uint64_t shared_bytes;  /* of the segments in proportion, ... */
    uint32_t shared_pixels; /* ... and what they share */
};

/* One piece of the bar; pixels are relative to its beginning. */
struct memory_segment {
    paddr_t base, end;
    uint64_t type; /* enum boot_range_type or MEMORY_BAR_HOLE */
    bool is_break; /* drawn as a break, not in proportion */
    uint32_t x, width;
};

/* Where the walk over the segments stands; all zeroes before the first one. */
struct memory_bar_walk {
    size_t index;
    paddr_t at;
    uint64_t shared_before;
    uint32_t fixed_before;
};

/* Plans the bar. `bar` has ranges, count, pixels, break_pixels and least_pixels. */
void memory_bar_init(struct memory_bar *bar);

/* The next segment from the left; the segments lie side by side and fill the bar.
 *   Returns:  false at the end. */
bool memory_bar_next(const struct memory_bar *bar, struct memory_bar_walk *walk,
                     struct memory_segment *out);

#endif
