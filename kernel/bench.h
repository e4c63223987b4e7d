/* SPDX-License-Identifier: MIT */
/* mm.bench=frames|paging|heap|all: what calls of the memory manager cost on this machine. */
#ifndef KERNEL_BENCH_H
#define KERNEL_BENCH_H

#include <mm/types.h>

/* Prints one line for each workload of the suites (MM_BENCH_* of mm/cmdline.h):
 *
 *      [BENCH] suite=frames workload=pair_hot unit=insn value=80
 *
 * `unit` is insn (instructions) where the time-stamp counter counts these, under QEMU's -icount
 * shift=0, else ticks. The value is that of one operation, rounded.
 *   Units:    0: nothing at all is done.
 *   Returns:  false if a workload could not be run; one line says which.
 *   Context:  boot CPU's thread, after smp_start(), with nobody else using mm. */
MM_MUST_USE bool bench_run(unsigned suites);

#endif
