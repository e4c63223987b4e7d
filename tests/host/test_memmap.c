/* SPDX-License-Identifier: MIT */
/* The memory map's normal form: every rule of the header, one by one, then random maps against the
 * brute-force model. In the drawings U is usable, R reserved, M metadata, one letter a MiB. */
#include "memmap_model.h"

#include <stdlib.h>
#include <string.h>

#define LIMIT ((paddr_t)1 << 52)

static struct rows rows;
static struct memmap map;

#define BUILD_OK(list) build_ok((list), COUNT_OF(list))

/* Builds the map of `list` and checks everything that the model can check. */
static void build_ok(const struct boot_range *list, size_t count)
{
    struct model_map model;

    rows_set(&rows, list, count);
    model = model_build(&rows.boot, LIMIT);
    assert_ok(memmap_build(&map, &rows.boot, LIMIT, NULL, NULL));
    assert_map_is_sound(&map, &rows.boot, LIMIT);
    assert_map_is_model(&map, &model);
    model_free(&model);
}

static void assert_type_at(paddr_t address, uint64_t type)
{
    const struct mm_range *range = memmap_find(&map, address);

    if (range == NULL)
        fail_msg("no range holds 0x%lx", address);
    if (range->type != type)
        fail_msg("0x%lx is %s, expected %s", address, memmap_type_name(range->type),
                 memmap_type_name(type));
}

static void assert_refused(const struct boot_range *list, size_t count)
{
    struct memmap before;

    memset(&map, 0x77, sizeof map);
    before = map;
    rows_set(&rows, list, count);
    assert_status(memmap_build(&map, &rows.boot, LIMIT, NULL, NULL), MM_NO_USABLE_MEMORY);
    assert_memory_equal(&map, &before, sizeof map);
}

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

/* ---- Kept ranges ---- */

static void memmap_kept_ranges_win_over_usable(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(64), BOOT_USABLE) };
    struct model_map model;

    (void)state;
    ram_set_up(MM_MIB(64));
    rows_set(&rows, list, COUNT_OF(list));
    rows.boot.keep[0] = (struct boot_range)ROW(0x1000800, 0x1002001, BOOT_EXECUTABLE);
    rows.boot.keep[1] = (struct boot_range)ROW(MM_MIB(32), MM_MIB(33), BOOT_LOADER_RECLAIMABLE);
    rows.boot.keep[2] = (struct boot_range)ROW(MM_MIB(80), MM_MIB(81), BOOT_FRAMEBUFFER);
    rows.boot.keep[3] = (struct boot_range)ROW(MM_MIB(4), MM_MIB(4) + 1, BOOT_RESERVED);
    rows.boot.keep_count = 4;
    model = model_build(&rows.boot, LIMIT);
    assert_ok(memmap_build(&map, &rows.boot, LIMIT, NULL, NULL));
    assert_map_is_sound(&map, &rows.boot, LIMIT);
    assert_map_is_model(&map, &model);
    assert_type_at(0x1000000, BOOT_EXECUTABLE);
    assert_type_at(0x1002fff, BOOT_EXECUTABLE);
    assert_type_at(MM_MIB(32), BOOT_LOADER_RECLAIMABLE);
    assert_type_at(MM_MIB(80), BOOT_FRAMEBUFFER);
    assert_type_at(MM_MIB(4), BOOT_RESERVED);
    model_free(&model);
}

static void memmap_all_kept_ranges_may_start_alike(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(64), BOOT_USABLE) };
    struct model_map model;

    (void)state;
    ram_set_up(MM_MIB(64));
    rows_set(&rows, list, COUNT_OF(list));
    for (uint32_t i = 0; i < BOOT_KEEP_MAX; i++)
        rows.boot.keep[i] = (struct boot_range){ MM_MIB(16), 4096 * (i + 1), i % BOOT_METADATA };
    rows.boot.keep_count = BOOT_KEEP_MAX;
    model = model_build(&rows.boot, LIMIT);
    assert_ok(memmap_build(&map, &rows.boot, LIMIT, NULL, NULL));
    assert_map_is_model(&map, &model);
    model_free(&model);
}

/* ---- Where the result lives ---- */

static void memmap_lives_at_16mib_if_it_can(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(8), BOOT_USABLE),
        ROW(MM_MIB(12), MM_MIB(40), BOOT_USABLE),
    };

    (void)state;
    ram_set_up(MM_MIB(40));
    BUILD_OK(list);
    assert_int_equal(virt_to_phys(map.ranges), MM_MIB(16));
}

static void memmap_lives_at_1mib_on_a_small_machine(void **state)
{
    const struct boot_range list[] = { ROW(0, MM_MIB(8), BOOT_USABLE) };

    (void)state;
    ram_set_up(MM_MIB(8));
    BUILD_OK(list);
    assert_int_equal(virt_to_phys(map.ranges), MM_MIB(1));
    assert_type_at(0, BOOT_USABLE);
}

static paddr_t obstacle_calls;

/* [16 MiB, 24 MiB) is in use, as a page of 1 MiB each. */
static paddr_t obstacle_of_8mib(void *context, paddr_t base, paddr_t end)
{
    obstacle_calls++;
    assert_ptr_equal(context, &obstacle_calls);
    if (base < MM_MIB(24) && end > MM_MIB(16))
        return (base < MM_MIB(16) ? MM_MIB(16) : mm_round_down(base, MM_MIB(1))) + MM_MIB(1);
    return base;
}

static void memmap_lives_behind_obstacles(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(40), BOOT_USABLE) };
    paddr_t taken;

    (void)state;
    ram_set_up(MM_MIB(40));
    rows_set(&rows, list, COUNT_OF(list));
    assert_ok(memmap_build(&map, &rows.boot, LIMIT, obstacle_of_8mib, &obstacle_calls));
    assert_map_is_sound(&map, &rows.boot, LIMIT);
    assert_int_equal(virt_to_phys(map.ranges), MM_MIB(24));
    assert_ok(memmap_take(&map, MM_MIB(1), obstacle_of_8mib, &obstacle_calls, &taken));
    assert_true(taken > MM_MIB(24));
}

static void memmap_full_of_obstacles_is_refused(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(16), MM_MIB(24), BOOT_USABLE) };

    (void)state;
    ram_set_up(MM_MIB(40));
    rows_set(&rows, list, COUNT_OF(list));
    assert_status(memmap_build(&map, &rows.boot, LIMIT, obstacle_of_8mib, &obstacle_calls),
                  MM_NO_USABLE_MEMORY);
}

/* ---- memmap_take ---- */

static void memmap_take_takes_the_first_place_above_16mib(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(20), BOOT_USABLE),
        ROW(MM_MIB(32), MM_MIB(64), BOOT_USABLE),
    };
    uint64_t usable;
    paddr_t small, large, odd;

    (void)state;
    ram_set_up(MM_MIB(64));
    BUILD_OK(list);
    usable = map.usable_bytes;
    assert_ok(memmap_take(&map, 4096, NULL, NULL, &small));
    assert_ok(memmap_take(&map, MM_MIB(8), NULL, NULL, &large));
    assert_ok(memmap_take(&map, 1, NULL, NULL, &odd));
    assert_int_equal(virt_to_phys(map.ranges), MM_MIB(16));
    assert_true(small > MM_MIB(16) && small < MM_MIB(20));
    assert_int_equal(large, MM_MIB(32));
    assert_int_equal(odd, small + 4096);
    assert_type_at(large, BOOT_METADATA);
    assert_type_at(large + MM_MIB(8) - 1, BOOT_METADATA);
    assert_type_at(large + MM_MIB(8), BOOT_USABLE);
    assert_type_at(odd + 4095, BOOT_METADATA);
    assert_type_at(odd + 4096, BOOT_USABLE);
    assert_int_equal(map.usable_bytes, usable);
    assert_map_is_sound(&map, &rows.boot, LIMIT);
}

static void memmap_take_falls_back_to_1mib(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(15), BOOT_USABLE),
        ROW(MM_MIB(16), MM_MIB(17), BOOT_USABLE),
    };
    paddr_t taken;

    (void)state;
    ram_set_up(MM_MIB(64));
    BUILD_OK(list);
    assert_ok(memmap_take(&map, MM_MIB(4), NULL, NULL, &taken));
    assert_int_equal(taken, MM_MIB(1));
    assert_map_is_sound(&map, &rows.boot, LIMIT);
}

static void memmap_take_of_a_whole_range_leaves_no_empty_one(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(2), BOOT_USABLE),
        ROW(MM_MIB(32), MM_MIB(36), BOOT_USABLE),
        ROW(MM_MIB(40), MM_MIB(48), BOOT_USABLE),
    };
    paddr_t taken;

    (void)state;
    ram_set_up(MM_MIB(64));
    BUILD_OK(list);
    assert_ok(memmap_take(&map, MM_MIB(8), NULL, NULL, &taken));
    assert_int_equal(taken, MM_MIB(40));
    assert_map_is_sound(&map, &rows.boot, LIMIT);
}

static void memmap_take_without_room_changes_nothing(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(8), BOOT_USABLE) };
    static const uint64_t sizes[] = { MM_MIB(7), MM_MIB(100), UINT64_MAX, UINT64_MAX - 4095 };
    paddr_t taken = 0x1234;
    struct memmap before;

    (void)state;
    ram_set_up(MM_MIB(8));
    BUILD_OK(list);
    before = map;
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        assert_status(memmap_take(&map, sizes[i], NULL, NULL, &taken), MM_OUT_OF_MEMORY);
    assert_int_equal(taken, 0x1234);
    assert_memory_equal(&before, &map, sizeof map);
    assert_map_is_sound(&map, &rows.boot, LIMIT);
}

/* mm_init takes one piece; a kernel may want more: either it gets them or a status, never a write
 * behind the end of the map. */
static void memmap_take_again_and_again_stays_sound(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(64), BOOT_USABLE) };
    unsigned taken_count = 0;
    paddr_t taken;

    (void)state;
    ram_set_up(MM_MIB(64));
    BUILD_OK(list);
    for (unsigned i = 0; i < 100; i++) {
        taken_count += memmap_take(&map, FRAME_SIZE << i % 3, NULL, NULL, &taken) == MM_OK;
        assert_map_is_sound(&map, &rows.boot, LIMIT);
    }
    assert_true(taken_count >= 4);
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

/* ---- Many rows ---- */

/* A map in rows of its own, for counts beyond ROWS_MAX. */
static void build_many(struct boot_range *list, size_t count)
{
    struct boot_range **pointer = calloc(count, sizeof *pointer);

    assert_non_null(pointer);
    rows_set(&rows, NULL, 0);
    for (size_t i = 0; i < count; i++) {
        size_t other = (size_t)random_below(i + 1); /* a shuffle on the way */

        pointer[i] = pointer[other];
        pointer[other] = &list[i];
    }
    rows.boot.map = pointer;
    rows.boot.map_count = count;
    mm_log_level = MM_LOG_ERROR;
    assert_ok(memmap_build(&map, &rows.boot, LIMIT, NULL, NULL));
    mm_log_level = MM_LOG_INFO;
}

static void many_finish(void)
{
    free(rows.boot.map);
    rows.boot.map = NULL;
}

static void memmap_4096_random_rows_agree_with_the_model(void **state)
{
    size_t count = 4096;
    struct boot_range *list = calloc(count, sizeof *list);
    struct model_map model;

    (void)state;
    assert_non_null(list);
    ram_set_up(MM_GIB(4));
    list[0] = (struct boot_range)ROW(MM_MIB(16), MM_GIB(4), BOOT_USABLE);
    for (size_t i = 1; i < count; i++)
        list[i] = (struct boot_range){ random_below(MM_GIB(4)), random_below(MM_MIB(1)) + 1,
                                       random_below(10) };
    build_many(list, count);
    model = model_build(&rows.boot, LIMIT);
    assert_map_is_model(&map, &model);
    assert_map_is_sound(&map, &rows.boot, LIMIT);
    model_free(&model);
    many_finish();
    free(list);
}

/* One frame in every 2 MiB behind the first 32 is reserved inside one large usable row. */
static void memmap_65536_rows_serve(void **state)
{
    size_t count = 65536;
    struct boot_range *list = calloc(count, sizeof *list);

    (void)state;
    assert_non_null(list);
    ram_set_up(MM_GIB(129));
    list[0] = (struct boot_range)ROW(0, MM_GIB(129), BOOT_USABLE);
    for (size_t i = 1; i < count; i++)
        list[i] = (struct boot_range){ MM_MIB(2 * i + 32), 4096, BOOT_RESERVED };
    build_many(list, count);
    assert_int_equal(map.usable_bytes, MM_GIB(129) - 4096 * (count - 1));
    assert_true(map.count >= 2 * count - 1);
    for (size_t i = 1; i < map.count; i++)
        assert_true(map.ranges[i - 1].end <= map.ranges[i].base &&
                    map.ranges[i].base < map.ranges[i].end);
    for (size_t i = 1; i < count; i++)
        assert_type_at(list[i].base, BOOT_RESERVED);
    many_finish();
    free(list);
}

/* ---- Random maps ---- */

static uint64_t random_address(void)
{
    uint64_t address = random_below(MM_MIB(64));

    if (random_chance(60))
        address = mm_round_down(address, 4096);
    if (random_chance(5))
        address = LIMIT - random_below(MM_MIB(2));
    if (random_chance(5))
        address = UINT64_MAX - random_below(MM_MIB(2));
    return address;
}

static struct boot_range random_row(void)
{
    static const uint64_t odd_types[] = { 8, 9, 16, 20, 2954887168u, UINT64_MAX };
    struct boot_range row = { random_address(), random_below(MM_MIB(8)), BOOT_USABLE };

    if (random_chance(50))
        row.type = random_below(BOOT_METADATA);
    if (random_chance(5))
        row.type = odd_types[random_below(COUNT_OF(odd_types))];
    if (random_chance(60))
        row.length = mm_round_down(row.length, 4096);
    if (random_chance(5))
        row.length = random_chance(50) ? 0 : random_u64();
    return row;
}

/* Half of the maps have RAM at 2^52, where this process has none; in those the row at 72 MiB, above
 * all others that are low, makes sure that the result finds its place below. */
static void random_rows(size_t count)
{
    struct boot_range list[ROWS_MAX];
    bool has_high_ram = random_chance(50);

    for (size_t i = 0; i < count; i++) {
        list[i] = random_row();
        if (!has_high_ram && list[i].type == BOOT_USABLE && list[i].base >= MM_GIB(1))
            list[i].type = BOOT_RESERVED;
    }
    if (has_high_ram)
        list[0] = (struct boot_range)ROW(MM_MIB(72), MM_MIB(80), BOOT_USABLE);
    rows_set(&rows, list, count);
    rows.boot.keep_count = (uint32_t)random_below(4);
    for (uint32_t i = 0; i < rows.boot.keep_count; i++)
        rows.boot.keep[i] = (struct boot_range){ random_below(MM_MIB(64)), random_below(MM_MIB(1)),
                                                 1 + random_below(7) };
}

static void shuffle_rows(void)
{
    for (size_t i = rows.boot.map_count; i > 1; i--) {
        size_t other = (size_t)random_below(i);
        struct boot_range *moved = rows.pointer[i - 1];

        rows.pointer[i - 1] = rows.pointer[other];
        rows.pointer[other] = moved;
    }
}

/* True if the model has a place for a map of one frame at or above 1 MiB. */
static bool model_has_room(const struct model_map *model)
{
    for (size_t i = 0; i < model->count; i++) {
        paddr_t base = model->ranges[i].base;

        if (base < MM_LOW_MEMORY_END)
            base = MM_LOW_MEMORY_END;
        if (model->ranges[i].type == BOOT_USABLE && model->ranges[i].end >= base + 4 * FRAME_SIZE)
            return true;
    }
    return false;
}

static void memmap_random_rows_agree_with_the_model_in_any_order(void **state)
{
    struct mm_range first[4 * ROWS_MAX];

    (void)state;
    ram_set_up(MM_MIB(80));
    for (seeds_begin(400); seeds_next();) {
        struct model_map model;
        size_t first_count = 0;

        random_rows((size_t)random_below(ROWS_MAX) + 1);
        model = model_build(&rows.boot, LIMIT);
        for (unsigned order = 0; order < 4; order++) {
            mm_status_t status;

            shuffle_rows();
            status = memmap_build(&map, &rows.boot, LIMIT, NULL, NULL);
            if (status == MM_NO_USABLE_MEMORY && !model_has_room(&model))
                continue;
            assert_status(status, MM_OK);
            assert_map_is_sound(&map, &rows.boot, LIMIT);
            assert_map_is_model(&map, &model);
            if (order == 0)
                memcpy(first, map.ranges, (first_count = map.count) * sizeof first[0]);
            assert_int_equal(map.count, first_count);
            assert_memory_equal(first, map.ranges, first_count * sizeof first[0]);
        }
        model_free(&model);
    }
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
        TEST(memmap_kept_ranges_win_over_usable),
        TEST(memmap_all_kept_ranges_may_start_alike),
        TEST(memmap_lives_at_16mib_if_it_can),
        TEST(memmap_lives_at_1mib_on_a_small_machine),
        TEST(memmap_lives_behind_obstacles),
        TEST(memmap_full_of_obstacles_is_refused),
        TEST(memmap_take_takes_the_first_place_above_16mib),
        TEST(memmap_take_falls_back_to_1mib),
        TEST(memmap_take_of_a_whole_range_leaves_no_empty_one),
        TEST(memmap_take_without_room_changes_nothing),
        TEST(memmap_take_again_and_again_stays_sound),
        TEST(memmap_find_knows_every_edge),
        TEST(memmap_types_have_names),
        TEST(memmap_log_writes_one_line_a_range),
        TEST(memmap_4096_random_rows_agree_with_the_model),
        TEST(memmap_65536_rows_serve),
        TEST(memmap_random_rows_agree_with_the_model_in_any_order),
    };

    return RUN_TESTS(tests);
}
