/* SPDX-License-Identifier: MIT */
/* Large leaves: where a range is mapped by them, and what is left when a part of one goes. */
#include "space.h"

#include <string.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(paging_unmap_of_a_part_splits_a_leaf_exactly),
        TEST(paging_unmap_page_splits_a_leaf),
        TEST(paging_a_range_cuts_leaves_at_both_ends),
        TEST(paging_map_range_uses_the_largest_leaves),
        TEST(paging_misaligned_frame_forbids_large_leaves),
        TEST(paging_large_leaves_take_every_right),
        TEST(paging_large_leaf_after_its_pages_went),
        TEST(paging_unmap_range_across_all_leaf_sizes),
    };

    return RUN_TESTS(tests);
}
