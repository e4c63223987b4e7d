/* SPDX-License-Identifier: MIT */
/* The memory map: ranges that are kept, where the map itself lives, and memory that is taken out of it. In
 * the drawings U is usable, R reserved, M metadata, one letter a MiB. */
#include "memmap_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    };

    return RUN_TESTS(tests);
}
