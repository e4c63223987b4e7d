/* SPDX-License-Identifier: MIT */
/* Rights are what all levels together allow (SDM vol. 3, 4.6): questions about page tables whose upper
 * levels say less than the leaves, as another's tables may. Paging itself never makes such. */
#include "walker.h"

#define LOW  MM_GIB(3)
#define HIGH ((vaddr_t)0xffffc00000000000)

static struct machine machine;
static struct address_space space;

static void set_up(unsigned levels)
{
    struct mm_cpu_features features = features_of(levels, 46, true);

    hosted_cpu_reset(levels);
    machine_set_up_simple(&machine, MM_MIB(4));
    assert_ok(paging_init(&space, &machine.pmm, &features));
}

/* The entry of a level on the way to an address. */
static uint64_t *entry_of(vaddr_t address, unsigned level)
{
    struct paging_level way[PAGING_LEVELS_MAX];
    size_t index = space.levels - level;

    assert_true(paging_peek(&space, address, way) > index);
    return (uint64_t *)phys_to_virt(way[index].table) + (address >> (12 + 9 * (level - 1)) & 511);
}

static void assert_rights(vaddr_t address, paging_rights_t expected)
{
    struct paging_mapping mapping;
    struct paging_run run;

    assert_ok(paging_query(&space, address, &mapping));
    assert_int_equal(mapping.rights, expected);
    assert_true(paging_next_run(&space, address, &run));
    assert_int_equal(run.begin, address);
    assert_int_equal(run.rights, expected);
}

/* Each level in turn takes away one right, of a leaf of each size. */
static void rights_are_narrowed_at_every_level(void **state)
{
    static const struct {
        uint64_t bit;
        bool set;
        paging_rights_t given, left;
    } narrowings[] = {
        { 2, false, PAGING_WRITE | PAGING_USER, PAGING_USER },
        { 4, false, PAGING_WRITE | PAGING_USER, PAGING_WRITE },
        { (uint64_t)1 << 63, true, PAGING_EXECUTE | PAGING_USER, PAGING_USER },
    };

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++)
        for (size_t i = 0; i < COUNT_OF(narrowings); i++)
            for (unsigned size = 1; size <= 3; size++) {
                uint64_t bytes = (uint64_t)1 << (12 + 9 * (size - 1));

                set_up(levels);
                assert_ok(paging_map_range(&space, LOW, MM_GIB(8), bytes, narrowings[i].given));
                for (unsigned level = levels; level > size; level--) {
                    uint64_t *entry = entry_of(LOW, level), right = *entry;

                    assert_rights(LOW, narrowings[i].given);
                    *entry =
                        narrowings[i].set ? right | narrowings[i].bit : right & ~narrowings[i].bit;
                    assert_rights(LOW, narrowings[i].left);
                    *entry = right;
                }
                assert_ok(paging_unmap_range(&space, LOW, bytes));
            }
}

/* Two pages that would be one run, but for what the table of the second one says. */
static void run_ends_where_a_table_allows_less(void **state)
{
    const vaddr_t second = HIGH + MM_MIB(2);
    struct paging_run run;

    (void)state;
    set_up(4);
    assert_ok(paging_map_page(&space, second - PAGE_SIZE, 0x10000, PAGING_WRITE));
    assert_ok(paging_map_page(&space, second, 0x11000, PAGING_WRITE));
    assert_true(paging_next_run(&space, 0, &run));
    assert_int_equal(run.begin, second - PAGE_SIZE);
    assert_int_equal(run.last, second + PAGE_SIZE - 1);
    *entry_of(second, 2) &= ~(uint64_t)2;
    assert_true(paging_next_run(&space, 0, &run));
    assert_int_equal(run.last, second - 1);
    assert_int_equal(run.rights, PAGING_WRITE);
    assert_true(paging_next_run(&space, second, &run));
    assert_int_equal(run.begin, second);
    assert_int_equal(run.rights, PAGING_READ);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rights_are_narrowed_at_every_level),
        TEST(run_ends_where_a_table_allows_less),
    };

    return RUN_TESTS(tests);
}
