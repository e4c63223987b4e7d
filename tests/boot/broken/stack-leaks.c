/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kvm_free_stack */
/* kvm_free_stack does nothing.
 *
 * seen by: paging: a kernel stack stands between guard pages
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void, kvm_free_stack, struct kvm *kvm, vaddr_t top);

void __wrap_kvm_free_stack(struct kvm *kvm, vaddr_t top)
{
    if (!broken_now)
        __real_kvm_free_stack(kvm, top);
}
