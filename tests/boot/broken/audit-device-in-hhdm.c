/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* The HHDM shows the registers of the local APIC, as if they were RAM.
 *
 * seen by: audit: the HHDM shows RAM, in its place, not executable */
#define BROKEN_BEGIN audit_device_in_hhdm
#include "tests/boot/broken/broken.h"

static void audit_device_in_hhdm(struct mm *mm)
{
    broken_require(paging_map_page(&mm->kernel_space, hhdm_offset() + 0xfee00000, 0xfee00000,
                                   PAGING_WRITE | PAGING_GLOBAL));
}
