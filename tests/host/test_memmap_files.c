/* SPDX-License-Identifier: MIT */
/* Real memory maps, one test for each file of tests/host/memmaps: what Limine (limine-*, Limine's
 * types), QEMU's PVH entry (pvh-*) and GRUB (grub-*, both E820 types) have reported. A line is
 * "base length type" in hexadecimal. Each map is normalised in several orders, compared with the
 * brute-force model and with the raw rows around every edge, and then run under a pmm. */
#include "memmap_model.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_DIR   "tests/host/memmaps"
#define FILES_MAX   64
#define FILES_LEAST 32 /* that many lie there: an empty folder must not pass */
#define LIMIT       ((paddr_t)1 << 52)

/* ACPI specification 6.4, 15.1, address range types; what is not in it is reserved. */
static uint64_t type_of_e820(uint64_t type)
{
    switch (type) {
    case 1:
        return BOOT_USABLE;
    case 3:
        return BOOT_ACPI_RECLAIMABLE;
    case 4:
        return BOOT_ACPI_NVS;
    case 5:
        return BOOT_BAD;
    default:
        return BOOT_RESERVED;
    }
}

static size_t file_read(const char *name, struct boot_range *list)
{
    bool is_e820 = strncmp(name, "limine-", 7) != 0;
    char path[512];
    size_t count = 0;
    FILE *file;

    snprintf(path, sizeof path, FILES_DIR "/%s", name);
    file = fopen(path, "r");
    if (file == NULL)
        fail_msg("%s: cannot be opened", path);
    while (count < ROWS_MAX && fscanf(file, "%" SCNx64 " %" SCNx64 " %" SCNx64, &list[count].base,
                                      &list[count].length, &list[count].type) == 3) {
        if (is_e820)
            list[count].type = type_of_e820(list[count].type);
        count++;
    }
    assert_true(feof(file));
    assert_true(count >= 5);
    fclose(file);
    return count;
}

static paddr_t ram_end_of(const struct boot_range *list, size_t count)
{
    paddr_t end = 0;

    for (size_t i = 0; i < count; i++)
        if (list[i].type != BOOT_RESERVED && list[i].base + list[i].length > end)
            end = list[i].base + list[i].length;
    return mm_round_up(end, FRAME_SIZE);
}

/* By the raw rows alone: every byte of the frame is usable memory and none is anything else. */
static bool frame_is_usable(const struct boot_range *list, size_t count, paddr_t frame)
{
    bool whole = false;

    for (size_t i = 0; i < count; i++) {
        paddr_t end = list[i].base + list[i].length;

        if (list[i].type == BOOT_USABLE)
            whole |= list[i].base <= frame && end >= frame + FRAME_SIZE;
        else if (list[i].base < frame + FRAME_SIZE && end > frame)
            return false;
    }
    return whole;
}

static void check_frame(const struct memmap *map, const struct boot_range *list, size_t count,
                        paddr_t frame)
{
    const struct mm_range *range = memmap_find(map, frame);
    bool usable = range != NULL && (range->type == BOOT_USABLE || range->type == BOOT_METADATA);

    if (usable != frame_is_usable(list, count, frame))
        fail_msg("frame 0x%lx is %susable in the normal form", frame, usable ? "" : "not ");
}

/* Two frames on either side of every edge, and a thousand anywhere. */
static void check_frames(const struct memmap *map, const struct boot_range *list, size_t count)
{
    for (size_t i = 0; i < 2 * count; i++) {
        paddr_t edge = list[i / 2].base + (i % 2 != 0 ? list[i / 2].length : 0);

        edge = mm_round_down(edge, FRAME_SIZE);
        for (paddr_t frame = edge > 0x2000 ? edge - 0x2000 : 0; frame < edge + 0x3000;
             frame += FRAME_SIZE)
            check_frame(map, list, count, frame);
    }
    for (unsigned i = 0; i < 1000; i++)
        check_frame(map, list, count,
                    mm_round_down(random_below(ram_end_of(list, count)), FRAME_SIZE));
}

static void check_orders(const struct boot_range *list, size_t count)
{
    struct boot_range shuffled[ROWS_MAX];
    struct mm_range first[2 * ROWS_MAX + 8];
    size_t first_count = 0;
    struct rows rows;
    struct memmap map;

    memcpy(shuffled, list, count * sizeof *list);
    for (unsigned order = 0; order < 20; order++) {
        struct model_map model;

        rows_set(&rows, shuffled, count);
        model = model_build(&rows.boot, LIMIT);
        assert_ok(memmap_build(&map, &rows.boot, LIMIT, NULL, NULL));
        assert_map_is_model(&map, &model);
        assert_map_is_sound(&map, &rows.boot, LIMIT);
        model_free(&model);
        check_frames(&map, list, count);
        if (order == 0)
            memcpy(first, map.ranges, (first_count = map.count) * sizeof first[0]);
        assert_int_equal(map.count, first_count);
        assert_memory_equal(first, map.ranges, first_count * sizeof first[0]);
        for (size_t i = count; i > 1; i--) {
            size_t other = (size_t)random_below(i);
            struct boot_range moved = shuffled[i - 1];

            shuffled[i - 1] = shuffled[other];
            shuffled[other] = moved;
        }
    }
}

static uint64_t ram_frames(const struct memmap *map)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < map->count; i++)
        if (memmap_type_is_ram(map->ranges[i].type))
            bytes += map->ranges[i].end - map->ranges[i].base;
    return bytes / FRAME_SIZE;
}

/* Frames from everywhere: the next few hundred, and the last one of every usable range. */
static void check_frames_of_pmm(struct machine *machine, const struct boot_range *list,
                                size_t count)
{
    for (unsigned i = 0; i < 300 && pmm_stats(&machine->pmm).free_frames != 0; i++) {
        paddr_t frame;

        assert_ok(pmm_alloc_frame(&machine->pmm, &frame));
        assert_true(frame >= MM_LOW_MEMORY_END && frame_is_usable(list, count, frame));
        memset(phys_to_virt(frame), 0x5a, FRAME_SIZE);
    }
    for (size_t i = 0; i < machine->map.count; i++) {
        const struct mm_range *range = &machine->map.ranges[i];
        paddr_t last = range->end - FRAME_SIZE;

        if (range->type != BOOT_USABLE || last < MM_LOW_MEMORY_END ||
            pmm_frame_state(&machine->pmm, last) != PMM_FRAME_FREE)
            continue;
        assert_ok(pmm_reserve_range(&machine->pmm, last, range->end));
        assert_ok(pmm_release_range(&machine->pmm, last, range->end));
    }
}

static void check_pmm(const struct boot_range *list, size_t count)
{
    static struct machine machine;
    struct pmm_stats stats;

    machine_set_up(&machine, list, count, false);
    stats = pmm_stats(&machine.pmm);
    assert_int_equal(stats.total_frames, ram_frames(&machine.map));
    assert_true(stats.free_frames > 0);
    assert_true(stats.free_frames * FRAME_SIZE <= machine.map.usable_bytes);
    assert_pmm_sound(&machine.pmm);
    check_frames_of_pmm(&machine, list, count);
    assert_pmm_sound(&machine.pmm);
}

static void file_serves(void **state)
{
    struct boot_range list[ROWS_MAX];
    size_t count = file_read(*state, list);
    paddr_t end = ram_end_of(list, count);

    ram_set_up(end);
    check_orders(list, count);
    /* The bitmap of 16 TiB is 512 MiB, and ASan's shadow of it as much again. */
    if (!support_is_sanitized() || end <= (paddr_t)2 << 40)
        check_pmm(list, count);
}

static int is_map_file(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);

    return length > 4 && strcmp(entry->d_name + length - 4, ".txt") == 0;
}

int main(void)
{
    static struct CMUnitTest tests[FILES_MAX];
    struct dirent **entries;
    int count = scandir(FILES_DIR, &entries, is_map_file, alphasort), result;

    if (count < FILES_LEAST || count > FILES_MAX) {
        fprintf(stderr, FILES_DIR ": %d maps, expected %d to %d\n", count, FILES_LEAST, FILES_MAX);
        return 1;
    }
    for (int i = 0; i < count; i++)
        tests[i] = (struct CMUnitTest){ .name = entries[i]->d_name,
                                        .test_func = file_serves,
                                        .setup_func = support_setup,
                                        .teardown_func = support_teardown,
                                        .initial_state = entries[i]->d_name };
    result = _cmocka_run_group_tests("memory map files", tests, (size_t)count, NULL, NULL);
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    return result;
}
