/* SPDX-License-Identifier: MIT */
/* Blocks of 2 MiB: what a slot keeps of them, who takes them back, and the order around 4 GiB. */
#include "pmm_fixture.h"

#include <string.h>

static void large_blocks_are_aligned_and_come_back(void **state)
{
    paddr_t blocks[32];
    unsigned count = 0;

    (void)state;
    pmm_set_up(MM_MIB(63), (struct pmm_config){ 0 });
    while (pmm_alloc_large(pmm, 0, &blocks[count]) == MM_OK) {
        assert_int_equal(blocks[count] % LARGE_PAGE_SIZE, 0);
        assert_true(is_zero(phys_to_virt(blocks[count]), LARGE_PAGE_SIZE));
        memset(phys_to_virt(blocks[count++]), 1, LARGE_PAGE_SIZE);
    }
    assert_true(count >= 29);
    assert_pmm_sound(pmm);
    pmm_free_frame(pmm, blocks[3] + FRAME_SIZE); /* parts may be given back */
    EXPECT_BUG("is free", pmm_free_large(pmm, blocks[3]));
    pmm_free_contiguous(pmm, blocks[3] + 2 * FRAME_SIZE, 510);
    pmm_free_frame(pmm, blocks[3]);
    for (unsigned i = 0; i < count; i++)
        if (i != 3)
            pmm_free_large(pmm, blocks[i]);
    EXPECT_BUG("is free", pmm_free_large(pmm, blocks[5]));
    EXPECT_BUG("outside", pmm_free_large(pmm, MM_GIB(9)));
    EXPECT_BUG("aligned", pmm_free_large(pmm, blocks[5] + 1));
    assert_int_equal(pmm_stats(pmm).used_frames, 0);
    assert_pmm_sound(pmm);
    assert_ok(pmm_alloc_large(pmm, 0, &blocks[0]));
    assert_true(is_zero(phys_to_virt(blocks[0]), LARGE_PAGE_SIZE));
}

/* Three blocks are freed: two stay with the slot, the youngest goes out first. */
static void freed_large_blocks_stay_with_their_slot(void **state)
{
    paddr_t blocks[3], block;

    (void)state;
    pmm_set_up(MM_MIB(64), (struct pmm_config){ 0 });
    (void)alloc_one(); /* makes the cache */
    for (unsigned i = 0; i < 3; i++)
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &blocks[i]));
    uint64_t free_frames = pmm_stats(pmm).free_frames, cached = pmm_stats(pmm).cached_frames;
    size_t last = pmm->range_count - 1;
    uint64_t in_range = pmm_range_stats(pmm, last).free_frames;
    for (unsigned i = 0; i < 3; i++) {
        memset(phys_to_virt(blocks[i]), 0x5a, 64);
        pmm_free_large(pmm, blocks[i]);
        assert_state(blocks[i] + (i + 1) * FRAME_SIZE, PMM_FRAME_FREE);
        assert_true(pmm_peek_frames(pmm, blocks[i] + MM_MIB(1)).free == UINT64_MAX);
        assert_pmm_sound(pmm);
    }
    assert_int_equal(pmm_stats(pmm).free_frames, free_frames + 3 * 512);
    assert_int_equal(pmm_stats(pmm).cached_frames, cached + 2 * 512);
    assert_int_equal(pmm_range_stats(pmm, last).free_frames, in_range + 3 * 512);
    for (unsigned i = 2; i > 0; i--) {
        assert_ok(pmm_alloc_large(pmm, 0, &block));
        assert_int_equal(block, blocks[i - 1]);
        assert_true(is_zero(phys_to_virt(block), LARGE_PAGE_SIZE));
        assert_state(block, PMM_FRAME_USED);
    }
    assert_pmm_sound(pmm);
}

static void kept_large_block_is_free_for_every_wrong_free(void **state)
{
    paddr_t block;

    (void)state;
    for (unsigned other = 0; other < 2; other++) {
        pmm_set_up(MM_MIB(64), (struct pmm_config){ 0 });
        (void)alloc_one();
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &block));
        pmm_free_large(pmm, block);
        if (other != 0) {
            level_up();
            (void)alloc_one();
        }
        expect_free_bug("free of a free frame", block);
        expect_free_bug("free of a free frame", block + 17 * FRAME_SIZE);
        if (other == 0)
            EXPECT_BUG("contiguous frames|is free", pmm_free_large(pmm, block));
        EXPECT_BUG("contiguous frames|is free",
                   pmm_free_contiguous(pmm, block + 3 * FRAME_SIZE, 5));
        assert_pmm_sound(pmm);
        if (other != 0)
            level_down();
        assert_int_equal(pmm_stats(pmm).used_frames, other + 1);
    }
}

/* A block that was freed on two slots lies in two caches, and is free once. */
static void large_block_freed_on_two_slots_is_reported_when_one_is_emptied(void **state)
{
    (void)state;
    for (unsigned both = 0; both < 2; both++) {
        paddr_t block, first, second;
        char words[64];

        pmm_set_up(MM_MIB(64), (struct pmm_config){ 0 });
        pmm_free_frame(pmm, alloc_one()); /* the slot knows the range */
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &block));
        level_up();
        pmm_free_frame(pmm, alloc_one());
        pmm_free_large(pmm, block);
        level_down();
        pmm_free_large(pmm, block);
        mm_format(words, sizeof words, "0x%lx|twice", block);
        if (both != 0)
            EXPECT_BUG(words, pmm_drain(pmm));
        else
            EXPECT_BUG(words, pmm_drain_slot(pmm));
        assert_pmm_sound(pmm);
        assert_state(block, PMM_FRAME_FREE);
        assert_int_equal(pmm_stats(pmm).used_frames, 0);
        level_up();
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &first));
        level_down();
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &second));
        assert_true(first != second);
        assert_pmm_sound(pmm);
    }
}

/* Each way that needs the memory gets it, from another slot too. */
static void kept_large_block_is_taken_back(void **state)
{
    const paddr_t end = MM_MIB(64);
    paddr_t block = 0, first;

    (void)state;
    for (unsigned way = 0; way < 5; way++) {
        pmm_set_up(end, (struct pmm_config){ 0 });
        (void)alloc_one();
        while (pmm_alloc_large(pmm, PMM_NOZERO, &first) == MM_OK)
            block = first;
        pmm_free_large(pmm, block);
        assert_true(pmm_stats(pmm).cached_frames >= 512);
        level_up();
        if (way == 0) {
            assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &first));
            assert_int_equal(first, block);
        } else if (way == 1) {
            assert_ok(pmm_alloc_contiguous(pmm, 512, LARGE_PAGE_SIZE, PMM_NO_LIMIT, &first));
            assert_int_equal(first, block);
        } else if (way == 2) {
            assert_ok(pmm_reserve_range(pmm, block + FRAME_SIZE, block + 3 * FRAME_SIZE));
            assert_state(block + FRAME_SIZE, PMM_FRAME_RESERVED);
        } else if (way == 3) {
            assert_ok(pmm_retire_range(pmm, block + FRAME_SIZE, block + 3 * FRAME_SIZE, NULL));
            assert_state(block + FRAME_SIZE, PMM_FRAME_RETIRED);
        } else {
            while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &first) == MM_OK)
                continue;
            assert_int_equal(pmm_stats(pmm).free_frames, 0);
        }
        assert_pmm_sound(pmm);
        level_down();
        pmm_drain(pmm);
        assert_int_equal(pmm_stats(pmm).cached_frames, 0);
        assert_pmm_sound(pmm);
    }
}

/* Not while there is memory above 4 GiB, and not where caches are off. */
static void large_blocks_that_are_not_kept(void **state)
{
    paddr_t low, high;

    (void)state;
    pmm_set_up(MM_MIB(64), (struct pmm_config){ .full_harden = true });
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &low));
    pmm_free_large(pmm, low);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    pmm_set_up(MM_MIB(4096 + 64), (struct pmm_config){ 0 });
    (void)alloc_one();
    assert_ok(pmm_alloc_contiguous(pmm, 512, LARGE_PAGE_SIZE, MM_GIB(4), &low));
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &high));
    assert_true(high >= MM_GIB(4));
    uint64_t cached = pmm_stats(pmm).cached_frames;
    pmm_free_large(pmm, low);
    assert_int_equal(pmm_stats(pmm).cached_frames, cached);
    pmm_free_large(pmm, high);
    assert_int_equal(pmm_stats(pmm).cached_frames, cached + 512);
    assert_pmm_sound(pmm);
}

/* The block that was freed last goes out first, but not a low one before the high ones. */
static void large_block_below_4_gib_does_not_go_first(void **state)
{
    paddr_t low, high, again;

    (void)state;
    pmm_set_up(MM_MIB(4096 + 64), (struct pmm_config){ 0 });
    assert_ok(pmm_alloc_contiguous(pmm, 512, LARGE_PAGE_SIZE, MM_GIB(4), &low));
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &high));
    pmm_free_large(pmm, high);
    pmm_free_large(pmm, low);
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &again));
    assert_int_equal(again, high);
    assert_pmm_sound(pmm);
}

/* Low memory, and 8 MiB on both sides of 4 GiB. False, and nothing, under a sanitizer. */
static bool set_up_across_4_gib(void)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(64), BOOT_USABLE),
        ROW(MM_GIB(4) - MM_MIB(8), MM_GIB(4) + MM_MIB(8), BOOT_USABLE),
    };

    if (support_is_sanitized())
        return false;
    machine_set_up(&pmm_machine, list, COUNT_OF(list), false);
    return true;
}

static void memory_above_4_gib_goes_first(void **state)
{
    paddr_t frame;

    (void)state;
    if (!set_up_across_4_gib())
        return;
    assert_true(alloc_one() >= MM_GIB(4));
    assert_ok(pmm_alloc_contiguous(pmm, 3, FRAME_SIZE, PMM_NO_LIMIT, &frame));
    assert_true(frame >= MM_GIB(4));
    assert_ok(pmm_alloc_contiguous(pmm, 3, FRAME_SIZE, MM_GIB(4), &frame));
    assert_true(frame < MM_GIB(4));
    assert_ok(pmm_alloc_contiguous(pmm, 3, FRAME_SIZE, MM_MIB(16), &frame));
    assert_true(frame < MM_MIB(16));
    for (unsigned i = 0; i < 3; i++) {
        assert_ok(pmm_alloc_large(pmm, 0, &frame));
        assert_true(frame >= MM_GIB(4));
    }
    assert_ok(pmm_alloc_contiguous(pmm, 600, FRAME_SIZE, PMM_NO_LIMIT, &frame));
    assert_true(frame < MM_GIB(4));
    assert_pmm_sound(pmm);
}

static void block_may_lie_across_4_gib(void **state)
{
    paddr_t frame;

    (void)state;
    if (!set_up_across_4_gib())
        return;
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        ;
    pmm_free_contiguous(pmm, MM_GIB(4) - MM_MIB(1), 512);
    assert_status(pmm_alloc_contiguous(pmm, 400, FRAME_SIZE, MM_GIB(4), &frame), MM_OUT_OF_MEMORY);
    assert_ok(pmm_alloc_contiguous(pmm, 400, FRAME_SIZE, PMM_NO_LIMIT, &frame));
    assert_int_equal(frame, MM_GIB(4) - MM_MIB(1));
    pmm_free_contiguous(pmm, frame, 400);
    pmm_free_contiguous(pmm, MM_GIB(4) - MM_MIB(3), 512);
    assert_ok(pmm_alloc_contiguous(pmm, 1000, FRAME_SIZE, PMM_NO_LIMIT, &frame));
    assert_int_equal(frame, MM_GIB(4) - MM_MIB(3));
    assert_pmm_sound(pmm);
}

/* Aligned to pages only, all of it used: parts of two blocks. */
static void large_block_is_freed_from_its_first_frame_on(void **state)
{
    struct pmm_stats before;
    paddr_t blocks[2];

    (void)state;
    pmm_set_up(MM_MIB(32), (struct pmm_config){ 0 });
    for (unsigned i = 0; i < 2; i++)
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &blocks[i]));
    assert_int_equal(blocks[1] - blocks[0], LARGE_PAGE_SIZE);
    before = pmm_stats(pmm);
    EXPECT_BUG("2 MB block|aligned", pmm_free_large(pmm, blocks[0] + FRAME_SIZE));
    assert_pmm_stats_equal(pmm_stats(pmm), before);
    pmm_free_contiguous(pmm, blocks[0], 1024);
    assert_pmm_sound(pmm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(large_blocks_are_aligned_and_come_back),
        TEST(freed_large_blocks_stay_with_their_slot),
        TEST(kept_large_block_is_free_for_every_wrong_free),
        TEST(large_block_freed_on_two_slots_is_reported_when_one_is_emptied),
        TEST(kept_large_block_is_taken_back),
        TEST(large_blocks_that_are_not_kept),
        TEST(large_block_below_4_gib_does_not_go_first),
        TEST(memory_above_4_gib_goes_first),
        TEST(block_may_lie_across_4_gib),
        TEST(large_block_is_freed_from_its_first_frame_on),
    };

    return RUN_TESTS(tests);
}
