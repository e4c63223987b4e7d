/* SPDX-License-Identifier: MIT */
/* See pmm_ranges.h.
 *
 *   pmm_frame_state of each frame --> counts of one range == pmm_range_stats --> sums == pmm_stats
 *
 * Which of the free frames lie in caches, and which of these hold zeroes, no state tells: these two are
 * compared in the sums, and each is no more than the counter that it is a part of. */
#include "pmm_ranges.h"

static void expect(const char *what, paddr_t where, uint64_t found, uint64_t expected)
{
    if (found != expected)
        fail_msg("range at 0x%lx: %lu %s, expected %lu", where, found, what, expected);
}

void assert_ranges_add_up(struct pmm *pmm)
{
    struct pmm_stats all = pmm_stats(pmm), sum = { .range_count = all.range_count };

    for (size_t i = 0; i < all.range_count; i++) {
        struct pmm_range_stats range = pmm_range_stats(pmm, i);

        expect("frames in all", range.extent.base, range.total_frames,
               (range.extent.end - range.extent.base) / FRAME_SIZE);
        expect("frames free, used and reserved", range.extent.base,
               range.free_frames + range.used_frames + range.reserved_frames, range.total_frames);
        assert_true(range.zeroed_frames <= range.cached_frames);
        assert_true(range.cached_frames <= range.free_frames);
        assert_true(range.table_frames <= range.used_frames);
        assert_true(range.retired_frames <= range.reserved_frames);
        sum.total_frames += range.total_frames;
        sum.free_frames += range.free_frames;
        sum.used_frames += range.used_frames;
        sum.table_frames += range.table_frames;
        sum.reserved_frames += range.reserved_frames;
        sum.cached_frames += range.cached_frames;
        sum.zeroed_frames += range.zeroed_frames;
        sum.retired_frames += range.retired_frames;
    }
    assert_pmm_stats_equal(sum, all);
    expect("free frames in all", 0, sum.free_frames, all.free_frames);
    expect("cached frames in all", 0, sum.cached_frames, all.cached_frames);
    expect("zeroed frames in all", 0, sum.zeroed_frames, all.zeroed_frames);
}

void assert_ranges_are_counted(struct pmm *pmm)
{
    for (size_t i = 0; i < pmm_stats(pmm).range_count; i++) {
        struct pmm_range_stats range = pmm_range_stats(pmm, i);
        uint64_t count[PMM_FRAME_RETIRED + 1] = { 0 };

        for (paddr_t at = range.extent.base; at < range.extent.end; at += FRAME_SIZE)
            count[pmm_frame_state(pmm, at)]++;
        expect("free frames", range.extent.base, range.free_frames, count[PMM_FRAME_FREE]);
        expect("used frames", range.extent.base, range.used_frames,
               count[PMM_FRAME_USED] + count[PMM_FRAME_TABLE]);
        expect("page tables", range.extent.base, range.table_frames, count[PMM_FRAME_TABLE]);
        expect("reserved frames", range.extent.base, range.reserved_frames,
               count[PMM_FRAME_RESERVED] + count[PMM_FRAME_RETIRED]);
        expect("retired frames", range.extent.base, range.retired_frames, count[PMM_FRAME_RETIRED]);
        expect("frames outside RAM", range.extent.base, count[PMM_FRAME_OUTSIDE], 0);
    }
    assert_ranges_add_up(pmm);
}
