/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* The first page of the kernel's data is mapped without the global bit.
 *
 * seen by: paging: text is R-X, rodata R--, data and heap RW-, their aliases never executable */
#define BROKEN_BEGIN broken_begin
#include "tests/boot/broken/broken.h"

static void broken_begin(struct mm *mm)
{
    broken_remap(mm, mm->boot.data.begin, PAGING_WRITE);
}
