/* SPDX-License-Identifier: MIT */
/* The audit: a space that is right passes, and each way of being wrong is told by its own class and by
 * no other. What no call of paging.h would do is written into the tables by hand. */
#include "walker.h"

#include <mm/audit.h>

#include <string.h>

static struct machine machine;
static struct address_space space;
static struct audit_rules rules;
static struct audit_section sections[3];
static struct audit_result result;
static vaddr_t guard_at;

#define RW    (PAGING_READ | PAGING_WRITE)
#define HHDM  ((vaddr_t)0xffff800000000000)
#define IMAGE ((vaddr_t)0xffffffff80000000)
#define HEAP  ((vaddr_t)0xffffa00000000000)

static void one_guard(void *context, void (*visit)(void *argument, vaddr_t base, uint64_t bytes),
                      void *argument)
{
    (void)context;
    visit(argument, guard_at, 2 * PAGE_SIZE);
}

/* A kernel in small: RAM of 16 MiB from 1 MiB on, an image of three sections at 2 MiB (text, rodata,
 * data: 4 pages each), the HHDM with read-only aliases, a heap page. The HHDM of the rules is not where
 * the test itself reaches its fake RAM. */
static void kernel_set_up(unsigned levels)
{
    struct mm_cpu_features features = features_of(levels, 46, true);
    const struct mm_range *ram;
    paddr_t heap, image;

    hosted_cpu_reset(levels);
    machine_set_up_simple(&machine, MM_MIB(16));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 12, MM_MIB(2), PMM_NO_LIMIT, &image));
    ram = memmap_find(&machine.map, image);
    assert_non_null(ram);
    for (unsigned i = 0; i < 3; i++) {
        static const paging_rights_t rights[] = { PAGING_EXECUTE, PAGING_READ, RW };

        sections[i] =
            (struct audit_section){ IMAGE + i * 4 * PAGE_SIZE, IMAGE + (i + 1) * 4 * PAGE_SIZE,
                                    image + i * 4 * FRAME_SIZE, rights[i] };
        assert_ok(paging_map_range(&space, sections[i].begin, sections[i].phys, 4 * PAGE_SIZE,
                                   rights[i] | PAGING_GLOBAL));
    }
    assert_ok(paging_map_range(&space, HHDM + MM_MIB(1), MM_MIB(1), MM_MIB(16), RW));
    assert_ok(paging_protect_range(&space, HHDM + image, 8 * PAGE_SIZE, PAGING_READ));
    assert_ok(pmm_alloc_frame(&machine.pmm, &heap));
    assert_ok(paging_map_page(&space, HEAP, heap, RW));
    guard_at = HEAP + PAGE_SIZE;
    rules = (struct audit_rules){ .hhdm_offset = HHDM,
                                  .hhdm_end = MM_MIB(17),
                                  .map = &machine.map,
                                  .image_begin = IMAGE,
                                  .image_end = IMAGE + 13 * PAGE_SIZE,
                                  .sections = sections,
                                  .section_count = 3,
                                  .guards = one_guard };
}

/* The audit finds `violations` of this class, and of the other classes named in `others` (a mask). */
static void expect_found(enum audit_class class_, uint64_t violations, vaddr_t page,
                         unsigned others)
{
    assert_ok(paging_audit(&space, &rules, &result));
    for (unsigned i = 0; i < AUDIT_CLASSES; i++) {
        uint64_t found = result.found[i].violations;

        if (i == class_) {
            if (found != violations || result.found[i].page != page)
                fail_msg("%s: %lu violations, first at 0x%lx", audit_class_key(class_), found,
                         result.found[i].page);
        } else if (found != 0 && (others >> i & 1) == 0) {
            fail_msg("%s: %lu violations, first at 0x%lx", audit_class_key((enum audit_class)i),
                     found, result.found[i].page);
        }
    }
}

#define ALSO(class_) (1u << (class_))

/* The entry of a level on the way to an address. */
static uint64_t *entry_of(vaddr_t address, unsigned level)
{
    struct paging_level way[PAGING_LEVELS_MAX];
    size_t count = paging_peek(&space, address, way);

    for (size_t i = 0; i < count; i++)
        if (way[i].level == level)
            return (uint64_t *)phys_to_virt(way[i].table) +
                   (address >> (12 + 9 * (level - 1)) & 511);
    fail_msg("no entry of level %u for 0x%lx", level, address);
    return NULL;
}

static void audit_of_a_right_space_finds_nothing(void **state)
{
    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        kernel_set_up(levels);
        assert_ok(paging_audit(&space, &rules, &result));
        for (unsigned i = 0; i < AUDIT_CLASSES; i++) {
            if (result.found[i].violations != 0)
                fail_msg("%s", audit_class_key((enum audit_class)i));
            assert_true(result.found[i].checked > 0);
        }
        assert_int_equal(result.violations, 0);
        assert_int_equal(result.tables, space.stats.table_frames);
        assert_int_equal(result.leaves, space.stats.leaves[0] + space.stats.leaves[1]);
        assert_int_equal(result.found[AUDIT_IMAGE].checked, 12);
        assert_int_equal(result.found[AUDIT_GUARDS].checked, 1);
    }
}

static void audit_sees_an_executable_frame_writable_elsewhere(void **state)
{
    (void)state;
    kernel_set_up(4);
    assert_ok(paging_map_page(&space, HEAP + MM_MIB(4), sections[0].phys + FRAME_SIZE, RW));
    expect_found(AUDIT_EXCLUSIVE, 1, HEAP + MM_MIB(4), ALSO(AUDIT_ALIASES));
    assert_int_equal(result.violations, 2);
    assert_int_equal(result.found[AUDIT_EXCLUSIVE].frame, sections[0].phys + FRAME_SIZE);
    assert_int_equal(result.found[AUDIT_EXCLUSIVE].rights, RW);
}

/* The HHDM writes to it, in one leaf of 2 MiB, and a page executes it. */
static void audit_sees_an_executable_heap_page(void **state)
{
    paddr_t frame;

    (void)state;
    kernel_set_up(4);
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    assert_ok(paging_map_page(&space, HEAP + MM_GIB(1), frame, PAGING_EXECUTE));
    assert_ok(paging_audit(&space, &rules, &result));
    assert_int_equal(result.found[AUDIT_EXCLUSIVE].violations, 1);
    assert_int_equal(result.violations, 1);
}

static void audit_sees_one_leaf_with_both_rights(void **state)
{
    (void)state;
    kernel_set_up(4);
    *entry_of(HEAP, 1) &= ~((uint64_t)1 << 63);
    assert_ok(paging_audit(&space, &rules, &result));
    assert_int_equal(result.found[AUDIT_EXCLUSIVE].violations, 2); /* and through the HHDM */
    assert_int_equal(result.violations, 2);
}

/* Rights are those of all levels together: a leaf that says W under a table that does not is not
 * writable. */
static void audit_judges_by_effective_rights(void **state)
{
    (void)state;
    kernel_set_up(4);
    assert_ok(paging_map_page(&space, HEAP + MM_GIB(1), sections[0].phys, RW));
    *entry_of(HEAP + MM_GIB(1), 2) &= ~(uint64_t)2;
    assert_ok(paging_audit(&space, &rules, &result));
    assert_int_equal(result.violations, 0);
}

static void audit_sees_scattered_executable_frames(void **state)
{
    enum { COUNT = 300 };
    static paddr_t frames[COUNT];
    struct pmm_stats before;

    (void)state;
    kernel_set_up(4);
    for (size_t i = 0; i < COUNT; i++) { /* every other frame: no two make one run */
        paddr_t between;

        assert_ok(pmm_alloc_frame(&machine.pmm, &frames[i]));
        assert_ok(pmm_alloc_frame(&machine.pmm, &between));
        assert_ok(paging_map_page(&space,
                                  HEAP + MM_GIB(1) + random_below(4) * MM_MIB(2) + i * PAGE_SIZE,
                                  frames[i], PAGING_EXECUTE));
        assert_ok(paging_protect_page(&space, HHDM + frames[i], PAGING_READ));
    }
    before = pmm_stats(&machine.pmm);
    assert_ok(paging_audit(&space, &rules, &result));
    assert_int_equal(result.violations, 0);
    assert_pmm_stats_equal(pmm_stats(&machine.pmm), before);
    assert_ok(paging_protect_page(&space, HHDM + frames[COUNT / 2], RW));
    expect_found(AUDIT_EXCLUSIVE, 1, HHDM + frames[COUNT / 2], 0);
    assert_pmm_stats_equal(pmm_stats(&machine.pmm), before);
    pmm_drain_to(&machine.pmm, 0, NULL, 0);
    assert_status(paging_audit(&space, &rules, &result), MM_OUT_OF_MEMORY);
}

static void audit_sees_user_access_to_the_kernel_half(void **state)
{
    (void)state;
    kernel_set_up(4);
    *entry_of(HEAP, 3) |= 4; /* a table alone: not yet a hole, but half of one */
    expect_found(AUDIT_USER, 1, HEAP, 0);
    kernel_set_up(4);
    assert_ok(paging_map_page(&space, MM_GIB(1), sections[1].phys, PAGING_USER));
    assert_ok(paging_audit(&space, &rules, &result));
    assert_int_equal(result.violations, 0); /* the lower half is the user's */
}

static void audit_sees_a_mapping_of_a_free_frame(void **state)
{
    paddr_t frame;

    (void)state;
    kernel_set_up(4);
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    assert_ok(paging_map_page(&space, HEAP + MM_GIB(2), frame, RW));
    assert_ok(paging_audit(&space, &rules, &result));
    assert_int_equal(result.violations, 0);
    pmm_free_frame(&machine.pmm, frame);
    expect_found(AUDIT_FREE, 1, HEAP + MM_GIB(2), 0);
}

static void audit_sees_a_page_table_outside_of_the_hhdm(void **state)
{
    (void)state;
    kernel_set_up(4);
    assert_ok(paging_map_page(&space, HEAP + PAGE_SIZE * 5, space.root, PAGING_READ));
    expect_found(AUDIT_TABLES, 1, HEAP + PAGE_SIZE * 5, 0);
}

static void audit_sees_a_table_that_is_no_table(void **state)
{
    paddr_t data;
    uint64_t *entry;

    (void)state;
    kernel_set_up(4);
    assert_ok(pmm_alloc_frame(&machine.pmm, &data));
    entry = entry_of(HEAP, 2);
    memcpy(phys_to_virt(data), phys_to_virt(*entry & 0xffffffffff000), FRAME_SIZE);
    *entry = (*entry & ~(uint64_t)0xffffffffff000) | data;
    expect_found(AUDIT_TABLES, 1, HEAP, 0);
    *entry = (*entry & ~(uint64_t)0xffffffffff000) | MM_GIB(3); /* outside of RAM: not followed */
    expect_found(AUDIT_TABLES, 1, HEAP, 0);
}

static void audit_sees_a_wrong_count_and_an_empty_table(void **state)
{
    (void)state;
    kernel_set_up(4);
    *entry_of(HEAP, 2) += (uint64_t)1 << 52;
    expect_found(AUDIT_TABLES, 1, HEAP, 0);
    kernel_set_up(4);
    *entry_of(HEAP, 1) = 0;
    expect_found(AUDIT_TABLES, 1, HEAP, 0);
}

static void audit_sees_reserved_bits(void **state)
{
    (void)state;
    kernel_set_up(4);
    *entry_of(HEAP, 1) |= (uint64_t)1 << 46; /* MAXPHYADDR is 46 */
    expect_found(AUDIT_RESERVED, 1, HEAP, 0);
    kernel_set_up(4);
    *entry_of(HHDM + MM_MIB(4), 2) |= (uint64_t)1 << 13;
    expect_found(AUDIT_RESERVED, 1, HHDM + MM_MIB(4), ALSO(AUDIT_HHDM));
    kernel_set_up(4);
    *entry_of(HEAP, 4) |= 0x80; /* a leaf of 512 GiB */
    expect_found(AUDIT_RESERVED, 1, HEAP, 0);
}

static void audit_sees_a_mapped_guard(void **state)
{
    paddr_t frame;

    (void)state;
    kernel_set_up(4);
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    assert_ok(paging_map_page(&space, HEAP + 2 * PAGE_SIZE, frame, PAGING_READ));
    expect_found(AUDIT_GUARDS, 1, HEAP + 2 * PAGE_SIZE, 0);
    assert_ok(paging_unmap_page(&space, HEAP + 2 * PAGE_SIZE, NULL));
    guard_at = 0; /* nothing is mapped near it */
    expect_found(AUDIT_GUARDS, 0, 0, 0);
}

static void audit_sees_an_image_that_is_not_as_linked(void **state)
{
    paddr_t frame;

    (void)state;
    kernel_set_up(4);
    assert_ok(paging_protect_page(&space, IMAGE, PAGING_READ));
    expect_found(AUDIT_IMAGE, 1, IMAGE, 0);
    kernel_set_up(4);
    assert_ok(paging_protect_page(&space, IMAGE + 5 * PAGE_SIZE, RW));
    expect_found(AUDIT_IMAGE, 1, IMAGE + 5 * PAGE_SIZE, ALSO(AUDIT_ALIASES));
    kernel_set_up(4);
    assert_ok(paging_unmap_page(&space, IMAGE + 9 * PAGE_SIZE, NULL));
    expect_found(AUDIT_IMAGE, 1, IMAGE, 0); /* one is missing: told at the image's beginning */
    kernel_set_up(4);
    assert_ok(paging_remap_range(&space, IMAGE + 8 * PAGE_SIZE, sections[2].phys + FRAME_SIZE,
                                 PAGE_SIZE, RW));
    expect_found(AUDIT_IMAGE, 1, IMAGE + 8 * PAGE_SIZE, 0);
    kernel_set_up(4);
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    assert_ok(paging_map_page(&space, IMAGE + 12 * PAGE_SIZE, frame, RW)); /* behind the last one */
    expect_found(AUDIT_IMAGE, 1, IMAGE + 12 * PAGE_SIZE, 0);
}

static void audit_sees_a_writable_alias_of_a_constant(void **state)
{
    (void)state;
    kernel_set_up(4);
    assert_ok(paging_protect_page(&space, HHDM + sections[1].phys + FRAME_SIZE, RW));
    expect_found(AUDIT_ALIASES, 1, HHDM + sections[1].phys + FRAME_SIZE, 0);
}

static void audit_sees_a_wrong_hhdm(void **state)
{
    paddr_t frame;

    (void)state;
    kernel_set_up(4);
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame)); /* one that is mapped nowhere else */
    assert_ok(paging_protect_page(&space, HHDM + frame, PAGING_EXECUTE));
    expect_found(AUDIT_HHDM, 1, HHDM + frame, 0);
    assert_ok(paging_remap_range(&space, HHDM + frame, frame + PAGE_SIZE, PAGE_SIZE, RW));
    expect_found(AUDIT_HHDM, 1, HHDM + frame, 0);
    assert_ok(paging_remap_range(&space, HHDM + frame, frame, PAGE_SIZE, RW));
    expect_found(AUDIT_HHDM, 0, 0, 0);
    assert_ok(paging_map_page(&space, HHDM + 0xf0000, 0xf0000, RW)); /* reserved, not RAM */
    expect_found(AUDIT_HHDM, 1, HHDM + 0xf0000, 0);
    rules.also = (struct mm_extent){ 0xf0000, 0xf1000 };
    expect_found(AUDIT_HHDM, 0, 0, 0);
}

static void audit_reads_both_halves_of_a_space_that_shares(void **state)
{
    struct address_space user;
    paddr_t frame;

    (void)state;
    kernel_set_up(4);
    assert_ok(paging_create_user(&user, &space));
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    assert_ok(paging_map_page(&user, MM_GIB(1), frame, RW | PAGING_USER));
    assert_ok(paging_audit(&user, &rules, &result));
    assert_int_equal(result.violations, 0);
    assert_int_equal(result.leaves, space.stats.leaves[0] + space.stats.leaves[1] + 1);
    /* Kernel text, written by a user's page. */
    assert_ok(paging_map_page(&user, MM_GIB(2), sections[0].phys, RW | PAGING_USER));
    assert_ok(paging_audit(&user, &rules, &result));
    assert_int_equal(result.found[AUDIT_EXCLUSIVE].violations, 1);
    assert_int_equal(result.found[AUDIT_ALIASES].violations, 1);
    assert_ok(paging_unmap_page(&user, MM_GIB(2), NULL));
    /* A copy of the kernel's half that is none. */
    ((uint64_t *)phys_to_virt(user.root))[511] = 0;
    assert_ok(paging_audit(&user, &rules, &result));
    assert_int_equal(result.found[AUDIT_TABLES].violations, 1);
    assert_int_equal(result.violations, 1);
    paging_destroy(&user);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(audit_of_a_right_space_finds_nothing),
        TEST(audit_sees_an_executable_frame_writable_elsewhere),
        TEST(audit_sees_an_executable_heap_page),
        TEST(audit_sees_one_leaf_with_both_rights),
        TEST(audit_judges_by_effective_rights),
        TEST(audit_sees_scattered_executable_frames),
        TEST(audit_sees_user_access_to_the_kernel_half),
        TEST(audit_sees_a_mapping_of_a_free_frame),
        TEST(audit_sees_a_page_table_outside_of_the_hhdm),
        TEST(audit_sees_a_table_that_is_no_table),
        TEST(audit_sees_a_wrong_count_and_an_empty_table),
        TEST(audit_sees_reserved_bits),
        TEST(audit_sees_a_mapped_guard),
        TEST(audit_sees_an_image_that_is_not_as_linked),
        TEST(audit_sees_a_writable_alias_of_a_constant),
        TEST(audit_sees_a_wrong_hhdm),
        TEST(audit_reads_both_halves_of_a_space_that_shares),
    };

    return RUN_TESTS(tests);
}
