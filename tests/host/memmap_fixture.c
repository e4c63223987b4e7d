/* SPDX-License-Identifier: MIT */
/* See memmap_fixture.h. */
#include "memmap_fixture.h"

#include <string.h>

struct rows rows;
struct memmap map;

void build_ok(const struct boot_range *list, size_t count)
{
    struct model_map model;

    rows_set(&rows, list, count);
    model = model_build(&rows.boot, LIMIT);
    assert_ok(memmap_build(&map, &rows.boot, LIMIT, NULL, NULL));
    assert_map_is_sound(&map, &rows.boot, LIMIT);
    assert_map_is_model(&map, &model);
    model_free(&model);
}

void assert_type_at(paddr_t address, uint64_t type)
{
    const struct mm_range *range = memmap_find(&map, address);

    if (range == NULL)
        fail_msg("no range holds 0x%lx", address);
    if (range->type != type)
        fail_msg("0x%lx is %s, expected %s", address, memmap_type_name(range->type),
                 memmap_type_name(type));
}

void assert_refused(const struct boot_range *list, size_t count)
{
    struct memmap before;

    memset(&map, 0x77, sizeof map);
    before = map;
    rows_set(&rows, list, count);
    assert_status(memmap_build(&map, &rows.boot, LIMIT, NULL, NULL), MM_NO_USABLE_MEMORY);
    assert_memory_equal(&map, &before, sizeof map);
}
