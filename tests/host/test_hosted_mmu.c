/* SPDX-License-Identifier: MIT */
/* The fake MMU and TLB of the hosted port, against page tables that are written by hand here. Everything
 * else relies on them, so they are tested without any code of paging.c. */
#include "support.h"

/* ---- The MMU against tables written by hand ---- */

#define P   ((uint64_t)1)
#define W   ((uint64_t)2)
#define U   ((uint64_t)4)
#define PWT ((uint64_t)8)
#define PCD ((uint64_t)16)
#define A   ((uint64_t)32)
#define D   ((uint64_t)64)
#define PS  ((uint64_t)128)
#define G   ((uint64_t)256)
#define NX  ((uint64_t)1 << 63)

#define ROOT   0x1000u
#define V_PAGE ((vaddr_t)0xffff812345678000) /* slots 258, 141, 43, 120 */

static uint64_t *entry_at(paddr_t table, unsigned index)
{
    return (uint64_t *)hosted_ram_at(table) + index;
}

/* ROOT -> 0x2000 -> 0x3000 -> 0x4000 -> leaf, everything allowed above the leaf. */
static void tables_set_up(uint64_t leaf)
{
    hosted_ram_destroy();
    ram_set_up(MM_MIB(1));
    hosted_cpu_reset(4);
    hosted_cpu()->cr3 = ROOT;
    hosted_cpu()->pat = 0x0000010500070406;
    hosted_cpu()->speculate = false;
    *entry_at(ROOT, 258) = 0x2000 | P | W | U;
    *entry_at(0x2000, 141) = 0x3000 | P | W | U;
    *entry_at(0x3000, 43) = 0x4000 | P | W | U;
    *entry_at(0x4000, 120) = leaf;
}

static void assert_access(vaddr_t address, unsigned access, enum hosted_outcome expected)
{
    enum hosted_outcome got;

    hosted_cpu_forget();
    got = hosted_cpu_access(address, access, NULL);
    if (got != expected)
        fail_msg("access %u to 0x%lx: outcome %d, expected %d", access, address, (int)got,
                 (int)expected);
    assert_int_equal(hosted_cpu_walk(address, access, NULL), expected);
}

static void host_mmu_finds_the_byte(void **state)
{
    struct hosted_translation seen;

    (void)state;
    tables_set_up(0x7000 | P | W);
    assert_int_equal(hosted_cpu_access(V_PAGE + 0x123, HOSTED_WRITE, &seen), HOSTED_OK);
    assert_int_equal(seen.address, 0x7123);
    assert_int_equal(seen.leaf_bytes, PAGE_SIZE);
    assert_true(seen.write && seen.execute && !seen.user && !seen.global);
    assert_int_equal(seen.memory_type, 6);
    assert_access(V_PAGE + PAGE_SIZE, HOSTED_READ, HOSTED_NOT_PRESENT);
    assert_access(0, HOSTED_READ, HOSTED_NOT_PRESENT);
    assert_access(0x0000800000000000, HOSTED_READ, HOSTED_NOT_CANONICAL);
    assert_access(0xffff7fffffffffff, HOSTED_READ, HOSTED_NOT_CANONICAL);
}

static void host_mmu_sets_accessed_and_dirty(void **state)
{
    (void)state;
    tables_set_up(0x7000 | P | W);
    assert_int_equal(hosted_cpu_walk(V_PAGE, HOSTED_WRITE, NULL), HOSTED_OK);
    assert_int_equal(*entry_at(0x4000, 120), 0x7000 | P | W);
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_OK);
    assert_int_equal(*entry_at(ROOT, 258), 0x2000 | P | W | U | A);
    assert_int_equal(*entry_at(0x4000, 120), 0x7000 | P | W | A);
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_WRITE, NULL), HOSTED_OK);
    assert_int_equal(*entry_at(0x4000, 120), 0x7000 | P | W | A | D);
    assert_int_equal(*entry_at(0x3000, 43), 0x4000 | P | W | U | A);
}

static void host_mmu_combines_the_rights_of_all_levels(void **state)
{
    static const struct {
        paddr_t table;
        unsigned index;
    } levels[] = { { ROOT, 258 }, { 0x2000, 141 }, { 0x3000, 43 }, { 0x4000, 120 } };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(levels); i++) {
        uint64_t *entry;

        tables_set_up(0x7000 | P | W | U);
        hosted_cpu()->cr4 |= (uint64_t)1 << 7;
        entry = entry_at(levels[i].table, levels[i].index);
        assert_access(V_PAGE, HOSTED_USER | HOSTED_WRITE, HOSTED_OK);
        assert_access(V_PAGE, HOSTED_USER | HOSTED_EXECUTE, HOSTED_OK);
        *entry &= ~W;
        assert_access(V_PAGE, HOSTED_USER | HOSTED_WRITE, HOSTED_FORBIDDEN);
        assert_access(V_PAGE, HOSTED_WRITE, HOSTED_FORBIDDEN);
        assert_access(V_PAGE, HOSTED_USER, HOSTED_OK);
        *entry |= NX;
        assert_access(V_PAGE, HOSTED_USER | HOSTED_EXECUTE, HOSTED_FORBIDDEN);
        *entry &= ~U;
        assert_access(V_PAGE, HOSTED_USER, HOSTED_FORBIDDEN);
        assert_access(V_PAGE, HOSTED_READ, HOSTED_OK);
        *entry &= ~P;
        assert_access(V_PAGE, HOSTED_READ, HOSTED_NOT_PRESENT);
    }
}

static void host_mmu_obeys_the_control_registers(void **state)
{
    (void)state;
    tables_set_up(0x7000 | P);
    assert_access(V_PAGE, HOSTED_WRITE, HOSTED_FORBIDDEN);
    hosted_cpu()->cr0 &= ~((uint64_t)1 << 16); /* WP */
    assert_access(V_PAGE, HOSTED_WRITE, HOSTED_OK);
    tables_set_up(0x7000 | P | U);
    assert_access(V_PAGE, HOSTED_READ, HOSTED_OK);
    assert_access(V_PAGE, HOSTED_EXECUTE, HOSTED_OK);
    hosted_cpu()->cr4 |= (uint64_t)1 << 20; /* SMEP */
    assert_access(V_PAGE, HOSTED_EXECUTE, HOSTED_FORBIDDEN);
    assert_access(V_PAGE, HOSTED_EXECUTE | HOSTED_USER, HOSTED_OK);
    hosted_cpu()->cr4 |= (uint64_t)1 << 21; /* SMAP */
    assert_access(V_PAGE, HOSTED_READ, HOSTED_FORBIDDEN);
    assert_access(V_PAGE, HOSTED_READ | HOSTED_USER, HOSTED_OK);
}

static void host_mmu_refuses_reserved_bits(void **state)
{
    (void)state;
    tables_set_up(0x7000 | P | NX);
    assert_access(V_PAGE, HOSTED_READ, HOSTED_OK);
    hosted_cpu()->efer &= ~((uint64_t)1 << 11); /* NXE off: bit 63 is reserved */
    assert_access(V_PAGE, HOSTED_READ, HOSTED_RESERVED_BIT);
    tables_set_up((uint64_t)1 << 40 | P);
    hosted_cpu()->leaf_8000_0008.eax = 40;
    assert_access(V_PAGE, HOSTED_READ, HOSTED_RESERVED_BIT);
    tables_set_up(0x7000 | P);
    *entry_at(ROOT, 258) |= PS;
    assert_access(V_PAGE, HOSTED_READ, HOSTED_RESERVED_BIT);
    tables_set_up(0x7000 | P);
    *entry_at(0x3000, 43) = 0x202000 | P | PS; /* a 2 MiB leaf at 2 MiB + 8 KiB */
    assert_access(V_PAGE, HOSTED_READ, HOSTED_RESERVED_BIT);
    *entry_at(0x2000, 141) = 0x40200000 | P | PS; /* a 1 GiB leaf at 1 GiB + 2 MiB */
    assert_access(V_PAGE, HOSTED_READ, HOSTED_RESERVED_BIT);
    *entry_at(0x2000, 141) = 0x40000000 | P | PS;
    assert_access(V_PAGE, HOSTED_READ, HOSTED_OK);
    hosted_cpu()->leaf_8000_0001.edx &= ~((uint32_t)1 << 26);
    assert_access(V_PAGE, HOSTED_READ, HOSTED_RESERVED_BIT);
}

static void host_mmu_knows_large_leaves_and_memory_types(void **state)
{
    struct hosted_translation seen;

    (void)state;
    tables_set_up(0);
    *entry_at(0x3000, 43) = 0x40600000 | P | PS | G | PWT | (uint64_t)1 << 12; /* PAT 5 */
    assert_int_equal(hosted_cpu_walk(V_PAGE, 0, &seen), HOSTED_OK);
    assert_int_equal(seen.address, 0x40600000 + (V_PAGE & 0x1fffff));
    assert_int_equal(seen.leaf_bytes, MM_MIB(2));
    assert_int_equal(seen.memory_type, 1);
    assert_true(seen.global);
    *entry_at(0x2000, 141) = 0x80000000 | P | PS | PWT | PCD; /* PAT 3 */
    assert_int_equal(hosted_cpu_walk(V_PAGE, 0, &seen), HOSTED_OK);
    assert_int_equal(seen.address, 0x80000000 + (V_PAGE & 0x3fffffff));
    assert_int_equal(seen.leaf_bytes, MM_GIB(1));
    assert_int_equal(seen.memory_type, 0);
    tables_set_up(0x7000 | P | (uint64_t)1 << 7 | PWT); /* PAT 5 in a 4 KiB leaf */
    assert_int_equal(hosted_cpu_walk(V_PAGE, 0, &seen), HOSTED_OK);
    assert_int_equal(seen.memory_type, 1);
}

static void host_mmu_walks_five_levels(void **state)
{
    (void)state;
    tables_set_up(0x7000 | P | W);
    hosted_cpu_reset(5);
    hosted_cpu()->cr3 = 0x5000;
    *entry_at(0x5000, 511) = ROOT | P | W;
    assert_access(V_PAGE, HOSTED_WRITE, HOSTED_OK);
    assert_access(0x0000800000000000, HOSTED_READ, HOSTED_NOT_PRESENT);
    assert_access(0x0100000000000000, HOSTED_READ, HOSTED_NOT_CANONICAL);
}

static void host_mmu_table_outside_ram_is_a_violation(void **state)
{
    (void)state;
    tables_set_up(0x7000 | P);
    *entry_at(0x3000, 43) = MM_GIB(1) | P;
    violations_count();
    EXPECT_VIOLATION((void)hosted_cpu_walk(V_PAGE, 0, NULL));
}

/* ---- What the TLB remembers ---- */

/* Caches V_PAGE, changes its leaf in the tables, performs `flush`, and says whether an access
 * notices that an old translation is still there. */
static bool is_stale_after(uint64_t leaf, bool pge, void (*flush)(void))
{
    tables_set_up(leaf);
    if (pge)
        hosted_cpu()->cr4 |= (uint64_t)1 << 7;
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_OK);
    *entry_at(0x4000, 120) = 0x9000 | P;
    flush();
    violations_count();
    (void)hosted_cpu_access(V_PAGE, HOSTED_READ, NULL);
    return violations_take() != 0;
}

static void flush_nothing(void)
{
}

static void flush_page(void)
{
    mm_port_invlpg(V_PAGE + 0x123);
}

static void flush_other_page(void)
{
    mm_port_invlpg(V_PAGE + PAGE_SIZE);
}

static void flush_by_cr3(void)
{
    mm_port_write_cr(3, mm_port_read_cr(3));
}

static void flush_by_pge(void)
{
    mm_port_write_cr(4, mm_port_read_cr(4) ^ (uint64_t)1 << 7);
}

static void host_tlb_keeps_what_no_flush_drops(void **state)
{
    (void)state;
    assert_true(is_stale_after(0x7000 | P, true, flush_nothing));
    assert_true(is_stale_after(0x7000 | P, true, flush_other_page));
    assert_false(is_stale_after(0x7000 | P, true, flush_page));
    assert_false(is_stale_after(0x7000 | P, true, flush_by_cr3));
    assert_false(is_stale_after(0x7000 | P, true, flush_by_pge));
    /* Global: only INVLPG and the PGE toggle reach it; without PGE the bit means nothing. */
    assert_true(is_stale_after(0x7000 | P | G, true, flush_by_cr3));
    assert_false(is_stale_after(0x7000 | P | G, true, flush_page));
    assert_false(is_stale_after(0x7000 | P | G, true, flush_by_pge));
    assert_false(is_stale_after(0x7000 | P | G, false, flush_by_cr3));
}

static void host_tlb_uses_the_old_translation(void **state)
{
    struct hosted_translation seen;

    (void)state;
    tables_set_up(0x7000 | P);
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_OK);
    *entry_at(0x4000, 120) = 0;
    violations_count();
    assert_int_equal(hosted_cpu_access(V_PAGE + 5, HOSTED_READ, &seen), HOSTED_OK);
    assert_int_equal(seen.address, 0x7005);
    assert_int_equal(violations_take(), 1);
    assert_int_equal(hosted_cpu()->stale_uses, 1);
    mm_port_invlpg(V_PAGE);
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_NOT_PRESENT);
    assert_int_equal(violations_take(), 0);
}

static void host_tlb_does_not_cache_what_is_not_present(void **state)
{
    (void)state;
    tables_set_up(0);
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_NOT_PRESENT);
    *entry_at(0x4000, 120) = 0x7000 | P;
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_OK);
}

static void host_tlb_caches_the_way_to_a_table(void **state)
{
    (void)state;
    tables_set_up(0);
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_NOT_PRESENT);
    *entry_at(0x3000, 43) = 0; /* the table is unhooked although a CPU knows it */
    violations_count();
    (void)hosted_cpu_access(V_PAGE, HOSTED_READ, NULL);
    assert_int_equal(violations_take(), 1);
    mm_port_invlpg(0); /* any INVLPG drops the paging-structure caches */
    (void)hosted_cpu_access(V_PAGE, HOSTED_READ, NULL);
    assert_int_equal(violations_take(), 0);
}

static void host_tlb_invlpg_drops_a_large_leaf_from_anywhere_in_it(void **state)
{
    (void)state;
    tables_set_up(0);
    *entry_at(0x3000, 43) = 0x40600000 | P | PS;
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_OK);
    *entry_at(0x3000, 43) = 0x40800000 | P | PS;
    mm_port_invlpg(mm_round_down(V_PAGE, MM_MIB(2)));
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_OK);
}

/* The order "flush, then change" leaves a window in which a CPU reads the old entry again. */
static void host_tlb_speculation_sees_a_flush_before_the_change(void **state)
{
    (void)state;
    for (unsigned speculate = 0; speculate < 2; speculate++) {
        tables_set_up(0x7000 | P);
        hosted_cpu()->speculate = speculate != 0;
        assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_OK);
        mm_port_invlpg(V_PAGE);
        *entry_at(0x4000, 120) = 0x9000 | P;
        violations_count();
        (void)hosted_cpu_access(V_PAGE, HOSTED_READ, NULL);
        assert_int_equal(violations_take() != 0, speculate != 0);
    }
}

static void host_tlb_broken_flushes_drop_nothing(void **state)
{
    (void)state;
    tables_set_up(0x7000 | P);
    hosted_cpu()->ignore_invlpg = hosted_cpu()->ignore_cr3_flush = true;
    assert_int_equal(hosted_cpu_access(V_PAGE, HOSTED_READ, NULL), HOSTED_OK);
    *entry_at(0x4000, 120) = 0;
    flush_page();
    flush_by_cr3();
    violations_count();
    (void)hosted_cpu_access(V_PAGE, HOSTED_READ, NULL);
    assert_int_equal(violations_take(), 1);
    assert_int_equal(hosted_cpu()->invlpg_count, 1);
    assert_int_equal(hosted_cpu()->cr3_loads, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(host_mmu_finds_the_byte),
        TEST(host_mmu_sets_accessed_and_dirty),
        TEST(host_mmu_combines_the_rights_of_all_levels),
        TEST(host_mmu_obeys_the_control_registers),
        TEST(host_mmu_refuses_reserved_bits),
        TEST(host_mmu_knows_large_leaves_and_memory_types),
        TEST(host_mmu_walks_five_levels),
        TEST(host_mmu_table_outside_ram_is_a_violation),
        TEST(host_tlb_keeps_what_no_flush_drops),
        TEST(host_tlb_uses_the_old_translation),
        TEST(host_tlb_does_not_cache_what_is_not_present),
        TEST(host_tlb_caches_the_way_to_a_table),
        TEST(host_tlb_invlpg_drops_a_large_leaf_from_anywhere_in_it),
        TEST(host_tlb_speculation_sees_a_flush_before_the_change),
        TEST(host_tlb_broken_flushes_drop_nothing),
#if MM_MEMORY_HOOKS && defined(__SANITIZE_ADDRESS__)
#endif
    };

    return RUN_TESTS(tests);
}
