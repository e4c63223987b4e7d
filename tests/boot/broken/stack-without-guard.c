/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kvm_alloc_stack */
/* The page above a kernel stack is mapped.
 *
 * seen by: paging: a kernel stack stands between guard pages
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, kvm_alloc_stack, struct kvm *kvm, uint64_t bytes, vaddr_t *top);

mm_status_t __wrap_kvm_alloc_stack(struct kvm *kvm, uint64_t bytes, vaddr_t *top)
{
    mm_status_t status = __real_kvm_alloc_stack(kvm, bytes, top);

    if (broken_now && status == MM_OK)
        broken_map(mm_kernel(), *top);
    return status;
}
