/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* A page is mapped in the lower half.
 *
 * seen by: paging: the lower half is empty */
#define BROKEN_BEGIN broken_begin
#include "tests/boot/broken/broken.h"

static void broken_begin(struct mm *mm)
{
    broken_map(mm, MM_MIB(4));
}
