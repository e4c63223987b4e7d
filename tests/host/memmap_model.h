/* SPDX-License-Identifier: MIT */
/* A memory map by brute force: every elementary interval between two row ends is judged by looking
 * at all rows. Quadratic and obvious; what mm/memmap.c finds in one sweep must be the same. */
#ifndef TESTS_HOST_MEMMAP_MODEL_H
#define TESTS_HOST_MEMMAP_MODEL_H

#include "support.h"

struct model_map {
    struct mm_range *ranges; /* malloc'ed */
    size_t count;
    uint64_t usable_bytes, total_bytes;
};

/* The normal form of rows and keep ranges, as the header of memmap.h describes it. */
struct model_map model_build(const struct boot_info *boot, paddr_t limit);
void model_free(struct model_map *model);

/* Fails unless `map` is the model with exactly one change: metadata inside of usable memory. */
void assert_map_is_model(const struct memmap *map, const struct model_map *model);

/* What holds for every normal form, checked row by row against the raw input. */
void assert_map_is_sound(const struct memmap *map, const struct boot_info *boot, paddr_t limit);

#endif
