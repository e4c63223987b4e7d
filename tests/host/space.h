/* SPDX-License-Identifier: MIT */
/* One address space on a small machine, for tests of page tables, and what two independent readers see in
 * it: the MMU of the hosted port and walker.c. */
#ifndef TESTS_HOST_SPACE_H
#define TESTS_HOST_SPACE_H

#include "walker.h"

extern struct machine machine; /* 16 MiB */
extern struct address_space space;

#define RW     (PAGING_READ | PAGING_WRITE)
#define V_LOW  ((vaddr_t)0x40000000)
#define V_HIGH ((vaddr_t)0xffffffff80000000)

/* Makes both anew, for a CPU of these features. */
void space_set_up(unsigned levels, unsigned physical_bits, bool huge_pages);

/* The walk, paging_query and paging_translate agree that `address` is this leaf, or that there is none. */
void assert_mapped(vaddr_t address, paddr_t expected, uint64_t leaf_bytes, paging_rights_t rights);
void assert_unmapped(vaddr_t address);

/* The call fails with that status and nothing at all has changed. */
#define EXPECT_UNCHANGED(call, expected)                                                           \
    do {                                                                                           \
        struct walker_snapshot before_call = walker_snapshot(&space);                              \
        assert_status(call, expected);                                                             \
        assert_snapshot_equal(&space, &before_call);                                               \
    } while (0)

#endif
