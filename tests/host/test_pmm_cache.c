/* SPDX-License-Identifier: MIT */
/* The caches of slots: what they hold, who empties them, which wrong frees they see, and bulk calls. */
#include "pmm_fixture.h"

#include <string.h>

static void cache_holds_free_frames_and_counts_them(void **state)
{
    struct pmm_stats stats;
    paddr_t frames[40];

    (void)state;
    for (uint64_t size = 1; size <= 300; size += 13) {
        pmm_set_up_cached(MM_MIB(16), size);
        for (unsigned i = 0; i < 40; i++)
            frames[i] = alloc_one();
        for (unsigned i = 0; i < 40; i++) {
            pmm_free_frame(pmm, frames[i]);
            assert_state(frames[i], PMM_FRAME_FREE);
        }
        stats = pmm_stats(pmm);
        assert_int_equal(stats.used_frames, 0);
        assert_true(stats.cached_frames > 0 && stats.cached_frames <= 2 * size + 1);
        assert_pmm_sound(pmm);
        pmm_drain(pmm);
        assert_int_equal(pmm_stats(pmm).cached_frames, 0);
        assert_pmm_sound(pmm);
    }
}

static void cache_sees_its_own_double_free_at_once(void **state)
{
    paddr_t frames[64];

    (void)state;
    pmm_set_up_cached(MM_MIB(64), 64);
    for (unsigned i = 0; i < 64; i++)
        frames[i] = alloc_one();
    for (unsigned i = 0; i < 30; i++)
        pmm_free_frame(pmm, frames[2 * i]);
    for (unsigned i = 0; i < 30; i++)
        expect_free_bug("free of a free frame", frames[2 * i]);
    for (unsigned i = 0; i < 30; i++)
        pmm_free_frame(pmm, frames[2 * i + 1]);
    assert_pmm_sound(pmm);
}

/* Frames that share a hash: the same place in different blocks of 2 MiB. */
static void cache_sees_double_frees_of_frames_with_one_hash(void **state)
{
    paddr_t blocks[20];

    (void)state;
    pmm_set_up_cached(MM_MIB(64), 64);
    for (unsigned i = 0; i < 20; i++)
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &blocks[i]));
    for (unsigned i = 0; i < 20; i++)
        pmm_free_frame(pmm, blocks[i] + 7 * FRAME_SIZE);
    for (unsigned i = 0; i < 20; i++)
        expect_free_bug("free of a free frame", blocks[i] + 7 * FRAME_SIZE);
    for (unsigned i = 0; i < 10; i++)
        pmm_free_zeroed_frame(pmm, blocks[i] + 8 * FRAME_SIZE);
    for (unsigned i = 0; i < 10; i++) {
        expect_free_bug("free of a free frame", blocks[i] + 8 * FRAME_SIZE);
        pmm_free_frame(pmm, blocks[i + 10] + 8 * FRAME_SIZE);
    }
    for (unsigned i = 0; i < 30; i++) {
        paddr_t frame;
        assert_ok(pmm_alloc_frame_flags(pmm, random_chance(50) ? PMM_NOZERO : 0, &frame));
        assert_pmm_sound(pmm);
    }
}

static void cache_of_another_slot_is_emptied_before_memory_is_out(void **state)
{
    static paddr_t frames[8192];
    paddr_t last, none = 1;
    size_t count = 0;

    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
    level_up();
    last = alloc_one();
    pmm_free_frame(pmm, last);
    assert_true(pmm_stats(pmm).cached_frames > 1);
    level_down();
    for (mm_status_t status; (status = pmm_alloc_frame(pmm, &frames[count])) == MM_OK;)
        count++;
    assert_int_equal(pmm_stats(pmm).free_frames, 0);
    assert_int_equal(pmm_stats(pmm).used_frames, count);
    assert_pmm_sound(pmm);
    level_up();
    assert_status(pmm_alloc_frame(pmm, &none), MM_OUT_OF_MEMORY);
    assert_int_equal(none, 1);
    pmm_free_frame(pmm, frames[0]);
    level_down();
    assert_int_equal(alloc_one(), frames[0]);
    assert_pmm_sound(pmm);
}

static void cache_of_another_slot_is_emptied_for_a_block(void **state)
{
    paddr_t frames[64], block = 1;

    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
    level_up();
    pmm_free_frame(pmm, alloc_one()); /* the slot has its cache now */
    level_down();
    pmm_drain_to(pmm, 0, NULL, 0);
    for (unsigned i = 0; i < 64; i++)
        frames[i] = MM_MIB(4) + i * FRAME_SIZE;
    level_up();
    pmm_free_frames(pmm, frames, 64);
    level_down();
    assert_ok(pmm_alloc_contiguous(pmm, 64, FRAME_SIZE, PMM_NO_LIMIT, &block));
    assert_int_equal(block, MM_MIB(4));
    level_up();
    pmm_free_frames(pmm, frames, 64);
    level_down();
    assert_ok(pmm_reserve_range(pmm, frames[3], frames[60]));
    assert_pmm_sound(pmm);
}

/* Freed in two slots: the second copy is reported when it leaves its cache. */
static void cache_of_two_slots_reports_a_double_free_when_emptied(void **state)
{
    paddr_t frame;

    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
    frame = alloc_one();
    pmm_free_frame(pmm, frame);
    level_up();
    pmm_free_frame(pmm, frame);
    level_down();
    EXPECT_BUG("freed twice", pmm_drain(pmm));
    assert_pmm_sound(pmm);
    assert_state(frame, PMM_FRAME_FREE);
}

static void full_level_reports_a_double_free_in_any_slot_at_once(void **state)
{
    paddr_t frame;

    (void)state;
    pmm_set_up(MM_MIB(64), (struct pmm_config){ .full_harden = true });
    frame = alloc_one();
    pmm_free_frame(pmm, frame);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    level_up();
    expect_free_bug("free of a free frame", frame);
    level_down();
    expect_free_bug("free of a free frame", frame);
}

static void cached_frame_in_a_contiguous_free_is_reported(void **state)
{
    paddr_t block;

    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
    assert_ok(pmm_alloc_contiguous(pmm, 8, FRAME_SIZE, PMM_NO_LIMIT, &block));
    pmm_free_frame(pmm, block + 3 * FRAME_SIZE);
    EXPECT_BUG("is free", pmm_free_contiguous(pmm, block, 8));
    assert_state(block, PMM_FRAME_USED);
    assert_pmm_sound(pmm);
}

static void small_machines_have_no_caches(void **state)
{
    (void)state;
    pmm_set_up(MM_MIB(32), (struct pmm_config){ 0 });
    pmm_free_frame(pmm, alloc_one());
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    pmm_set_up(MM_MIB(96), (struct pmm_config){ 0 });
    pmm_free_frame(pmm, alloc_one());
    assert_true(pmm_stats(pmm).cached_frames > 0);
}

static void drained_slot_is_empty(void **state)
{
    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
    pmm_free_frame(pmm, alloc_one());
    level_up();
    pmm_free_zeroed_frame(pmm, alloc_one());
    uint64_t cached = pmm_stats(pmm).cached_frames;
    pmm_drain_slot(pmm);
    uint64_t left = pmm_stats(pmm).cached_frames;
    assert_true(left > 0 && left < cached);
    level_down();
    pmm_drain_slot(pmm);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    assert_pmm_sound(pmm);
}

static void bulk_is_all_or_nothing(void **state)
{
    static paddr_t frames[8192];
    struct pmm_stats before;

    (void)state;
    for (uint64_t size = 0; size <= 64; size += 64) {
        pmm_set_up_cached(MM_MIB(16), size);
        uint64_t free_frames = pmm_stats(pmm).free_frames;
        assert_ok(pmm_alloc_frames(pmm, 100, 0, frames));
        for (unsigned i = 0; i < 100; i++) {
            assert_true(is_zero(phys_to_virt(frames[i]), FRAME_SIZE));
            memset(phys_to_virt(frames[i]), 0xee, FRAME_SIZE);
        }
        pmm_free_frames(pmm, frames, 100);
        before = pmm_stats(pmm);
        frames[0] = 1;
        assert_status(pmm_alloc_frames(pmm, free_frames + 1, 0, frames), MM_OUT_OF_MEMORY);
        assert_status(pmm_alloc_frames(pmm, UINT64_MAX, 0, frames), MM_OUT_OF_MEMORY);
        assert_status(pmm_alloc_frames(pmm, 1, 2, frames), MM_INVALID_ARGUMENT);
        assert_int_equal(frames[0], 1);
        assert_pmm_stats_equal(pmm_stats(pmm), before);
        assert_ok(pmm_alloc_frames(pmm, before.free_frames, 0, frames));
        assert_int_equal(pmm_stats(pmm).free_frames, 0);
        for (uint64_t i = 0; i < before.free_frames; i++)
            assert_true(is_zero(phys_to_virt(frames[i]), FRAME_SIZE));
        pmm_free_frames(pmm, frames, before.free_frames);
        assert_int_equal(pmm_stats(pmm).used_frames, 0);
        assert_pmm_sound(pmm);
    }
}

/* Several CPUs pop from what they share where they have no cache, and may leave a smaller `bottom` each
 * time: the slow ways put it right. */
static void bottoms_of_the_absent_cache_do_not_drift(void **state)
{
    paddr_t frame;

    (void)state;
    pmm_set_up(MM_MIB(64), (struct pmm_config){ 0 });
    pmm_absent_slot.large.bottom = -5;
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &frame));
    assert_int_equal(pmm_absent_slot.large.bottom, 0);
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        continue;
    level_up(); /* nothing is left to make a cache of */
    pmm_absent_slot.dirty.bottom = -5;
    assert_status(pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame), MM_OUT_OF_MEMORY);
    assert_int_equal(pmm_absent_slot.dirty.bottom, 0);
    level_down();
}

/* Nobody's cache is emptied for what can never be had. */
static void request_for_more_than_there_is_leaves_the_caches_alone(void **state)
{
    paddr_t first;

    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
    (void)make_cache_in_the_upper_slot();
    struct pmm_stats before = pmm_stats(pmm);
    assert_true(before.cached_frames > 0);
    assert_status(pmm_alloc_contiguous(pmm, before.free_frames + 1, FRAME_SIZE, PMM_NO_LIMIT,
                                       &first),
                  MM_OUT_OF_MEMORY);
    assert_int_equal(pmm_stats(pmm).cached_frames, before.cached_frames);
    assert_pmm_sound(pmm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(cache_holds_free_frames_and_counts_them),
        TEST(cache_sees_its_own_double_free_at_once),
        TEST(cache_sees_double_frees_of_frames_with_one_hash),
        TEST(cache_of_another_slot_is_emptied_before_memory_is_out),
        TEST(cache_of_another_slot_is_emptied_for_a_block),
        TEST(cache_of_two_slots_reports_a_double_free_when_emptied),
        TEST(full_level_reports_a_double_free_in_any_slot_at_once),
        TEST(cached_frame_in_a_contiguous_free_is_reported),
        TEST(small_machines_have_no_caches),
        TEST(drained_slot_is_empty),
        TEST(bulk_is_all_or_nothing),
        TEST(bottoms_of_the_absent_cache_do_not_drift),
        TEST(request_for_more_than_there_is_leaves_the_caches_alone),
    };

    return RUN_TESTS(tests);
}
