/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kvm_free */
/* kvm_free does nothing.
 *
 * seen by: paging: a block of scattered frames stands between guard pages
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void, kvm_free, struct kvm *kvm, vaddr_t address);

void __wrap_kvm_free(struct kvm *kvm, vaddr_t address)
{
    if (!broken_now)
        __real_kvm_free(kvm, address);
}
