/* SPDX-License-Identifier: MIT */
/* What the files here share: a kernel with one thing of mm or its port broken, to prove that the
 * stress test sees it (make BREAK=stress/name; tests/boot/cases_smp.py).
 *
 * As in ../broken.h, but the break is on while the stress test runs, on all CPUs. Each file has one
 * line "wrap:" with the functions for the linker (stress_run always), and one "seen as:" with a
 * pattern of the error. */
#ifndef TESTS_BOOT_BROKEN_STRESS_H
#define TESTS_BOOT_BROKEN_STRESS_H

#include "arch/x86_64/percpu.h"
#include "kernel/shootdown.h"
#include <mm/mm.h>

/* Declares the sound function and the broken one. */
#define BROKEN_WRAPS(type, name, ...)                                                              \
    type __real_##name(__VA_ARGS__);                                                               \
    type __wrap_##name(__VA_ARGS__)

#define BROKEN_EVERY 500u /* calls: one of so many goes wrong */

BROKEN_WRAPS(bool, stress_run, uint32_t seconds);

static uint32_t broken_now; /* atomic */
static uint32_t broken_calls;

/* True for one call in BROKEN_EVERY, while the stress test runs. */
static inline bool broken_this_time(void)
{
    return __atomic_load_n(&broken_now, __ATOMIC_RELAXED) != 0 &&
           __atomic_fetch_add(&broken_calls, 1, __ATOMIC_RELAXED) % BROKEN_EVERY ==
               BROKEN_EVERY - 1;
}

bool __wrap_stress_run(uint32_t seconds)
{
    bool result;

    __atomic_store_n(&broken_now, 1, __ATOMIC_RELAXED);
    result = __real_stress_run(seconds);
    __atomic_store_n(&broken_now, 0, __ATOMIC_RELAXED);
    return result;
}

#endif
