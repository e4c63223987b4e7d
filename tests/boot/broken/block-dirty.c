/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kvm_alloc */
/* The last byte of a block is not zero.
 *
 * seen by: paging: a block of scattered frames stands between guard pages
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(mm_status_t, kvm_alloc, struct kvm *kvm, uint64_t bytes, uint32_t flags, vaddr_t *out);

mm_status_t __wrap_kvm_alloc(struct kvm *kvm, uint64_t bytes, uint32_t flags, vaddr_t *out)
{
    mm_status_t status = __real_kvm_alloc(kvm, bytes, flags, out);

    if (broken_now && status == MM_OK)
        *(uint8_t *)(uintptr_t)(*out + bytes - 1) = 1;
    return status;
}
