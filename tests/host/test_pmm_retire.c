/* SPDX-License-Identifier: MIT */
/* Bad RAM leaves at once, or when its user lets it go: a caller, a cache, a call on another CPU. */
#include "pmm_fixture.h"

static void retired_frames_leave_at_once_or_when_freed(void **state)
{
    paddr_t used, cached, table, base = MM_MIB(1), end = MM_MIB(17);
    uint64_t waiting = 99;

    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
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
    pmm_set_up(MM_MIB(63), (struct pmm_config){ 0 });
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
    machine_set_up(&pmm_machine, list, COUNT_OF(list), false);
    assert_ok(pmm_retire_range(pmm, MM_MIB(5), MM_MIB(5) + FRAME_SIZE, NULL));
    assert_ok(pmm_release_range(pmm, MM_MIB(4), MM_MIB(8)));
    assert_state(MM_MIB(5), PMM_FRAME_RETIRED);
    assert_state(MM_MIB(5) + FRAME_SIZE, PMM_FRAME_FREE);
    assert_state(MM_MIB(6), PMM_FRAME_FREE);
    assert_pmm_sound(pmm);
}

/* The pmm's own use of bad RAM ends, too: that of another slot as soon as its owner comes by. */
static void cache_in_bad_ram_moves_when_its_owner_comes_by(void **state)
{
    uint64_t waiting = 99, caches;
    paddr_t at, frame;

    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
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
    pmm_set_up_cached(MM_MIB(16), 64);
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
    pmm_set_up_cached(MM_MIB(16), 64);
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
    pmm_set_up_cached(MM_MIB(16), 64);
    slot = make_cache_in_the_upper_slot();
    level_up();
    late = alloc_one();
    level_down();
    assert_ok(pmm_retire_range(pmm, late, late + FRAME_SIZE, &waiting));
    assert_int_equal(waiting, 1);
    slot_push_locked(slot, false, late);
    level_up();
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        assert_true(frame != late);
    level_down();
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

/* A machine whose upper slot has a cache and a block of 2 MiB, which is returned. */
static paddr_t set_up_block_in_the_upper_slot(struct pmm_slot **slot)
{
    paddr_t block;

    pmm_set_up_cached(MM_MIB(16), 64);
    *slot = make_cache_in_the_upper_slot();
    level_up();
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &block));
    level_down();
    return block;
}

static void retire_third_frame(paddr_t block)
{
    uint64_t waiting = 99;

    assert_ok(pmm_retire_range(pmm, block + 2 * FRAME_SIZE, block + 3 * FRAME_SIZE, &waiting));
    assert_int_equal(waiting, 1);
}

/* A free on another CPU that found the block in order before a frame of it was retired, and has loaded
 * the limit of its cache: the last stores of magazine_push(), which come too late. */
static void block_that_is_freed_while_it_is_retired_goes_back(void **state)
{
    (void)state;
    for (unsigned by_owner = 0; by_owner < 2; by_owner++) {
        struct pmm_slot *slot;
        paddr_t block = set_up_block_in_the_upper_slot(&slot);

        retire_third_frame(block);
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
        paddr_t block = set_up_block_in_the_upper_slot(&slot);

        level_up();
        pmm_free_large(pmm, block);
        level_down();
        assert_int_equal(slot->large.bottom, 1);
        slot->large.bottom--;
        retire_third_frame(block);
        slot->large.bottom++;
        give_retired_block_back(block, by_owner != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(retired_frames_leave_at_once_or_when_freed),
        TEST(retired_part_of_a_block_leaves_when_the_block_is_freed),
        TEST(released_memory_keeps_its_bad_frames_out),
        TEST(cache_in_bad_ram_moves_when_its_owner_comes_by),
        TEST(cache_of_the_running_slot_leaves_bad_ram_at_once),
        TEST(first_frame_is_no_cache_when_it_is_retired),
        TEST(frame_that_is_freed_while_it_is_retired_is_not_handed_out),
        TEST(block_that_is_freed_while_it_is_retired_goes_back),
        TEST(block_that_is_popped_while_it_is_retired_goes_back),
    };

    return RUN_TESTS(tests);
}
