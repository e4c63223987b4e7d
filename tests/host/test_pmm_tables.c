/* SPDX-License-Identifier: MIT */
/* Frames for page tables: they come from blocks of 2 MiB of their own. */
#include "pmm_fixture.h"

/* What is left of a block of page tables becomes everybody's when nothing else is free: then neighbours
 * may be found where there were none, though nobody has freed a frame. */
static void failure_is_forgotten_when_a_block_of_tables_is_opened(void **state)
{
    paddr_t table, frame;

    (void)state;
    pmm_set_up(MM_MIB(64), (struct pmm_config){ .full_harden = true });
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
    pmm_set_up(MM_MIB(128), (struct pmm_config){ 0 });
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(failure_is_forgotten_when_a_block_of_tables_is_opened),
        TEST(tables_come_from_a_block_of_their_own),
    };

    return RUN_TESTS(tests);
}
