/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* A constant has a second mapping, writable.
 *
 * seen by: audit: no writable mapping of a constant */
#define BROKEN_BEGIN audit_rodata_mapped_twice
#include "tests/boot/broken/broken.h"

static void audit_rodata_mapped_twice(struct mm *mm)
{
    broken_map_spare(mm, mm->boot.kernel_phys + (mm->boot.rodata.begin - mm->boot.kernel_virt),
                     PAGING_WRITE);
}
