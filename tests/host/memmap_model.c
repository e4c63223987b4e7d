/* SPDX-License-Identifier: MIT */
/* The brute-force memory map; see memmap_model.h. It shares no line with mm/memmap.c: addresses are
 * 128-bit numbers here, so that nothing wraps, and restrictiveness is a switch. */
#include "memmap_model.h"

#include <stdlib.h>
#include <string.h>

typedef unsigned __int128 wide;

#define MODEL_LIMIT ((paddr_t)1 << 52)

/* usable < loader < ACPI reclaimable < executable < framebuffer < ACPI NVS < reserved < bad */
static int strictness(uint64_t type)
{
    switch (type) {
    case BOOT_USABLE:
        return 1;
    case BOOT_LOADER_RECLAIMABLE:
        return 2;
    case BOOT_ACPI_RECLAIMABLE:
        return 3;
    case BOOT_EXECUTABLE:
        return 4;
    case BOOT_FRAMEBUFFER:
        return 5;
    case BOOT_ACPI_NVS:
        return 6;
    case BOOT_BAD:
        return 9;
    default:
        return 8;
    }
}

static uint64_t known_type(uint64_t type)
{
    return strictness(type) == 8 ? BOOT_RESERVED : type;
}

/* The frames that a row covers: [first, last) in bytes; false if there are none. */
static bool covered(const struct boot_range *row, paddr_t limit, paddr_t *first, paddr_t *last)
{
    wide base = row->base, end = base + row->length, top = limit;

    if (limit > MODEL_LIMIT)
        top = MODEL_LIMIT;
    if (row->length == 0 || base >= top)
        return false;
    if (end >= (wide)1 << 64 && end != (wide)1 << 64 && row->type == BOOT_USABLE)
        return false; /* wraps: nobody knows what it meant */
    if (end == (wide)1 << 64 && row->type == BOOT_USABLE)
        return false; /* ends at 2^64: a wrap in 64-bit arithmetic */
    if (end > top)
        end = top;
    if (row->type == BOOT_USABLE) {
        base = (base + 4095) / 4096 * 4096;
        end = end / 4096 * 4096;
    } else {
        base = base / 4096 * 4096;
        end = (end + 4095) / 4096 * 4096;
    }
    *first = (paddr_t)base;
    *last = (paddr_t)end;
    return base < end;
}

struct covered_row {
    paddr_t base, end;
    uint64_t type;
};

static int compare_addresses(const void *a, const void *b)
{
    paddr_t x = *(const paddr_t *)a, y = *(const paddr_t *)b;

    return x < y ? -1 : x > y;
}

static size_t collect(const struct boot_info *boot, paddr_t limit, struct covered_row *rows)
{
    size_t count = 0;

    for (uint64_t i = 0; i < boot->map_count + boot->keep_count; i++) {
        const struct boot_range *row =
            i < boot->map_count ? boot->map[i] : &boot->keep[i - boot->map_count];

        if (covered(row, limit, &rows[count].base, &rows[count].end))
            rows[count++].type = known_type(row->type);
    }
    return count;
}

/* The type of the elementary interval that starts at `at`; UINT64_MAX if no row covers it. */
static uint64_t judge(const struct covered_row *rows, size_t count, paddr_t at)
{
    uint64_t type = UINT64_MAX;
    int best = 0;

    for (size_t i = 0; i < count; i++) {
        if (at < rows[i].base || at >= rows[i].end || strictness(rows[i].type) <= best)
            continue;
        best = strictness(rows[i].type);
        type = rows[i].type;
    }
    return type;
}

static void model_add(struct model_map *model, paddr_t base, paddr_t end, uint64_t type)
{
    struct mm_range *last = model->count != 0 ? &model->ranges[model->count - 1] : NULL;

    if (last != NULL && last->end == base && last->type == type)
        last->end = end;
    else
        model->ranges[model->count++] = (struct mm_range){ base, end, type };
    if (type == BOOT_USABLE)
        model->usable_bytes += end - base;
    if (type == BOOT_USABLE || type == BOOT_LOADER_RECLAIMABLE || type == BOOT_EXECUTABLE ||
        type == BOOT_ACPI_RECLAIMABLE || type == BOOT_ACPI_NVS)
        model->total_bytes += end - base;
}

struct model_map model_build(const struct boot_info *boot, paddr_t limit)
{
    size_t rows_max = boot->map_count + boot->keep_count + 1, count, cut_count = 0;
    struct covered_row *rows = calloc(rows_max, sizeof *rows);
    paddr_t *cuts = calloc(2 * rows_max, sizeof *cuts);
    struct model_map model = { .ranges = calloc(2 * rows_max, sizeof(struct mm_range)) };

    assert_true(rows != NULL && cuts != NULL && model.ranges != NULL);
    count = collect(boot, limit, rows);
    for (size_t i = 0; i < count; i++) {
        cuts[cut_count++] = rows[i].base;
        cuts[cut_count++] = rows[i].end;
    }
    qsort(cuts, cut_count, sizeof *cuts, compare_addresses);
    for (size_t i = 0; i + 1 < cut_count; i++) {
        uint64_t type;

        if (cuts[i] == cuts[i + 1])
            continue;
        type = judge(rows, count, cuts[i]);
        if (type != UINT64_MAX)
            model_add(&model, cuts[i], cuts[i + 1], type);
    }
    free(rows);
    free(cuts);
    return model;
}

void model_free(struct model_map *model)
{
    free(model->ranges);
    memset(model, 0, sizeof *model);
}

/* `map` with its metadata counted as usable again must be the model, range by range. */
void assert_map_is_model(const struct memmap *map, const struct model_map *model)
{
    size_t m = 0;
    paddr_t at = 0;
    uint64_t metadata_ranges = 0;

    for (size_t i = 0; i < map->count; i++) {
        const struct mm_range *range = &map->ranges[i];
        uint64_t type = range->type == BOOT_METADATA ? BOOT_USABLE : range->type;

        metadata_ranges += range->type == BOOT_METADATA;
        if (m == model->count)
            fail_msg("range 0x%lx-0x%lx (%s) is too much", range->base, range->end,
                     memmap_type_name(range->type));
        if (at == 0 || at == model->ranges[m].base)
            at = model->ranges[m].base;
        if (range->base != at || range->end > model->ranges[m].end || type != model->ranges[m].type)
            fail_msg("range 0x%lx-0x%lx (%s), expected 0x%lx-0x%lx (%s)", range->base, range->end,
                     memmap_type_name(range->type), at, model->ranges[m].end,
                     memmap_type_name(model->ranges[m].type));
        at = range->end;
        if (at == model->ranges[m].end)
            at = ++m < model->count ? model->ranges[m].base : 0;
    }
    assert_int_equal(m, model->count);
    assert_true(metadata_ranges >= 1);
    assert_true(map->count <= model->count + 2 * metadata_ranges);
    assert_int_equal(map->usable_bytes, model->usable_bytes);
    assert_int_equal(map->total_bytes, model->total_bytes);
}

/* True if any byte of the frames [base, end) lies in the row. */
static bool touches(const struct boot_range *row, paddr_t base, paddr_t end)
{
    wide row_base = row->base, row_end = row_base + row->length;

    return row->length != 0 && row_base < end && row_end > base;
}

static void assert_usable_range_is_free(const struct mm_range *range, const struct boot_info *boot)
{
    for (uint64_t i = 0; i < boot->map_count; i++)
        if (boot->map[i]->type != BOOT_USABLE && touches(boot->map[i], range->base, range->end))
            fail_msg("usable 0x%lx-0x%lx touches the row at 0x%lx of type %lu", range->base,
                     range->end, boot->map[i]->base, boot->map[i]->type);
    for (uint32_t i = 0; i < boot->keep_count; i++)
        if (touches(&boot->keep[i], range->base, range->end))
            fail_msg("usable 0x%lx-0x%lx touches what is kept at 0x%lx", range->base, range->end,
                     boot->keep[i].base);
}

void assert_map_is_sound(const struct memmap *map, const struct boot_info *boot, paddr_t limit)
{
    paddr_t home = virt_to_phys(map->ranges);
    const struct mm_range *home_range = memmap_find(map, home);
    paddr_t ram_end = 0, end = 0;

    assert_true(map->count <= map->capacity);
    for (size_t i = 0; i < map->count; i++) {
        const struct mm_range *range = &map->ranges[i];
        bool is_ram = memmap_type_is_ram(range->type);

        assert_true(range->base < range->end);
        assert_true(range->end <= limit && range->end <= MODEL_LIMIT);
        assert_true(range->base % 4096 == 0 && range->end % 4096 == 0);
        assert_true(i == 0 || map->ranges[i - 1].end <= range->base);
        if (range->type == BOOT_USABLE || range->type == BOOT_METADATA)
            assert_usable_range_is_free(range, boot);
        ram_end = is_ram ? range->end : ram_end;
        end = is_ram || range->type == BOOT_FRAMEBUFFER ? range->end : end;
    }
    assert_int_equal(map->ram_end, ram_end);
    assert_int_equal(map->end, end);
    assert_non_null(home_range);
    assert_int_equal(home_range->type, BOOT_METADATA);
    assert_true(home >= MM_LOW_MEMORY_END);
    assert_true(home + map->capacity * sizeof(struct mm_range) <= home_range->end);
}
