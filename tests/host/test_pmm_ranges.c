/* SPDX-License-Identifier: MIT */
/* Ranges of the frame allocator: what is counted for each, and memory that consists of very many of
 * them. */
#include "mm/pmm_parts.h"
#include "pmm_ranges.h"

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

/* ---- very many ranges ---- */

#define MANY 65536u

/* A map of MANY ranges; range i has sizes[i % count] frames, and a hole as large as itself behind it:
 *
 *      1 MiB |##|  |##|  |##|  ...      4 GiB or above |##############| 64 MiB, for the metadata */
static void set_up_many(const uint64_t *sizes, size_t count, paddr_t last)
{
    struct boot_range *rows = test_malloc(MANY * sizeof *rows);
    struct boot_range **list = test_malloc(MANY * sizeof *list);
    paddr_t metadata, at = MM_MIB(1);

    for (size_t i = 0; i < MANY; i++) {
        uint64_t bytes = sizes[i % count] * FRAME_SIZE;

        if (i == MANY - 1) {
            at = last;
            bytes = MM_MIB(64);
        }
        rows[i] = (struct boot_range){ at, bytes, BOOT_USABLE };
        list[i] = &rows[i];
        at += 2 * bytes;
    }
    ram_set_up(last + MM_MIB(64));
    rows_set(&machine.rows, rows, 1);
    machine.rows.boot.map = list;
    machine.rows.boot.map_count = MANY;
    assert_ok(memmap_build(&machine.map, &machine.rows.boot, (paddr_t)1 << 52, NULL, NULL));
    assert_int_equal(machine.map.count, MANY + 1); /* its own place is one */
    uint64_t bytes = pmm_metadata_bytes(&machine.map);
    assert_ok(memmap_take(&machine.map, bytes, NULL, NULL, &metadata));
    machine.metadata = phys_to_virt(metadata);
    memset(machine.metadata, 0xa5, bytes);
    pmm_init(pmm, &machine.map, machine.metadata, NULL);
    assert_int_equal(pmm_stats(pmm).range_count, MANY);
    test_free(list);
    test_free(rows);
}

/* Takes every frame, sees that each comes once and from a range, and gives all back in an order that goes
 * from range to range. */
static void take_all_and_give_back(void)
{
    uint64_t count = pmm_stats(pmm).free_frames, taken = 0;
    paddr_t *frames = test_malloc((count + 1) * sizeof *frames);

    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frames[taken]) == MM_OK)
        assert_true(++taken <= count);
    struct pmm_stats stats = pmm_stats(pmm);
    assert_int_equal(stats.free_frames, 0);
    assert_int_equal(stats.used_frames, taken);
    assert_true(taken + 1 >= count); /* one is the cache */
    assert_true(pmm_verify(pmm));
    for (size_t i = 0; i < MANY; i++)
        assert_int_equal(pmm_range_stats(pmm, i).free_frames, 0);
    for (uint64_t first = 0; first < 997; first++)
        for (uint64_t i = first; i < taken; i += 997)
            pmm_free_frame(pmm, frames[i]);
    assert_int_equal(pmm_stats(pmm).used_frames, 0);
    assert_int_equal(pmm_stats(pmm).free_frames, taken);
    assert_ranges_add_up(pmm);
    assert_true(pmm_verify(pmm));
    test_free(frames);
}

/* Bad RAM over `count` ranges and the holes between them, some of it in use. */
static void retire_many(size_t first, size_t count)
{
    paddr_t base = pmm_range_extent(pmm, first).base, used;
    paddr_t end = pmm_range_extent(pmm, first + count - 1).end;
    uint64_t frames = pmm_stats(pmm).retired_frames, waiting = 0;

    assert_ok(pmm_alloc_contiguous(pmm, 1, FRAME_SIZE, end, &used));
    bool inside = used >= base;
    for (size_t i = first; i < first + count; i++)
        frames += pmm_range_stats(pmm, i).total_frames;
    assert_ok(pmm_retire_range(pmm, base, end, &waiting));
    assert_int_equal(waiting, inside);
    assert_int_equal(pmm_stats(pmm).retired_frames, frames - inside);
    pmm_free_frame(pmm, used);
    assert_int_equal(pmm_stats(pmm).retired_frames, frames);
    for (size_t i = first; i < first + count; i++)
        assert_int_equal(pmm_range_stats(pmm, i).retired_frames,
                         pmm_range_stats(pmm, i).total_frames);
    assert_true(pmm_verify(pmm));
}

/* Every frame is alone: none is found for two, but in the last range. */
static void ranges_of_one_frame_serve(void **state)
{
    static const uint64_t one[] = { 1 };
    paddr_t last = support_is_sanitized() ? MM_GIB(8) : MM_GIB(1030), block;

    (void)state;
    set_up_many(one, COUNT_OF(one), last);
    assert_ranges_add_up(pmm);
    take_all_and_give_back();
    assert_status(pmm_alloc_contiguous(pmm, 2, FRAME_SIZE, MM_GIB(4), &block), MM_OUT_OF_MEMORY);
    assert_ok(pmm_alloc_contiguous_flags(pmm, 2, FRAME_SIZE, PMM_NO_LIMIT, PMM_NOZERO, &block));
    assert_true(block >= last);
    pmm_free_contiguous(pmm, block, 2);
    assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &block));
    assert_true(block >= last);
    pmm_free_large(pmm, block);
    block = pmm_range_extent(pmm, MANY / 2).base;
    assert_ok(pmm_reserve_range(pmm, block, block + FRAME_SIZE));
    assert_status(pmm_reserve_range(pmm, block, block + 2 * FRAME_SIZE), MM_INVALID_ADDRESS);
    assert_int_equal(pmm_range_stats(pmm, MANY / 2).reserved_frames, 1);
    assert_ok(pmm_release_range(pmm, block, block + FRAME_SIZE));
    assert_frame_state(pmm, block + FRAME_SIZE, PMM_FRAME_OUTSIDE);
    EXPECT_BUG("free of|outside", pmm_free_frame(pmm, block + FRAME_SIZE));
    retire_many(100, 1000);
    assert_int_equal(pmm_range_stats(pmm, 99).retired_frames, 0);
    assert_int_equal(pmm_range_stats(pmm, 1100).retired_frames, 0);
    retire_many(0, 100);
}

static void ranges_of_many_sizes_serve(void **state)
{
    static const uint64_t sizes[] = { 1, 2, 7, 33, 3, 1, 5, 12 };
    paddr_t block, blocks[2];

    (void)state;
    set_up_many(sizes, COUNT_OF(sizes), MM_GIB(8));
    take_all_and_give_back();
    assert_status(pmm_alloc_contiguous(pmm, 34, FRAME_SIZE, MM_GIB(4), &block), MM_OUT_OF_MEMORY);
    for (unsigned i = 0; i < COUNT_OF(blocks); i++) {
        assert_ok(pmm_alloc_contiguous(pmm, 33, FRAME_SIZE, MM_GIB(4), &blocks[i]));
        assert_true(blocks[i] + 33 * FRAME_SIZE <= MM_GIB(4));
    }
    EXPECT_BUG("free of", pmm_free_contiguous(pmm, blocks[0], 34));
    assert_int_equal(pmm_stats(pmm).used_frames, 66);
    for (unsigned i = 0; i < COUNT_OF(blocks); i++)
        pmm_free_contiguous(pmm, blocks[i], 33);
    retire_many(MANY / 3, 4000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(range_counters_tell_where_frames_are), TEST(verify_sees_a_wrong_counter_of_a_range),
        TEST(report_has_a_line_for_each_range),     TEST(ranges_of_one_frame_serve),
        TEST(ranges_of_many_sizes_serve),
    };

    return RUN_TESTS(tests);
}
