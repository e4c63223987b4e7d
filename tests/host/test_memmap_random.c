/* SPDX-License-Identifier: MIT */
/* Maps of many rows and random maps against the brute-force model. */
#include "memmap_fixture.h"

#include <stdlib.h>
#include <string.h>

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
        TEST(memmap_4096_random_rows_agree_with_the_model),
        TEST(memmap_65536_rows_serve),
        TEST(memmap_random_rows_agree_with_the_model_in_any_order),
    };

    return RUN_TESTS(tests);
}
