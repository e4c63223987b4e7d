/* SPDX-License-Identifier: MIT */
/* Pages that are writable and executable at once: refused, and where mm is built for a kernel that
 * compiles code in place (MM_ALLOW_WRITE_EXECUTE, the variant `wx`) mapped, counted by the audit,
 * and no part of its verdict. What is wrong besides stays wrong in both. */
#include "walker.h"

#include <mm/audit.h>

#define RW  (PAGING_READ | PAGING_WRITE)
#define RWX (PAGING_READ | PAGING_WRITE | PAGING_EXECUTE)

#define HHDM ((vaddr_t)0xffff800000000000)
#define HEAP ((vaddr_t)0xffffa00000000000)

static struct machine machine;
static struct address_space space;
static struct audit_rules rules;
static struct audit_result result;
static paddr_t frame;

/* RAM, its HHDM, and a frame for the tests. */
static void space_set_up(void)
{
    struct mm_cpu_features features = features_of(4, 46, true);

    hosted_cpu_reset(4);
    machine_set_up_simple(&machine, MM_MIB(16));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_ok(paging_map_range(&space, HHDM + MM_MIB(1), MM_MIB(1), MM_MIB(16), RW));
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    rules =
        (struct audit_rules){ .hhdm_offset = HHDM, .hhdm_end = MM_MIB(17), .map = &machine.map };
    paging_activate(&space, &features);
}

static mm_status_t wanted(void)
{
    return MM_ALLOW_WRITE_EXECUTE ? MM_OK : MM_INVALID_ARGUMENT;
}

static void write_execute_is_mapped_where_it_is_allowed(void **state)
{
    (void)state;
    space_set_up();
    assert_status(paging_map_page(&space, HEAP, frame, RWX), wanted());
    assert_status(paging_map_range(&space, HEAP + MM_MIB(2), MM_MIB(2), MM_MIB(2), RWX), wanted());
    assert_ok(paging_map_page(&space, HEAP + PAGE_SIZE, frame, RW));
    assert_status(paging_protect_page(&space, HEAP + PAGE_SIZE, RWX), wanted());
    for (vaddr_t page = HEAP; page <= HEAP + MM_MIB(2); page += MM_MIB(2)) {
        enum hosted_outcome expected = MM_ALLOW_WRITE_EXECUTE ? HOSTED_OK : HOSTED_NOT_PRESENT;

        assert_int_equal(hosted_cpu_access(page, HOSTED_WRITE, NULL), expected);
        assert_int_equal(hosted_cpu_access(page, HOSTED_EXECUTE, NULL), expected);
    }
    assert_int_equal(hosted_cpu_access(HEAP + PAGE_SIZE, HOSTED_EXECUTE, NULL),
                     MM_ALLOW_WRITE_EXECUTE ? HOSTED_OK : HOSTED_FORBIDDEN);
}

static void audit_counts_write_execute_but_judges_by_the_build(void **state)
{
    uint64_t before;

    (void)state;
    space_set_up();
    assert_ok(paging_audit(&space, &rules, &result));
    before = result.violations;
    assert_int_equal(result.found[AUDIT_EXCLUSIVE].violations, 0);
    assert_ok(paging_unmap_page(&space, HHDM + frame, NULL));
    if (paging_map_page(&space, HEAP, frame, RWX) != MM_OK)
        assert_ok(paging_map_page(&space, HEAP, frame, PAGING_EXECUTE));
    assert_ok(paging_audit(&space, &rules, &result));
    assert_int_equal(result.found[AUDIT_EXCLUSIVE].violations, MM_ALLOW_WRITE_EXECUTE ? 1 : 0);
    if (MM_ALLOW_WRITE_EXECUTE) {
        assert_int_equal(result.found[AUDIT_EXCLUSIVE].page, HEAP);
        assert_int_equal(result.found[AUDIT_EXCLUSIVE].frame, frame);
        assert_int_equal(result.found[AUDIT_EXCLUSIVE].rights, RWX);
    }
    assert_int_equal(result.violations, before);
}

/* Executable in one place, writable in another: never refused, for no call can see it. */
static void audit_judges_two_mappings_of_a_frame_by_the_build(void **state)
{
    uint64_t others = 0;

    (void)state;
    space_set_up();
    assert_ok(paging_map_page(&space, HEAP, frame, PAGING_EXECUTE));
    assert_ok(paging_audit(&space, &rules, &result));
    assert_int_equal(result.found[AUDIT_EXCLUSIVE].violations, 1); /* the HHDM writes to it */
    for (unsigned i = 0; i < AUDIT_CLASSES; i++)
        others += i != AUDIT_EXCLUSIVE ? result.found[i].violations : 0;
    assert_int_equal(result.violations, others + (MM_ALLOW_WRITE_EXECUTE ? 0 : 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(write_execute_is_mapped_where_it_is_allowed),
        TEST(audit_counts_write_execute_but_judges_by_the_build),
        TEST(audit_judges_two_mappings_of_a_frame_by_the_build),
    };

    return RUN_TESTS(tests);
}
