/* SPDX-License-Identifier: MIT */
/* What the frame allocator does in front of and beside its bitmap: caches of slots, taking back, known
 * zeroes, bulk calls, 2 MiB blocks, bad RAM, low water, trace, injected failures.
 *
 * Slots are the interrupt levels of one fake CPU: `up()` and `down()` move between them. */
#include "mm/pmm_parts.h"
#include "support.h"

#include <string.h>

static struct machine machine;
static struct pmm *const pmm = &machine.pmm;

static void set_up(uint64_t bytes, struct pmm_config config)
{
    machine_set_up_simple(&machine, bytes);
    memset(machine.metadata, 0xa5, pmm_metadata_bytes(&machine.map));
    pmm_init(pmm, &machine.map, machine.metadata, &config);
}

static void set_up_cached(uint64_t bytes, uint64_t frames)
{
    set_up(bytes, (struct pmm_config){ .magazine_frames = frames });
}

static void up(void)
{
    assert_true(hosted_interrupt_enter());
}

static void down(void)
{
    hosted_interrupt_leave();
}

static paddr_t alloc_one(void)
{
    paddr_t frame;

    assert_ok(pmm_alloc_frame(pmm, &frame));
    assert_true(is_zero(phys_to_virt(frame), FRAME_SIZE));
    return frame;
}

static void assert_state(paddr_t frame, enum pmm_frame_state expected)
{
    assert_string_equal(pmm_state_name(pmm_frame_state(pmm, frame)), pmm_state_name(expected));
    assert_string_equal(pmm_state_name(pmm_peek_frame(pmm, frame)), pmm_state_name(expected));
}

static void expect_free_bug(const char *state, paddr_t frame)
{
    char words[64];

    mm_format(words, sizeof words, "%s|0x%lx", state, frame);
    EXPECT_BUG(words, pmm_free_frame(pmm, frame));
    assert_pmm_sound(pmm);
}

/* ---- caches ---- */

static void cache_holds_free_frames_and_counts_them(void **state)
{
    struct pmm_stats stats;
    paddr_t frames[40];

    (void)state;
    for (uint64_t size = 1; size <= 300; size += 13) {
        set_up_cached(MM_MIB(16), size);
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
    set_up_cached(MM_MIB(64), 64);
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
    set_up_cached(MM_MIB(64), 64);
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
    set_up_cached(MM_MIB(16), 64);
    up();
    last = alloc_one();
    pmm_free_frame(pmm, last);
    assert_true(pmm_stats(pmm).cached_frames > 1);
    down();
    for (mm_status_t status; (status = pmm_alloc_frame(pmm, &frames[count])) == MM_OK;)
        count++;
    assert_int_equal(pmm_stats(pmm).free_frames, 0);
    assert_int_equal(pmm_stats(pmm).used_frames, count);
    assert_pmm_sound(pmm);
    up();
    assert_status(pmm_alloc_frame(pmm, &none), MM_OUT_OF_MEMORY);
    assert_int_equal(none, 1);
    pmm_free_frame(pmm, frames[0]);
    down();
    assert_int_equal(alloc_one(), frames[0]);
    assert_pmm_sound(pmm);
}

static void cache_of_another_slot_is_emptied_for_a_block(void **state)
{
    paddr_t frames[64], block = 1;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    up();
    pmm_free_frame(pmm, alloc_one()); /* the slot has its cache now */
    down();
    pmm_drain_to(pmm, 0, NULL, 0);
    for (unsigned i = 0; i < 64; i++)
        frames[i] = MM_MIB(4) + i * FRAME_SIZE;
    up();
    pmm_free_frames(pmm, frames, 64);
    down();
    assert_ok(pmm_alloc_contiguous(pmm, 64, FRAME_SIZE, PMM_NO_LIMIT, &block));
    assert_int_equal(block, MM_MIB(4));
    up();
    pmm_free_frames(pmm, frames, 64);
    down();
    assert_ok(pmm_reserve_range(pmm, frames[3], frames[60]));
    assert_pmm_sound(pmm);
}

/* Freed in two slots: the second copy is reported when it leaves its cache. */
static void cache_of_two_slots_reports_a_double_free_when_emptied(void **state)
{
    paddr_t frame;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    frame = alloc_one();
    pmm_free_frame(pmm, frame);
    up();
    pmm_free_frame(pmm, frame);
    down();
    EXPECT_BUG("freed twice", pmm_drain(pmm));
    assert_pmm_sound(pmm);
    assert_state(frame, PMM_FRAME_FREE);
}

static void full_level_reports_a_double_free_in_any_slot_at_once(void **state)
{
    paddr_t frame;

    (void)state;
    set_up(MM_MIB(64), (struct pmm_config){ .full_harden = true });
    frame = alloc_one();
    pmm_free_frame(pmm, frame);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    up();
    expect_free_bug("free of a free frame", frame);
    down();
    expect_free_bug("free of a free frame", frame);
}

static void cached_frame_in_a_contiguous_free_is_reported(void **state)
{
    paddr_t block;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    assert_ok(pmm_alloc_contiguous(pmm, 8, FRAME_SIZE, PMM_NO_LIMIT, &block));
    pmm_free_frame(pmm, block + 3 * FRAME_SIZE);
    EXPECT_BUG("is free", pmm_free_contiguous(pmm, block, 8));
    assert_state(block, PMM_FRAME_USED);
    assert_pmm_sound(pmm);
}

static void small_machines_have_no_caches(void **state)
{
    (void)state;
    set_up(MM_MIB(32), (struct pmm_config){ 0 });
    pmm_free_frame(pmm, alloc_one());
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    set_up(MM_MIB(96), (struct pmm_config){ 0 });
    pmm_free_frame(pmm, alloc_one());
    assert_true(pmm_stats(pmm).cached_frames > 0);
}

static void drained_slot_is_empty(void **state)
{
    (void)state;
    set_up_cached(MM_MIB(16), 64);
    pmm_free_frame(pmm, alloc_one());
    up();
    pmm_free_zeroed_frame(pmm, alloc_one());
    uint64_t cached = pmm_stats(pmm).cached_frames;
    pmm_drain_slot(pmm);
    uint64_t left = pmm_stats(pmm).cached_frames;
    assert_true(left > 0 && left < cached);
    down();
    pmm_drain_slot(pmm);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    assert_pmm_sound(pmm);
}

/* ---- zeroes ---- */

/* At the default level the promise is believed: what is written behind it comes back uncleared. */
static void zeroed_frame_is_not_cleared_again(void **state)
{
    paddr_t frame;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    frame = alloc_one();
    *(uint64_t *)phys_to_virt(frame) = 77;
    pmm_free_zeroed_frame(pmm, frame);
    assert_int_equal(pmm_stats(pmm).zeroed_frames, 1);
    paddr_t again;
    assert_ok(pmm_alloc_frame(pmm, &again));
    assert_int_equal(again, frame);
    assert_int_equal(*(uint64_t *)phys_to_virt(frame), 77);
    pmm_free_frame(pmm, frame);
    assert_int_equal(alloc_one(), frame);
}

static void full_level_checks_the_promise_of_zeroes(void **state)
{
    paddr_t frame, table;

    (void)state;
    set_up(MM_MIB(16), (struct pmm_config){ .full_harden = true });
    frame = alloc_one();
    ((uint8_t *)phys_to_virt(frame))[4095] = 1;
    EXPECT_BUG("zeroed|4088", pmm_free_zeroed_frame(pmm, frame));
    assert_state(frame, PMM_FRAME_USED);
    assert_ok(pmm_alloc_table(pmm, &table));
    ((uint8_t *)phys_to_virt(table))[8] = 1;
    EXPECT_BUG("not empty|byte 8", pmm_free_table(pmm, table));
    assert_state(table, PMM_FRAME_TABLE);
    assert_pmm_sound(pmm);
}

static void idle_work_clears_until_there_is_enough(void **state)
{
    unsigned done = 0;

    (void)state;
    set_up_cached(MM_MIB(16), 256);
    while (pmm_idle_work(pmm))
        assert_true(++done <= 64);
    assert_true(done >= 8);
    assert_int_equal(pmm_stats(pmm).zeroed_frames, done);
    assert_int_equal(pmm_stats(pmm).used_frames, 0);
    assert_pmm_sound(pmm);
    (void)alloc_one();
    assert_int_equal(pmm_stats(pmm).zeroed_frames, done - 1);
    assert_true(pmm_idle_work(pmm));
    assert_false(pmm_idle_work(pmm));
}

static void memory_that_is_zero_is_never_cleared(void **state)
{
    paddr_t frame, block;

    (void)state;
    if (support_is_sanitized()) /* which would trap the lie */
        return;
    set_up(MM_MIB(64), (struct pmm_config){ .memory_is_zero = true, .magazine_frames = 64 });
    *(uint64_t *)phys_to_virt(MM_MIB(40)) = 5; /* a lie, to see that nobody clears */
    assert_ok(pmm_alloc_contiguous_flags(pmm, 1, FRAME_SIZE, PMM_NO_LIMIT, PMM_NOZERO, &frame));
    while (pmm_alloc_large(pmm, 0, &block) == MM_OK)
        if (block == MM_MIB(40))
            break;
    assert_int_equal(block, MM_MIB(40));
    assert_int_equal(*(uint64_t *)phys_to_virt(block), 5);
    pmm_free_large(pmm, block);
    assert_ok(pmm_alloc_large(pmm, 0, &block));
    assert_true(is_zero(phys_to_virt(block), LARGE_PAGE_SIZE));
    assert_pmm_sound(pmm);
}

/* ---- bulk ---- */

static void bulk_is_all_or_nothing(void **state)
{
    static paddr_t frames[8192];
    struct pmm_stats before;

    (void)state;
    for (uint64_t size = 0; size <= 64; size += 64) {
        set_up_cached(MM_MIB(16), size);
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

/* ---- blocks of 2 MiB ---- */

static void large_blocks_are_aligned_and_come_back(void **state)
{
    paddr_t blocks[32];
    unsigned count = 0;

    (void)state;
    set_up(MM_MIB(63), (struct pmm_config){ 0 });
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
    set_up(MM_MIB(64), (struct pmm_config){ 0 });
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
        set_up(MM_MIB(64), (struct pmm_config){ 0 });
        (void)alloc_one();
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &block));
        pmm_free_large(pmm, block);
        if (other != 0) {
            up();
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
            down();
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

        set_up(MM_MIB(64), (struct pmm_config){ 0 });
        pmm_free_frame(pmm, alloc_one()); /* the slot knows the range */
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &block));
        up();
        pmm_free_frame(pmm, alloc_one());
        pmm_free_large(pmm, block);
        down();
        pmm_free_large(pmm, block);
        mm_format(words, sizeof words, "0x%lx|twice", block);
        if (both != 0)
            EXPECT_BUG(words, pmm_drain(pmm));
        else
            EXPECT_BUG(words, pmm_drain_slot(pmm));
        assert_pmm_sound(pmm);
        assert_state(block, PMM_FRAME_FREE);
        assert_int_equal(pmm_stats(pmm).used_frames, 0);
        up();
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &first));
        down();
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
        set_up(end, (struct pmm_config){ 0 });
        (void)alloc_one();
        while (pmm_alloc_large(pmm, PMM_NOZERO, &first) == MM_OK)
            block = first;
        pmm_free_large(pmm, block);
        assert_true(pmm_stats(pmm).cached_frames >= 512);
        up();
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
        down();
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
    set_up(MM_MIB(64), (struct pmm_config){ .full_harden = true });
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &low));
    pmm_free_large(pmm, low);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    set_up(MM_MIB(4096 + 64), (struct pmm_config){ 0 });
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
    set_up(MM_MIB(4096 + 64), (struct pmm_config){ 0 });
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
    machine_set_up(&machine, list, COUNT_OF(list), false);
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
    set_up(MM_MIB(32), (struct pmm_config){ 0 });
    for (unsigned i = 0; i < 2; i++)
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &blocks[i]));
    assert_int_equal(blocks[1] - blocks[0], LARGE_PAGE_SIZE);
    before = pmm_stats(pmm);
    EXPECT_BUG("2 MB block|aligned", pmm_free_large(pmm, blocks[0] + FRAME_SIZE));
    assert_pmm_stats_equal(pmm_stats(pmm), before);
    pmm_free_contiguous(pmm, blocks[0], 1024);
    assert_pmm_sound(pmm);
}

/* ---- page tables ---- */

/* What is left of a block of page tables becomes everybody's when nothing else is free: then neighbours
 * may be found where there were none, though nobody has freed a frame. */
static void failure_is_forgotten_when_a_block_of_tables_is_opened(void **state)
{
    paddr_t table, frame;

    (void)state;
    set_up(MM_MIB(64), (struct pmm_config){ .full_harden = true });
    assert_ok(pmm_alloc_table(pmm, &table));
    while (pmm_alloc_contiguous_flags(pmm, 1, FRAME_SIZE, PMM_NO_LIMIT, PMM_NOZERO, &frame) ==
           MM_OK)
        ;
    assert_int_equal(pmm_stats(pmm).free_frames, 511);
    (void)alloc_one();
    assert_ok(pmm_alloc_contiguous(pmm, 100, FRAME_SIZE, PMM_NO_LIMIT, &frame));
    assert_pmm_sound(pmm);
}

static void tables_come_from_a_block_of_their_own(void **state)
{
    paddr_t tables[600], frame;

    (void)state;
    set_up(MM_MIB(128), (struct pmm_config){ 0 });
    for (unsigned i = 0; i < 600; i++) {
        assert_ok(pmm_alloc_table(pmm, &tables[i]));
        assert_state(tables[i], PMM_FRAME_TABLE);
        assert_true(i >= 512 || tables[i] / LARGE_PAGE_SIZE == tables[0] / LARGE_PAGE_SIZE);
        frame = alloc_one();
        assert_true(frame / LARGE_PAGE_SIZE != tables[i] / LARGE_PAGE_SIZE);
        pmm_free_frame(pmm, frame);
    }
    assert_int_equal(pmm_stats(pmm).table_frames, 600);
    expect_free_bug("page-table", tables[5]);
    for (unsigned i = 0; i < 600; i++)
        pmm_free_table(pmm, tables[i]);
    assert_int_equal(pmm_stats(pmm).table_frames, 0);
    assert_state(tables[599], PMM_FRAME_FREE);
    EXPECT_BUG("free of a free frame", pmm_free_table(pmm, tables[599]));
    assert_pmm_sound(pmm);
    pmm_drain_to(pmm, 0, NULL, 0); /* their blocks are everybody's in the end */
    assert_pmm_sound(pmm);
}

/* ---- bad RAM ---- */

static void retired_frames_leave_at_once_or_when_freed(void **state)
{
    paddr_t used, cached, table, base = MM_MIB(1), end = MM_MIB(17);
    uint64_t waiting = 99;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    used = alloc_one();
    cached = alloc_one();
    pmm_free_frame(pmm, cached);
    assert_ok(pmm_alloc_table(pmm, &table));
    assert_ok(pmm_retire_range(pmm, base, end, &waiting));
    assert_int_equal(waiting, 2);
    assert_int_equal(pmm_stats(pmm).free_frames, 0);
    assert_state(cached, PMM_FRAME_RETIRED);
    assert_state(used, PMM_FRAME_USED);
    assert_state(table, PMM_FRAME_TABLE);
    assert_pmm_sound(pmm);
    expect_free_bug("retired", cached);
    pmm_free_frame(pmm, used);
    pmm_free_table(pmm, table);
    assert_state(used, PMM_FRAME_RETIRED);
    assert_state(table, PMM_FRAME_RETIRED);
    assert_int_equal(pmm_stats(pmm).retired_frames, (end - base) / FRAME_SIZE);
    assert_status(pmm_release_range(pmm, used, used + FRAME_SIZE), MM_NOT_FREE);
    assert_status(pmm_alloc_frame(pmm, &used), MM_OUT_OF_MEMORY);
    assert_pmm_sound(pmm);
}

static void retired_part_of_a_block_leaves_when_the_block_is_freed(void **state)
{
    paddr_t block, again;

    (void)state;
    set_up(MM_MIB(63), (struct pmm_config){ 0 });
    assert_ok(pmm_alloc_large(pmm, 0, &block));
    assert_ok(pmm_retire_range(pmm, block + FRAME_SIZE, block + 3 * FRAME_SIZE, NULL));
    assert_state(block + FRAME_SIZE, PMM_FRAME_USED);
    pmm_free_large(pmm, block);
    assert_state(block, PMM_FRAME_FREE);
    assert_state(block + FRAME_SIZE, PMM_FRAME_RETIRED);
    assert_state(block + 2 * FRAME_SIZE, PMM_FRAME_RETIRED);
    assert_state(block + 3 * FRAME_SIZE, PMM_FRAME_FREE);
    while (pmm_alloc_large(pmm, PMM_NOZERO, &again) == MM_OK)
        assert_true(again != block);
    assert_pmm_sound(pmm);
    assert_status(pmm_retire_range(pmm, 1, FRAME_SIZE, NULL), MM_NOT_ALIGNED);
    assert_status(pmm_retire_range(pmm, FRAME_SIZE, FRAME_SIZE, NULL), MM_INVALID_ADDRESS);
}

static void released_memory_keeps_its_bad_frames_out(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(4), BOOT_USABLE),
        ROW(MM_MIB(4), MM_MIB(8), BOOT_LOADER_RECLAIMABLE),
    };

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    assert_ok(pmm_retire_range(pmm, MM_MIB(5), MM_MIB(5) + FRAME_SIZE, NULL));
    assert_ok(pmm_release_range(pmm, MM_MIB(4), MM_MIB(8)));
    assert_state(MM_MIB(5), PMM_FRAME_RETIRED);
    assert_state(MM_MIB(5) + FRAME_SIZE, PMM_FRAME_FREE);
    assert_state(MM_MIB(6), PMM_FRAME_FREE);
    assert_pmm_sound(pmm);
}

static struct pmm_slot *make_cache_in_the_upper_slot(void)
{
    up();
    pmm_free_frame(pmm, alloc_one());
    down();
    for (size_t i = MM_PORT_SLOT_TABLE; i > 0; i--)
        if (pmm->slots[i - 1] != &pmm_absent_slot)
            return pmm->slots[i - 1];
    fail_msg("no cache was made");
    return NULL;
}

/* The pmm's own use of bad RAM ends, too: that of another slot as soon as its owner comes by. */
static void cache_in_bad_ram_moves_when_its_owner_comes_by(void **state)
{
    uint64_t waiting = 99, caches;
    paddr_t at, frame;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    frame = alloc_one();
    at = virt_to_phys(make_cache_in_the_upper_slot());
    caches = pmm_stats(pmm).reserved_frames;
    assert_ok(pmm_retire_range(pmm, at, at + FRAME_SIZE, &waiting));
    assert_int_equal(waiting, 1);
    assert_state(at, PMM_FRAME_RESERVED);
    pmm_free_frame(pmm, frame);
    assert_state(at, PMM_FRAME_RESERVED);
    assert_pmm_sound(pmm);
    assert_true(virt_to_phys(make_cache_in_the_upper_slot()) != at);
    assert_state(at, PMM_FRAME_RETIRED);
    assert_int_equal(pmm_stats(pmm).reserved_frames, caches + 1);
    assert_int_equal(pmm_stats(pmm).retired_frames, 1);
    assert_pmm_sound(pmm);
}

static void cache_of_the_running_slot_leaves_bad_ram_at_once(void **state)
{
    uint64_t waiting = 99;
    struct pmm_slot *slot;
    paddr_t frame;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    frame = alloc_one();
    slot = pmm->slots[mm_port_slot()];
    assert_true(slot != &pmm_absent_slot);
    assert_ok(pmm_retire_range(pmm, virt_to_phys(slot), virt_to_phys(slot) + FRAME_SIZE, &waiting));
    assert_int_equal(waiting, 0);
    assert_state(virt_to_phys(slot), PMM_FRAME_RETIRED);
    pmm_free_frame(pmm, frame);
    assert_true(pmm->slots[mm_port_slot()] != slot);
    assert_pmm_sound(pmm);
}

static void first_frame_is_no_cache_when_it_is_retired(void **state)
{
    uint64_t waiting = 99;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    (void)make_cache_in_the_upper_slot();
    assert_true(pmm->slots[mm_port_slot()] == &pmm_absent_slot);
    assert_ok(pmm_retire_range(pmm, 0, FRAME_SIZE, &waiting));
    assert_int_equal(waiting, 0);
    assert_state(0, PMM_FRAME_RETIRED);
    assert_pmm_sound(pmm);
}

/* A free on another CPU that found the frame in order before it was retired, and puts it into its cache
 * afterwards: the last stores of slot_push(), which come too late. */
static void frame_that_is_freed_while_it_is_retired_is_not_handed_out(void **state)
{
    struct pmm_slot *slot;
    uint64_t waiting = 99;
    paddr_t late, frame;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    slot = make_cache_in_the_upper_slot();
    up();
    late = alloc_one();
    down();
    assert_ok(pmm_retire_range(pmm, late, late + FRAME_SIZE, &waiting));
    assert_int_equal(waiting, 1);
    slot_push_locked(slot, false, late);
    up();
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        assert_true(frame != late);
    down();
    assert_state(late, PMM_FRAME_RETIRED);
    assert_pmm_sound(pmm);
}

/* Block `block`, its third frame bad, lies in the suspended cache of the upper slot; it goes back to its
 * chunk when another CPU empties the caches, or when its owner comes by. */
static void give_retired_block_back(paddr_t block, bool by_owner)
{
    paddr_t bad = block + 2 * FRAME_SIZE, frame;

    assert_pmm_sound(pmm);
    if (by_owner)
        (void)make_cache_in_the_upper_slot();
    else
        pmm_drain(pmm);
    assert_pmm_sound(pmm);
    for (frame = block; frame < block + LARGE_PAGE_SIZE; frame += FRAME_SIZE)
        assert_state(frame, frame == bad ? PMM_FRAME_RETIRED : PMM_FRAME_FREE);
    assert_int_equal(pmm_stats(pmm).used_frames, 0);
    assert_int_equal(pmm_stats(pmm).retired_frames, 1);
}

static paddr_t alloc_block_in_the_upper_slot(void)
{
    paddr_t block;

    up();
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &block));
    down();
    return block;
}

/* A free on another CPU that found the block in order before a frame of it was retired, and has loaded
 * the limit of its cache: the last stores of magazine_push(), which come too late. */
static void block_that_is_freed_while_it_is_retired_goes_back(void **state)
{
    (void)state;
    for (unsigned by_owner = 0; by_owner < 2; by_owner++) {
        struct pmm_slot *slot;
        uint64_t waiting = 99;
        paddr_t block;

        set_up_cached(MM_MIB(16), 64);
        slot = make_cache_in_the_upper_slot();
        block = alloc_block_in_the_upper_slot();
        assert_ok(pmm_retire_range(pmm, block + 2 * FRAME_SIZE, block + 3 * FRAME_SIZE, &waiting));
        assert_int_equal(waiting, 1);
        bits_store(&slot->blocks[slot->large.bottom], block);
        slot->large.bottom++;
        give_retired_block_back(block, by_owner != 0);
    }
}

/* An allocation on another CPU that has lowered `bottom` and not yet seen that its cache was switched
 * off: then it restores `bottom`. */
static void block_that_is_popped_while_it_is_retired_goes_back(void **state)
{
    (void)state;
    for (unsigned by_owner = 0; by_owner < 2; by_owner++) {
        struct pmm_slot *slot;
        uint64_t waiting = 99;
        paddr_t block;

        set_up_cached(MM_MIB(16), 64);
        slot = make_cache_in_the_upper_slot();
        block = alloc_block_in_the_upper_slot();
        up();
        pmm_free_large(pmm, block);
        down();
        assert_int_equal(slot->large.bottom, 1);
        slot->large.bottom--;
        assert_ok(pmm_retire_range(pmm, block + 2 * FRAME_SIZE, block + 3 * FRAME_SIZE, &waiting));
        assert_int_equal(waiting, 1);
        slot->large.bottom++;
        give_retired_block_back(block, by_owner != 0);
    }
}

/* Several CPUs pop from what they share where they have no cache, and may leave a smaller `bottom` each
 * time: the slow ways put it right. */
static void bottoms_of_the_absent_cache_do_not_drift(void **state)
{
    paddr_t frame;

    (void)state;
    set_up(MM_MIB(64), (struct pmm_config){ 0 });
    pmm_absent_slot.large.bottom = -5;
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &frame));
    assert_int_equal(pmm_absent_slot.large.bottom, 0);
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        continue;
    up(); /* nothing is left to make a cache of */
    pmm_absent_slot.dirty.bottom = -5;
    assert_status(pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame), MM_OUT_OF_MEMORY);
    assert_int_equal(pmm_absent_slot.dirty.bottom, 0);
    down();
}

/* Nobody's cache is emptied for what can never be had. */
static void request_for_more_than_there_is_leaves_the_caches_alone(void **state)
{
    paddr_t first;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    (void)make_cache_in_the_upper_slot();
    struct pmm_stats before = pmm_stats(pmm);
    assert_true(before.cached_frames > 0);
    assert_status(pmm_alloc_contiguous(pmm, before.free_frames + 1, FRAME_SIZE, PMM_NO_LIMIT,
                                       &first),
                  MM_OUT_OF_MEMORY);
    assert_int_equal(pmm_stats(pmm).cached_frames, before.cached_frames);
    assert_pmm_sound(pmm);
}

/* What another CPU has taken out of a cache makes room for idle clearing. */
static void idle_work_goes_on_when_another_cpu_has_emptied_the_cache(void **state)
{
    unsigned done = 0;

    (void)state;
    set_up_cached(MM_MIB(16), 64);
    pmm_free_frame(pmm, alloc_one());
    while (pmm_idle_work(pmm))
        assert_true(++done < 1000);
    assert_true(pmm_stats(pmm).zeroed_frames > 0);
    up();
    pmm_drain(pmm);
    down();
    assert_int_equal(pmm_stats(pmm).zeroed_frames, 0);
    assert_true(pmm_idle_work(pmm));
    assert_int_equal(pmm_stats(pmm).zeroed_frames, 1);
    assert_pmm_sound(pmm);
}

/* ---- bookkeeping ---- */

#define BLOCKS 32u

static paddr_t block_at(uint64_t index)
{
    return MM_MIB(20) + MM_MIB(2) * index; /* above the metadata */
}

/* All frames are used but the given one of each 2 MiB. */
static void use_all_but(uint64_t place)
{
    paddr_t frame;

    set_up_cached(MM_MIB(20) + MM_MIB(2) * BLOCKS, 64);
    (void)make_cache_in_the_upper_slot();
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        ;
    pmm_drain(pmm);
    for (uint64_t i = 0; i < BLOCKS; i++)
        pmm_free_frame(pmm, block_at(i) + place * FRAME_SIZE);
}

/* What is kept of a block that is partly reserved grows by any free frame; none has a free neighbour. */
static void reserving_needs_no_two_neighbours(void **state)
{
    uint64_t free;
    unsigned done = 0;

    (void)state;
    use_all_but(100);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        paddr_t frame = block_at(i) + 100 * FRAME_SIZE;
        mm_status_t status = pmm_reserve_range(pmm, frame, frame + FRAME_SIZE);

        free = pmm_stats(pmm).free_frames;
        if (status == MM_OK)
            done++;
        else if (status == MM_OUT_OF_MEMORY) /* the last one: no other frame is free */
            assert_int_equal(free, 1);
        else
            assert_status(status, MM_NOT_FREE); /* the pmm keeps something there */
        assert_pmm_sound(pmm);
    }
    assert_true(done > BLOCKS - 6);
}

/* All free frames but the given one lie in the cache of the upper slot. */
static void cache_all_but(paddr_t kept)
{
    paddr_t frames[BLOCKS];
    unsigned count = 0;

    up();
    while (count < BLOCKS && pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frames[count]) == MM_OK)
        count++;
    for (unsigned i = 0; i < count; i++)
        if (frames[i] != kept)
            pmm_free_frame(pmm, frames[i]);
    pmm_free_contiguous(pmm, kept, 1); /* into no cache */
    down();
    assert_int_equal(pmm_stats(pmm).cached_frames + 1, pmm_stats(pmm).free_frames);
}

/* A frame for bookkeeping is found in another slot's cache, too. */
static void reserving_takes_caches_back(void **state)
{
    unsigned done = 0;

    (void)state;
    use_all_but(100);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        paddr_t frame = block_at(i) + 100 * FRAME_SIZE;

        if (pmm_frame_state(pmm, frame) != PMM_FRAME_FREE)
            continue; /* the pmm keeps something there */
        cache_all_but(frame);
        if (pmm_stats(pmm).free_frames == 1)
            break;
        assert_ok(pmm_reserve_range(pmm, frame, frame + FRAME_SIZE));
        assert_pmm_sound(pmm);
        done++;
    }
    assert_true(done > BLOCKS - 6);
}

static void page_tables_need_no_two_neighbours(void **state)
{
    paddr_t table;
    unsigned done = 0;

    (void)state;
    use_all_but(100);
    while (pmm_alloc_table(pmm, &table) == MM_OK)
        done++;
    assert_int_equal(pmm_stats(pmm).free_frames, 0);
    assert_true(done > BLOCKS - 6);
    assert_pmm_sound(pmm);
}

/* Where nothing is free, releasing is what helps. */
static void releasing_works_when_nothing_is_free(void **state)
{
    paddr_t frame, first = block_at(0), end = block_at(BLOCKS);
    uint64_t released = 0, got = 0;

    (void)state;
    set_up(MM_MIB(20) + MM_MIB(2) * BLOCKS, (struct pmm_config){ .full_harden = true });
    assert_ok(pmm_reserve_range(pmm, first, end));
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        ;
    for (uint64_t i = 0; i < BLOCKS; i++, released++) {
        frame = block_at(i) + 7 * FRAME_SIZE;
        assert_ok(pmm_release_range(pmm, frame, frame + FRAME_SIZE));
        assert_pmm_sound(pmm);
        got += pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK;
    }
    assert_int_equal(got + 2, released); /* two frames say what is reserved beside the others */
}

/* What says which frames are reserved moves out of bad RAM and says so still. */
static void bookkeeping_leaves_bad_ram(void **state)
{
    struct pmm_stats before;
    uint64_t waiting = 99;
    unsigned found = 0;

    (void)state;
    set_up(MM_MIB(20) + MM_MIB(2) * BLOCKS, (struct pmm_config){ .full_harden = true });
    before = pmm_stats(pmm);
    for (uint64_t i = 0; i < BLOCKS; i++)
        assert_ok(pmm_reserve_range(pmm, block_at(i), block_at(i) + FRAME_SIZE));
    assert_true(pmm_stats(pmm).reserved_frames > before.reserved_frames + BLOCKS);
    for (uint64_t i = 0; i + 1 < BLOCKS; i++) {
        paddr_t at = block_at(i);

        for (paddr_t in = at + FRAME_SIZE; in < at + MM_MIB(2); in += FRAME_SIZE)
            found += pmm_frame_state(pmm, in) == PMM_FRAME_RESERVED;
        assert_ok(pmm_retire_range(pmm, at, at + MM_MIB(2), &waiting));
        assert_int_equal(waiting, 0);
        assert_pmm_sound(pmm);
        for (paddr_t in = at; in < at + MM_MIB(2); in += FRAME_SIZE)
            assert_state(in, PMM_FRAME_RETIRED);
    }
    assert_state(block_at(BLOCKS - 1), PMM_FRAME_RESERVED);
    assert_true(found > 0);
}

/* There is room for one frame of bookkeeping, not for both that lie in the bad RAM. */
static void bookkeeping_that_has_left_bad_ram_is_retired(void **state)
{
    paddr_t frame, free;
    unsigned kept = 0;

    (void)state;
    set_up(MM_MIB(20) + MM_MIB(2) * BLOCKS, (struct pmm_config){ .full_harden = true });
    free = alloc_one();
    assert_true(free < block_at(0));
    for (uint64_t i = 0; i < BLOCKS; i++)
        assert_ok(pmm_reserve_range(pmm, block_at(i), block_at(i) + FRAME_SIZE));
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        ;
    pmm_free_frame(pmm, free);
    assert_status(pmm_retire_range(pmm, block_at(0), block_at(BLOCKS), NULL), MM_OUT_OF_MEMORY);
    assert_state(free, PMM_FRAME_RESERVED);
    for (frame = block_at(0); frame < block_at(BLOCKS); frame += FRAME_SIZE)
        if (!mm_is_aligned(frame, MM_MIB(2)))
            kept += pmm_frame_state(pmm, frame) == PMM_FRAME_RESERVED;
    assert_int_equal(kept, 1);
    assert_int_equal(pmm_stats(pmm).retired_frames, 1);
    assert_pmm_sound(pmm);
}

static void expect_no_release(paddr_t frame)
{
    assert_status(pmm_release_range(pmm, frame, frame + FRAME_SIZE), MM_NOT_FREE);
    assert_state(frame, PMM_FRAME_RESERVED);
    assert_pmm_sound(pmm);
}

/* Reserved frames are whoever's has reserved them, but what the pmm keeps itself it knows. */
static void what_the_pmm_keeps_is_not_released(void **state)
{
    paddr_t frame, metadata;
    unsigned found = 0;

    (void)state;
    set_up_cached(MM_MIB(20) + MM_MIB(2) * BLOCKS, 64);
    metadata = virt_to_phys(machine.metadata);
    expect_no_release(metadata);
    expect_no_release(mm_round_down(metadata + pmm_metadata_bytes(&machine.map) - 1, FRAME_SIZE));
    expect_no_release(virt_to_phys(make_cache_in_the_upper_slot()));
    for (uint64_t i = 0; i < BLOCKS; i++)
        assert_ok(pmm_reserve_range(pmm, block_at(i), block_at(i) + FRAME_SIZE));
    for (frame = block_at(0); frame < block_at(BLOCKS); frame += FRAME_SIZE) {
        if (mm_is_aligned(frame, MM_MIB(2)) || pmm_frame_state(pmm, frame) != PMM_FRAME_RESERVED)
            continue;
        expect_no_release(frame);
        found++;
    }
    assert_true(found > 0);
}

/* ---- steering ---- */

static unsigned calls;

static void count_call(void *context)
{
    calls++;
    pmm_free_frame(pmm, *(paddr_t *)context); /* it may call mm */
}

static void low_water_calls_once_for_each_fall(void **state)
{
    paddr_t spare, frame;

    (void)state;
    calls = 0;
    set_up(MM_MIB(8), (struct pmm_config){ 0 });
    spare = alloc_one();
    uint64_t free_frames = pmm_stats(pmm).free_frames;
    pmm_set_low_water(pmm, free_frames, count_call, &spare);
    frame = alloc_one();
    assert_int_equal(calls, 1);
    (void)alloc_one();
    assert_int_equal(calls, 1);
    pmm_free_frame(pmm, frame);
    pmm_set_low_water(pmm, free_frames - 100, NULL, NULL);
    pmm_drain_to(pmm, 0, NULL, 0);
    assert_int_equal(calls, 1);
}

static void only_count(void *context)
{
    (void)context;
    calls++;
}

/* Nobody allocates while memory is above the mark. */
static void low_water_sees_memory_rise_by_frees_alone(void **state)
{
    paddr_t frames[100], block;

    (void)state;
    calls = 0;
    set_up(MM_MIB(8), (struct pmm_config){ 0 });
    pmm_set_low_water(pmm, pmm_stats(pmm).free_frames - 50, only_count, NULL);
    for (unsigned i = 0; i < 100; i++)
        frames[i] = alloc_one();
    assert_int_equal(calls, 1);
    for (unsigned i = 0; i < 100; i++)
        pmm_free_frame(pmm, frames[i]);
    assert_ok(pmm_alloc_contiguous(pmm, 100, FRAME_SIZE, PMM_NO_LIMIT, &block));
    assert_int_equal(calls, 2);
    pmm_free_contiguous(pmm, block, 100);
    assert_ok(pmm_reserve_range(pmm, block, block + 100 * FRAME_SIZE));
    assert_int_equal(calls, 3);
}

static void injected_failures_come_when_asked_for(void **state)
{
    paddr_t frame, many[4];

    (void)state;
    set_up_cached(MM_MIB(64), 64);
    pmm_free_frame(pmm, alloc_one());
    pmm_fault_inject(pmm, 3, 0);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    (void)alloc_one();
    (void)alloc_one();
    assert_status(pmm_alloc_frame(pmm, &frame), MM_OUT_OF_MEMORY);
    (void)alloc_one();
    pmm_fault_inject(pmm, 1, 1);
    assert_status(pmm_alloc_frame(pmm, &frame), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_frames(pmm, 4, 0, many), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_table(pmm, &frame), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_large(pmm, 0, &frame), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_contiguous(pmm, 2, FRAME_SIZE, PMM_NO_LIMIT, &frame), MM_OUT_OF_MEMORY);
    pmm_fault_inject(pmm, 0, 0);
    pmm_free_frame(pmm, alloc_one());
    assert_true(pmm_stats(pmm).cached_frames > 0);
    assert_pmm_sound(pmm);
}

static void trace_tells_every_call_and_ends(void **state)
{
    paddr_t frame;

    (void)state;
    set_up_cached(MM_MIB(64), 64);
    pmm_free_frame(pmm, alloc_one());
    mm_log_level = MM_LOG_DEBUG;
    pmm_set_trace(pmm, true);
    log_clear();
    frame = alloc_one();
    pmm_free_frame(pmm, frame);
    log_expect_count("pmm: allocated used frame", 1);
    log_expect_count("pmm: freed used frame", 1);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    pmm_set_trace(pmm, false);
    mm_log_level = MM_LOG_INFO;
    pmm_free_frame(pmm, alloc_one());
    assert_true(pmm_stats(pmm).cached_frames > 0);
    assert_pmm_sound(pmm);
}

/* ---- asking ---- */

static void report_agrees_with_the_counters(void **state)
{
    uint64_t free_frames = 0;
    struct pmm_stats stats;

    (void)state;
    set_up_cached(MM_MIB(64), 64);
    (void)alloc_one();
    stats = pmm_stats(pmm);
    for (size_t i = 0; i < stats.range_count; i++)
        free_frames += pmm_range_stats(pmm, i).free_frames;
    assert_int_equal(free_frames, stats.free_frames);
    assert_true(pmm_largest_free(pmm) > 12000 && pmm_largest_free(pmm) < stats.free_frames);
    log_clear();
    pmm_report(pmm);
    assert_int_equal(log_lines(), 2 + stats.range_count);
    log_expect("largest free block");
}

/* Pages of metadata that a start on much memory writes: by ranges, not by frames. */
static void init_writes_little_of_the_metadata(void **state)
{
    struct mm_range range = { .base = 0, .end = MM_GIB(64), .type = BOOT_USABLE };
    struct memmap map = { .ranges = &range, .count = 1, .capacity = 1 };
    static struct pmm other;
    uint64_t bytes = pmm_metadata_bytes(&map), written = 0;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    assert_true(bytes <= 34 * 64 * MM_KIB(1));
    unsigned char *metadata = test_malloc(bytes + 64);
    unsigned char *aligned = (unsigned char *)mm_round_up((uintptr_t)metadata, 64);
    memset(aligned, 0xa5, bytes);
    pmm_init(&other, &map, aligned, NULL);
    for (uint64_t i = 0; i < bytes; i++)
        written += aligned[i] != 0xa5;
    assert_true(written < MM_KIB(64));
    assert_int_equal(pmm_stats(&other).free_frames, MM_GIB(64) / FRAME_SIZE - 256);
    assert_true(pmm_verify(&other));
    test_free(metadata);
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
        TEST(zeroed_frame_is_not_cleared_again),
        TEST(full_level_checks_the_promise_of_zeroes),
        TEST(idle_work_clears_until_there_is_enough),
        TEST(memory_that_is_zero_is_never_cleared),
        TEST(bulk_is_all_or_nothing),
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
        TEST(failure_is_forgotten_when_a_block_of_tables_is_opened),
        TEST(tables_come_from_a_block_of_their_own),
        TEST(retired_frames_leave_at_once_or_when_freed),
        TEST(retired_part_of_a_block_leaves_when_the_block_is_freed),
        TEST(released_memory_keeps_its_bad_frames_out),
        TEST(cache_in_bad_ram_moves_when_its_owner_comes_by),
        TEST(cache_of_the_running_slot_leaves_bad_ram_at_once),
        TEST(first_frame_is_no_cache_when_it_is_retired),
        TEST(frame_that_is_freed_while_it_is_retired_is_not_handed_out),
        TEST(block_that_is_freed_while_it_is_retired_goes_back),
        TEST(block_that_is_popped_while_it_is_retired_goes_back),
        TEST(bottoms_of_the_absent_cache_do_not_drift),
        TEST(request_for_more_than_there_is_leaves_the_caches_alone),
        TEST(idle_work_goes_on_when_another_cpu_has_emptied_the_cache),
        TEST(reserving_needs_no_two_neighbours),
        TEST(reserving_takes_caches_back),
        TEST(page_tables_need_no_two_neighbours),
        TEST(releasing_works_when_nothing_is_free),
        TEST(bookkeeping_leaves_bad_ram),
        TEST(bookkeeping_that_has_left_bad_ram_is_retired),
        TEST(what_the_pmm_keeps_is_not_released),
        TEST(low_water_calls_once_for_each_fall),
        TEST(low_water_sees_memory_rise_by_frees_alone),
        TEST(injected_failures_come_when_asked_for),
        TEST(trace_tells_every_call_and_ends),
        TEST(report_agrees_with_the_counters),
        TEST(init_writes_little_of_the_metadata),
    };

    return RUN_TESTS(tests);
}
