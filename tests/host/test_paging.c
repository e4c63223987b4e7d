/* SPDX-License-Identifier: MIT */
/* Page tables against two independent readers: the MMU of the hosted port for single addresses, and
 * walker.c for whole hierarchies. The random program compares with a model that keeps one entry for
 * each page of a few regions, at both ends of each canonical half. */
#include "walker.h"

#include <stdlib.h>
#include <string.h>

static struct machine machine;
static struct address_space space;

#define RW     (PAGING_READ | PAGING_WRITE)
#define V_LOW  ((vaddr_t)0x40000000)
#define V_HIGH ((vaddr_t)0xffffffff80000000)

static void space_set_up(unsigned levels, unsigned physical_bits, bool huge_pages)
{
    struct mm_cpu_features features = features_of(levels, physical_bits, huge_pages);

    hosted_cpu_reset(levels);
    hosted_cpu()->leaf_8000_0008.eax = physical_bits;
    if (!huge_pages)
        hosted_cpu()->leaf_8000_0001.edx &= ~((uint32_t)1 << 26);
    hosted_cpu()->pat = 0x0000010500070406u; /* the order of the Limine protocol */
    machine_set_up_simple(&machine, MM_MIB(16));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    walker_use(&space);
}

/* ---- What the CPU would see ---- */

static uint8_t memory_type_of(paging_rights_t rights)
{
    if ((rights & PAGING_WRITE_COMBINING) != 0)
        return 1; /* WC */
    if ((rights & PAGING_WRITE_THROUGH) != 0)
        return 4;                                   /* WT */
    return (rights & PAGING_UNCACHED) != 0 ? 0 : 6; /* UC, WB */
}

/* The walk, paging_query and paging_translate agree that `address` is this leaf. */
static void assert_mapped(vaddr_t address, paddr_t expected, uint64_t leaf_bytes,
                          paging_rights_t rights)
{
    bool user = (rights & PAGING_USER) != 0;
    struct hosted_translation seen;
    struct paging_mapping mapping;
    paddr_t translated;

    if (hosted_cpu_walk(address, user ? HOSTED_USER : 0, &seen) != HOSTED_OK)
        fail_msg("0x%lx: the MMU finds nothing, expected 0x%lx", address, expected);
    assert_int_equal(seen.address, expected);
    assert_int_equal(seen.leaf_bytes, leaf_bytes);
    assert_int_equal(seen.write, (rights & PAGING_WRITE) != 0);
    assert_int_equal(seen.execute, (rights & PAGING_EXECUTE) != 0);
    assert_int_equal(seen.user, user);
    assert_int_equal(seen.global, (rights & PAGING_GLOBAL) != 0);
    assert_int_equal(seen.memory_type, memory_type_of(rights));
    assert_ok(paging_translate(&space, address, &translated));
    assert_int_equal(translated, expected);
    assert_ok(paging_query(&space, address, &mapping));
    assert_int_equal(mapping.frame, mm_round_down(expected, leaf_bytes));
    assert_int_equal(mapping.leaf_bytes, leaf_bytes);
    assert_int_equal(mapping.rights, rights);
}

static void assert_unmapped(vaddr_t address)
{
    struct paging_mapping mapping, before;
    paddr_t translated = 0x1234;

    memset(&mapping, 0x77, sizeof mapping);
    before = mapping;
    assert_int_equal(hosted_cpu_walk(address, 0, NULL), HOSTED_NOT_PRESENT);
    assert_status(paging_translate(&space, address, &translated), MM_NOT_MAPPED);
    assert_status(paging_query(&space, address, &mapping), MM_NOT_MAPPED);
    assert_int_equal(translated, 0x1234);
    assert_memory_equal(&mapping, &before, sizeof mapping);
}

/* The call fails with that status and nothing at all has changed. */
#define EXPECT_UNCHANGED(call, expected)                                                           \
    do {                                                                                           \
        struct walker_snapshot before_call = walker_snapshot(&space);                              \
        assert_status(call, expected);                                                             \
        assert_snapshot_equal(&space, &before_call);                                               \
    } while (0)

/* ---- Spaces ---- */

static void paging_init_makes_an_empty_space(void **state)
{
    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        space_set_up(levels, 46, true);
        assert_int_equal(space.levels, levels);
        assert_int_equal(pmm_frame_state(&machine.pmm, space.root), PMM_FRAME_TABLE);
        assert_true(is_zero(phys_to_virt(space.root), FRAME_SIZE));
        assert_unmapped(0);
        assert_unmapped(V_HIGH);
        assert_space_sound(&space);
    }
}

static void paging_init_without_frames_is_out_of_memory(void **state)
{
    struct mm_cpu_features features = features_of(4, 46, true);
    struct address_space other, before;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    pmm_drain_to(&machine.pmm, 0, NULL, 0);
    memset(&other, 0x77, sizeof other);
    before = other;
    assert_status(paging_init(&other, &machine.pmm, &features), MM_OUT_OF_MEMORY);
    assert_memory_equal(&other, &before, sizeof other);
}

static void paging_destroy_gives_every_table_back(void **state)
{
    struct pmm_stats before;

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        struct mm_cpu_features features = features_of(levels, 46, true);
        struct address_space other;

        space_set_up(levels, 46, true);
        before = pmm_stats(&machine.pmm);
        assert_ok(paging_init(&other, &machine.pmm, &features));
        assert_ok(paging_map_page(&other, V_LOW, 0x5000, RW));
        assert_ok(paging_map_range(&other, V_HIGH, 0, MM_GIB(1), PAGING_EXECUTE));
        assert_ok(paging_map_range(&other, MM_GIB(512) - MM_MIB(2), MM_MIB(4), MM_MIB(4), RW));
        paging_destroy(&other);
        assert_pmm_stats_equal(pmm_stats(&machine.pmm), before);
        assert_pmm_sound(&machine.pmm);
    }
}

/* ---- Single pages ---- */

static void paging_map_page_maps_with_every_right(void **state)
{
    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        space_set_up(levels, 46, true);
        for (paging_rights_t rights = 0; rights <= PAGING_RIGHTS_ALL; rights++) {
            vaddr_t page = V_LOW + rights * MM_GIB(1);

            if ((rights & (PAGING_WRITE | PAGING_EXECUTE)) == (PAGING_WRITE | PAGING_EXECUTE) ||
                __builtin_popcount(rights & PAGING_MEMORY_TYPES) > 1) {
                EXPECT_UNCHANGED(paging_map_page(&space, page, 0x123000, rights),
                                 MM_INVALID_ARGUMENT);
                continue;
            }
            assert_ok(paging_map_page(&space, page, 0x123000, rights));
            assert_mapped(page, 0x123000, PAGE_SIZE, rights);
            assert_mapped(page + 0xabc, 0x123abc, PAGE_SIZE, rights);
            assert_unmapped(page + PAGE_SIZE);
            assert_unmapped(page - 1);
        }
        assert_space_sound(&space);
    }
}

/* Rights are the leaf's: neighbours of different rights under the same tables keep their own. */
static void paging_neighbours_keep_their_own_rights(void **state)
{
    static const paging_rights_t rights[] = { PAGING_READ,      RW,
                                              PAGING_EXECUTE,   PAGING_USER,
                                              RW | PAGING_USER, PAGING_EXECUTE | PAGING_GLOBAL };

    (void)state;
    space_set_up(4, 46, true);
    for (size_t i = 0; i < COUNT_OF(rights); i++)
        assert_ok(paging_map_page(&space, V_LOW + i * PAGE_SIZE, MM_MIB(i), rights[i]));
    for (size_t i = 0; i < COUNT_OF(rights); i++)
        assert_mapped(V_LOW + i * PAGE_SIZE, MM_MIB(i), PAGE_SIZE, rights[i]);
}

static void paging_frame_0_and_page_0_can_be_mapped(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_page(&space, 0, 0, RW));
    assert_mapped(0, 0, PAGE_SIZE, RW);
    assert_mapped(0xfff, 0xfff, PAGE_SIZE, RW);
}

static void paging_unmap_page_gives_frame_and_tables_back(void **state)
{
    paddr_t frame = 0;

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        struct walker_snapshot empty;

        space_set_up(levels, 46, true);
        empty = walker_snapshot(&space);
        assert_ok(paging_map_page(&space, V_HIGH, 0x345000, RW));
        assert_ok(paging_map_page(&space, V_HIGH + PAGE_SIZE, 0x346000, RW));
        assert_int_equal(space.stats.table_frames, levels);
        assert_ok(paging_unmap_page(&space, V_HIGH, &frame));
        assert_int_equal(frame, 0x345000);
        assert_unmapped(V_HIGH);
        assert_mapped(V_HIGH + PAGE_SIZE, 0x346000, PAGE_SIZE, RW);
        assert_ok(paging_unmap_page(&space, V_HIGH + PAGE_SIZE, NULL));
        assert_snapshot_equal(&space, &empty);
    }
}

static void paging_unmap_leaves_the_frame_allocated(void **state)
{
    paddr_t frame;

    (void)state;
    space_set_up(4, 46, true);
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    assert_ok(paging_map_page(&space, V_LOW, frame, RW));
    assert_ok(paging_unmap_page(&space, V_LOW, NULL));
    assert_int_equal(pmm_frame_state(&machine.pmm, frame), PMM_FRAME_USED);
}

static void paging_unmap_of_nothing_is_not_mapped(void **state)
{
    paddr_t frame = 0x1234;

    (void)state;
    space_set_up(4, 46, true);
    EXPECT_UNCHANGED(paging_unmap_page(&space, V_LOW, &frame), MM_NOT_MAPPED);
    assert_ok(paging_map_page(&space, V_LOW, 0x5000, RW));
    EXPECT_UNCHANGED(paging_unmap_page(&space, V_LOW + PAGE_SIZE, &frame), MM_NOT_MAPPED);
    EXPECT_UNCHANGED(paging_unmap_page(&space, V_LOW + MM_MIB(2), &frame), MM_NOT_MAPPED);
    EXPECT_UNCHANGED(paging_unmap_page(&space, V_LOW + MM_GIB(1), &frame), MM_NOT_MAPPED);
    EXPECT_UNCHANGED(paging_unmap_range(&space, V_LOW, 2 * PAGE_SIZE), MM_NOT_MAPPED);
    EXPECT_UNCHANGED(paging_unmap_range(&space, V_LOW - PAGE_SIZE, 2 * PAGE_SIZE), MM_NOT_MAPPED);
    assert_int_equal(frame, 0x1234);
}

/* ---- Arguments ---- */

static void paging_unaligned_arguments_change_nothing(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_page(&space, V_LOW, 0x5000, RW));
    EXPECT_UNCHANGED(paging_map_page(&space, V_HIGH + 1, 0x1000, RW), MM_NOT_ALIGNED);
    EXPECT_UNCHANGED(paging_map_page(&space, V_HIGH + 2048, 0x1000, RW), MM_NOT_ALIGNED);
    EXPECT_UNCHANGED(paging_map_page(&space, V_HIGH, 0x1008, RW), MM_NOT_ALIGNED);
    EXPECT_UNCHANGED(paging_map_range(&space, V_HIGH, 0x1000, 100, RW), MM_NOT_ALIGNED);
    EXPECT_UNCHANGED(paging_map_range(&space, V_HIGH, 0x1000, 4097, RW), MM_NOT_ALIGNED);
    EXPECT_UNCHANGED(paging_unmap_page(&space, V_LOW + 1, NULL), MM_NOT_ALIGNED);
    EXPECT_UNCHANGED(paging_unmap_range(&space, V_LOW, 4095), MM_NOT_ALIGNED);
    EXPECT_UNCHANGED(paging_unmap_range(&space, V_LOW + 8, 4096), MM_NOT_ALIGNED);
    EXPECT_UNCHANGED(paging_map_range(&space, V_HIGH, 0x1000, 0, RW), MM_INVALID_ARGUMENT);
    EXPECT_UNCHANGED(paging_unmap_range(&space, V_LOW, 0), MM_INVALID_ARGUMENT);
}

static void paging_addresses_in_the_hole_are_refused(void **state)
{
    static const vaddr_t bad_4[] = { 0x0000800000000000, 0x0000ffffffffe000, 0xffff7ffffffff000,
                                     0x0100000000000000, 0x8000000000000000, 0xff00000000000000 };
    static const vaddr_t good_4[] = { 0x00007ffffffff000, 0xffff800000000000 };
    static const vaddr_t bad_5[] = { 0x0100000000000000, 0xfefffffffffff000, 0x8000000000000000 };
    static const vaddr_t good_5[] = { 0x0000800000000000, 0x00fffffffffff000, 0xff00000000000000,
                                      0xffff7ffffffff000 };

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        const vaddr_t *bad = levels == 4 ? bad_4 : bad_5, *good = levels == 4 ? good_4 : good_5;
        size_t bad_count = levels == 4 ? COUNT_OF(bad_4) : COUNT_OF(bad_5);
        size_t good_count = levels == 4 ? COUNT_OF(good_4) : COUNT_OF(good_5);
        paddr_t out = 0x1234;
        struct paging_mapping mapping;

        space_set_up(levels, 46, true);
        for (size_t i = 0; i < bad_count; i++) {
            EXPECT_UNCHANGED(paging_map_page(&space, bad[i], 0x1000, RW), MM_INVALID_ADDRESS);
            EXPECT_UNCHANGED(paging_map_range(&space, bad[i], 0, MM_MIB(2), RW),
                             MM_INVALID_ADDRESS);
            EXPECT_UNCHANGED(paging_unmap_page(&space, bad[i], &out), MM_INVALID_ADDRESS);
            EXPECT_UNCHANGED(paging_unmap_range(&space, bad[i], PAGE_SIZE), MM_INVALID_ADDRESS);
            assert_status(paging_translate(&space, bad[i], &out), MM_INVALID_ADDRESS);
            assert_status(paging_query(&space, bad[i] + 5, &mapping), MM_INVALID_ADDRESS);
            assert_false(paging_is_canonical(bad[i], levels));
            assert_int_equal(hosted_cpu_walk(bad[i], 0, NULL), HOSTED_NOT_CANONICAL);
        }
        assert_int_equal(out, 0x1234);
        for (size_t i = 0; i < good_count; i++) {
            assert_true(paging_is_canonical(good[i], levels));
            assert_ok(paging_map_page(&space, good[i], 0x1000, RW));
            assert_mapped(good[i], 0x1000, PAGE_SIZE, RW);
        }
    }
}

static void paging_ranges_that_wrap_or_cross_the_hole_are_refused(void **state)
{
    vaddr_t top = ~(vaddr_t)0 - PAGE_SIZE + 1;

    (void)state;
    space_set_up(4, 46, true);
    EXPECT_UNCHANGED(paging_map_range(&space, 0x00007ffffffff000, 0, 2 * PAGE_SIZE, RW),
                     MM_INVALID_ADDRESS);
    EXPECT_UNCHANGED(paging_map_range(&space, 0x00007fffffe00000, 0, MM_MIB(4), RW),
                     MM_INVALID_ADDRESS);
    EXPECT_UNCHANGED(paging_map_range(&space, 0, 0, (uint64_t)1 << 63, RW), MM_INVALID_ADDRESS);
    EXPECT_UNCHANGED(paging_map_range(&space, PAGE_SIZE, 0, 0 - PAGE_SIZE, RW), MM_INVALID_ADDRESS);
    EXPECT_UNCHANGED(paging_map_range(&space, top, 0, 2 * PAGE_SIZE, RW), MM_INVALID_ADDRESS);
    EXPECT_UNCHANGED(paging_unmap_range(&space, top, 2 * PAGE_SIZE), MM_INVALID_ADDRESS);
    /* From one half into the other, ends canonical. */
    EXPECT_UNCHANGED(paging_map_range(&space, 0x00007ffffffff000, 0,
                                      0xffff800000001000 - 0x00007ffffffff000, RW),
                     MM_INVALID_ADDRESS);
    assert_ok(paging_map_page(&space, 0x00007ffffffff000, 0x1000, RW));
    assert_ok(paging_map_page(&space, 0xffff800000000000, 0x2000, RW));
    EXPECT_UNCHANGED(paging_unmap_range(&space, 0x00007ffffffff000,
                                        0xffff800000001000 - 0x00007ffffffff000),
                     MM_INVALID_ADDRESS);
    /* The last page of the address space ends at 2^64 and is a page like any other. */
    assert_ok(paging_map_range(&space, top, 0x7000, PAGE_SIZE, RW));
    assert_mapped(~(vaddr_t)0, 0x7fff, PAGE_SIZE, RW);
    assert_ok(paging_unmap_range(&space, top, PAGE_SIZE));
    assert_ok(paging_map_page(&space, top, 0x7000, RW));
    assert_ok(paging_unmap_page(&space, top, NULL));
}

static void paging_frames_beyond_maxphyaddr_are_refused(void **state)
{
    static const unsigned bits[] = { 36, 40, 46, 52 };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bits); i++) {
        paddr_t limit = (paddr_t)1 << bits[i];

        space_set_up(4, bits[i], true);
        EXPECT_UNCHANGED(paging_map_page(&space, V_LOW, limit, RW), MM_INVALID_ADDRESS);
        EXPECT_UNCHANGED(paging_map_page(&space, V_LOW, limit * 2, RW), MM_INVALID_ADDRESS);
        EXPECT_UNCHANGED(paging_map_page(&space, V_LOW, ~(paddr_t)0 - 4095, RW),
                         MM_INVALID_ADDRESS);
        EXPECT_UNCHANGED(paging_map_range(&space, V_LOW, limit - PAGE_SIZE, 2 * PAGE_SIZE, RW),
                         MM_INVALID_ADDRESS);
        EXPECT_UNCHANGED(paging_map_range(&space, V_LOW, ~(paddr_t)0 - 4095, 2 * PAGE_SIZE, RW),
                         MM_INVALID_ADDRESS);
        assert_ok(paging_map_page(&space, V_LOW, limit - PAGE_SIZE, RW));
        assert_mapped(V_LOW + 4095, limit - 1, PAGE_SIZE, RW);
    }
}

static void paging_unknown_rights_are_refused(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    for (unsigned bit = 7; bit < 32; bit++) {
        paging_rights_t unknown = (paging_rights_t)1 << bit;

        EXPECT_UNCHANGED(paging_map_page(&space, V_LOW, 0x1000, unknown), MM_INVALID_ARGUMENT);
        EXPECT_UNCHANGED(paging_map_range(&space, V_LOW, 0x1000, MM_MIB(2), unknown | RW),
                         MM_INVALID_ARGUMENT);
    }
    EXPECT_UNCHANGED(paging_map_range(&space, V_LOW, 0x1000, MM_MIB(2), RW | PAGING_EXECUTE),
                     MM_INVALID_ARGUMENT);
}

/* ---- Conflicts ---- */

static void paging_map_over_a_mapping_is_refused(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_page(&space, V_LOW + MM_MIB(1), 0x5000, RW));
    EXPECT_UNCHANGED(paging_map_page(&space, V_LOW + MM_MIB(1), 0x5000, RW), MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_map_page(&space, V_LOW + MM_MIB(1), 0x6000, PAGING_EXECUTE),
                     MM_ALREADY_MAPPED);
    /* At the end, at the beginning, in the middle of a range; under a 2 MiB and a 1 GiB leaf. */
    EXPECT_UNCHANGED(paging_map_range(&space, V_LOW, 0x1000, MM_MIB(1) + PAGE_SIZE, RW),
                     MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_map_range(&space, V_LOW + MM_MIB(1), 0x1000, MM_MIB(8), RW),
                     MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_map_range(&space, V_LOW - MM_MIB(8), 0x1000, MM_MIB(16), RW),
                     MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_map_range(&space, V_LOW, 0, MM_MIB(2), RW), MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_map_range(&space, V_LOW, 0, MM_GIB(1), RW), MM_ALREADY_MAPPED);
    assert_mapped(V_LOW + MM_MIB(1), 0x5000, PAGE_SIZE, RW);
}

static void paging_map_under_a_large_leaf_is_refused(void **state)
{
    paddr_t data;

    (void)state;
    space_set_up(4, 46, true);
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 512, MM_MIB(2), PMM_NO_LIMIT, &data));
    assert_ok(paging_map_range(&space, V_LOW, MM_GIB(4), MM_GIB(1), RW));
    assert_ok(paging_map_range(&space, V_HIGH, data, MM_MIB(2), RW));
    assert_mapped(V_LOW + 0x12345678, MM_GIB(4) + 0x12345678, MM_GIB(1), RW);
    assert_mapped(V_HIGH + 0x123456, data + 0x123456, MM_MIB(2), RW);
    EXPECT_UNCHANGED(paging_map_page(&space, V_HIGH, 0x1000, RW), MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_map_page(&space, V_HIGH + 0x1ff000, 0x1000, RW), MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_map_page(&space, V_LOW + 0x5000, 0x1000, RW), MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_map_range(&space, V_LOW + MM_MIB(2), 0, MM_MIB(2), RW),
                     MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_map_range(&space, V_HIGH - PAGE_SIZE, 0x1000, 2 * PAGE_SIZE, RW),
                     MM_ALREADY_MAPPED);
    assert_true(is_zero(phys_to_virt(data), MM_MIB(2))); /* no entry was written into the data */
}

/* ---- Parts of large leaves ---- */

/* Everything but [hole, hole + bytes) of [V_LOW, V_LOW + leaf) is mapped as it was. */
static void assert_split(paddr_t frame, uint64_t leaf, uint64_t hole, uint64_t bytes,
                         paging_rights_t rights)
{
    for (uint64_t at = 0; at < leaf;) {
        struct paging_mapping mapping;

        if (at == hole) {
            assert_unmapped(V_LOW + at);
            assert_unmapped(V_LOW + at + bytes - 1);
            at += bytes;
            continue;
        }
        assert_ok(paging_query(&space, V_LOW + at, &mapping));
        assert_mapped(V_LOW + at + 0x123, frame + at + 0x123, mapping.leaf_bytes, rights);
        assert_int_equal(mapping.frame, frame + at); /* leaves are as large as they can be */
        assert_true(mapping.leaf_bytes == PAGE_SIZE
                        ? hole / MM_MIB(2) == at / MM_MIB(2) ||
                              (hole + bytes) / MM_MIB(2) == at / MM_MIB(2)
                        : leaf > MM_MIB(2));
        at += mapping.leaf_bytes;
    }
}

static void paging_unmap_of_a_part_splits_a_leaf_exactly(void **state)
{
    static const paging_rights_t rights[] = { RW, PAGING_EXECUTE | PAGING_USER,
                                              RW | PAGING_WRITE_COMBINING | PAGING_GLOBAL,
                                              PAGING_UNCACHED, RW | PAGING_WRITE_THROUGH };
    static const struct {
        uint64_t leaf, hole, bytes;
    } cuts[] = {
        { MM_MIB(2), 0, PAGE_SIZE },
        { MM_MIB(2), MM_MIB(2) - PAGE_SIZE, PAGE_SIZE },
        { MM_MIB(2), MM_MIB(1), 7 * PAGE_SIZE },
        { MM_GIB(1), 0, PAGE_SIZE },
        { MM_GIB(1), MM_MIB(6), MM_MIB(2) },
        { MM_GIB(1), MM_MIB(5), MM_MIB(8) },
        { MM_GIB(1), MM_GIB(1) - PAGE_SIZE, PAGE_SIZE },
        { MM_GIB(1), MM_MIB(3) + PAGE_SIZE, PAGE_SIZE },
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rights); i++) {
        for (size_t j = 0; j < COUNT_OF(cuts); j++) {
            space_set_up(i % 2 == 0 ? 4 : 5, 46, true);
            assert_ok(paging_map_range(&space, V_LOW, MM_GIB(4), cuts[j].leaf, rights[i]));
            assert_ok(paging_unmap_range(&space, V_LOW + cuts[j].hole, cuts[j].bytes));
            assert_split(MM_GIB(4), cuts[j].leaf, cuts[j].hole, cuts[j].bytes, rights[i]);
            assert_space_sound(&space);
            assert_ok(paging_map_range(&space, V_LOW + cuts[j].hole, MM_GIB(4) + cuts[j].hole,
                                       cuts[j].bytes, rights[i]));
            assert_ok(paging_unmap_range(&space, V_LOW, cuts[j].leaf));
            assert_int_equal(space.stats.table_frames, 1);
        }
    }
}

static void paging_unmap_page_splits_a_leaf(void **state)
{
    paddr_t frame = 0;

    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_range(&space, V_LOW, MM_GIB(4), MM_GIB(1), RW));
    assert_ok(paging_unmap_page(&space, V_LOW + MM_MIB(6) + PAGE_SIZE, &frame));
    assert_int_equal(frame, MM_GIB(4) + MM_MIB(6) + PAGE_SIZE);
    assert_split(MM_GIB(4), MM_GIB(1), MM_MIB(6) + PAGE_SIZE, PAGE_SIZE, RW);
    assert_int_equal(space.stats.table_frames, 4);
    assert_int_equal(space.stats.leaves[0], 511);
    assert_int_equal(space.stats.leaves[1], 511);
    assert_int_equal(space.stats.leaves[2], 0);
}

static void paging_a_range_cuts_leaves_at_both_ends(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_range(&space, V_LOW, MM_GIB(4), MM_GIB(3), RW));
    assert_ok(paging_unmap_range(&space, V_LOW + MM_MIB(3), MM_GIB(2)));
    assert_mapped(V_LOW + MM_MIB(2), MM_GIB(4) + MM_MIB(2), PAGE_SIZE, RW);
    assert_mapped(V_LOW, MM_GIB(4), MM_MIB(2), RW);
    assert_unmapped(V_LOW + MM_MIB(3));
    assert_unmapped(V_LOW + MM_MIB(3) + MM_GIB(2) - 1);
    assert_mapped(V_LOW + MM_MIB(3) + MM_GIB(2), MM_GIB(6) + MM_MIB(3), PAGE_SIZE, RW);
    assert_mapped(V_LOW + MM_MIB(4) + MM_GIB(2), MM_GIB(6) + MM_MIB(4), MM_MIB(2), RW);
    assert_space_sound(&space);
}

/* ---- Protect and remap ---- */

static void paging_protect_changes_rights_alone(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_range(&space, V_LOW, MM_GIB(4), MM_MIB(4), RW));
    assert_ok(paging_protect_range(&space, V_LOW, MM_MIB(2), PAGING_READ | PAGING_GLOBAL));
    assert_mapped(V_LOW, MM_GIB(4), MM_MIB(2), PAGING_GLOBAL);
    assert_mapped(V_LOW + MM_MIB(2), MM_GIB(4) + MM_MIB(2), MM_MIB(2), RW);
    assert_ok(paging_protect_page(&space, V_LOW + MM_MIB(3), PAGING_EXECUTE | PAGING_USER));
    assert_mapped(V_LOW + MM_MIB(3), MM_GIB(4) + MM_MIB(3), PAGE_SIZE,
                  PAGING_EXECUTE | PAGING_USER);
    assert_mapped(V_LOW + MM_MIB(3) + PAGE_SIZE, MM_GIB(4) + MM_MIB(3) + PAGE_SIZE, PAGE_SIZE, RW);
    assert_mapped(V_LOW + MM_MIB(3) - PAGE_SIZE, MM_GIB(4) + MM_MIB(3) - PAGE_SIZE, PAGE_SIZE, RW);
    assert_ok(paging_protect_range(&space, V_LOW, MM_MIB(4), RW | PAGING_UNCACHED));
    for (uint64_t at = 0; at < MM_MIB(4); at += PAGE_SIZE)
        assert_mapped(V_LOW + at, MM_GIB(4) + at, at < MM_MIB(2) ? MM_MIB(2) : PAGE_SIZE,
                      RW | PAGING_UNCACHED);
    assert_space_sound(&space);
}

static void paging_protect_refuses_and_changes_nothing(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_range(&space, V_LOW, MM_GIB(4), MM_MIB(4), RW));
    EXPECT_UNCHANGED(paging_protect_page(&space, V_LOW, RW | PAGING_EXECUTE), MM_INVALID_ARGUMENT);
    EXPECT_UNCHANGED(paging_protect_page(&space, V_LOW, (paging_rights_t)1 << 7),
                     MM_INVALID_ARGUMENT);
    EXPECT_UNCHANGED(paging_protect_page(&space, V_LOW, PAGING_UNCACHED | PAGING_WRITE_THROUGH),
                     MM_INVALID_ARGUMENT);
    EXPECT_UNCHANGED(paging_protect_page(&space, V_LOW + 1, RW), MM_NOT_ALIGNED);
    EXPECT_UNCHANGED(paging_protect_range(&space, V_LOW, 0, RW), MM_INVALID_ARGUMENT);
    EXPECT_UNCHANGED(paging_protect_range(&space, V_LOW, MM_MIB(4) + PAGE_SIZE, PAGING_READ),
                     MM_NOT_MAPPED);
    EXPECT_UNCHANGED(paging_protect_page(&space, V_LOW - PAGE_SIZE, PAGING_READ), MM_NOT_MAPPED);
    /* What is so already is not split. */
    EXPECT_UNCHANGED(paging_protect_page(&space, V_LOW + PAGE_SIZE, RW), MM_OK);
}

static void paging_remap_leads_elsewhere(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_range(&space, V_LOW, MM_GIB(4), MM_MIB(4), RW));
    assert_ok(paging_remap_range(&space, V_LOW, MM_GIB(8), MM_MIB(2), PAGING_EXECUTE));
    assert_mapped(V_LOW + 5, MM_GIB(8) + 5, MM_MIB(2), PAGING_EXECUTE);
    /* Not aligned for a large leaf: by pages. */
    assert_ok(paging_remap_range(&space, V_LOW + MM_MIB(2), MM_GIB(9) + PAGE_SIZE, MM_MIB(2),
                                 PAGING_USER));
    for (uint64_t at = 0; at < MM_MIB(2); at += PAGE_SIZE)
        assert_mapped(V_LOW + MM_MIB(2) + at, MM_GIB(9) + PAGE_SIZE + at, PAGE_SIZE, PAGING_USER);
    assert_ok(paging_remap_range(&space, V_LOW + PAGE_SIZE, 0x5000, PAGE_SIZE, RW));
    assert_mapped(V_LOW, MM_GIB(8), PAGE_SIZE, PAGING_EXECUTE);
    assert_mapped(V_LOW + PAGE_SIZE, 0x5000, PAGE_SIZE, RW);
    EXPECT_UNCHANGED(paging_remap_range(&space, V_LOW + MM_MIB(4), 0, PAGE_SIZE, RW),
                     MM_NOT_MAPPED);
    EXPECT_UNCHANGED(paging_remap_range(&space, V_LOW, (paddr_t)1 << 46, PAGE_SIZE, RW),
                     MM_INVALID_ADDRESS);
    EXPECT_UNCHANGED(paging_remap_range(&space, V_LOW, 0x123, PAGE_SIZE, RW), MM_NOT_ALIGNED);
    assert_space_sound(&space);
}

/* ---- Frames from an array ---- */

static void paging_map_frames_maps_each_page_to_its_own(void **state)
{
    static paddr_t frames[1500], back[1500];
    vaddr_t page = V_LOW + 37 * PAGE_SIZE;

    (void)state;
    space_set_up(4, 46, true);
    for (size_t i = 0; i < COUNT_OF(frames); i++)
        frames[i] = mm_round_down(random_below((paddr_t)1 << 46), FRAME_SIZE);
    assert_ok(paging_map_frames(&space, page, frames, COUNT_OF(frames), RW));
    for (size_t i = 0; i < COUNT_OF(frames); i++)
        assert_mapped(page + i * PAGE_SIZE + 9, frames[i] + 9, PAGE_SIZE, RW);
    assert_unmapped(page - 1);
    assert_unmapped(page + sizeof frames / 8 * PAGE_SIZE);
    EXPECT_UNCHANGED(paging_map_frames(&space, page, frames, 1, RW), MM_ALREADY_MAPPED);
    EXPECT_UNCHANGED(paging_unmap_frames(&space, page, back, COUNT_OF(back) + 1), MM_NOT_MAPPED);
    assert_true(is_zero(back, sizeof back));
    assert_ok(paging_unmap_frames(&space, page, back, COUNT_OF(back)));
    assert_memory_equal(frames, back, sizeof frames);
    assert_int_equal(space.stats.table_frames, 1);
    frames[1499] += 8;
    EXPECT_UNCHANGED(paging_map_frames(&space, page, frames, COUNT_OF(frames), RW), MM_NOT_ALIGNED);
    frames[1499] = (paddr_t)1 << 46;
    EXPECT_UNCHANGED(paging_map_frames(&space, page, frames, COUNT_OF(frames), RW),
                     MM_INVALID_ADDRESS);
    EXPECT_UNCHANGED(paging_map_frames(&space, page, frames, 0, RW), MM_INVALID_ARGUMENT);
    EXPECT_UNCHANGED(paging_map_frames(&space, page, frames, (uint64_t)1 << 52, RW),
                     MM_INVALID_ADDRESS);
}

static void paging_unmap_frames_tells_the_frames_of_large_leaves(void **state)
{
    static paddr_t back[1024];

    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_range(&space, V_LOW, MM_GIB(4), MM_MIB(4), RW));
    assert_ok(paging_unmap_frames(&space, V_LOW + MM_MIB(1), back, 3 * 256));
    for (size_t i = 0; i < 3 * 256; i++)
        assert_int_equal(back[i], MM_GIB(4) + MM_MIB(1) + i * FRAME_SIZE);
    assert_mapped(V_LOW, MM_GIB(4), PAGE_SIZE, RW);
    assert_unmapped(V_LOW + MM_MIB(1));
    assert_space_sound(&space);
}

/* ---- Ranges and leaves ---- */

/*  4K 4K ... | 2M 2M ... | 1G | 2M ... | 4K : from 4 KiB below a 2 MiB border below 1 GiB  */
static void paging_map_range_uses_the_largest_leaves(void **state)
{
    uint64_t before_2m = PAGE_SIZE, before_1g = MM_MIB(2);
    vaddr_t base = MM_GIB(8) - before_1g - before_2m;
    paddr_t frame = MM_GIB(3) - before_1g - before_2m;
    uint64_t bytes = before_2m + before_1g + MM_GIB(1) + MM_MIB(4) + 3 * PAGE_SIZE;

    (void)state;
    for (unsigned huge = 0; huge < 2; huge++) {
        struct walker_snapshot empty;

        space_set_up(4, 46, huge != 0);
        empty = walker_snapshot(&space);
        assert_ok(paging_map_range(&space, base, frame, bytes, RW | PAGING_GLOBAL));
        assert_int_equal(space.stats.leaves[0], 4);
        assert_int_equal(space.stats.leaves[1], huge != 0 ? 3 : 515);
        assert_int_equal(space.stats.leaves[2], huge);
        assert_space_sound(&space);
        for (uint64_t at = 0; at < bytes; at += MM_MIB(1) + 0x1111)
            assert_int_equal(hosted_cpu_walk(base + at, HOSTED_WRITE, NULL), HOSTED_OK);
        assert_mapped(MM_GIB(8) + 5, MM_GIB(3) + 5, huge != 0 ? MM_GIB(1) : MM_MIB(2),
                      RW | PAGING_GLOBAL);
        assert_unmapped(base - 1);
        assert_unmapped(base + bytes);
        assert_ok(paging_unmap_range(&space, base, bytes));
        assert_snapshot_equal(&space, &empty);
    }
}

static void paging_misaligned_frame_forbids_large_leaves(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_range(&space, V_LOW, PAGE_SIZE, MM_MIB(4), RW));
    assert_int_equal(space.stats.leaves[0], 1024);
    assert_int_equal(space.stats.leaves[1], 0);
    assert_ok(paging_map_range(&space, MM_GIB(8), MM_GIB(1) + MM_MIB(2), MM_GIB(1), RW));
    assert_int_equal(space.stats.leaves[1], 512);
    assert_int_equal(space.stats.leaves[2], 0);
    assert_space_sound(&space);
}

static void paging_large_leaves_take_every_right(void **state)
{
    static const paging_rights_t rights[] = {
        PAGING_READ,
        RW | PAGING_GLOBAL,
        RW | PAGING_WRITE_COMBINING,
        PAGING_EXECUTE,
        RW | PAGING_UNCACHED,
        RW | PAGING_USER,
        PAGING_USER | PAGING_EXECUTE | PAGING_GLOBAL,
    };

    (void)state;
    space_set_up(5, 52, true);
    for (size_t i = 0; i < COUNT_OF(rights); i++) {
        vaddr_t small = MM_GIB(4 + 4 * i), large = MM_GIB(6 + 4 * i);
        paddr_t high = (paddr_t)1 << 51;

        assert_ok(paging_map_range(&space, small, high + MM_MIB(6), MM_MIB(2), rights[i]));
        assert_ok(paging_map_range(&space, large, high + MM_GIB(7), MM_GIB(1), rights[i]));
        assert_mapped(small + 0x1fffff, high + MM_MIB(8) - 1, MM_MIB(2), rights[i]);
        assert_mapped(large + 0x3fffffff, high + MM_GIB(8) - 1, MM_GIB(1), rights[i]);
    }
}

static void paging_large_leaf_after_its_pages_went(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    for (unsigned i = 0; i < 512; i++)
        assert_ok(paging_map_page(&space, V_LOW + i * PAGE_SIZE, 0x100000 + i * 8192, RW));
    assert_ok(paging_unmap_range(&space, V_LOW, MM_MIB(2)));
    assert_ok(paging_map_range(&space, V_LOW, MM_MIB(2), MM_MIB(2), RW));
    assert_mapped(V_LOW, MM_MIB(2), MM_MIB(2), RW);
    assert_ok(paging_unmap_range(&space, V_LOW, MM_MIB(2)));
    assert_ok(paging_map_range(&space, V_LOW, MM_GIB(1), MM_GIB(1), RW));
    assert_mapped(V_LOW, MM_GIB(1), MM_GIB(1), RW);
}

static void paging_unmap_range_across_all_leaf_sizes(void **state)
{
    vaddr_t base = MM_GIB(8) - PAGE_SIZE;

    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_page(&space, base - PAGE_SIZE, 0x1000, RW));
    assert_ok(paging_map_page(&space, base, 0x9000, RW));
    assert_ok(paging_map_range(&space, MM_GIB(8), MM_GIB(1), MM_GIB(1), RW));
    assert_ok(paging_map_range(&space, MM_GIB(9), MM_MIB(2), MM_MIB(2), RW));
    assert_ok(paging_map_page(&space, MM_GIB(9) + MM_MIB(2), 0x5000, RW));
    assert_ok(paging_map_page(&space, MM_GIB(9) + MM_MIB(2) + PAGE_SIZE, 0x5000, RW));
    assert_ok(paging_unmap_range(&space, base, PAGE_SIZE + MM_GIB(1) + MM_MIB(2) + PAGE_SIZE));
    assert_unmapped(base);
    assert_unmapped(MM_GIB(8));
    assert_unmapped(MM_GIB(9));
    assert_unmapped(MM_GIB(9) + MM_MIB(2));
    assert_mapped(base - PAGE_SIZE, 0x1000, PAGE_SIZE, RW);
    assert_mapped(MM_GIB(9) + MM_MIB(2) + PAGE_SIZE, 0x5000, PAGE_SIZE, RW);
    assert_space_sound(&space);
}

/* ---- Out of frames ---- */

/* Needs tables at several levels; fails with 0, 1, ... free frames, then succeeds. */
static void check_rollback(vaddr_t page, paddr_t frame, uint64_t bytes)
{
    static paddr_t taken[8192];
    size_t count = pmm_drain_to(&machine.pmm, 0, taken, COUNT_OF(taken));
    mm_status_t status;
    uint64_t free_frames = 0;

    for (;;) {
        struct walker_snapshot before = walker_snapshot(&space);

        assert_int_equal(before.pmm.free_frames, free_frames);
        status = paging_map_range(&space, page, frame, bytes, RW);
        if (status == MM_OK)
            break;
        assert_status(status, MM_OUT_OF_MEMORY);
        assert_snapshot_equal(&space, &before);
        assert_pmm_sound(&machine.pmm);
        pmm_free_frame(&machine.pmm, taken[--count]);
        free_frames++;
    }
    assert_true(free_frames >= 2);
    assert_int_equal(pmm_stats(&machine.pmm).free_frames, 0);
    assert_space_sound(&space);
    assert_ok(paging_unmap_range(&space, page, bytes));
    while (count > 0)
        pmm_free_frame(&machine.pmm, taken[--count]);
}

static void paging_out_of_frames_is_rolled_back(void **state)
{
    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        space_set_up(levels, 46, true);
        assert_ok(paging_map_page(&space, V_LOW - PAGE_SIZE, 0x7000, RW));
        check_rollback(V_HIGH, 0x1000, PAGE_SIZE);
        check_rollback(V_LOW, 0x1000, MM_MIB(8));
        check_rollback(MM_GIB(512) - MM_MIB(1), 0x1000, MM_MIB(2));
        check_rollback(MM_GIB(1024) - MM_GIB(2), MM_MIB(2), MM_GIB(4));
        check_rollback(MM_GIB(512) - PAGE_SIZE, MM_GIB(4) - PAGE_SIZE, MM_GIB(1) + MM_MIB(4));
        assert_mapped(V_LOW - PAGE_SIZE, 0x7000, PAGE_SIZE, RW);
        assert_int_equal(space.stats.table_frames, levels);
    }
}

static void paging_unmap_needs_no_frame(void **state)
{
    (void)state;
    space_set_up(4, 46, true);
    assert_ok(paging_map_range(&space, V_LOW, PAGE_SIZE, MM_MIB(8), RW));
    pmm_drain_to(&machine.pmm, 0, NULL, 0);
    assert_ok(paging_unmap_range(&space, V_LOW, MM_MIB(8)));
    assert_int_equal(space.stats.table_frames, 1);
}

/* ---- A loader's tables ---- */

struct table_list {
    paddr_t table[256];
    size_t count;
};

static void list_add(void *context, paddr_t table)
{
    struct table_list *list = context;

    assert_true(list->count < COUNT_OF(list->table));
    list->table[list->count++] = table;
}

static bool list_has(const struct table_list *list, paddr_t table)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->table[i] == table)
            return true;
    return false;
}

static struct table_list list_tables(struct paging_root root)
{
    struct table_list found = { .count = 0 }, expected = { .count = 0 };

    paging_for_each_table(root, list_add, &found);
    walker_for_each(root.root & ~(paddr_t)0xfff, root.levels, list_add, &expected);
    assert_int_equal(found.count, expected.count);
    for (size_t i = 0; i < expected.count; i++)
        assert_true(list_has(&found, expected.table[i]));
    return expected;
}

static void map_like_a_loader(void)
{
    assert_ok(paging_map_range(&space, 0xffff800000000000, 0, MM_GIB(4), RW));
    assert_ok(paging_map_range(&space, 0xffff800100000000, MM_GIB(4) + PAGE_SIZE, MM_MIB(8), RW));
    assert_ok(paging_map_range(&space, V_HIGH, MM_MIB(1), MM_MIB(1), PAGING_EXECUTE));
}

static void paging_for_each_table_visits_each_once(void **state)
{
    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        space_set_up(levels, 46, true);
        map_like_a_loader();
        assert_int_equal(list_tables((struct paging_root){ space.root, levels }).count,
                         space.stats.table_frames);
    }
}

static void paging_tables_obstacle_finds_exactly_the_tables(void **state)
{
    struct paging_root root;
    struct table_list list;

    (void)state;
    space_set_up(4, 46, true);
    map_like_a_loader();
    root = (struct paging_root){ space.root, 4 };
    list = list_tables(root);
    for (unsigned i = 0; i < 2000; i++) {
        paddr_t base = mm_round_down(random_below(MM_MIB(3)), FRAME_SIZE);
        paddr_t end = base + FRAME_SIZE * (1 + random_below(8));
        paddr_t behind = paging_tables_obstacle(&root, base, end);
        bool touched = false;

        for (paddr_t frame = base; frame < end; frame += FRAME_SIZE)
            touched |= list_has(&list, frame);
        if (!touched)
            assert_int_equal(behind, base);
        else
            assert_true(behind > base && list_has(&list, behind - FRAME_SIZE) &&
                        behind - FRAME_SIZE < end);
    }
}

/* CR3 holds PWT and PCD in bits 3 and 4 (SDM vol. 3, 4.5.2). */
static void paging_tables_of_a_raw_cr3_are_found(void **state)
{
    struct paging_root root;

    (void)state;
    space_set_up(4, 46, true);
    map_like_a_loader();
    root = (struct paging_root){ space.root | 0x18, 4 };
    assert_int_equal(list_tables(root).count, space.stats.table_frames);
    assert_int_equal(paging_tables_obstacle(&root, space.root, space.root + FRAME_SIZE),
                     space.root + FRAME_SIZE);
}

/* ---- Random program against a model ---- */

#define REGIONS      4
#define REGION_PAGES 4096u

struct model_page {
    paddr_t frame;       /* of this page */
    uint64_t leaf_bytes; /* 0: not mapped */
    paging_rights_t rights;
};

static struct model_page pages[REGIONS][REGION_PAGES];
static vaddr_t regions[REGIONS];

static void model_map(struct model_page *page, vaddr_t address, paddr_t frame, uint64_t count,
                      paging_rights_t rights)
{
    while (count > 0) {
        uint64_t leaf = 1;

        if ((address | frame) % MM_MIB(2) == 0 && count >= 512)
            leaf = 512;
        for (uint64_t i = 0; i < leaf; i++)
            page[i] = (struct model_page){ frame + i * PAGE_SIZE, leaf * PAGE_SIZE, rights };
        page += leaf;
        address += leaf * PAGE_SIZE;
        frame += leaf * PAGE_SIZE;
        count -= leaf;
    }
}

static paging_rights_t random_rights(void)
{
    paging_rights_t rights = (paging_rights_t)random_below(PAGING_RIGHTS_ALL + 1u);

    if ((rights & PAGING_EXECUTE) != 0)
        rights &= ~PAGING_WRITE;
    while (__builtin_popcount(rights & PAGING_MEMORY_TYPES) > 1)
        rights &= ~(PAGING_WRITE_COMBINING << random_below(3));
    return rights;
}

static uint64_t random_count(uint64_t first)
{
    uint64_t count = 1 + random_below(random_chance(30) ? 1500 : random_chance(50) ? 20 : 1);

    return first + count > REGION_PAGES ? REGION_PAGES - first : count;
}

static void step_map(unsigned region)
{
    uint64_t first = random_below(REGION_PAGES), count;
    paddr_t frame = mm_round_down(random_below((paddr_t)1 << 45), FRAME_SIZE);
    paging_rights_t rights = random_rights();
    vaddr_t page;
    mm_status_t status;
    bool is_free = true;

    if (random_chance(40)) { /* room for large leaves */
        first = mm_round_down(first, 512);
        frame = mm_round_down(frame, MM_MIB(2));
    }
    count = random_count(first);
    page = regions[region] + first * PAGE_SIZE;
    for (uint64_t i = first; i < first + count; i++)
        is_free &= pages[region][i].leaf_bytes == 0;
    status = count == 1 && random_chance(50)
                 ? paging_map_page(&space, page, frame, rights)
                 : paging_map_range(&space, page, frame, count * PAGE_SIZE, rights);
    assert_status(status, is_free ? MM_OK : MM_ALREADY_MAPPED);
    if (is_free)
        model_map(&pages[region][first], page, frame, count, rights);
}

/* A large leaf of which only a part changes becomes 4 KiB leaves. */
static void model_split(unsigned region, uint64_t page)
{
    uint64_t first = mm_round_down(page, 512);

    if (page % 512 == 0 || page >= REGION_PAGES || pages[region][page].leaf_bytes <= PAGE_SIZE)
        return;
    for (uint64_t i = first; i < first + 512; i++)
        pages[region][i].leaf_bytes = PAGE_SIZE;
}

static void model_cut(unsigned region, uint64_t first, uint64_t count)
{
    model_split(region, first);
    model_split(region, first + count);
}

/* Some pages, most often all mapped; *missing says if they are not. */
static uint64_t random_mapped(unsigned region, uint64_t *first, bool *missing)
{
    uint64_t count;

    *first = random_below(REGION_PAGES);
    if (random_chance(40))
        *first = mm_round_down(*first, 512);
    count = random_count(*first);
    if (random_chance(80)) /* shorten it to what is mapped */
        for (uint64_t i = 0; i < count; i++)
            if (pages[region][*first + i].leaf_bytes == 0)
                count = i == 0 ? 1 : i;
    *missing = false;
    for (uint64_t i = *first; i < *first + count; i++)
        *missing |= pages[region][i].leaf_bytes == 0;
    return count;
}

static void step_unmap(unsigned region)
{
    static paddr_t frames[REGION_PAGES];
    uint64_t first, count;
    bool missing;
    vaddr_t page;
    mm_status_t status;

    count = random_mapped(region, &first, &missing);
    page = regions[region] + first * PAGE_SIZE;
    frames[0] = 0x1234;
    if (count == 1)
        status = paging_unmap_page(&space, page, frames);
    else if (random_chance(50))
        status = paging_unmap_frames(&space, page, frames, count);
    else
        status = paging_unmap_range(&space, page, count * PAGE_SIZE);
    assert_status(status, missing ? MM_NOT_MAPPED : MM_OK);
    if (missing) {
        assert_true(count > 1 || frames[0] == 0x1234);
        return;
    }
    for (uint64_t i = 0; i < count && frames[0] != 0x1234; i++)
        assert_int_equal(frames[i], pages[region][first + i].frame);
    model_cut(region, first, count);
    memset(&pages[region][first], 0, count * sizeof pages[0][0]);
}

/* What the model says of a leaf, without what does not differ. */
static bool is_as(unsigned region, uint64_t page, paging_rights_t rights)
{
    return page % 512 == 0 || page >= REGION_PAGES || pages[region][page].rights == rights;
}

static void step_protect(unsigned region)
{
    uint64_t first, count;
    bool missing;
    paging_rights_t rights = random_rights();

    count = random_mapped(region, &first, &missing);
    assert_status(paging_protect_range(&space, regions[region] + first * PAGE_SIZE,
                                       count * PAGE_SIZE, rights),
                  missing ? MM_NOT_MAPPED : MM_OK);
    if (missing)
        return;
    if (!is_as(region, first, rights))
        model_split(region, first);
    if (!is_as(region, first + count, rights))
        model_split(region, first + count);
    for (uint64_t i = first; i < first + count; i++)
        pages[region][i].rights = rights;
}

/* A large leaf stays one where it is filled and the new frame is aligned. */
static void step_remap(unsigned region)
{
    uint64_t first, count;
    bool missing;
    paging_rights_t rights = random_rights();
    paddr_t frame = mm_round_down(random_below((paddr_t)1 << 45), FRAME_SIZE);

    count = random_mapped(region, &first, &missing);
    if (random_chance(50))
        frame = mm_round_down(frame, MM_MIB(2)) + first % 512 * FRAME_SIZE;
    assert_status(paging_remap_range(&space, regions[region] + first * PAGE_SIZE, frame,
                                     count * PAGE_SIZE, rights),
                  missing ? MM_NOT_MAPPED : MM_OK);
    if (missing)
        return;
    model_cut(region, first, count);
    for (uint64_t i = first; i < first + count; i++) {
        struct model_page *page = &pages[region][i];

        page->frame = frame + (i - first) * FRAME_SIZE;
        page->rights = rights;
        if ((page->frame / FRAME_SIZE - i) % 512 != 0)
            page->leaf_bytes = PAGE_SIZE;
    }
}

static void check_page(unsigned region, uint64_t index)
{
    const struct model_page *page = &pages[region][index];
    vaddr_t address = regions[region] + index * PAGE_SIZE + random_below(PAGE_SIZE);

    if (page->leaf_bytes == 0)
        assert_unmapped(address);
    else
        assert_mapped(address, page->frame + address % PAGE_SIZE, page->leaf_bytes, page->rights);
}

static void check_all_pages(void)
{
    for (unsigned region = 0; region < REGIONS; region++)
        for (uint64_t i = 0; i < REGION_PAGES; i++)
            check_page(region, i);
    assert_space_sound(&space);
    assert_pmm_sound(&machine.pmm);
    assert_int_equal(pmm_stats(&machine.pmm).table_frames, space.stats.table_frames);
}

static void random_program(unsigned levels)
{
    vaddr_t hole = levels == 4 ? 0x0000800000000000 : 0x0100000000000000;

    regions[0] = MM_GIB(1) - MM_MIB(8);
    regions[1] = hole - MM_MIB(16);
    regions[2] = 0 - hole;
    regions[3] = 0 - MM_MIB(16);
    memset(pages, 0, sizeof pages);
    space_set_up(levels, 46, true);
    for (unsigned i = 0; i < 1500; i++) {
        unsigned region = (unsigned)random_below(REGIONS);

        if (random_chance(50))
            step_map(region);
        else if (random_chance(60))
            step_unmap(region);
        else if (random_chance(50))
            step_protect(region);
        else
            step_remap(region);
        for (unsigned j = 0; j < 4; j++)
            check_page((unsigned)random_below(REGIONS), random_below(REGION_PAGES));
        if (i % 500 == 499)
            check_all_pages();
    }
    paging_destroy(&space);
    assert_int_equal(pmm_stats(&machine.pmm).table_frames, 0);
}

static void paging_random_program_agrees_with_the_model(void **state)
{
    (void)state;
    for (seeds_begin(6); seeds_next();)
        random_program(4 + (unsigned)random_below(2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(paging_init_makes_an_empty_space),
        TEST(paging_init_without_frames_is_out_of_memory),
        TEST(paging_destroy_gives_every_table_back),
        TEST(paging_map_page_maps_with_every_right),
        TEST(paging_neighbours_keep_their_own_rights),
        TEST(paging_frame_0_and_page_0_can_be_mapped),
        TEST(paging_unmap_page_gives_frame_and_tables_back),
        TEST(paging_unmap_leaves_the_frame_allocated),
        TEST(paging_unmap_of_nothing_is_not_mapped),
        TEST(paging_unaligned_arguments_change_nothing),
        TEST(paging_addresses_in_the_hole_are_refused),
        TEST(paging_ranges_that_wrap_or_cross_the_hole_are_refused),
        TEST(paging_frames_beyond_maxphyaddr_are_refused),
        TEST(paging_unknown_rights_are_refused),
        TEST(paging_map_over_a_mapping_is_refused),
        TEST(paging_map_under_a_large_leaf_is_refused),
        TEST(paging_unmap_of_a_part_splits_a_leaf_exactly),
        TEST(paging_unmap_page_splits_a_leaf),
        TEST(paging_a_range_cuts_leaves_at_both_ends),
        TEST(paging_protect_changes_rights_alone),
        TEST(paging_protect_refuses_and_changes_nothing),
        TEST(paging_remap_leads_elsewhere),
        TEST(paging_map_frames_maps_each_page_to_its_own),
        TEST(paging_unmap_frames_tells_the_frames_of_large_leaves),
        TEST(paging_map_range_uses_the_largest_leaves),
        TEST(paging_misaligned_frame_forbids_large_leaves),
        TEST(paging_large_leaves_take_every_right),
        TEST(paging_large_leaf_after_its_pages_went),
        TEST(paging_unmap_range_across_all_leaf_sizes),
        TEST(paging_out_of_frames_is_rolled_back),
        TEST(paging_unmap_needs_no_frame),
        TEST(paging_for_each_table_visits_each_once),
        TEST(paging_tables_obstacle_finds_exactly_the_tables),
        TEST(paging_tables_of_a_raw_cr3_are_found),
        TEST(paging_random_program_agrees_with_the_model),
    };

    return RUN_TESTS(tests);
}
