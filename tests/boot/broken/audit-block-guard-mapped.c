/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* The page below a block of kvm_alloc() is mapped.
 *
 * seen by: audit: guard pages are not mapped */
#define BROKEN_BEGIN audit_block_guard_mapped
#include "tests/boot/broken/broken.h"

static void audit_block_guard_mapped(struct mm *mm)
{
    vaddr_t block = 0;

    broken_require(kvm_alloc(&mm->kvm, PAGE_SIZE, 0, &block));
    broken_map(mm, block - PAGE_SIZE);
}
