/* SPDX-License-Identifier: MIT */
/* The audit leaves nothing out: every frame of a large leaf, every page of a guard, tables of every
 * level, the root. In each test what is wrong stands where one look is not enough.
 *
 *      HEAP          one page of 4 KiB                  HEAP + 512 MiB ...   what a test adds
 *      HHDM + 1 MiB  all of RAM, 16 MiB, writable       no image, no guard but a test's own */
#include "walker.h"

#include <mm/audit.h>

#include <string.h>

#define RW      (PAGING_READ | PAGING_WRITE)
#define HHDM    ((vaddr_t)0xffff800000000000)
#define HEAP    ((vaddr_t)0xffffa00000000000)
#define FURTHER (HEAP + MM_MIB(512))
#define LARGE   MM_MIB(2)

static struct machine machine;
static struct address_space space;
static struct audit_rules rules;
static struct audit_result result;
static vaddr_t guard_at;

static void two_pages(void *context, void (*visit)(void *argument, vaddr_t base, uint64_t bytes),
                      void *argument)
{
    (void)context;
    visit(argument, guard_at, 2 * PAGE_SIZE);
}

static void space_set_up(void)
{
    struct mm_cpu_features features = features_of(4, 46, true);
    paddr_t frame;

    hosted_cpu_reset(4);
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_ok(paging_map_range(&space, HHDM + MM_MIB(1), MM_MIB(1), MM_MIB(16), RW));
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    assert_ok(paging_map_page(&space, HEAP, frame, RW));
    rules =
        (struct audit_rules){ .hhdm_offset = HHDM, .hhdm_end = MM_MIB(17), .map = &machine.map };
}

static void set_up(void)
{
    machine_set_up_simple(&machine, MM_MIB(16));
    space_set_up();
}

/* The audit finds so many violations of this class, the first at `page`, and none of any other. */
static void expect_found(enum audit_class class_, uint64_t violations, vaddr_t page)
{
    assert_ok(paging_audit(&space, &rules, &result));
    for (unsigned i = 0; i < AUDIT_CLASSES; i++) {
        uint64_t wanted = i == class_ ? violations : 0;

        if (result.found[i].violations != wanted || (wanted > 0 && result.found[i].page != page))
            fail_msg("%s: %lu violations, first at 0x%lx", audit_class_key((enum audit_class)i),
                     result.found[i].violations, result.found[i].page);
    }
    assert_int_equal(result.violations, violations);
}

static void expect_right(void)
{
    expect_found(AUDIT_EXCLUSIVE, 0, 0);
}

/* The entry of a level on the way to an address. */
static uint64_t *entry_of(vaddr_t address, unsigned level)
{
    struct paging_level way[PAGING_LEVELS_MAX];
    size_t count = paging_peek(&space, address, way);

    assert_true(count > space.levels - level);
    assert_int_equal(way[space.levels - level].level, level);
    return (uint64_t *)phys_to_virt(way[space.levels - level].table) +
           (address >> (12 + 9 * (level - 1)) & 511);
}

static paddr_t alloc_2m(void)
{
    paddr_t frame;

    assert_ok(pmm_alloc_contiguous(&machine.pmm, 512, LARGE, PMM_NO_LIMIT, &frame));
    return frame;
}

/* ---- All of a leaf ---- */

static void audit_sees_a_free_frame_inside_a_large_leaf(void **state)
{
    paddr_t frame;

    (void)state;
    set_up();
    frame = alloc_2m();
    assert_ok(paging_map_range(&space, FURTHER, frame, LARGE, RW));
    expect_right();
    pmm_free_frame(&machine.pmm, frame + 300 * FRAME_SIZE);
    expect_found(AUDIT_FREE, 1, FURTHER);
}

/*   frames:   | range of RAM | hole | range of RAM ...     within one look at 64 frames
 *   pages:    FURTHER: reserved      FURTHER + 4 KiB: free                                   */
static void audit_sees_a_free_frame_beside_another_range(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(1) + 0x8000, BOOT_USABLE),
        ROW(MM_MIB(1) + 0x9000, MM_MIB(17), BOOT_USABLE),
    };
    const paddr_t upper = MM_MIB(1) + 0x3f000;
    paddr_t lower = MM_MIB(1);

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    space_set_up();
    rules.hhdm_end = 0; /* what of the hole it shows is no matter here */
    assert_ok(paging_unmap_range(&space, HHDM + MM_MIB(1), MM_MIB(16)));
    while (pmm_frame_state(&machine.pmm, lower) == PMM_FRAME_TABLE)
        lower += FRAME_SIZE;
    if (pmm_frame_state(&machine.pmm, lower) == PMM_FRAME_FREE)
        assert_ok(pmm_reserve_range(&machine.pmm, lower, lower + FRAME_SIZE));
    assert_true(lower < MM_MIB(1) + 0x8000);
    assert_frame_state(&machine.pmm, upper, PMM_FRAME_FREE);
    assert_ok(paging_map_page(&space, FURTHER, lower, RW));
    expect_right();
    assert_ok(paging_map_page(&space, FURTHER + PAGE_SIZE, upper, RW));
    expect_found(AUDIT_FREE, 1, FURTHER + PAGE_SIZE);
}

/* The section ends a page before the leaf. */
static void audit_sees_a_wrong_page_at_the_end_of_a_large_leaf(void **state)
{
    struct audit_section section = { .begin = FURTHER, .end = FURTHER + LARGE, .rights = RW };

    (void)state;
    set_up();
    section.phys = alloc_2m();
    rules.sections = &section;
    rules.section_count = 1;
    rules.image_begin = FURTHER;
    rules.image_end = FURTHER + LARGE;
    assert_ok(paging_map_range(&space, FURTHER, section.phys, LARGE, RW));
    assert_int_equal(space.stats.leaves[0], 256 * 2 + 1); /* the ends of the HHDM, and HEAP */
    expect_right();
    section.end -= PAGE_SIZE;
    expect_found(AUDIT_IMAGE, 1, FURTHER + LARGE - PAGE_SIZE);
}

/* The leaf begins in a range that was looked up before, and RAM ends in the middle of it. */
static void audit_sees_an_hhdm_that_goes_on_behind_ram(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(7), BOOT_USABLE) };

    (void)state;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    space_set_up();
    rules.hhdm_end = MM_MIB(16);
    assert_ok(paging_unmap_range(&space, HHDM + MM_MIB(6), MM_MIB(11)));
    expect_right();
    assert_ok(paging_map_range(&space, HHDM + MM_MIB(6), MM_MIB(6), LARGE, RW));
    expect_found(AUDIT_HHDM, 1, HHDM + MM_MIB(6));
}

/* An executable leaf of 2 MiB, and one of 4 KiB to a frame in it; a page behind that one is written. */
static void audit_sees_a_write_behind_the_smaller_of_two_executable_leaves(void **state)
{
    const vaddr_t small = FURTHER + LARGE, writable = FURTHER + 2 * LARGE;
    paddr_t frame;

    (void)state;
    set_up();
    frame = alloc_2m();
    assert_ok(paging_protect_range(&space, HHDM + frame, LARGE, PAGING_READ));
    assert_ok(paging_map_range(&space, FURTHER, frame, LARGE, PAGING_EXECUTE));
    assert_ok(paging_map_page(&space, small, frame + 5 * FRAME_SIZE, PAGING_EXECUTE));
    expect_right();
    assert_ok(paging_map_page(&space, writable, frame + 100 * FRAME_SIZE, RW));
    expect_found(AUDIT_EXCLUSIVE, 1, writable);
    assert_int_equal(result.found[AUDIT_EXCLUSIVE].frame, frame + 100 * FRAME_SIZE);
}

/* ---- Bits ---- */

static void audit_knows_that_the_cpu_has_no_leaves_of_1_gib(void **state)
{
    uint64_t *entry;

    (void)state;
    set_up();
    entry = entry_of(HEAP, 3);
    *entry = MM_GIB(1) | 0x83u | (uint64_t)1 << 63; /* P, W, PS, NX */
    expect_right();
    space.huge_pages = false;
    expect_found(AUDIT_RESERVED, 1, HEAP);
}

static void audit_takes_the_memory_type_of_a_large_leaf_for_no_reserved_bit(void **state)
{
    (void)state;
    set_up();
    assert_ok(paging_map_range(&space, FURTHER, MM_GIB(3), LARGE, RW | PAGING_WRITE_COMBINING));
    assert_true((*entry_of(FURTHER, 2) & 0x1000) != 0); /* the PAT bit */
    expect_right();
    *entry_of(FURTHER, 2) |= 0x2000;
    assert_ok(paging_audit(&space, &rules, &result));
    assert_int_equal(result.found[AUDIT_RESERVED].violations, 1);
}

static void audit_sees_the_user_bit_in_the_root(void **state)
{
    (void)state;
    set_up();
    *entry_of(HEAP, 4) |= 4;
    expect_found(AUDIT_USER, 1, HEAP);
}

/* ---- Tables ---- */

static void audit_sees_an_empty_table_that_is_counted_right(void **state)
{
    (void)state;
    set_up();
    *entry_of(HEAP, 1) = 0;
    *entry_of(HEAP, 2) -= (uint64_t)1 << 52;
    expect_found(AUDIT_TABLES, 1, HEAP);
}

static void audit_sees_a_root_that_is_no_table(void **state)
{
    paddr_t root, right;

    (void)state;
    set_up();
    assert_ok(pmm_alloc_frame(&machine.pmm, &root));
    right = space.root;
    memcpy(phys_to_virt(root), phys_to_virt(right), FRAME_SIZE);
    space.root = root;
    expect_found(AUDIT_TABLES, 1, 0);
    space.root = right;
    expect_right();
}

/* The kernel's entry, but the user's copy says that nothing below it is writable. */
static void audit_sees_other_bits_in_the_copy_of_the_kernels_half(void **state)
{
    struct address_space user;
    uint64_t *copy;

    (void)state;
    set_up();
    assert_ok(paging_create_user(&user, &space));
    assert_ok(paging_audit(&user, &rules, &result));
    assert_int_equal(result.violations, 0);
    copy = (uint64_t *)phys_to_virt(user.root) + (HEAP >> 39 & 511);
    *copy ^= 2;
    assert_ok(paging_audit(&user, &rules, &result));
    assert_int_equal(result.found[AUDIT_TABLES].violations, 1);
    assert_int_equal(result.found[AUDIT_TABLES].page, HEAP);
    assert_int_equal(result.violations, 1);
    *copy ^= 2;
    paging_destroy(&user);
}

/* ---- Guards ---- */

static void audit_sees_a_guard_inside_a_large_leaf(void **state)
{
    (void)state;
    set_up();
    rules.guards = two_pages;
    guard_at = FURTHER + MM_MIB(1);
    expect_right();
    assert_ok(paging_map_range(&space, FURTHER, alloc_2m(), LARGE, RW));
    expect_found(AUDIT_GUARDS, 1, guard_at);
}

/* The guard's first page belongs to one table, its second to the next; both tables are there. */
static void audit_sees_a_guard_across_two_tables(void **state)
{
    paddr_t frame;

    (void)state;
    set_up();
    rules.guards = two_pages;
    guard_at = HEAP + LARGE - PAGE_SIZE;
    expect_right();
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    assert_ok(paging_map_page(&space, HEAP + LARGE, frame, RW));
    expect_found(AUDIT_GUARDS, 1, HEAP + LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(audit_sees_a_free_frame_inside_a_large_leaf),
        TEST(audit_sees_a_free_frame_beside_another_range),
        TEST(audit_sees_a_wrong_page_at_the_end_of_a_large_leaf),
        TEST(audit_sees_an_hhdm_that_goes_on_behind_ram),
        TEST(audit_sees_a_write_behind_the_smaller_of_two_executable_leaves),
        TEST(audit_knows_that_the_cpu_has_no_leaves_of_1_gib),
        TEST(audit_takes_the_memory_type_of_a_large_leaf_for_no_reserved_bit),
        TEST(audit_sees_the_user_bit_in_the_root),
        TEST(audit_sees_an_empty_table_that_is_counted_right),
        TEST(audit_sees_a_root_that_is_no_table),
        TEST(audit_sees_other_bits_in_the_copy_of_the_kernels_half),
        TEST(audit_sees_a_guard_inside_a_large_leaf),
        TEST(audit_sees_a_guard_across_two_tables),
    };

    return RUN_TESTS(tests);
}
