/* SPDX-License-Identifier: MIT */
/* The loader's own memory map: who owns each byte of physical memory, by Limine's types. */
#ifndef LOADER_MEMORY_H
#define LOADER_MEMORY_H

#include "loader/base.h"

#define MEMORY_RANGES_MAX 1024

/* The protocol's numbers. */
enum memory_type {
    MEMORY_USABLE = 0,
    MEMORY_RESERVED = 1,
    MEMORY_ACPI_RECLAIMABLE = 2,
    MEMORY_ACPI_NVS = 3,
    MEMORY_BAD = 4,
    MEMORY_LOADER = 5,     /* bootloader reclaimable */
    MEMORY_EXECUTABLE = 6, /* executable and modules */
    MEMORY_FRAMEBUFFER = 7,
};

struct memory_range {
    uint64_t base;
    uint64_t end;
    enum memory_type type;
};

/* Adds one row of the firmware's map (E820 numbering; an unknown type is reserved).
 *   Rows may overlap and come in any order: the most restrictive type wins. Usable memory is
 *   rounded inward to pages, everything else outward. What lies beyond the CPU's physical
 *   addresses is cut off and said. */
void memory_add_e820(uint64_t base, uint64_t bytes, uint32_t type);

/* Makes [base, end) reserved, whatever it was. */
void memory_reserve(uint64_t base, uint64_t end);

/* Changes [base, end), rounded outward to pages, from usable to `type`.
 *   Returns: false, and nothing changed, when a part of it is not usable. */
bool memory_take(uint64_t base, uint64_t end, enum memory_type type);

/* As memory_take, but what is loader or executable memory already may stay so. */
bool memory_claim(uint64_t base, uint64_t end, enum memory_type type);

/* Marks the framebuffer, rounded outward to pages; false when it would cover usable memory. */
bool memory_mark_framebuffer(uint64_t base, uint64_t end);

/* Takes whole pages from the top of the usable memory between 1 MiB and 4 GiB. `what` names them in
 * the message when there is no room. Content: as it was. */
uint64_t memory_alloc(uint64_t bytes, uint64_t align, enum memory_type type, const char *what);

/* As memory_alloc, MEMORY_LOADER, cleared. */
uint64_t memory_alloc_zeroed(uint64_t bytes, const char *what);

/* The ranges in ascending order; disjoint, page aligned. */
size_t memory_count(void);
const struct memory_range *memory_get(size_t index);

#endif
