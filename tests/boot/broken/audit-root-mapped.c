/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* The root table can be read outside of the HHDM.
 *
 * seen by: audit: page tables are tables, reached through the HHDM alone */
#define BROKEN_BEGIN audit_root_mapped
#include "tests/boot/broken/broken.h"

static void audit_root_mapped(struct mm *mm)
{
    broken_map_spare(mm, mm->kernel_space.root, PAGING_READ);
}
