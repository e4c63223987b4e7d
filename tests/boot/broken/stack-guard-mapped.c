/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* The guard page below the boot stack is mapped: an overflow would go unseen.
 *
 * seen by: paging: guard pages are not mapped */
#define BROKEN_BEGIN broken_begin
#include "tests/boot/broken/broken.h"

static void broken_begin(struct mm *mm)
{
    broken_map(mm, mm->boot.guard[0].begin);
}
