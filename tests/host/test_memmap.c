/* SPDX-License-Identifier: MIT */
/* The memory map's normal form: every rule of the header, one by one. What it keeps and where it lives is
 * in test_memmap_place.c, random maps are in test_memmap_random.c. In the drawings U is usable, R reserved,
 * M metadata, one letter a MiB. */
#include "memmap_fixture.h"

#include <stdlib.h>

/* ---- Maps that cannot serve ---- */

static void memmap_no_rows_is_refused(void **state)
{
    (void)state;
    ram_set_up(MM_MIB(4));
    assert_refused(NULL, 0);
}

static void memmap_only_reserved_rows_is_refused(void **state)
{
    const struct boot_range list[] = {
        ROW(0, MM_MIB(2), BOOT_RESERVED),
        ROW(MM_MIB(2), MM_MIB(3), BOOT_ACPI_RECLAIMABLE),
        ROW(MM_MIB(3), MM_MIB(4), BOOT_LOADER_RECLAIMABLE),
    };

    (void)state;
    ram_set_up(MM_MIB(4));
    assert_refused(list, COUNT_OF(list));
}

static void memmap_usable_only_below_1mib_is_refused(void **state)
{
    const struct boot_range list[] = { ROW(0, 0x9f000, BOOT_USABLE) };

    (void)state;
    ram_set_up(MM_MIB(4));
    assert_refused(list, COUNT_OF(list));
}

static void memmap_usable_inside_reserved_is_refused(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(3), BOOT_USABLE),
        ROW(0, MM_MIB(4), BOOT_RESERVED),
    };

    (void)state;
    ram_set_up(MM_MIB(4));
    assert_refused(list, COUNT_OF(list));
}

/* Usable and reserved frames alternate: the map of 2048 ranges needs more than one frame. */
static void memmap_usable_in_single_frames_has_no_room(void **state)
{
    size_t count = 2048;
    struct boot_range *list = calloc(count, sizeof *list),
                      **pointer = calloc(count, sizeof *pointer);

    (void)state;
    ram_set_up(MM_MIB(32));
    rows_set(&rows, NULL, 0);
    assert_true(list != NULL && pointer != NULL);
    for (size_t i = 0; i < count; i++) {
        list[i] = (struct boot_range){ MM_MIB(1) + i * 4096, 4096,
                                       i % 2 == 0 ? BOOT_USABLE : BOOT_RESERVED };
        pointer[i] = &list[i];
    }
    rows.boot.map = pointer;
    rows.boot.map_count = count;
    assert_status(memmap_build(&map, &rows.boot, LIMIT, NULL, NULL), MM_NO_USABLE_MEMORY);
    free(list);
    free(pointer);
}

/* ---- One rule each ---- */

static void memmap_one_usable_frame_above_1mib_serves(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(1) + 4096, BOOT_USABLE) };

    (void)state;
    ram_set_up(MM_MIB(2));
    BUILD_OK(list);
    assert_int_equal(map.usable_bytes, 4096);
    assert_ptr_equal(map.ranges, phys_to_virt(MM_MIB(1)));
    assert_int_equal(log_count("memory map:"), 0);
}

/*  UUUUUUUU
 *     RR      ->  UUURRUUU */
static void memmap_reserved_inside_usable_splits_it(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(9), BOOT_USABLE),
        ROW(MM_MIB(4), MM_MIB(6), BOOT_RESERVED),
    };

    (void)state;
    ram_set_up(MM_MIB(9));
    BUILD_OK(list);
    assert_int_equal(map.usable_bytes, MM_MIB(6));
    assert_type_at(MM_MIB(4) - 1, BOOT_USABLE);
    assert_type_at(MM_MIB(4), BOOT_RESERVED);
    assert_type_at(MM_MIB(6) - 1, BOOT_RESERVED);
    assert_type_at(MM_MIB(6), BOOT_USABLE);
    log_expect_count("memory map:", 1);
}

/*  RRRRRRRR
 *    UU     UU   ->  RRRRRRRRUU */
static void memmap_usable_inside_reserved_vanishes(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(3), MM_MIB(5), BOOT_USABLE),
        ROW(MM_MIB(1), MM_MIB(9), BOOT_RESERVED),
        ROW(MM_MIB(10), MM_MIB(12), BOOT_USABLE),
    };

    (void)state;
    ram_set_up(MM_MIB(12));
    BUILD_OK(list);
    assert_int_equal(map.usable_bytes, MM_MIB(2));
    assert_type_at(MM_MIB(4), BOOT_RESERVED);
    assert_null(memmap_find(&map, MM_MIB(9)));
}

/*  RRRR
 *    RRRR   ->  RRRRRR, one range */
static void memmap_reserved_rows_that_overlap_are_merged(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(2), MM_MIB(6), BOOT_RESERVED),
        ROW(MM_MIB(4), MM_MIB(8), BOOT_RESERVED),
        ROW(MM_MIB(8), MM_MIB(9), BOOT_RESERVED),
        ROW(MM_MIB(16), MM_MIB(20), BOOT_USABLE),
    };
    const struct mm_range *range;

    (void)state;
    ram_set_up(MM_MIB(20));
    BUILD_OK(list);
    range = memmap_find(&map, MM_MIB(5));
    assert_non_null(range);
    assert_int_equal(range->base, MM_MIB(2));
    assert_int_equal(range->end, MM_MIB(9));
}

static void memmap_usable_twice_counts_once(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(5), BOOT_USABLE),
        ROW(MM_MIB(1), MM_MIB(5), BOOT_USABLE),
        ROW(MM_MIB(3), MM_MIB(7), BOOT_USABLE),
        ROW(MM_MIB(7), MM_MIB(8), BOOT_USABLE),
    };

    (void)state;
    ram_set_up(MM_MIB(8));
    BUILD_OK(list);
    assert_int_equal(map.usable_bytes, MM_MIB(7));
    assert_int_equal(map.total_bytes, MM_MIB(7));
}

static void memmap_empty_row_is_dropped_with_a_line(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(5), BOOT_USABLE),
        ROW(MM_MIB(3), MM_MIB(3), BOOT_RESERVED),
        ROW(MM_MIB(3) + 5, MM_MIB(3) + 5, BOOT_BAD),
    };

    (void)state;
    ram_set_up(MM_MIB(8));
    BUILD_OK(list);
    assert_int_equal(map.usable_bytes, MM_MIB(4));
    log_expect_count("memory map:|0x300000", 1);
    log_expect_count("memory map:|0x300005", 1);
    log_expect_count("memory map:", 2);
}

/* A BIOS gives its EBDA as 0x9fc00 + 0x400: the frame 0x9f000 is half usable and half not. */
static void memmap_unaligned_usable_is_rounded_inward(void **state)
{
    const struct boot_range list[] = {
        ROW(0, 0x9fc00, BOOT_USABLE),
        ROW(0x100800, 0x200400, BOOT_USABLE),
    };

    (void)state;
    ram_set_up(MM_MIB(8));
    BUILD_OK(list);
    assert_null(memmap_find(&map, 0x9f000));
    assert_type_at(0x9efff, BOOT_USABLE);
    assert_null(memmap_find(&map, 0x100000));
    assert_type_at(0x101000, BOOT_METADATA);
    assert_type_at(0x1fffff, BOOT_USABLE);
    assert_null(memmap_find(&map, 0x200000));
    log_expect_count("memory map:|0x100800", 1);
    log_expect_count("memory map:|0x9fc00", 1);
    log_expect_count("memory map:", 2);
}

static void memmap_unaligned_reserved_is_rounded_outward(void **state)
{
    const struct boot_range list[] = {
        ROW(0, 0xa0000, BOOT_USABLE),
        ROW(0x9fc00, 0xa0000, BOOT_RESERVED),
        ROW(MM_MIB(1), MM_MIB(8), BOOT_USABLE),
        ROW(0x300fff, 0x301001, BOOT_BAD),
    };

    (void)state;
    ram_set_up(MM_MIB(8));
    BUILD_OK(list);
    assert_type_at(0x9f000, BOOT_RESERVED);
    assert_type_at(0x2fffff, BOOT_USABLE);
    assert_type_at(0x300000, BOOT_BAD);
    assert_type_at(0x301fff, BOOT_BAD);
    assert_type_at(0x302000, BOOT_USABLE);
}

static void memmap_usable_row_smaller_than_a_frame_gives_nothing(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(2), BOOT_USABLE),
        ROW(0x300001, 0x300fff, BOOT_USABLE), /* inside one frame */
        ROW(0x400800, 0x401800, BOOT_USABLE), /* a frame long, in no frame whole */
    };

    (void)state;
    ram_set_up(MM_MIB(8));
    BUILD_OK(list);
    assert_int_equal(map.usable_bytes, MM_MIB(1));
    log_expect_count("memory map:|0x300001", 1);
    log_expect_count("memory map:|0x400800", 1);
}

static void memmap_unknown_types_are_reserved(void **state)
{
    static const uint64_t types[] = { 8, 9, 16, 20, 0x14, 2954887168u, UINT64_MAX, INT64_MAX };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        const struct boot_range list[] = {
            ROW(MM_MIB(1), MM_MIB(8), BOOT_USABLE),
            ROW(MM_MIB(3), MM_MIB(4), types[i]),
        };

        hosted_ram_destroy();
        ram_set_up(MM_MIB(8));
        log_clear();
        BUILD_OK(list);
        assert_type_at(MM_MIB(3), BOOT_RESERVED);
        assert_int_equal(map.usable_bytes, MM_MIB(6));
        log_expect("memory map:|0x300000|type");
    }
}

/* [2^64 - 4 KiB, + 1 MiB) and its like: the row goes, or is clipped; all others still serve. */
static void memmap_wrapping_rows_spoil_nothing(void **state)
{
    const struct boot_range list[] = {
        { UINT64_MAX - 4095, MM_MIB(1), BOOT_USABLE },
        { MM_MIB(16), UINT64_MAX - MM_MIB(8), BOOT_USABLE },
        { MM_MIB(24), UINT64_MAX - MM_MIB(24) + 1, BOOT_USABLE }, /* ends at 2^64 exactly */
        { MM_MIB(6), UINT64_MAX, BOOT_RESERVED },
        ROW(MM_MIB(1), MM_MIB(8), BOOT_USABLE),
    };

    (void)state;
    ram_set_up(MM_MIB(32));
    BUILD_OK(list);
    assert_int_equal(map.usable_bytes, MM_MIB(5));
    assert_type_at(MM_MIB(6), BOOT_RESERVED);
    assert_type_at(LIMIT - 1, BOOT_RESERVED);
    log_expect("memory map:|0x600000|2^64");
    log_expect("memory map:|0x1000000|2^64");
    log_expect("memory map:|0x1800000|2^64");
    log_expect("memory map:|0xfffffffffffff000");
}

/* Nobody knows what a usable row that wraps meant: none of it is believed. */
static void memmap_wrapping_usable_row_gives_nothing(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(8), BOOT_USABLE),
        { MM_MIB(16), UINT64_MAX - MM_MIB(8), BOOT_USABLE },
        { MM_MIB(24), UINT64_MAX - MM_MIB(24) + 1, BOOT_USABLE },
    };

    (void)state;
    ram_set_up(MM_MIB(32));
    BUILD_OK(list);
    assert_int_equal(map.usable_bytes, MM_MIB(7));
    assert_int_equal(map.ram_end, MM_MIB(8));
    log_expect_count("memory map:", 2);
}

static void memmap_rows_at_or_above_2_to_52_are_dropped(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(8), BOOT_USABLE),
        { LIMIT, MM_MIB(1), BOOT_USABLE },
        { LIMIT + MM_GIB(5), MM_MIB(1), BOOT_RESERVED },
        { UINT64_MAX, 1, BOOT_BAD },
    };

    (void)state;
    ram_set_up(MM_MIB(8));
    BUILD_OK(list);
    assert_int_equal(map.usable_bytes, MM_MIB(7));
    assert_int_equal(map.ram_end, MM_MIB(8));
    log_expect_count("memory map:", 3);
}

/* A 36-bit CPU: what lies above 64 GiB cannot be addressed. */
static void memmap_usable_beyond_the_limit_is_clipped(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(8), BOOT_USABLE),
        ROW(MM_GIB(63), MM_GIB(65), BOOT_USABLE),
        ROW(MM_GIB(64), MM_GIB(66), BOOT_USABLE),
    };
    paddr_t limit = MM_GIB(64);

    (void)state;
    ram_set_up(MM_GIB(64));
    rows_set(&rows, list, COUNT_OF(list));
    assert_ok(memmap_build(&map, &rows.boot, limit, NULL, NULL));
    assert_map_is_sound(&map, &rows.boot, limit);
    assert_int_equal(map.usable_bytes, MM_MIB(7) + MM_GIB(1));
    assert_int_equal(map.ram_end, limit);
    log_expect("memory map:|0xfc0000000");
    log_expect("memory map:|0x1000000000");
}

/* The row of the HyperTransport hole on a machine of 256 MiB says nothing about its RAM. */
static void memmap_high_reserved_row_does_not_count_as_ram(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(256), BOOT_USABLE),
        ROW(0xfd00000000, 0x10000000000, BOOT_RESERVED),
    };

    (void)state;
    ram_set_up(MM_MIB(256));
    BUILD_OK(list);
    assert_int_equal(map.ram_end, MM_MIB(256));
    assert_int_equal(map.end, MM_MIB(256));
    assert_int_equal(map.total_bytes, MM_MIB(255));
}

static void memmap_framebuffer_ends_the_hhdm_but_not_the_ram(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(32), BOOT_USABLE),
        ROW(0xfd000000, 0xfd3e8000, BOOT_FRAMEBUFFER),
    };

    (void)state;
    ram_set_up(MM_MIB(32));
    BUILD_OK(list);
    assert_int_equal(map.ram_end, MM_MIB(32));
    assert_int_equal(map.end, 0xfd3e8000);
}

/* All pairs of types, in both orders: the stricter one wins the overlap. */
static void memmap_the_more_restrictive_type_wins(void **state)
{
    static const uint64_t order[] = {
        BOOT_USABLE,      BOOT_LOADER_RECLAIMABLE, BOOT_ACPI_RECLAIMABLE, BOOT_EXECUTABLE,
        BOOT_FRAMEBUFFER, BOOT_ACPI_NVS,           BOOT_RESERVED,         BOOT_BAD,
    };

    (void)state;
    ram_set_up(MM_MIB(32));
    for (size_t a = 0; a < COUNT_OF(order); a++) {
        for (size_t b = 0; b < COUNT_OF(order); b++) {
            const struct boot_range list[] = {
                ROW(MM_MIB(20), MM_MIB(28), BOOT_USABLE),
                ROW(MM_MIB(2), MM_MIB(6), order[a]),
                ROW(MM_MIB(4), MM_MIB(8), order[b]),
            };

            BUILD_OK(list);
            assert_type_at(MM_MIB(3), order[a]);
            assert_type_at(MM_MIB(5), order[a > b ? a : b]);
            assert_type_at(MM_MIB(7), order[b]);
        }
    }
}

static void memmap_rows_are_read_only(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(20), MM_MIB(28), BOOT_USABLE),
        ROW(0x9fc00, 0xa0000, BOOT_RESERVED),
        ROW(MM_MIB(1), MM_MIB(8), BOOT_USABLE),
        ROW(0, 0x9fc00, BOOT_USABLE),
    };

    (void)state;
    ram_set_up(MM_MIB(32));
    BUILD_OK(list);
    assert_memory_equal(rows.row, list, sizeof list);
    for (size_t i = 1; i < COUNT_OF(list); i++)
        assert_true(rows.pointer[i - 1]->base < rows.pointer[i]->base);
}

/* ---- Questions ---- */

static void memmap_find_knows_every_edge(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(2), BOOT_USABLE),
        ROW(MM_MIB(4), MM_MIB(8), BOOT_RESERVED),
        ROW(MM_MIB(8), MM_MIB(9), BOOT_BAD),
    };

    (void)state;
    ram_set_up(MM_MIB(16));
    BUILD_OK(list);
    assert_null(memmap_find(&map, 0));
    assert_null(memmap_find(&map, MM_MIB(1) - 1));
    assert_non_null(memmap_find(&map, MM_MIB(1)));
    assert_null(memmap_find(&map, MM_MIB(2)));
    assert_null(memmap_find(&map, MM_MIB(4) - 1));
    assert_type_at(MM_MIB(4), BOOT_RESERVED);
    assert_type_at(MM_MIB(8) - 1, BOOT_RESERVED);
    assert_type_at(MM_MIB(8), BOOT_BAD);
    assert_null(memmap_find(&map, MM_MIB(9)));
    assert_null(memmap_find(&map, UINT64_MAX));
}

static void memmap_types_have_names(void **state)
{
    (void)state;
    assert_string_equal(memmap_type_name(BOOT_USABLE), "usable");
    assert_string_equal(memmap_type_name(BOOT_RESERVED), "reserved");
    for (uint64_t a = 0; a < BOOT_RANGE_TYPES; a++)
        for (uint64_t b = 0; b < a; b++)
            assert_string_not_equal(memmap_type_name(a), memmap_type_name(b));
    assert_non_null(memmap_type_name(BOOT_RANGE_TYPES));
    assert_non_null(memmap_type_name(UINT64_MAX));
    for (uint64_t type = 0; type < 20; type++)
        assert_int_equal(memmap_type_is_ram(type), type == BOOT_USABLE || type == BOOT_METADATA ||
                                                       type == BOOT_LOADER_RECLAIMABLE ||
                                                       type == BOOT_EXECUTABLE);
}

static void memmap_log_writes_one_line_a_range(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(2), BOOT_USABLE),
        ROW(MM_MIB(4), MM_MIB(8), BOOT_RESERVED),
    };

    (void)state;
    ram_set_up(MM_MIB(16));
    BUILD_OK(list);
    log_clear();
    memmap_log(&map);
    assert_int_equal(log_lines(), map.count);
    log_expect("400000|800000|reserved");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(memmap_no_rows_is_refused),
        TEST(memmap_only_reserved_rows_is_refused),
        TEST(memmap_usable_only_below_1mib_is_refused),
        TEST(memmap_usable_inside_reserved_is_refused),
        TEST(memmap_usable_in_single_frames_has_no_room),
        TEST(memmap_one_usable_frame_above_1mib_serves),
        TEST(memmap_reserved_inside_usable_splits_it),
        TEST(memmap_usable_inside_reserved_vanishes),
        TEST(memmap_reserved_rows_that_overlap_are_merged),
        TEST(memmap_usable_twice_counts_once),
        TEST(memmap_empty_row_is_dropped_with_a_line),
        TEST(memmap_unaligned_usable_is_rounded_inward),
        TEST(memmap_unaligned_reserved_is_rounded_outward),
        TEST(memmap_usable_row_smaller_than_a_frame_gives_nothing),
        TEST(memmap_unknown_types_are_reserved),
        TEST(memmap_wrapping_rows_spoil_nothing),
        TEST(memmap_wrapping_usable_row_gives_nothing),
        TEST(memmap_rows_at_or_above_2_to_52_are_dropped),
        TEST(memmap_usable_beyond_the_limit_is_clipped),
        TEST(memmap_high_reserved_row_does_not_count_as_ram),
        TEST(memmap_framebuffer_ends_the_hhdm_but_not_the_ram),
        TEST(memmap_the_more_restrictive_type_wins),
        TEST(memmap_rows_are_read_only),
        TEST(memmap_find_knows_every_edge),
        TEST(memmap_types_have_names),
        TEST(memmap_log_writes_one_line_a_range),
    };

    return RUN_TESTS(tests);
}
