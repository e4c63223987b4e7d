/* SPDX-License-Identifier: MIT */
/* wrap: stress_run mm_port_lock */
/* A lock keeps interrupts away and lets every CPU in.
 *
 * What goes wrong first is chance: the stress test sees it, or mm finds a caller's bug or its own
 * state damaged.
 *
 * seen as: .+ */
#include "tests/boot/broken/stress/stress.h"

BROKEN_WRAPS(uint64_t, mm_port_lock, struct mm_port_lock *lock);

uint64_t __wrap_mm_port_lock(struct mm_port_lock *lock)
{
    struct mm_port_lock nobodys = { 0 };
    uint64_t saved;

    if (!broken_now)
        return __real_mm_port_lock(lock);
    saved = __real_mm_port_lock(&nobodys);
    __atomic_fetch_add(&lock->word, 0x10000, __ATOMIC_RELAXED); /* what the unlocking expects */
    return saved;
}
