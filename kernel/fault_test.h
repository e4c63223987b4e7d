/* SPDX-License-Identifier: MIT */
/* Deliberate machine faults: proof that the protection which mm sets up is really on. */
#ifndef KERNEL_FAULT_TEST_H
#define KERNEL_FAULT_TEST_H

#include "kernel/options.h"
#include <mm/bootinfo.h>

/* Commits the fault that the word `mello.fault=<name>` names. Does not return: the machine's
 * report ends the system, or, if nothing traps, a line `FAULT NOT TRAPPED: <name>` and
 * POWER_TEST_FAILED. An unknown name is an error line that lists the names. */
_Noreturn void fault_test_run(const struct mm_cmdline_word *word, const struct boot_info *boot);

#endif
