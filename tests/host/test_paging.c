/* SPDX-License-Identifier: MIT */
/* Page tables against two independent readers: the MMU of the hosted port for single addresses, and
 * walker.c for whole hierarchies. Single pages, arguments, conflicts, rights, what has no frames left,
 * a loader's tables. Large leaves are in test_paging_leaves.c, spaces that share the kernel half in
 * test_paging_spaces.c, random programs against a model in test_paging_program.c. */
#include "space.h"

#include <stdlib.h>
#include <string.h>

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
        TEST(paging_protect_changes_rights_alone),
        TEST(paging_protect_refuses_and_changes_nothing),
        TEST(paging_remap_leads_elsewhere),
        TEST(paging_map_frames_maps_each_page_to_its_own),
        TEST(paging_unmap_frames_tells_the_frames_of_large_leaves),
        TEST(paging_out_of_frames_is_rolled_back),
        TEST(paging_unmap_needs_no_frame),
        TEST(paging_for_each_table_visits_each_once),
        TEST(paging_tables_obstacle_finds_exactly_the_tables),
        TEST(paging_tables_of_a_raw_cr3_are_found),
    };

    return RUN_TESTS(tests);
}
