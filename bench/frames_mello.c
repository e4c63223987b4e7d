/* SPDX-License-Identifier: MIT */
/* mm's own frame allocator as a subject: its functions stand in the table as they are.
 *
 *   metadata:  [ struct pmm | what pmm_metadata_bytes() asks for ]
 *
 * The memory map is one usable range from physical 0 on. */
#include "bench/frames.h"

#include <mm/hhdm.h>

#include <string.h>

#define PMM_BYTES ((sizeof(struct pmm) + 4095) & ~(uint64_t)4095)

/* The same function under another type of pointer: the first parameter is a `struct pmm *` there,
 * the results are an int and an enum of its size. */
#define AS_IS(function) ((void (*)(void))(function))

static struct memmap map_of(struct mm_range *range, uint64_t bytes)
{
    *range = (struct mm_range){ .base = 0, .end = bytes, .type = BOOT_USABLE };
    return (struct memmap){ .ranges = range,
                            .count = 1,
                            .capacity = 1,
                            .total_bytes = bytes,
                            .usable_bytes = bytes,
                            .ram_end = bytes,
                            .end = bytes };
}

static uint64_t mello_bytes(uint64_t bytes)
{
    struct mm_range range;
    struct memmap map = map_of(&range, bytes);

    return PMM_BYTES + pmm_metadata_bytes(&map);
}

static void *mello_create(void *metadata, uint64_t bytes)
{
    struct pmm_config config = { .low_memory = true };
    struct mm_range range;
    struct memmap map = map_of(&range, bytes);

    pmm_init(metadata, &map, (char *)metadata + PMM_BYTES, &config);
    return metadata;
}

/* The one request of the suite that takes a call more than through the pointer. */
static int mello_get_run(void *self, unsigned flags, uint64_t *out)
{
    return (int)pmm_alloc_contiguous_flags(self, 128, 4096, PMM_NO_LIMIT, flags, out);
}

const struct frames_subject frames_mello = {
    .name = "mello",
    .metadata_bytes = mello_bytes,
    .create = mello_create,
    .get = (int (*)(void *, unsigned, uint64_t *))AS_IS(pmm_alloc_frame_flags),
    .put = (void (*)(void *, uint64_t))AS_IS(pmm_free_frame),
    .put_zero = (void (*)(void *, uint64_t))AS_IS(pmm_free_zeroed_frame),
    .get_large = (int (*)(void *, unsigned, uint64_t *))AS_IS(pmm_alloc_large),
    .put_large = (void (*)(void *, uint64_t))AS_IS(pmm_free_large),
    .get_run = mello_get_run,
    .get_many = (int (*)(void *, uint64_t, unsigned, uint64_t *))AS_IS(pmm_alloc_frames),
    .put_many = (void (*)(void *, const uint64_t *, uint64_t))AS_IS(pmm_free_frames),
    .drain = (void (*)(void *))AS_IS(pmm_drain),
    .most_bytes = MM_GIB(65536),
};
