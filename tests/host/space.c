/* SPDX-License-Identifier: MIT */
/* See space.h. */
#include "space.h"

#include <string.h>

struct machine machine;
struct address_space space;

void space_set_up(unsigned levels, unsigned physical_bits, bool huge_pages)
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

void assert_mapped(vaddr_t address, paddr_t expected, uint64_t leaf_bytes, paging_rights_t rights)
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

void assert_unmapped(vaddr_t address)
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
