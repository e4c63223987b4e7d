/* SPDX-License-Identifier: MIT */
/* What the frame allocator keeps for itself finds room, says what it said, and is nobody else's. */
#include "pmm_fixture.h"

#define BLOCKS 32u

static paddr_t block_at(uint64_t index)
{
    return MM_MIB(20) + MM_MIB(2) * index; /* above the metadata */
}

/* All frames are used but the given one of each 2 MiB. */
static void use_all_but(uint64_t place)
{
    paddr_t frame;

    pmm_set_up_cached(MM_MIB(20) + MM_MIB(2) * BLOCKS, 64);
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

    level_up();
    while (count < BLOCKS && pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frames[count]) == MM_OK)
        count++;
    for (unsigned i = 0; i < count; i++)
        if (frames[i] != kept)
            pmm_free_frame(pmm, frames[i]);
    pmm_free_contiguous(pmm, kept, 1); /* into no cache */
    level_down();
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
    pmm_set_up(MM_MIB(20) + MM_MIB(2) * BLOCKS, (struct pmm_config){ .full_harden = true });
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
    pmm_set_up(MM_MIB(20) + MM_MIB(2) * BLOCKS, (struct pmm_config){ .full_harden = true });
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
    pmm_set_up(MM_MIB(20) + MM_MIB(2) * BLOCKS, (struct pmm_config){ .full_harden = true });
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
    pmm_set_up_cached(MM_MIB(20) + MM_MIB(2) * BLOCKS, 64);
    metadata = virt_to_phys(pmm_machine.metadata);
    expect_no_release(metadata);
    expect_no_release(
        mm_round_down(metadata + pmm_metadata_bytes(&pmm_machine.map) - 1, FRAME_SIZE));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reserving_needs_no_two_neighbours),
        TEST(reserving_takes_caches_back),
        TEST(page_tables_need_no_two_neighbours),
        TEST(releasing_works_when_nothing_is_free),
        TEST(bookkeeping_leaves_bad_ram),
        TEST(bookkeeping_that_has_left_bad_ram_is_retired),
        TEST(what_the_pmm_keeps_is_not_released),
    };

    return RUN_TESTS(tests);
}
