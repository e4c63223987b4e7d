/* SPDX-License-Identifier: MIT */
/* Known zeroes: the promise of a caller, idle work, and memory that is zero from the beginning. */
#include "pmm_fixture.h"

/* At the default level the promise is believed: what is written behind it comes back uncleared. */
static void zeroed_frame_is_not_cleared_again(void **state)
{
    paddr_t frame;

    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
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
    pmm_set_up(MM_MIB(16), (struct pmm_config){ .full_harden = true });
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
    pmm_set_up_cached(MM_MIB(16), 256);
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
    pmm_set_up(MM_MIB(64), (struct pmm_config){ .memory_is_zero = true, .magazine_frames = 64 });
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

/* What another CPU has taken out of a cache makes room for idle clearing. */
static void idle_work_goes_on_when_another_cpu_has_emptied_the_cache(void **state)
{
    unsigned done = 0;

    (void)state;
    pmm_set_up_cached(MM_MIB(16), 64);
    pmm_free_frame(pmm, alloc_one());
    while (pmm_idle_work(pmm))
        assert_true(++done < 1000);
    assert_true(pmm_stats(pmm).zeroed_frames > 0);
    level_up();
    pmm_drain(pmm);
    level_down();
    assert_int_equal(pmm_stats(pmm).zeroed_frames, 0);
    assert_true(pmm_idle_work(pmm));
    assert_int_equal(pmm_stats(pmm).zeroed_frames, 1);
    assert_pmm_sound(pmm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(zeroed_frame_is_not_cleared_again),
        TEST(full_level_checks_the_promise_of_zeroes),
        TEST(idle_work_clears_until_there_is_enough),
        TEST(memory_that_is_zero_is_never_cleared),
        TEST(idle_work_goes_on_when_another_cpu_has_emptied_the_cache),
    };

    return RUN_TESTS(tests);
}
