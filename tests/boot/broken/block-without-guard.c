/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kvm_alloc */
/* The page above a block is mapped.
 *
 * seen by: paging: a block of scattered frames stands between guard pages
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, kvm_alloc, struct kvm *kvm, uint64_t bytes, uint32_t flags, vaddr_t *out);

mm_status_t __wrap_kvm_alloc(struct kvm *kvm, uint64_t bytes, uint32_t flags, vaddr_t *out)
{
    mm_status_t status = __real_kvm_alloc(kvm, bytes, flags, out);

    if (broken_now && status == MM_OK)
        broken_map(mm_kernel(), *out + bytes);
    return status;
}
