/* SPDX-License-Identifier: MIT */
/* One entry of an x86-64 page table: its bits, and how rights become bits. Internal to mm.
 *
 * SDM vol. 3, 4.5, tables 4-14 to 4-20; level 5 is the PML5, level 1 the page table:
 *
 *      63  62..52   51..12             11..9  8  7     6  5  4    3    2  1  0
 *      NX  count    physical address   ign.   G  PS    D  A  PCD  PWT  U  W  P
 *                                                PAT (level 1; bit 12 of a large leaf)
 *
 * `count` is ours: bits that the CPU ignores in an entry that leads to a table hold how many entries
 * of that table are present, so that an empty or a full one is known without reading it. In a leaf
 * they are 0 (bits 62..59 are the protection key there).
 *
 * Attributes are all bits of a leaf but its address, laid out as at level 1; level 2 and 3 have the PAT
 * bit elsewhere and PS in its place.
 *
 * Invariants: an entry that is not present is 0; one that leads to a table allows everything but user
 * access, and that where a leaf below allows it: rights are the leaf's. */
#ifndef MM_PAGING_ENTRY_H
#define MM_PAGING_ENTRY_H

#include <mm/paging.h>

#define ENTRY_PRESENT     ((uint64_t)1 << 0)
#define ENTRY_WRITE       ((uint64_t)1 << 1)
#define ENTRY_USER        ((uint64_t)1 << 2)
#define ENTRY_PWT         ((uint64_t)1 << 3)
#define ENTRY_PCD         ((uint64_t)1 << 4)
#define ENTRY_ACCESSED    ((uint64_t)1 << 5)
#define ENTRY_DIRTY       ((uint64_t)1 << 6)
#define ENTRY_LARGE       ((uint64_t)1 << 7)
#define ENTRY_GLOBAL      ((uint64_t)1 << 8)
#define ENTRY_NX          ((uint64_t)1 << 63)
#define ENTRY_PAT_4K      ((uint64_t)1 << 7)
#define ENTRY_PAT_LARGE   ((uint64_t)1 << 12)
#define ENTRY_ADDRESS     0x000ffffffffff000u
#define ENTRY_COUNT_SHIFT 52u
#define ENTRY_COUNT_ONE   ((uint64_t)1 << ENTRY_COUNT_SHIFT)
#define ENTRY_COUNT       ((uint64_t)0x7ff << ENTRY_COUNT_SHIFT)

/* ---- entries ---- */

static inline bool entry_is_present(uint64_t entry)
{
    return (entry & ENTRY_PRESENT) != 0;
}

static inline bool entry_is_leaf(uint64_t entry, unsigned level)
{
    return level == 1 || (entry & ENTRY_LARGE) != 0;
}

static inline uint64_t entry_count(uint64_t entry)
{
    return (entry & ENTRY_COUNT) >> ENTRY_COUNT_SHIFT;
}

static inline paddr_t entry_address(uint64_t entry, unsigned level)
{
    if (level > 1 && (entry & ENTRY_LARGE) != 0)
        return entry & ENTRY_ADDRESS & ~ENTRY_PAT_LARGE;
    return entry & ENTRY_ADDRESS;
}

/* One store of 8 bytes: another CPU's walk sees the old entry or the new one. */
static inline void entry_set(uint64_t *entry, uint64_t value)
{
    __atomic_store_n(entry, value, __ATOMIC_RELEASE);
}

/* Writes `count` entries, each `step` further than the one before. By fours, so that the loop's own
 * instructions are not what takes the time. */
static inline void entry_fill(uint64_t *entry, uint64_t count, uint64_t value, uint64_t step)
{
    for (; count >= 4; count -= 4) {
        entry_set(&entry[0], value);
        entry_set(&entry[1], value + step);
        entry_set(&entry[2], value + 2 * step);
        entry_set(&entry[3], value + 3 * step);
        entry += 4;
        value += 4 * step;
    }
    for (; count > 0; count--) {
        entry_set(entry++, value);
        value += step;
    }
}

/* Counts entries of the table below. The CPU may set the accessed bit meanwhile; nobody reads it
 * there, so it may get lost. */
static inline void entry_add_count(uint64_t *entry, int64_t entries)
{
    __atomic_store_n(entry, *entry + ((uint64_t)entries << ENTRY_COUNT_SHIFT), __ATOMIC_RELAXED);
}

/* ---- attributes ---- */

static inline uint64_t leaf_entry(paddr_t frame, unsigned level, uint64_t attributes)
{
    if (level == 1)
        return frame | attributes;
    return frame | (attributes & ~ENTRY_PAT_4K) | ENTRY_LARGE | (attributes & ENTRY_PAT_4K) << 5;
}

static inline uint64_t leaf_attributes(uint64_t entry, unsigned level)
{
    if (level == 1)
        return entry & ~ENTRY_ADDRESS;
    return (entry & ~(ENTRY_ADDRESS | ENTRY_LARGE)) | (entry & ENTRY_PAT_LARGE) >> 5;
}

/* The bits of all rights that there are; 0 if they are not allowed (paging_change.c). */
extern const uint64_t paging_attributes[PAGING_RIGHTS_ALL + 1];

static inline uint64_t attributes_of(paging_rights_t rights)
{
    return rights <= PAGING_RIGHTS_ALL ? paging_attributes[rights] : 0;
}

static inline paging_rights_t memory_type_of(uint64_t attributes)
{
    if ((attributes & ENTRY_PCD) != 0)
        return PAGING_UNCACHED;
    if ((attributes & ENTRY_PWT) == 0)
        return PAGING_WRITE_BACK;
    return (attributes & ENTRY_PAT_4K) != 0 ? PAGING_WRITE_COMBINING : PAGING_WRITE_THROUGH;
}

/* What an entry with these bits gives: W and U where they are set, X where NX is not. */
static inline paging_rights_t rights_of(uint64_t attributes)
{
    return ((attributes & ENTRY_WRITE) != 0 ? PAGING_WRITE : 0) |
           ((attributes & ENTRY_USER) != 0 ? PAGING_USER : 0) |
           ((attributes & ENTRY_NX) == 0 ? PAGING_EXECUTE : 0);
}

/* Narrows the bits that the levels above give, `above`, by those of an entry (SDM vol. 3, 4.6). */
static inline uint64_t attributes_narrow(uint64_t above, uint64_t entry)
{
    return (above & entry & (ENTRY_WRITE | ENTRY_USER)) | ((above | entry) & ENTRY_NX);
}

#define ATTRIBUTES_ALL (ENTRY_WRITE | ENTRY_USER) /* what stands above the root */

/* Effective rights of a leaf whose levels, itself included, narrow to `narrowed`. */
static inline paging_rights_t leaf_rights(uint64_t narrowed, uint64_t entry, unsigned level)
{
    return rights_of(narrowed) | memory_type_of(leaf_attributes(entry, level)) |
           ((entry & ENTRY_GLOBAL) != 0 ? PAGING_GLOBAL : 0);
}

/* ---- addresses ---- */

static inline unsigned level_shift(unsigned level)
{
    return FRAME_SHIFT + 9 * (level - 1);
}

/* Bytes that one entry of a table of this level covers. */
static inline uint64_t level_bytes(unsigned level)
{
    return (uint64_t)1 << level_shift(level);
}

static inline size_t entry_index(vaddr_t address, unsigned level)
{
    return (address >> level_shift(level)) & (PAGING_ENTRIES - 1);
}

static inline bool is_upper_half(vaddr_t address)
{
    return (int64_t)address < 0;
}

/* A part of a range. `bytes` rather than an end: the last range ends at 2^64. */
struct piece {
    vaddr_t page;
    paddr_t frame; /* where frames are given and contiguous */
    uint64_t bytes;
};

/* `rest` begins so many bytes later. */
static inline void piece_advance(struct piece *rest, uint64_t bytes)
{
    rest->page += bytes;
    rest->frame += bytes;
    rest->bytes -= bytes;
}

/* The first part of `rest` that one entry of this level covers; `rest` begins behind it then. */
static inline struct piece piece_split(struct piece *rest, unsigned level)
{
    uint64_t size = level_bytes(level);
    uint64_t to_end = size - (rest->page & (size - 1));
    struct piece first = *rest;

    if (first.bytes > to_end)
        first.bytes = to_end;
    piece_advance(rest, first.bytes);
    return first;
}

#endif
