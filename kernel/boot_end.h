/* SPDX-License-Identifier: MIT */
/* What a boot leaves behind comes back when it is over. */
#ifndef KERNEL_BOOT_END_H
#define KERNEL_BOOT_END_H

#include <mm/types.h>

/* Gives the boot loader's memory back, and the parts of the image that only the boot needs; what is never
 * written from here on becomes read-only. Where a CPU may still run in the loader's memory, all of that
 * stays, and a warning says so.
 *   Units:    `fill`: for tests, everything that comes back is overwritten first.
 *   Context:  boot CPU's thread, after smp_start(), once; nothing of the loader's is asked for and
 *             nothing of .init is used any more. */
void boot_end(bool fill);

#endif
