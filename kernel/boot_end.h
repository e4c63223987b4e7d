/* SPDX-License-Identifier: MIT */
/* What a boot leaves behind comes back when it is over. */
#ifndef KERNEL_BOOT_END_H
#define KERNEL_BOOT_END_H

#include <mm/types.h>

/* Gives the boot loader's memory back. Where a CPU may still run in it, all of it stays, and a warning
 * says so.
 *   Units:    `fill`: for tests, everything that comes back is overwritten first.
 *   Context:  boot CPU's thread, after smp_start(), once; nothing of the loader's is asked for any
 *             more. */
void boot_end(bool fill);

#endif
