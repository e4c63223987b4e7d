/* SPDX-License-Identifier: MIT */
/* mello.test=<name>: tests of what only several CPUs together can show. */
#ifndef KERNEL_CPU_TEST_H
#define KERNEL_CPU_TEST_H

#include "kernel/options.h"

/* Runs the test that the word `mello.test=<name>` names: one line `[MM] ✓ <name>: ...` or
 * `[MM] ✗ <name>: <why>`. An unknown name, and a test that needs more CPUs than run, is an error
 * line and the end (POWER_PANIC).
 *   Returns:  whether it passed.
 *   Context:  boot CPU's thread, interrupts on, after smp_start(). */
MM_MUST_USE bool cpu_test_run(const struct mm_cmdline_word *word);

#endif
