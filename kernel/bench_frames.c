/* SPDX-License-Identifier: MIT */
/* The frames suite of the kernel's benchmark: pairs of one allocation and one free.
 *
 *   pair_hot, pair_hot_zeroed, pair_known_zero, pair_table, pair_2m     one at a time
 *   batch512, bulk512                                                  512 single calls; one call
 *
 * Everything is given back; a value is that of one pair. */
#include "kernel/bench_parts.h"

#define BENCH_BATCH 512u

static paddr_t bench_batch[BENCH_BATCH];

static bool frames_pair_hot(struct mm *mm, uint64_t count)
{
    paddr_t frame;

    for (uint64_t i = 0; i < count; i++) {
        if (pmm_alloc_frame_flags(&mm->pmm, PMM_NOZERO, &frame) != MM_OK)
            return false;
        pmm_free_frame(&mm->pmm, frame);
    }
    return true;
}

static bool frames_pair_hot_zeroed(struct mm *mm, uint64_t count)
{
    paddr_t frame;

    for (uint64_t i = 0; i < count; i++) {
        if (pmm_alloc_frame(&mm->pmm, &frame) != MM_OK)
            return false;
        pmm_free_frame(&mm->pmm, frame);
    }
    return true;
}

static bool frames_pair_known_zero(struct mm *mm, uint64_t count)
{
    paddr_t frame;

    for (uint64_t i = 0; i < count; i++) {
        if (pmm_alloc_frame(&mm->pmm, &frame) != MM_OK)
            return false;
        pmm_free_zeroed_frame(&mm->pmm, frame);
    }
    return true;
}

static bool frames_pair_table(struct mm *mm, uint64_t count)
{
    paddr_t frame;

    for (uint64_t i = 0; i < count; i++) {
        if (pmm_alloc_table(&mm->pmm, &frame) != MM_OK)
            return false;
        pmm_free_table(&mm->pmm, frame);
    }
    return true;
}

static bool frames_batch(struct mm *mm, uint64_t count)
{
    for (uint64_t done = 0; done < count; done += BENCH_BATCH) {
        unsigned taken = 0;

        while (taken < BENCH_BATCH &&
               pmm_alloc_frame_flags(&mm->pmm, PMM_NOZERO, &bench_batch[taken]) == MM_OK)
            taken++;
        for (unsigned i = 0; i < taken; i++)
            pmm_free_frame(&mm->pmm, bench_batch[i]);
        if (taken < BENCH_BATCH)
            return false;
    }
    return true;
}

static bool frames_bulk(struct mm *mm, uint64_t count)
{
    for (uint64_t done = 0; done < count; done += BENCH_BATCH) {
        if (pmm_alloc_frames(&mm->pmm, BENCH_BATCH, PMM_NOZERO, bench_batch) != MM_OK)
            return false;
        pmm_free_frames(&mm->pmm, bench_batch, BENCH_BATCH);
    }
    return true;
}

static bool frames_pair_large(struct mm *mm, uint64_t count)
{
    paddr_t block;

    for (uint64_t i = 0; i < count; i++) {
        if (pmm_alloc_large(&mm->pmm, PMM_NOZERO, &block) != MM_OK)
            return false;
        pmm_free_large(&mm->pmm, block);
    }
    return true;
}

static const struct bench_work frames_works[] = {
    { "pair_hot", frames_pair_hot, 1000 },
    { "pair_hot_zeroed", frames_pair_hot_zeroed, 100 },
    { "pair_known_zero", frames_pair_known_zero, 1000 },
    { "pair_table", frames_pair_table, 100 },
    { "batch512", frames_batch, 8 * BENCH_BATCH },
    { "bulk512", frames_bulk, 8 * BENCH_BATCH },
    { "pair_2m", frames_pair_large, 100 },
};

const struct bench_part bench_frames = {
    .name = "frames",
    .works = frames_works,
    .work_count = sizeof(frames_works) / sizeof(frames_works[0]),
};
