/* SPDX-License-Identifier: MIT */
/* Page tables: the loader's own identity map, and the ones the kernel starts on. */
#ifndef LOADER_PAGETABLES_H
#define LOADER_PAGETABLES_H

#include "loader/base.h"

struct hhdm;
struct kernel_image;

/* Makes sure that the loader itself can reach [base, end), above 4 GiB too. */
void pagetables_reach(uint64_t base, uint64_t end);

/* Builds the kernel's tables: HHDM read-write-execute as other loaders give it, the image with its
 * segments' rights, the lower half empty.
 *   Returns: the physical address of the top-level table. */
uint64_t pagetables_build(const struct hhdm *hhdm, const struct kernel_image *image);

#endif
