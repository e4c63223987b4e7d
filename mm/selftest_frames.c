/* SPDX-License-Identifier: MIT */
/* The self-tests of the frame allocator. */
#include "mm/selftest_parts.h"

#define PROBED_RANGES 64u

bool pmm_case_valid(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t frame = 1;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    REQUIRE(mm_is_aligned(frame, FRAME_SIZE), "expected a multiple of 4096, got 0x%lx", frame);
    const struct mm_range *range = memmap_find(&run->mm->map, frame);
    REQUIRE(range != NULL && range->type == BOOT_USABLE, "expected usable memory, got 0x%lx: %s",
            frame, range == NULL ? "a hole" : memmap_type_name(range->type));
    REQUIRE(pmm_frame_state(pmm, frame) == PMM_FRAME_USED,
            "expected frame 0x%lx to be marked used, got another state", frame);
    pmm_free_frame(pmm, frame);
    return true;
}

bool pmm_case_different(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t frames[16];

    for (size_t i = 0; i < 16; i++) {
        REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frames[i]));
        for (size_t j = 0; j < i; j++)
            REQUIRE(frames[i] != frames[j], "expected 16 different frames, got 0x%lx twice",
                    frames[i]);
    }
    for (size_t i = 0; i < 16; i++)
        pmm_free_frame(pmm, frames[i]);
    return true;
}

bool pmm_case_comes_back(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t first, again;
    uint64_t used_before = pmm_stats(pmm).used_frames;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &first));
    pmm_free_frame(pmm, first);
    uint64_t used_after = pmm_stats(pmm).used_frames;
    REQUIRE(used_after == used_before, "expected %lu used frames, got %lu", used_before,
            used_after);
    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &again));
    REQUIRE(again == first, "expected frame 0x%lx again, got 0x%lx", first, again);
    pmm_free_frame(pmm, again);
    return true;
}

bool pmm_case_zero(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t frame;

    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    memset(phys_to_virt(frame), 0xa5, FRAME_SIZE);
    pmm_free_frame(pmm, frame);
    REQUIRE_STATUS(MM_OK, pmm_alloc_frame(pmm, &frame));
    size_t other = first_other_byte(phys_to_virt(frame), 0, FRAME_SIZE);
    REQUIRE(other == FRAME_SIZE, "expected zeroes in frame 0x%lx, got another byte at offset %lu",
            frame, other);
    pmm_free_frame(pmm, frame);
    return true;
}

bool pmm_case_contiguous(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    paddr_t block;

    REQUIRE_STATUS(MM_OK, pmm_alloc_contiguous(pmm, 8, MM_KIB(32), MM_GIB(4), &block));
    REQUIRE(mm_is_aligned(block, MM_KIB(32)) && block + MM_KIB(32) <= MM_GIB(4),
            "expected 32 KB below 4 GB, aligned to 32 KB, got 0x%lx", block);
    for (paddr_t frame = block; frame < block + MM_KIB(32); frame += FRAME_SIZE)
        REQUIRE(pmm_frame_state(pmm, frame) == PMM_FRAME_USED,
                "expected frame 0x%lx of the block to be used, got another state", frame);
    pmm_free_contiguous(pmm, block, 8);
    REQUIRE(pmm_frame_state(pmm, block) == PMM_FRAME_FREE,
            "expected the block at 0x%lx to be free again, got another state", block);
    REQUIRE_STATUS(MM_OUT_OF_MEMORY,
                   pmm_alloc_contiguous(pmm, UINT64_MAX, FRAME_SIZE, PMM_NO_LIMIT, &block));
    return true;
}

/* Takes the free frame nearest to one end of a range; false if none is free. */
static bool take_end_frame(struct pmm *pmm, struct mm_extent extent, bool highest, paddr_t *out)
{
    for (uint64_t distance = 0; distance < extent.end - extent.base; distance += FRAME_SIZE) {
        paddr_t frame = highest ? extent.end - FRAME_SIZE - distance : extent.base + distance;
        if (pmm_reserve_range(pmm, frame, frame + FRAME_SIZE) != MM_OK)
            continue;
        *out = frame;
        return true;
    }
    return false;
}

static uint64_t probe_pattern(paddr_t frame)
{
    return frame ^ 0x5eed5eed5eed5eedu;
}

/* The lowest and the highest free frame of each range are all written before the first is read, so
 * that two addresses of one memory cell would be found out. */
bool pmm_case_ends(struct test_run *run)
{
    struct pmm *pmm = &run->mm->pmm;
    size_t ranges = pmm_stats(pmm).range_count, count = 0;
    size_t first = ranges > PROBED_RANGES ? ranges - PROBED_RANGES : 0;
    paddr_t frames[2 * PROBED_RANGES];

    for (size_t i = first; i < ranges; i++)
        for (unsigned highest = 0; highest < 2; highest++)
            if (take_end_frame(pmm, pmm_range_extent(pmm, i), highest != 0, &frames[count]))
                count++;
    for (size_t i = 0; i < count; i++) {
        word_of_frame(frames[i])[0] = probe_pattern(frames[i]);
        word_of_frame(frames[i])[511] = ~probe_pattern(frames[i]);
    }
    REQUIRE(count > 0, "expected a free frame, got none");
    for (size_t i = 0; i < count; i++) {
        uint64_t low = word_of_frame(frames[i])[0], high = word_of_frame(frames[i])[511];
        run->memory_lies = low != probe_pattern(frames[i]) || high != ~low;
        REQUIRE(!run->memory_lies, "expected 0x%lx in frame 0x%lx, got 0x%lx and 0x%lx",
                probe_pattern(frames[i]), frames[i], low, high);
        REQUIRE_STATUS(MM_OK, pmm_release_range(pmm, frames[i], frames[i] + FRAME_SIZE));
    }
    mm_format(run->note, NOTE_BYTES, "%lu frames, up to 0x%lx", count, frames[count - 1]);
    return true;
}

bool pmm_case_counters(struct test_run *run)
{
    REQUIRE(pmm_verify(&run->mm->pmm), "expected counters and bitmaps to agree, got a difference");
    return true;
}
