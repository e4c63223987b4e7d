/* SPDX-License-Identifier: MIT */
/* Ranges of the frame allocator: what is counted for each, and memory that consists of very many of
 * them. */
#include "mm/pmm_parts.h"
#include "pmm_ranges.h"

#include <stdlib.h>
#include <string.h>

static struct machine machine;
static struct pmm *const pmm = &machine.pmm;

/* ---- counters ---- */

/* Two ranges:  1 MiB |used, table, retired ...| 33 MiB     64 MiB |cached block, ...| 128 MiB */
static void range_counters_tell_where_frames_are(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(33), BOOT_USABLE),
        ROW(MM_MIB(64), MM_MIB(128), BOOT_USABLE),
    };
    const struct pmm_config config = { .magazine_frames = 64 };
    paddr_t block, low, tables[3];

    (void)state;
    machine_set_up_config(&machine, list, COUNT_OF(list), &config);
    uint64_t kept = pmm_range_stats(pmm, 1).reserved_frames; /* metadata */
    assert_ok(pmm_alloc_contiguous(pmm, 5, FRAME_SIZE, MM_MIB(33), &low));
    assert_int_equal(pmm_range_stats(pmm, 0).used_frames, 5);
    assert_int_equal(pmm_range_stats(pmm, 1).used_frames, 0);
    assert_ok(pmm_retire_range(pmm, MM_MIB(16), MM_MIB(16) + 3 * FRAME_SIZE, NULL));
    assert_int_equal(pmm_range_stats(pmm, 0).retired_frames, 3);
    assert_int_equal(pmm_range_stats(pmm, 1).retired_frames, 0);
    for (unsigned i = 0; i < COUNT_OF(tables); i++)
        assert_ok(pmm_alloc_table(pmm, &tables[i]));
    assert_int_equal(pmm_range_stats(pmm, 0).table_frames + pmm_range_stats(pmm, 1).table_frames,
                     3);
    assert_ranges_are_counted(pmm);
    size_t of_table = tables[0] >= MM_MIB(64) ? 1 : 0;
    struct pmm_range_stats before = pmm_range_stats(pmm, of_table);
    pmm_free_table(pmm, tables[0]); /* kept, zero, and free */
    struct pmm_range_stats after = pmm_range_stats(pmm, of_table);
    assert_int_equal(after.table_frames, before.table_frames - 1);
    assert_int_equal(after.free_frames, before.free_frames + 1);
    assert_int_equal(after.cached_frames, before.cached_frames + 1);
    assert_int_equal(after.zeroed_frames, before.zeroed_frames + 1);
    assert_ok(pmm_reserve_range(pmm, MM_MIB(96), MM_MIB(96) + 7 * FRAME_SIZE));
    assert_true(pmm_range_stats(pmm, 1).reserved_frames >= kept + 7);
    assert_ok(pmm_alloc_frame_flags(pmm, PMM_NOZERO, &low)); /* makes a cache */
    do
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &block));
    while (block < MM_MIB(64));
    uint64_t cached = pmm_range_stats(pmm, 1).cached_frames;
    pmm_free_large(pmm, block);
    assert_int_equal(pmm_range_stats(pmm, 1).cached_frames, cached + 512);
    assert_true(pmm_idle_work(pmm));
    assert_true(pmm_range_stats(pmm, 0).zeroed_frames + pmm_range_stats(pmm, 1).zeroed_frames > 1);
    assert_ranges_are_counted(pmm);
    assert_pmm_sound(pmm);
}

/* What pmm_verify says of a counter that is wrong: each one, of one range. */
static void verify_sees_a_wrong_counter_of_a_range(void **state)
{
    (void)state;
    machine_set_up_simple(&machine, MM_MIB(64));
    uint64_t *const counters[] = { &pmm->ranges[0].free_frames, &pmm->ranges[0].reserved_frames,
                                   &pmm->ranges[0].retired_frames, &pmm->ranges[0].table_frames };
    static const char *const words[] = { "free frames of a range", "reserved frames of a range",
                                         "retired frames of a range", "page tables of a range" };

    for (unsigned i = 0; i < COUNT_OF(counters); i++) {
        ++*counters[i];
        log_clear();
        assert_false(pmm_verify(pmm));
        log_expect(words[i]);
        --*counters[i];
        assert_true(pmm_verify(pmm));
    }
}

static void report_has_a_line_for_each_range(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(33), BOOT_USABLE),
        ROW(MM_MIB(64), MM_MIB(128), BOOT_USABLE),
    };
    paddr_t low;

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    assert_ok(pmm_alloc_contiguous(pmm, 5, FRAME_SIZE, MM_MIB(33), &low));
    assert_ok(pmm_retire_range(pmm, MM_MIB(16), MM_MIB(16) + 3 * FRAME_SIZE, NULL));
    log_clear();
    pmm_report(pmm);
    log_expect("0x100000-0x2100000: 32768 KB: | KB free (in caches: | KB, zero: | KB), 20 KB used "
               "(page tables: 0 KB), | KB reserved (retired: 12 KB)");
    log_expect("0x4000000-0x8000000: 65536 KB: | KB free");
    log_expect("the largest free block has ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(range_counters_tell_where_frames_are),
        TEST(verify_sees_a_wrong_counter_of_a_range),
        TEST(report_has_a_line_for_each_range),
    };

    return RUN_TESTS(tests);
}
