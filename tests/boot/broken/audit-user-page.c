/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* User code may read a page of the kernel half.
 *
 * seen by: audit: no user access to the kernel half */
#define BROKEN_BEGIN audit_user_page
#include "tests/boot/broken/broken.h"

static void audit_user_page(struct mm *mm)
{
    broken_map_spare(mm, broken_frame(mm), PAGING_USER);
}
