/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* The guard page above the heap is mapped.
 *
 * seen by: paging: guard pages are not mapped */
#define BROKEN_BEGIN broken_begin
#include "tests/boot/broken/broken.h"

static void broken_begin(struct mm *mm)
{
    broken_map(mm, (vaddr_t)mm->heap + mm->kvm.heap_bytes);
}
