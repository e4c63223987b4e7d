/* SPDX-License-Identifier: MIT */
/* The memory map in its normal form. This header is part of the public API of mm/.
 *
 * Input: rows in any order and number, overlapping, unaligned, wrapping, of unknown types. Output:
 * ranges that are sorted, disjoint, frame-aligned and merged; usable ones rounded inward, all others
 * outward; where types overlap the most restrictive wins (usable < loader < ACPI reclaimable <
 * executable < framebuffer < ACPI NVS < metadata < reserved < bad). The result is the same for every
 * permutation of the rows. It lives in usable memory of the map itself. */
#ifndef MM_MEMMAP_H
#define MM_MEMMAP_H

#include <mm/bootinfo.h>
#include <mm/status.h>

MM_BEGIN_DECLS

#define MM_LOW_MEMORY_END MM_MIB(1) /* firmware still writes below this */

/* One range of the normal form, [base, end). */
struct mm_range {
    paddr_t base;
    paddr_t end;
    uint64_t type; /* enum boot_range_type */
};

struct memmap {
    struct mm_range *ranges; /* in the HHDM */
    size_t count;
    size_t capacity;
    uint64_t total_bytes;  /* RAM: usable, loader, executable, ACPI (metadata is in usable) */
    uint64_t usable_bytes; /* usable as the rows gave it, after the rules */
    paddr_t ram_end;       /* end of the last range that is RAM */
    paddr_t end;           /* end of the last range that the HHDM holds (RAM and framebuffer) */
};

/* Tells whether [base, end) touches memory that is in use although no row says so (the live page
 * tables).
 *   Returns:  the first address behind the obstacle, or `base` if there is none. */
typedef paddr_t (*memmap_obstacle_fn)(void *context, paddr_t base, paddr_t end);

/* Builds the normal form of boot->map and boot->keep.
 *   Units:      `limit`: first physical address that the CPU cannot form, 2^MAXPHYADDR.
 *   Returns:    MM_OK and the map in *map. boot->map's pointers are sorted by base.
 *   On failure: MM_NO_USABLE_MEMORY: no usable frame above 1 MiB, or none with room for the map.
 *   Repairs:    each is one `[MM]` line at level info.
 *   Cost:       O(n log n) time, no memory beside the result.
 *   Source:     Limine protocol, Memory Map feature; the HHDM must be up (init_hhdm). */
MM_MUST_USE mm_status_t memmap_build(struct memmap *map, const struct boot_info *boot,
                                     paddr_t limit, memmap_obstacle_fn obstacle, void *context);

/* Takes `bytes` (rounded up to frames) out of the usable ranges for mm's own bookkeeping: the first
 * place at or above 16 MiB, else at or above 1 MiB, that meets no obstacle.
 *   Returns:    MM_OK and the base in *out; the range is now BOOT_METADATA.
 *   On failure: MM_OUT_OF_MEMORY. */
MM_MUST_USE mm_status_t memmap_take(struct memmap *map, uint64_t bytes, memmap_obstacle_fn obstacle,
                                    void *context, paddr_t *out);

/* Joins neighbours of one type, after types have changed. While it works, a memmap_find() elsewhere may
 * name a neighbour. */
void memmap_merge(struct memmap *map);

/* The range that holds the address, or NULL. O(log n). */
const struct mm_range *memmap_find(const struct memmap *map, paddr_t address);

/* True for memory that behaves like RAM and that the frame allocator may come to own: usable,
 * metadata, loader-reclaimable, executable. */
bool memmap_type_is_ram(uint64_t type);

/* "usable", "reserved", ...; never NULL. */
const char *memmap_type_name(uint64_t type);

/* Logs the ranges, one line each: the first 64 at level info, the others at level debug. */
void memmap_log(const struct memmap *map);

MM_END_DECLS
#endif
