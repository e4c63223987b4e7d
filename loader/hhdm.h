/* SPDX-License-Identifier: MIT */
/* The higher-half direct map: where it begins and which physical memory it holds. */
#ifndef LOADER_HHDM_H
#define LOADER_HHDM_H

#include "loader/base.h"

struct kernel_image;
struct loader_options;

/* A stretch of physical memory that is mapped as one, [base, end). */
struct hhdm_stretch {
    uint64_t base;
    uint64_t end;
    bool framebuffer; /* write-combining */
};

struct hhdm {
    uint64_t offset;
    unsigned levels; /* of page tables: 4 or 5 */
    size_t count;
    const struct hhdm_stretch *stretches; /* ascending, disjoint, page aligned */
};

/* Collects what the memory map and the base revision put into the HHDM, chooses its offset, and
 * fails by name where a given offset cannot be used. The framebuffer must be in the map already. */
void hhdm_plan(const struct loader_options *options, unsigned levels,
               const struct kernel_image *image, struct hhdm *out);

/* The kernel's address of a place in the loader's memory. */
static inline uint64_t hhdm_address(const struct hhdm *hhdm, const volatile void *place)
{
    return hhdm->offset + pointer_phys(place);
}

#endif
