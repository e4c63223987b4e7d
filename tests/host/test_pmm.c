/* SPDX-License-Identifier: MIT */
/* The physical memory manager: what its header promises, and every wrong free. */
#include "support.h"

#include <stdlib.h>
#include <string.h>

static struct machine machine;
static struct pmm *const pmm = &machine.pmm;

#define FIRST MM_MIB(1) /* of the simple machine's frames above low memory */

static paddr_t alloc_one(void)
{
    paddr_t frame;

    assert_ok(pmm_alloc_frame(pmm, &frame));
    return frame;
}

/* ---- pmm_init ---- */

static void pmm_init_counts_every_frame_of_ram(void **state)
{
    /* usable low, hole, usable with kernel and loader in it, hole, one page at 8 TiB */
    const struct boot_range list[] = {
        ROW(0, 0x9fc00, BOOT_USABLE),
        ROW(0xf0000, 0x100000, BOOT_RESERVED),
        ROW(MM_MIB(1), MM_MIB(30), BOOT_USABLE),
        ROW(MM_MIB(30), MM_MIB(31), BOOT_EXECUTABLE),
        ROW(MM_MIB(31), MM_MIB(32), BOOT_LOADER_RECLAIMABLE),
        ROW(MM_MIB(32), MM_MIB(33), BOOT_ACPI_RECLAIMABLE),
        ROW(MM_MIB(33), MM_MIB(64), BOOT_USABLE),
    };
    uint64_t metadata;
    struct pmm_stats stats;

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    metadata = machine.map.usable_bytes;
    for (size_t i = 0; i < machine.map.count; i++)
        if (machine.map.ranges[i].type == BOOT_USABLE)
            metadata -= machine.map.ranges[i].end - machine.map.ranges[i].base;
    stats = pmm_stats(pmm);
    assert_int_equal(stats.total_frames, 0x9f + 31 * 256 + 31 * 256);
    assert_int_equal(stats.reserved_frames, 0x9f + 2 * 256 + metadata / FRAME_SIZE);
    assert_int_equal(stats.used_frames, 0);
    assert_int_equal(stats.table_frames, 0);
    assert_pmm_sound(pmm);
    assert_frame_state(pmm, MM_MIB(30), PMM_FRAME_RESERVED);
    assert_frame_state(pmm, MM_MIB(32) - 1, PMM_FRAME_RESERVED);
    assert_frame_state(pmm, MM_MIB(32), PMM_FRAME_OUTSIDE);
    assert_frame_state(pmm, MM_MIB(33), PMM_FRAME_FREE);
    assert_frame_state(pmm, MM_MIB(64) - 1, PMM_FRAME_FREE);
    assert_frame_state(pmm, MM_MIB(64), PMM_FRAME_OUTSIDE);
    assert_frame_state(pmm, 0x9f000, PMM_FRAME_OUTSIDE);
    assert_frame_state(pmm, 0x9efff, PMM_FRAME_RESERVED);
    assert_frame_state(pmm, UINT64_MAX, PMM_FRAME_OUTSIDE);
    assert_frame_state(pmm, virt_to_phys(machine.metadata), PMM_FRAME_RESERVED);
    assert_frame_state(pmm, virt_to_phys(machine.map.ranges), PMM_FRAME_RESERVED);
}

static void pmm_init_keeps_low_memory_back_unless_asked(void **state)
{
    const struct boot_range list[] = { ROW(0, MM_MIB(4), BOOT_USABLE) };

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    assert_frame_state(pmm, 0, PMM_FRAME_RESERVED);
    assert_frame_state(pmm, MM_MIB(1) - 1, PMM_FRAME_RESERVED);
    machine_set_up(&machine, list, COUNT_OF(list), true);
    assert_frame_state(pmm, 0, PMM_FRAME_RESERVED);
    assert_frame_state(pmm, FRAME_SIZE, PMM_FRAME_FREE);
    assert_frame_state(pmm, MM_MIB(1) - 1, PMM_FRAME_FREE);
    assert_pmm_sound(pmm);
}

static void pmm_init_accepts_ram_only_in_reserved_types(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(2), BOOT_USABLE),
        ROW(MM_MIB(4), MM_MIB(5), BOOT_EXECUTABLE),
        ROW(MM_MIB(6), MM_MIB(7), BOOT_LOADER_RECLAIMABLE),
    };

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    assert_int_equal(pmm_stats(pmm).total_frames, 3 * 256);
    assert_pmm_sound(pmm);
}

/* 64 MiB low plus one page at 8 TiB: KiBs. */
static void pmm_metadata_is_sized_by_ram_not_by_the_highest_address(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(64), BOOT_USABLE),
        ROW(MM_GIB(8192), MM_GIB(8192) + FRAME_SIZE, BOOT_USABLE),
        ROW(0xfd00000000, 0x10000000000, BOOT_RESERVED),
    };

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    assert_true(pmm_metadata_bytes(&machine.map) < MM_KIB(16));
    assert_frame_state(pmm, MM_GIB(8192), PMM_FRAME_FREE);
    assert_pmm_sound(pmm);
    pmm_drain_to(pmm, 0, NULL, 0);
    assert_frame_state(pmm, MM_GIB(8192), PMM_FRAME_USED);
}

/* The metadata in exactly as many bytes as were asked for, between two fences. */
static void pmm_metadata_stays_inside_its_bytes(void **state)
{
    const size_t fence = 256;
    uint64_t bytes;
    unsigned char *memory;
    struct pmm other = { 0 };

    (void)state;
    for (unsigned frames = 1; frames < 300; frames += frames % 64 == 62 ? 1 : 13) {
        machine_set_up_simple(&machine, MM_MIB(1) + frames * FRAME_SIZE);
        bytes = pmm_metadata_bytes(&machine.map);
        memory = aligned_alloc(64, mm_round_up(fence + bytes + fence, 64));
        assert_non_null(memory);
        memset(memory, 0xa5, fence + bytes + fence);
        pmm_init(&other, &machine.map, memory + fence, &(struct pmm_config){ .low_memory = true });
        pmm_drain_to(&other, 0, NULL, 0);
        assert_true(pmm_verify(&other));
        for (size_t i = 0; i < fence; i++)
            assert_true(memory[i] == 0xa5 && memory[fence + bytes + i] == 0xa5);
        free(memory);
    }
}

static void pmm_range_extents_are_sorted_and_hold_all_ram(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(9), MM_MIB(12), BOOT_USABLE),    ROW(MM_MIB(1), MM_MIB(4), BOOT_USABLE),
        ROW(MM_MIB(4), MM_MIB(5), BOOT_EXECUTABLE), ROW(MM_MIB(5), MM_MIB(6), BOOT_USABLE),
        ROW(MM_MIB(7), MM_MIB(8), BOOT_USABLE),
    };
    uint64_t frames = 0;
    paddr_t end = 0;

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    for (size_t i = 0; i < pmm_stats(pmm).range_count; i++) {
        struct mm_extent extent = pmm_range_extent(pmm, i);

        assert_true(extent.base < extent.end && extent.base >= end);
        assert_true(pmm_frame_state(pmm, extent.base) != PMM_FRAME_OUTSIDE);
        assert_true(pmm_frame_state(pmm, extent.end - 1) != PMM_FRAME_OUTSIDE);
        end = extent.end;
        frames += (extent.end - extent.base) / FRAME_SIZE;
    }
    assert_int_equal(frames, pmm_stats(pmm).total_frames);
}

/* ---- Single frames ---- */

static void pmm_alloc_frame_gives_every_free_frame_once(void **state)
{
    static paddr_t frames[4096];
    static bool seen[4096];
    size_t count;
    paddr_t none = 0x1234;
    struct pmm_stats before;

    (void)state;
    memset(seen, 0, sizeof seen);
    machine_set_up_simple(&machine, MM_MIB(8));
    before = pmm_stats(pmm);
    count = pmm_drain_to(pmm, 0, frames, COUNT_OF(frames));
    assert_int_equal(count, before.free_frames);
    for (size_t i = 0; i < count; i++) {
        assert_true(frames[i] % FRAME_SIZE == 0 && frames[i] < MM_MIB(9));
        assert_false(seen[frames[i] / FRAME_SIZE]);
        seen[frames[i] / FRAME_SIZE] = true;
        assert_frame_state(pmm, frames[i], PMM_FRAME_USED);
    }
    assert_status(pmm_alloc_frame(pmm, &none), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_table(pmm, &none), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_contiguous(pmm, 1, FRAME_SIZE, PMM_NO_LIMIT, &none), MM_OUT_OF_MEMORY);
    assert_int_equal(none, 0x1234);
    assert_pmm_sound(pmm);
    for (size_t i = 0; i < count; i++)
        pmm_free_frame(pmm, frames[i]);
    assert_pmm_stats_equal(pmm_stats(pmm), before);
    assert_pmm_sound(pmm);
}

static void pmm_freed_frame_comes_back_when_it_is_the_only_one(void **state)
{
    paddr_t frame;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    pmm_drain_to(pmm, 0, NULL, 0);
    for (paddr_t freed = MM_MIB(3); freed < MM_MIB(3) + 100 * FRAME_SIZE; freed += FRAME_SIZE) {
        pmm_free_frame(pmm, freed);
        assert_frame_state(pmm, freed, PMM_FRAME_FREE);
        frame = alloc_one();
        assert_int_equal(frame, freed);
    }
}

static void pmm_alloc_frame_is_zero_after_use(void **state)
{
    (void)state;
    machine_set_up_simple(&machine, MM_MIB(2));
    for (unsigned round = 0; round < 3; round++) {
        paddr_t frames[600];
        size_t count = pmm_drain_to(pmm, 0, frames, COUNT_OF(frames));

        for (size_t i = 0; i < count; i++) {
            assert_true(is_zero(phys_to_virt(frames[i]), FRAME_SIZE));
            memset(phys_to_virt(frames[i]), 0xff, FRAME_SIZE);
        }
        for (size_t i = 0; i < count; i++)
            pmm_free_frame(pmm, frames[i]);
    }
}

static void pmm_logs_allocations_and_frees_at_debug_only(void **state)
{
    char words[64];
    paddr_t frame;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    pmm_free_frame(pmm, alloc_one());
    assert_int_equal(log_lines(), 0);
    mm_log_level = MM_LOG_DEBUG;
    frame = alloc_one();
    mm_format(words, sizeof words, "[MM] |0x%lx", frame);
    log_expect_count(words, 1);
    pmm_free_frame(pmm, frame);
    log_expect_count(words, 2);
    assert_ok(pmm_alloc_contiguous(pmm, 8, FRAME_SIZE, PMM_NO_LIMIT, &frame));
    mm_format(words, sizeof words, "[MM] |8|0x%lx", frame);
    log_clear();
    pmm_free_contiguous(pmm, frame, 8);
    log_expect_count(words, 1);
}

static void pmm_calls_restore_the_interrupt_state(void **state)
{
    paddr_t frame;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    for (unsigned on = 0; on < 2; on++) {
        hosted_cpu()->interrupts = on != 0;
        pmm_free_frame(pmm, alloc_one());
        assert_ok(pmm_alloc_contiguous(pmm, 2, FRAME_SIZE, PMM_NO_LIMIT, &frame));
        pmm_free_contiguous(pmm, frame, 2);
        assert_status(pmm_alloc_contiguous(pmm, 1 << 20, FRAME_SIZE, PMM_NO_LIMIT, &frame),
                      MM_OUT_OF_MEMORY);
        (void)pmm_stats(pmm);
        assert_true(pmm_verify(pmm));
        assert_int_equal(hosted_cpu()->interrupts, on != 0);
        assert_int_equal(hosted_cpu()->locks_held, 0);
    }
}

/* ---- Contiguous frames ---- */

/*  |0 1 2 3|4 5 6 7|   usable rows that touch: a block may lie across the border  */
static void pmm_alloc_contiguous_crosses_adjacent_rows(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(2), BOOT_USABLE),
        ROW(MM_MIB(2), MM_MIB(3), BOOT_USABLE),
        ROW(MM_MIB(8), MM_MIB(9), BOOT_USABLE),
    };
    paddr_t first;

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    assert_ok(pmm_alloc_contiguous(pmm, 300, FRAME_SIZE, PMM_NO_LIMIT, &first));
    assert_true(first < MM_MIB(2) && first + 300 * FRAME_SIZE > MM_MIB(2));
    assert_true(is_zero(phys_to_virt(first), 300 * FRAME_SIZE));
    pmm_free_contiguous(pmm, first, 300);
    assert_pmm_sound(pmm);
}

/* Two gaps of every kind: nothing, and a reserved range between two usable ones. */
static void pmm_alloc_contiguous_never_crosses_a_gap(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(3), BOOT_USABLE),
        ROW(MM_MIB(3) + FRAME_SIZE, MM_MIB(5), BOOT_USABLE),
        ROW(MM_MIB(5), MM_MIB(5) + FRAME_SIZE, BOOT_EXECUTABLE),
        ROW(MM_MIB(5) + FRAME_SIZE, MM_MIB(7), BOOT_USABLE),
    };
    paddr_t first = 0x1234;

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    assert_status(pmm_alloc_contiguous(pmm, 512, FRAME_SIZE, PMM_NO_LIMIT, &first),
                  MM_OUT_OF_MEMORY);
    assert_int_equal(first, 0x1234);
    assert_ok(pmm_alloc_contiguous(pmm, 511, FRAME_SIZE, PMM_NO_LIMIT, &first));
    assert_int_equal(first, MM_MIB(3) + FRAME_SIZE);
}

static void pmm_alloc_contiguous_obeys_alignment(void **state)
{
    (void)state;
    machine_set_up_simple(&machine, MM_MIB(16));
    for (uint64_t align = FRAME_SIZE; align <= MM_MIB(8); align *= 2) {
        paddr_t first;

        assert_ok(pmm_alloc_contiguous(pmm, 3, align, PMM_NO_LIMIT, &first));
        assert_int_equal(first % align, 0);
        pmm_free_contiguous(pmm, first, 3);
    }
}

static void pmm_alloc_contiguous_obeys_the_limit(void **state)
{
    paddr_t first = 0x1234;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(16));
    pmm_drain_to(pmm, 0, NULL, 0);
    pmm_free_contiguous(pmm, MM_MIB(4), 16);
    assert_status(pmm_alloc_contiguous(pmm, 16, FRAME_SIZE, MM_MIB(4) + 0xffff, &first),
                  MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_contiguous(pmm, 1, FRAME_SIZE, MM_MIB(4), &first), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_contiguous(pmm, 1, FRAME_SIZE, 0, &first), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_contiguous(pmm, 1, FRAME_SIZE, 1, &first), MM_OUT_OF_MEMORY);
    assert_int_equal(first, 0x1234);
    assert_ok(pmm_alloc_contiguous(pmm, 16, FRAME_SIZE, MM_MIB(4) + 0x10000, &first));
    assert_int_equal(first, MM_MIB(4));
}

static void pmm_alloc_contiguous_takes_the_lowest_that_fit(void **state)
{
    paddr_t first;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(16));
    pmm_drain_to(pmm, 0, NULL, 0);
    pmm_free_contiguous(pmm, MM_MIB(12), 64);
    pmm_free_contiguous(pmm, MM_MIB(8), 8);
    pmm_free_contiguous(pmm, MM_MIB(4), 4);
    assert_ok(pmm_alloc_contiguous(pmm, 5, FRAME_SIZE, PMM_NO_LIMIT, &first));
    assert_int_equal(first, MM_MIB(8));
    assert_ok(pmm_alloc_contiguous(pmm, 4, FRAME_SIZE, PMM_NO_LIMIT, &first));
    assert_int_equal(first, MM_MIB(4));
    assert_ok(pmm_alloc_contiguous(pmm, 4, FRAME_SIZE, PMM_NO_LIMIT, &first));
    assert_int_equal(first, MM_MIB(12));
}

static void pmm_alloc_contiguous_bad_arguments_change_nothing(void **state)
{
    static const struct {
        uint64_t count, align;
        mm_status_t expected;
    } bad[] = {
        { 0, FRAME_SIZE, MM_INVALID_ARGUMENT },
        { 1, 0, MM_INVALID_ARGUMENT },
        { 1, 1, MM_INVALID_ARGUMENT },
        { 1, 2048, MM_INVALID_ARGUMENT },
        { 1, 3 * FRAME_SIZE, MM_INVALID_ARGUMENT },
        { 1, FRAME_SIZE + 1, MM_INVALID_ARGUMENT },
        { 1, UINT64_MAX, MM_INVALID_ARGUMENT },
        { UINT64_MAX, FRAME_SIZE, MM_OUT_OF_MEMORY },
        { UINT64_MAX / FRAME_SIZE, FRAME_SIZE, MM_OUT_OF_MEMORY },
        { UINT64_MAX / FRAME_SIZE + 2, FRAME_SIZE, MM_OUT_OF_MEMORY },
        { (uint64_t)1 << 52, FRAME_SIZE, MM_OUT_OF_MEMORY },
        { 1, (uint64_t)1 << 63, MM_OUT_OF_MEMORY },
        { UINT64_MAX, (uint64_t)1 << 63, MM_OUT_OF_MEMORY },
    };
    struct pmm before;
    paddr_t first = 0x1234;
    size_t metadata_bytes;
    void *metadata;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(16));
    metadata_bytes = pmm_metadata_bytes(&machine.map);
    metadata = malloc(metadata_bytes);
    assert_non_null(metadata);
    memcpy(metadata, machine.metadata, metadata_bytes);
    before = *pmm;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        mm_status_t got =
            pmm_alloc_contiguous(pmm, bad[i].count, bad[i].align, PMM_NO_LIMIT, &first);

        if (got != bad[i].expected)
            fail_msg("count 0x%lx, align 0x%lx: %s", bad[i].count, bad[i].align,
                     mm_status_name(got));
    }
    assert_int_equal(first, 0x1234);
    assert_memory_equal(&before, pmm, sizeof before);
    assert_memory_equal(metadata, machine.metadata, metadata_bytes);
    free(metadata);
}

static void pmm_free_contiguous_in_parts_is_allowed(void **state)
{
    struct pmm_stats before;
    paddr_t first;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(8));
    before = pmm_stats(pmm);
    assert_ok(pmm_alloc_contiguous(pmm, 200, FRAME_SIZE, PMM_NO_LIMIT, &first));
    pmm_free_contiguous(pmm, first + 50 * FRAME_SIZE, 70);
    assert_frame_state(pmm, first + 49 * FRAME_SIZE, PMM_FRAME_USED);
    assert_frame_state(pmm, first + 50 * FRAME_SIZE, PMM_FRAME_FREE);
    assert_frame_state(pmm, first + 119 * FRAME_SIZE, PMM_FRAME_FREE);
    assert_frame_state(pmm, first + 120 * FRAME_SIZE, PMM_FRAME_USED);
    pmm_free_frame(pmm, first);
    pmm_free_contiguous(pmm, first + FRAME_SIZE, 49);
    pmm_free_contiguous(pmm, first + 120 * FRAME_SIZE, 80);
    assert_pmm_stats_equal(pmm_stats(pmm), before);
    assert_pmm_sound(pmm);
}

/* ---- Misuse: reported with address and reason, and nothing changes ---- */

#define EXPECT_BUG_UNCHANGED(words, call)                                                          \
    do {                                                                                           \
        struct pmm_stats stats_before = pmm_stats(pmm);                                            \
        EXPECT_BUG((words), call);                                                                 \
        assert_pmm_stats_equal(pmm_stats(pmm), stats_before);                                      \
        assert_pmm_sound(pmm);                                                                     \
    } while (0)

static void pmm_free_twice_is_reported(void **state)
{
    paddr_t frame, other;
    char words[64];

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    frame = alloc_one();
    other = alloc_one();
    mm_format(words, sizeof words, "free frame 0x%lx", frame);
    pmm_free_frame(pmm, frame);
    EXPECT_BUG_UNCHANGED(words, pmm_free_frame(pmm, frame)); /* at once */
    pmm_free_frame(pmm, other);
    EXPECT_BUG_UNCHANGED(words, pmm_free_frame(pmm, frame)); /* with another between */
    assert_frame_state(pmm, frame, PMM_FRAME_FREE);
}

static void pmm_free_of_never_allocated_frame_is_reported(void **state)
{
    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    EXPECT_BUG_UNCHANGED("free frame 0x4ff000", pmm_free_frame(pmm, MM_MIB(5) - FRAME_SIZE));
}

static void pmm_free_of_reserved_frame_is_reported(void **state)
{
    const struct boot_range list[] = {
        ROW(0, MM_MIB(4), BOOT_USABLE),
        ROW(MM_MIB(4), MM_MIB(5), BOOT_EXECUTABLE),
        ROW(MM_MIB(5), MM_MIB(6), BOOT_LOADER_RECLAIMABLE),
    };
    char words[64];

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    EXPECT_BUG_UNCHANGED("reserved|0x400000", pmm_free_frame(pmm, MM_MIB(4))); /* kernel */
    EXPECT_BUG_UNCHANGED("reserved|0x5ff000", pmm_free_frame(pmm, MM_MIB(6) - FRAME_SIZE));
    EXPECT_BUG_UNCHANGED("reserved|0x0", pmm_free_frame(pmm, 0));           /* frame 0 */
    EXPECT_BUG_UNCHANGED("reserved|0x9f000", pmm_free_frame(pmm, 0x9f000)); /* low memory */
    mm_format(words, sizeof words, "reserved|0x%lx", virt_to_phys(machine.metadata));
    EXPECT_BUG_UNCHANGED(words, pmm_free_frame(pmm, virt_to_phys(machine.metadata)));
    assert_ok(pmm_reserve_range(pmm, MM_MIB(3), MM_MIB(3) + FRAME_SIZE));
    EXPECT_BUG_UNCHANGED("reserved|0x300000", pmm_free_frame(pmm, MM_MIB(3)));
    EXPECT_BUG_UNCHANGED("reserved|0x300000", pmm_free_contiguous(pmm, MM_MIB(3), 1));
}

static void pmm_free_outside_ram_is_reported(void **state)
{
    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    EXPECT_BUG_UNCHANGED("outside|0x500000", pmm_free_frame(pmm, MM_MIB(5)));
    EXPECT_BUG_UNCHANGED("outside|0xf0000", pmm_free_frame(pmm, 0xf0000));
    EXPECT_BUG_UNCHANGED("outside|0xfd00000000", pmm_free_frame(pmm, 0xfd00000000));
    EXPECT_BUG_UNCHANGED("outside|0xfffffffffffff000", pmm_free_frame(pmm, ~(uint64_t)4095));
}

static void pmm_free_of_unaligned_address_is_reported(void **state)
{
    paddr_t frame;
    char words[64];

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    frame = alloc_one();
    mm_format(words, sizeof words, "aligned|0x%lx", frame + 1);
    EXPECT_BUG_UNCHANGED(words, pmm_free_frame(pmm, frame + 1));
    EXPECT_BUG_UNCHANGED(words, pmm_free_contiguous(pmm, frame + 1, 1));
    EXPECT_BUG_UNCHANGED(words, pmm_free_table(pmm, frame + 1));
    mm_format(words, sizeof words, "aligned|0x%lx", frame + 2048);
    EXPECT_BUG_UNCHANGED(words, pmm_free_frame(pmm, frame + 2048));
    assert_frame_state(pmm, frame, PMM_FRAME_USED);
}

static void pmm_free_of_page_table_as_frame_is_reported(void **state)
{
    paddr_t table, frame;
    char words[64];

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    assert_ok(pmm_alloc_table(pmm, &table));
    assert_true(is_zero(phys_to_virt(table), FRAME_SIZE));
    assert_frame_state(pmm, table, PMM_FRAME_TABLE);
    assert_int_equal(pmm_stats(pmm).table_frames, 1);
    assert_int_equal(pmm_stats(pmm).used_frames, 1);
    mm_format(words, sizeof words, "table|0x%lx", table);
    EXPECT_BUG_UNCHANGED(words, pmm_free_frame(pmm, table));
    EXPECT_BUG_UNCHANGED(words, pmm_free_contiguous(pmm, table, 1));
    assert_frame_state(pmm, table, PMM_FRAME_TABLE);
    frame = alloc_one();
    mm_format(words, sizeof words, "used|0x%lx", frame);
    EXPECT_BUG_UNCHANGED(words, pmm_free_table(pmm, frame));
    pmm_free_table(pmm, table);
    mm_format(words, sizeof words, "free|0x%lx", table);
    EXPECT_BUG_UNCHANGED(words, pmm_free_table(pmm, table));
    pmm_free_frame(pmm, frame);
    assert_int_equal(pmm_stats(pmm).used_frames, 0);
    assert_int_equal(pmm_stats(pmm).table_frames, 0);
}

static void pmm_free_contiguous_reaching_too_far_frees_none(void **state)
{
    paddr_t first;
    char words[64];

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    assert_ok(pmm_alloc_contiguous(pmm, 8, FRAME_SIZE, PMM_NO_LIMIT, &first));
    mm_format(words, sizeof words, "free|0x%lx", first + 8 * FRAME_SIZE);
    EXPECT_BUG_UNCHANGED(words, pmm_free_contiguous(pmm, first, 9));
    mm_format(words, sizeof words, "0x%lx", first);
    EXPECT_BUG_UNCHANGED(words, pmm_free_contiguous(pmm, first, 0));
    EXPECT_BUG_UNCHANGED(words, pmm_free_contiguous(pmm, first, UINT64_MAX));
    EXPECT_BUG_UNCHANGED(words, pmm_free_contiguous(pmm, first, UINT64_MAX / FRAME_SIZE + 2));
    EXPECT_BUG_UNCHANGED(words, pmm_free_contiguous(pmm, first, (uint64_t)1 << 52));
    EXPECT_BUG_UNCHANGED("0x500000", pmm_free_contiguous(pmm, MM_MIB(5), 1));
    for (unsigned i = 0; i < 8; i++)
        assert_frame_state(pmm, first + i * FRAME_SIZE, PMM_FRAME_USED);
    pmm_free_contiguous(pmm, first, 8);
    EXPECT_BUG_UNCHANGED(words, pmm_free_contiguous(pmm, first, 8));
}

static void pmm_free_contiguous_to_the_end_of_ram_and_beyond_frees_none(void **state)
{
    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    pmm_drain_to(pmm, 0, NULL, 0);
    EXPECT_BUG_UNCHANGED("0x4ff000", pmm_free_contiguous(pmm, MM_MIB(5) - FRAME_SIZE, 2));
    assert_frame_state(pmm, MM_MIB(5) - FRAME_SIZE, PMM_FRAME_USED);
    pmm_free_contiguous(pmm, MM_MIB(5) - FRAME_SIZE, 1);
}

/* ---- Reserving and releasing ---- */

static void pmm_reserve_takes_exactly_those_frames(void **state)
{
    struct pmm_stats before;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(8));
    before = pmm_stats(pmm);
    assert_ok(pmm_reserve_range(pmm, MM_MIB(4), MM_MIB(5)));
    assert_frame_state(pmm, MM_MIB(4) - 1, PMM_FRAME_FREE);
    assert_frame_state(pmm, MM_MIB(4), PMM_FRAME_RESERVED);
    assert_frame_state(pmm, MM_MIB(5) - 1, PMM_FRAME_RESERVED);
    assert_frame_state(pmm, MM_MIB(5), PMM_FRAME_FREE);
    assert_int_equal(pmm_stats(pmm).reserved_frames, before.reserved_frames + 256);
    assert_int_equal(pmm_stats(pmm).free_frames, before.free_frames - 256);
    pmm_drain_to(pmm, 0, NULL, 0);
    assert_frame_state(pmm, MM_MIB(4), PMM_FRAME_RESERVED);
    assert_ok(pmm_release_range(pmm, MM_MIB(4), MM_MIB(5)));
    assert_int_equal(pmm_stats(pmm).free_frames, 256);
    assert_pmm_sound(pmm);
}

static void pmm_release_gives_the_loaders_memory(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(4), BOOT_USABLE),
        ROW(MM_MIB(4), MM_MIB(6), BOOT_LOADER_RECLAIMABLE),
    };
    paddr_t first;

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    memset(phys_to_virt(MM_MIB(4)), 0xee, MM_MIB(2));
    pmm_drain_to(pmm, 0, NULL, 0);
    assert_ok(pmm_release_range(pmm, MM_MIB(4), MM_MIB(6)));
    assert_frame_state(pmm, MM_MIB(5), PMM_FRAME_FREE);
    assert_ok(pmm_alloc_contiguous(pmm, 512, MM_MIB(2), PMM_NO_LIMIT, &first));
    assert_int_equal(first, MM_MIB(4));
    assert_true(is_zero(phys_to_virt(first), MM_MIB(2)));
    assert_pmm_sound(pmm);
}

static void pmm_reserve_and_release_refuse_bad_ranges(void **state)
{
    struct pmm_stats before;
    paddr_t frame;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(8));
    pmm_drain_to(pmm, 100, NULL, 0);
    for (frame = MM_MIB(4); pmm_frame_state(pmm, frame) != PMM_FRAME_USED;)
        frame += FRAME_SIZE;
    before = pmm_stats(pmm);
    assert_status(pmm_reserve_range(pmm, MM_MIB(4) + 1, MM_MIB(5)), MM_NOT_ALIGNED);
    assert_status(pmm_reserve_range(pmm, MM_MIB(4), MM_MIB(5) + 8), MM_NOT_ALIGNED);
    assert_status(pmm_reserve_range(pmm, MM_MIB(4), MM_MIB(4)), MM_INVALID_ADDRESS);
    assert_status(pmm_reserve_range(pmm, MM_MIB(5), MM_MIB(4)), MM_INVALID_ADDRESS);
    assert_status(pmm_reserve_range(pmm, MM_MIB(8), MM_MIB(10)), MM_INVALID_ADDRESS);
    assert_status(pmm_reserve_range(pmm, MM_GIB(8), MM_GIB(9)), MM_INVALID_ADDRESS);
    assert_status(pmm_reserve_range(pmm, 0x9f000, MM_MIB(2)), MM_INVALID_ADDRESS);
    assert_status(pmm_reserve_range(pmm, frame, frame + FRAME_SIZE), MM_NOT_FREE);
    assert_status(pmm_reserve_range(pmm, 0, FRAME_SIZE), MM_NOT_FREE);
    assert_status(pmm_release_range(pmm, frame, frame + FRAME_SIZE), MM_NOT_FREE);
    assert_status(pmm_release_range(pmm, frame + 1, frame + FRAME_SIZE), MM_NOT_ALIGNED);
    assert_status(pmm_release_range(pmm, frame, frame), MM_INVALID_ADDRESS);
    assert_status(pmm_release_range(pmm, MM_MIB(9), MM_MIB(10)), MM_INVALID_ADDRESS);
    assert_status(pmm_release_range(pmm, 0, FRAME_SIZE), MM_INVALID_ADDRESS); /* frame 0 stays */
    assert_pmm_stats_equal(pmm_stats(pmm), before);
    assert_pmm_sound(pmm);
}

/* ---- The checker ---- */

static void expect_verify_false(void)
{
    log_clear();
    assert_false(pmm_verify(pmm));
    log_expect_count("[MM] ERROR:", 1);
}

static void pmm_verify_sees_every_wrong_counter(void **state)
{
    uint64_t *counters[] = { &pmm->stats.total_frames, &pmm->stats.free_frames,
                             &pmm->stats.used_frames, &pmm->stats.table_frames,
                             &pmm->stats.reserved_frames };

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    (void)alloc_one();
    for (size_t i = 0; i < COUNT_OF(counters); i++) {
        ++*counters[i];
        expect_verify_false();
        --*counters[i];
        assert_true(pmm_verify(pmm));
    }
    /* Two that make up for each other. */
    pmm->stats.free_frames++;
    pmm->stats.used_frames--;
    expect_verify_false();
}

/* The bits that an allocation changes are found by comparing the metadata before and after. */
static void pmm_verify_sees_every_changed_bit(void **state)
{
    size_t bytes, changed = 0;
    unsigned char *metadata, *before;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    bytes = pmm_metadata_bytes(&machine.map);
    metadata = machine.metadata;
    before = malloc(bytes);
    assert_non_null(before);
    (void)alloc_one();
    memcpy(before, metadata, bytes);
    for (size_t i = 0; i < 300; i++)
        (void)alloc_one();
    /* Behind core: there are hints, which may say anything. */
    for (size_t i = (size_t)((uint8_t *)pmm->ranges - metadata); i < bytes; i++) {
        if (metadata[i] == before[i])
            continue;
        changed++;
        metadata[i] ^= 0x10;
        expect_verify_false();
        metadata[i] ^= 0x10;
    }
    assert_true(changed >= 8);
    assert_true(pmm_verify(pmm));
    free(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pmm_init_counts_every_frame_of_ram),
        TEST(pmm_init_keeps_low_memory_back_unless_asked),
        TEST(pmm_init_accepts_ram_only_in_reserved_types),
        TEST(pmm_metadata_is_sized_by_ram_not_by_the_highest_address),
        TEST(pmm_metadata_stays_inside_its_bytes),
        TEST(pmm_range_extents_are_sorted_and_hold_all_ram),
        TEST(pmm_alloc_frame_gives_every_free_frame_once),
        TEST(pmm_freed_frame_comes_back_when_it_is_the_only_one),
        TEST(pmm_alloc_frame_is_zero_after_use),
        TEST(pmm_logs_allocations_and_frees_at_debug_only),
        TEST(pmm_calls_restore_the_interrupt_state),
        TEST(pmm_alloc_contiguous_crosses_adjacent_rows),
        TEST(pmm_alloc_contiguous_never_crosses_a_gap),
        TEST(pmm_alloc_contiguous_obeys_alignment),
        TEST(pmm_alloc_contiguous_obeys_the_limit),
        TEST(pmm_alloc_contiguous_takes_the_lowest_that_fit),
        TEST(pmm_alloc_contiguous_bad_arguments_change_nothing),
        TEST(pmm_free_contiguous_in_parts_is_allowed),
        TEST(pmm_free_twice_is_reported),
        TEST(pmm_free_of_never_allocated_frame_is_reported),
        TEST(pmm_free_of_reserved_frame_is_reported),
        TEST(pmm_free_outside_ram_is_reported),
        TEST(pmm_free_of_unaligned_address_is_reported),
        TEST(pmm_free_of_page_table_as_frame_is_reported),
        TEST(pmm_free_contiguous_reaching_too_far_frees_none),
        TEST(pmm_free_contiguous_to_the_end_of_ram_and_beyond_frees_none),
        TEST(pmm_reserve_takes_exactly_those_frames),
        TEST(pmm_release_gives_the_loaders_memory),
        TEST(pmm_reserve_and_release_refuse_bad_ranges),
        TEST(pmm_verify_sees_every_wrong_counter),
        TEST(pmm_verify_sees_every_changed_bit),
    };

    return RUN_TESTS(tests);
}
