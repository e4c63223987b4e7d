/* SPDX-License-Identifier: MIT */
/* That every flush is there and is needed. The fake CPU keeps whatever a real one may keep, walks
 * again after each flush as a speculating CPU may, and reports each use of an entry that the tables
 * no longer give. Every scenario runs twice: as it is (no stale use) and with one flush left out (a
 * stale use must be reported, else the test would prove nothing). */
#include "walker.h"

#include <string.h>

static struct machine machine;
static struct address_space space, other;
static struct mm_cpu_features features;

#define RW (PAGING_READ | PAGING_WRITE)
#define V  ((vaddr_t)0xffffa00000000000)

static void set_up(unsigned levels)
{
    features = features_of(levels, 46, true);
    hosted_cpu_reset(levels);
    hosted_cpu()->leaf_8000_0008.eax = 46;
    machine_set_up_simple(&machine, MM_MIB(16));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_ok(paging_init(&other, &machine.pmm, &features));
    paging_activate(&space, &features);
}

static void touch(vaddr_t address)
{
    assert_int_equal(hosted_cpu_access(address, HOSTED_READ, NULL), HOSTED_OK);
}

static void touch_range(vaddr_t address, uint64_t bytes, uint64_t step)
{
    for (uint64_t at = 0; at < bytes; at += step)
        touch(address + at);
}

/* Accesses that may fault: what counts is whether a stale entry answers. */
static void probe_range(vaddr_t address, uint64_t bytes, uint64_t step)
{
    for (uint64_t at = 0; at < bytes; at += step)
        (void)hosted_cpu_access(address + at, HOSTED_READ, NULL);
}

/* ---- Scenarios: set_up() has run; each maps, uses, unmaps, and uses again ---- */

/* One page of a table that stays. */
static void unmap_one_of_two_pages(void)
{
    assert_ok(paging_map_range(&space, V, 0x1000, 2 * PAGE_SIZE, RW | PAGING_GLOBAL));
    touch_range(V, 2 * PAGE_SIZE, PAGE_SIZE);
    assert_ok(paging_unmap_page(&space, V, NULL));
    probe_range(V, 2 * PAGE_SIZE, PAGE_SIZE);
}

/* The last page of a table: the table goes too, the directory stays. */
static void unmap_the_last_page_of_a_table(void)
{
    assert_ok(paging_map_page(&space, V, 0x1000, RW));
    assert_ok(paging_map_page(&space, V + MM_MIB(2), 0x2000, RW));
    touch(V);
    touch(V + MM_MIB(2));
    assert_ok(paging_unmap_page(&space, V, NULL));
    probe_range(V, MM_MIB(4), MM_MIB(2));
}

/* The last page of all: tables of every level go. */
static void unmap_the_last_page_of_a_space(void)
{
    assert_ok(paging_map_page(&space, V, 0x1000, RW));
    touch(V);
    assert_ok(paging_unmap_page(&space, V, NULL));
    probe_range(V, MM_MIB(4), MM_MIB(2));
}

static void unmap_a_range_of_pages(void)
{
    assert_ok(paging_map_range(&space, V, 0x1000, 16 * PAGE_SIZE, RW));
    touch_range(V, 16 * PAGE_SIZE, PAGE_SIZE);
    assert_ok(paging_unmap_range(&space, V + 4 * PAGE_SIZE, 8 * PAGE_SIZE));
    probe_range(V, 16 * PAGE_SIZE, PAGE_SIZE);
}

static void unmap_a_large_leaf(void)
{
    assert_ok(paging_map_range(&space, V, MM_MIB(2), MM_MIB(4), RW | PAGING_GLOBAL));
    touch_range(V, MM_MIB(4), MM_MIB(1));
    assert_ok(paging_unmap_range(&space, V, MM_MIB(2)));
    probe_range(V, MM_MIB(4), MM_MIB(1));
}

static void unmap_a_huge_leaf(void)
{
    assert_ok(paging_map_range(&space, V, MM_GIB(1), MM_GIB(2), RW));
    touch_range(V, MM_GIB(2), MM_MIB(256));
    assert_ok(paging_unmap_range(&space, V + MM_GIB(1), MM_GIB(1)));
    probe_range(V, MM_GIB(2), MM_MIB(256));
}

/* Another frame at the same address; the old table's frame is a data frame meanwhile. */
static void map_again_elsewhere(void)
{
    assert_ok(paging_map_page(&space, V, 0x1000, RW));
    touch(V);
    assert_ok(paging_unmap_page(&space, V, NULL));
    for (unsigned i = 0; i < 4; i++) {
        paddr_t frame;

        assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
        memset(phys_to_virt(frame), 0xff, FRAME_SIZE);
    }
    assert_ok(paging_map_page(&space, V, 0x2000, PAGING_EXECUTE));
    probe_range(V, PAGE_SIZE, PAGE_SIZE);
}

/* A large leaf where pages were, and pages where a large leaf was. */
static void change_the_leaf_size(void)
{
    assert_ok(paging_map_range(&space, V, 0x1000, MM_MIB(2), RW));
    touch_range(V, MM_MIB(2), PAGE_SIZE);
    assert_ok(paging_unmap_range(&space, V, MM_MIB(2)));
    assert_ok(paging_map_range(&space, V, MM_MIB(2), MM_MIB(2), RW));
    probe_range(V, MM_MIB(2), PAGE_SIZE);
}

/* A page of a large leaf: the leaf's translation serves the others until it is dropped. */
static void unmap_a_page_of_a_large_leaf(void)
{
    assert_ok(paging_map_range(&space, V, MM_MIB(2), MM_MIB(4), RW | PAGING_GLOBAL));
    touch_range(V, MM_MIB(4), MM_MIB(1));
    assert_ok(paging_unmap_page(&space, V + MM_MIB(1), NULL));
    probe_range(V, MM_MIB(4), MM_MIB(1));
    touch(V);
    touch(V + MM_MIB(1) + PAGE_SIZE);
}

/* Two levels at once. */
static void unmap_a_page_of_a_huge_leaf(void)
{
    assert_ok(paging_map_range(&space, V, MM_GIB(1), MM_GIB(1), RW));
    touch_range(V, MM_GIB(1), MM_MIB(256));
    assert_ok(paging_unmap_page(&space, V + MM_MIB(256), NULL));
    probe_range(V, MM_GIB(1), MM_MIB(256));
}

static void protect_some_pages(void)
{
    assert_ok(paging_map_range(&space, V, 0x1000, 8 * PAGE_SIZE, RW | PAGING_GLOBAL));
    touch_range(V, 8 * PAGE_SIZE, PAGE_SIZE);
    assert_ok(paging_protect_range(&space, V + PAGE_SIZE, 4 * PAGE_SIZE, PAGING_READ));
    assert_int_equal(hosted_cpu_access(V, HOSTED_WRITE, NULL), HOSTED_OK);
    assert_int_equal(hosted_cpu_access(V + 5 * PAGE_SIZE, HOSTED_WRITE, NULL), HOSTED_OK);
    probe_range(V, 8 * PAGE_SIZE, PAGE_SIZE);
}

static void protect_a_part_of_a_large_leaf(void)
{
    assert_ok(paging_map_range(&space, V, MM_MIB(2), MM_MIB(2), RW));
    touch_range(V, MM_MIB(2), MM_MIB(1));
    assert_ok(paging_protect_range(&space, V + MM_MIB(1), 2 * PAGE_SIZE, PAGING_EXECUTE));
    probe_range(V, MM_MIB(2), PAGE_SIZE);
}

static void protect_a_large_leaf(void)
{
    assert_ok(paging_map_range(&space, V, MM_MIB(2), MM_MIB(2), RW));
    touch_range(V, MM_MIB(2), MM_MIB(1));
    assert_ok(paging_protect_range(&space, V, MM_MIB(2), RW | PAGING_UNCACHED));
    probe_range(V, MM_MIB(2), PAGE_SIZE);
}

static void remap_some_pages(void)
{
    assert_ok(paging_map_range(&space, V, 0x1000, 4 * PAGE_SIZE, RW));
    touch_range(V, 4 * PAGE_SIZE, PAGE_SIZE);
    assert_ok(paging_remap_range(&space, V + PAGE_SIZE, 0x9000, 2 * PAGE_SIZE, RW));
    touch_range(V, 4 * PAGE_SIZE, PAGE_SIZE);
}

/* The same frames by smaller leaves: the old large translation is not wrong, but must not stay to be
 * missed by the flush of a single page later. */
static void remap_a_part_of_a_leaf_to_where_it_was(void)
{
    assert_ok(paging_map_range(&space, V, MM_MIB(2), MM_MIB(2), RW));
    touch_range(V, MM_MIB(2), MM_MIB(1));
    assert_ok(paging_remap_range(&space, V + PAGE_SIZE, MM_MIB(2) + PAGE_SIZE, PAGE_SIZE, RW));
    touch_range(V, MM_MIB(2), MM_MIB(1));
}

/* Tables that gain user access, on three levels: told once. */
static void let_user_in(void)
{
    assert_ok(paging_map_page(&space, V, 0x1000, RW));
    touch(V);
    assert_ok(paging_map_page(&space, V + PAGE_SIZE, 0x2000, RW | PAGING_USER));
    touch(V);
}

typedef void (*scenario_fn)(void);

static const struct {
    const char *name;
    scenario_fn run;
    uint64_t least_invlpg; /* so many cannot be left out */
} scenarios[] = {
    { "unmap_one_of_two_pages", unmap_one_of_two_pages, 1 },
    { "unmap_the_last_page_of_a_table", unmap_the_last_page_of_a_table, 1 },
    { "unmap_the_last_page_of_a_space", unmap_the_last_page_of_a_space, 1 },
    { "unmap_a_range_of_pages", unmap_a_range_of_pages, 8 },
    { "unmap_a_large_leaf", unmap_a_large_leaf, 1 },
    { "unmap_a_huge_leaf", unmap_a_huge_leaf, 1 },
    { "map_again_elsewhere", map_again_elsewhere, 1 },
    { "unmap_a_page_of_a_large_leaf", unmap_a_page_of_a_large_leaf, 1 },
    { "unmap_a_page_of_a_huge_leaf", unmap_a_page_of_a_huge_leaf, 1 },
    { "protect_some_pages", protect_some_pages, 4 },
    { "protect_a_part_of_a_large_leaf", protect_a_part_of_a_large_leaf,
      0 }, /* two pages, one leaf */
    { "protect_a_large_leaf", protect_a_large_leaf, 1 },
    { "remap_some_pages", remap_some_pages, 2 },
    { "remap_a_part_of_a_leaf_to_where_it_was", remap_a_part_of_a_leaf_to_where_it_was, 1 },
    { "let_user_in", let_user_in, 1 },
    { "change_the_leaf_size", change_the_leaf_size, 0 }, /* more than a batch: one full flush */
};

static void tlb_scenarios_use_no_stale_entry(void **state)
{
    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        for (size_t i = 0; i < COUNT_OF(scenarios); i++) {
            set_up(levels);
            violations_count();
            scenarios[i].run();
            if (violations_take() != 0)
                fail_msg("%s: %s", scenarios[i].name, violation_last());
        }
    }
}

static void tlb_scenarios_without_flushes_are_caught(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(scenarios); i++) {
        set_up(4);
        violations_count();
        hosted_cpu()->ignore_invlpg = true;
        hosted_cpu()->ignore_pge_flush = hosted_cpu()->ignore_cr3_flush = true;
        scenarios[i].run();
        if (violations_take() == 0 || hosted_cpu()->stale_uses == 0)
            fail_msg("%s: nobody noticed that flushes did nothing", scenarios[i].name);
    }
}

/* More pages than a batch holds: the full flush alone, which must reach global translations too. */
static void tlb_range_without_the_full_flush_is_caught(void **state)
{
    (void)state;
    set_up(4);
    violations_count();
    hosted_cpu()->ignore_pge_flush = true;
    change_the_leaf_size();
    assert_true(violations_take() != 0);
}

/* Leaves out each INVLPG alone. One that another flush repeats may go unnoticed (several tables of
 * one path), but no fewer than the scenario's pages may be noticed. */
static void tlb_scenarios_without_any_single_invlpg_are_caught(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(scenarios); i++) {
        uint64_t total, caught = 0;

        set_up(4);
        scenarios[i].run();
        total = hosted_cpu()->invlpg_count;
        for (uint64_t skipped = 1; skipped <= total; skipped++) {
            set_up(4);
            violations_count();
            hosted_cpu()->skip_invlpg = skipped;
            scenarios[i].run();
            caught += violations_take() != 0;
        }
        if (caught < scenarios[i].least_invlpg)
            fail_msg("%s: %lu of %lu left-out flushes noticed, expected %lu", scenarios[i].name,
                     caught, total, scenarios[i].least_invlpg);
    }
}

/* One flush, after the table was unhooked, serves its page and the cached way to it. */
static void tlb_flush_of_an_unhooked_table_is_needed(void **state)
{
    uint64_t last;

    (void)state;
    set_up(4);
    unmap_the_last_page_of_a_table();
    last = hosted_cpu()->invlpg_count;
    assert_int_equal(last, 1);
    set_up(4);
    violations_count();
    hosted_cpu()->skip_invlpg = last;
    unmap_the_last_page_of_a_table();
    assert_true(violations_take() >= 2); /* the translation, and the entry that led to the table */
}

/* ---- Rights that grow ---- */

/* A user page under tables that so far held supervisor pages: the upper entries gain U/S, and a CPU
 * that kept them as they were would refuse the access. */
static void tlb_user_page_beside_supervisor_page_is_seen(void **state)
{
    (void)state;
    set_up(4);
    assert_ok(paging_map_page(&space, MM_GIB(1), 0x1000, RW));
    touch(MM_GIB(1));
    assert_ok(paging_map_page(&space, MM_GIB(1) + PAGE_SIZE, 0x2000, RW | PAGING_USER));
    assert_int_equal(hosted_cpu_access(MM_GIB(1) + PAGE_SIZE, HOSTED_USER, NULL), HOSTED_OK);
    assert_int_equal(hosted_cpu_access(MM_GIB(1), HOSTED_USER, NULL), HOSTED_FORBIDDEN);
}

/* ---- Changing the space ---- */

/* The same address in two spaces, global in both. */
static void switch_spaces(void)
{
    assert_ok(paging_map_page(&space, V, 0x1000, RW | PAGING_GLOBAL));
    assert_ok(paging_map_page(&other, V, 0x2000, RW | PAGING_GLOBAL));
    assert_ok(paging_map_page(&space, MM_GIB(1), 0x3000, RW));
    assert_ok(paging_map_page(&other, MM_GIB(1), 0x4000, PAGING_EXECUTE));
    touch(V);
    touch(MM_GIB(1));
    paging_activate(&other, &features);
    touch(V);
    touch(MM_GIB(1));
}

static void tlb_activate_drops_every_translation(void **state)
{
    struct hosted_translation seen;

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        set_up(levels);
        switch_spaces();
        assert_int_equal(hosted_cpu_access(V, HOSTED_READ, &seen), HOSTED_OK);
        assert_int_equal(seen.address, 0x2000);
        assert_int_equal(mm_port_read_cr(3), other.root);
        assert_true((mm_port_read_cr(4) & (1 << 7)) != 0);
    }
}

static void tlb_activate_without_the_pge_toggle_is_caught(void **state)
{
    (void)state;
    set_up(4);
    violations_count();
    hosted_cpu()->ignore_pge_flush = true;
    switch_spaces();
    assert_true(violations_take() != 0);
    assert_non_null(strstr(violation_last(), "stale translation"));
}

/* Without PGE the G bit has no meaning (SDM vol. 3, 4.10.2.4), so the CR3 load does it all; and
 * CR4.PGE must not be touched: the fake CPU would report a #GP. */
static void tlb_activate_without_pge_relies_on_the_cr3_load(void **state)
{
    (void)state;
    for (unsigned broken = 0; broken < 2; broken++) {
        set_up(4);
        features.pge = false;
        hosted_cpu()->leaf_1.edx &= ~((uint32_t)1 << 13);
        hosted_cpu()->cr4 &= ~((uint64_t)1 << 7);
        violations_count();
        hosted_cpu()->ignore_cr3_flush = broken != 0;
        paging_activate(&space, &features);
        switch_spaces();
        assert_int_equal(violations_take() != 0, broken != 0);
    }
}

/* What was cached before PGE was on must not survive as global afterwards. */
static void tlb_activate_from_a_loaders_tables(void **state)
{
    (void)state;
    set_up(4);
    hosted_cpu_reset(4);
    hosted_cpu()->leaf_8000_0008.eax = 46;
    assert_ok(paging_map_range(&other, V, MM_MIB(2), MM_MIB(2), RW));
    assert_ok(paging_map_range(&space, V, MM_MIB(4), MM_MIB(2), RW | PAGING_GLOBAL));
    mm_port_write_cr(3, other.root);
    touch_range(V, MM_MIB(2), PAGE_SIZE);
    paging_activate(&space, &features);
    touch_range(V, MM_MIB(2), PAGE_SIZE);
}

/* ---- Random ---- */

#define SLOTS 24u

/* Slots of one page, 2 MiB and 1 GiB, next to each other so that tables are shared. */
static vaddr_t slot_address(unsigned slot)
{
    if (slot < 12)
        return V + slot * PAGE_SIZE + (slot / 4) * MM_MIB(2);
    return slot < 20 ? V + MM_GIB(1) + (slot - 12) * MM_MIB(2) : V + MM_GIB(slot - 18);
}

static uint64_t slot_bytes(unsigned slot)
{
    if (slot < 12)
        return PAGE_SIZE;
    return slot < 20 ? MM_MIB(2) : MM_GIB(1);
}

static void random_switches(unsigned steps)
{
    bool mapped[2][SLOTS] = { { false } };
    struct address_space *spaces[2] = { &space, &other };
    unsigned active = 0;

    for (unsigned i = 0; i < steps; i++) {
        unsigned slot = (unsigned)random_below(SLOTS);
        vaddr_t address = slot_address(slot);
        uint64_t bytes = slot_bytes(slot);

        if (random_chance(3)) {
            active = 1 - active;
            paging_activate(spaces[active], &features);
        }
        if (random_chance(60)) {
            (void)hosted_cpu_access(address + random_below(bytes), (unsigned)random_below(3), NULL);
        } else if (mapped[active][slot] && random_chance(40)) {
            uint64_t at = mm_round_down(random_below(bytes), PAGE_SIZE);
            uint64_t part = mm_round_down(1 + random_below(bytes - at), PAGE_SIZE) + PAGE_SIZE;
            paging_rights_t rights = random_chance(50) ? RW : PAGING_EXECUTE | PAGING_GLOBAL;

            part = part > bytes - at ? bytes - at : part;
            part = random_chance(50) || part > MM_MIB(8) ? PAGE_SIZE : part;
            if (random_chance(50))
                assert_ok(paging_protect_range(spaces[active], address + at, part, rights));
            else
                assert_ok(
                    paging_remap_range(spaces[active], address + at, MM_GIB(3) + at, part, rights));
        } else if (mapped[active][slot]) {
            assert_ok(paging_unmap_range(spaces[active], address, bytes));
            mapped[active][slot] = false;
        } else {
            paging_rights_t rights = random_chance(50) ? RW : PAGING_EXECUTE;
            paddr_t frame = bytes * (1 + random_below(4));

            if (random_chance(50))
                rights |= PAGING_GLOBAL;
            mapped[active][slot] =
                paging_map_range(spaces[active], address, frame, bytes, rights) == MM_OK;
        }
    }
}

static void tlb_random_program_uses_no_stale_entry(void **state)
{
    (void)state;
    for (seeds_begin(10); seeds_next();) {
        set_up(4 + (unsigned)random_below(2));
        random_switches(3000);
        assert_int_equal(hosted_cpu()->stale_uses, 0);
        assert_space_sound(&space);
        assert_space_sound(&other);
    }
}

static void tlb_random_program_without_flushes_is_caught(void **state)
{
    (void)state;
    violations_count();
    for (unsigned broken = 0; broken < 2; broken++) {
        random_seed(1);
        set_up(4);
        hosted_cpu()->ignore_invlpg = broken == 0;
        hosted_cpu()->ignore_pge_flush = broken == 1;
        random_switches(3000);
        assert_true(violations_take() != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(tlb_scenarios_use_no_stale_entry),
        TEST(tlb_scenarios_without_flushes_are_caught),
        TEST(tlb_range_without_the_full_flush_is_caught),
        TEST(tlb_scenarios_without_any_single_invlpg_are_caught),
        TEST(tlb_flush_of_an_unhooked_table_is_needed),
        TEST(tlb_user_page_beside_supervisor_page_is_seen),
        TEST(tlb_activate_drops_every_translation),
        TEST(tlb_activate_without_the_pge_toggle_is_caught),
        TEST(tlb_activate_without_pge_relies_on_the_cr3_load),
        TEST(tlb_activate_from_a_loaders_tables),
        TEST(tlb_random_program_uses_no_stale_entry),
        TEST(tlb_random_program_without_flushes_is_caught),
    };

    return RUN_TESTS(tests);
}
