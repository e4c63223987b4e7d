/* SPDX-License-Identifier: MIT */
/* Shared by the tests of mello.test=<name> (kernel/cpu_test*.c) and nobody else. */
#ifndef KERNEL_CPU_TEST_PARTS_H
#define KERNEL_CPU_TEST_PARTS_H

#include <mm/log.h>

/* Keeps the first failure and ends the waiting of all CPUs. */
MM_COLD void cpu_test_fail(const char *format, ...) MM_PRINTF(1, 2);
bool cpu_test_has_failed(void);

/* Waits until *value is at least `least`; false when the test has failed, or fails for it. */
bool cpu_test_wait(const uint32_t *value, uint32_t least, const char *what);

/* The `number`th meeting (from 1 on): returns when all CPUs have come to it; false as above. */
bool cpu_test_meet(unsigned number);

/* The tests in files of their own. */
void cpu_test_barrier(void);
void cpu_test_barrier_left_out(void);
void cpu_test_barrier_stores_late(void);
void cpu_test_demand(void);
void cpu_test_leaks(void);
void cpu_test_misuse(void);

#endif
