/* SPDX-License-Identifier: MIT */
/* What mm's page tables are compared with: a walk from the root for each page, in C.
 *
 *   walk        no lock, no check of what it is given, one CPU only
 *   walk_lock   the same behind the port's lock, as a kernel of several CPUs has to have it
 *
 * As good as the idea allows: the level is a constant where a walk is inlined, and making a table, which is
 * rare, is not. A table that has become empty stays until the end. */
#include "bench/tables.h"

#include <stdlib.h>
#include <string.h>

static uint64_t *walk_root;
static struct mm_port_lock walk_lock;

static uint64_t *walk_table(paddr_t table)
{
    return (uint64_t *)(void *)(tables_ram + table);
}

static __attribute__((noinline)) paddr_t walk_new_table(void)
{
    paddr_t table;

    if (pmm_alloc_table(&tables_pmm, &table) != MM_OK)
        abort();
    return table;
}

/* The page's table of leaves of 2^last bytes; tables that are not there are made. Inlined, so that `last` is
 * a constant. */
static inline __attribute__((always_inline)) uint64_t *walk_make(vaddr_t page, unsigned last)
{
    uint64_t *table = walk_root;

    for (unsigned shift = 39; shift > last; shift -= 9) {
        uint64_t *entry = &table[page >> shift & 511];

        if (__builtin_expect((*entry & 1) == 0, 0))
            *entry = walk_new_table() | 3;
        table = walk_table(*entry & 0xffffffffff000);
    }
    return table;
}

static int walk_map(vaddr_t page, paddr_t frame, uint64_t bits)
{
    uint64_t *entry = &walk_make(page, 12)[page >> 12 & 511];

    if ((*entry & 1) != 0)
        return 1;
    *entry = frame | bits;
    return 0;
}

/* The entry of a page, of whatever size; NULL if there is none. */
static inline uint64_t *walk_find(vaddr_t page, unsigned *out_shift)
{
    uint64_t *table = walk_root;

    for (unsigned shift = 39;; shift -= 9) {
        uint64_t *entry = &table[page >> shift & 511];

        if ((*entry & 1) == 0)
            return NULL;
        if (shift == 12 || (*entry & 0x80) != 0) {
            *out_shift = shift;
            return entry;
        }
        table = walk_table(*entry & 0xffffffffff000);
    }
}

static int walk_unmap(vaddr_t page, paddr_t *frame)
{
    unsigned shift;
    uint64_t *entry = walk_find(page, &shift);

    if (entry == NULL || shift != 12)
        return 1;
    *frame = *entry & 0xffffffffff000;
    *entry = 0;
    mm_port_invlpg(page);
    return 0;
}

static int walk_protect(vaddr_t page, uint64_t bits)
{
    unsigned shift;
    uint64_t *entry = walk_find(page, &shift);

    if (entry == NULL || shift != 12)
        return 1;
    *entry = (*entry & 0xffffffffff000) | bits;
    mm_port_invlpg(page);
    return 0;
}

static int walk_translate(vaddr_t address, paddr_t *out)
{
    unsigned shift;
    uint64_t *entry = walk_find(address, &shift);

    if (entry == NULL)
        return 1;
    uint64_t mask = ((uint64_t)1 << shift) - 1;
    *out = (*entry & 0xffffffffff000 & ~mask) | (address & mask);
    return 0;
}

/* A 2 MiB leaf becomes 512 pages, of which one gets other bits. */
static int walk_split(vaddr_t page, uint64_t bits)
{
    unsigned shift;
    uint64_t *entry = walk_find(page, &shift);

    if (entry == NULL || shift != 21)
        return 1;
    paddr_t table = walk_new_table();
    for (uint64_t i = 0; i < 512; i++)
        walk_table(table)[i] = (*entry & ~(uint64_t)0x80) + i * 4096;
    walk_table(table)[page >> 12 & 511] = (*entry & 0xfffffffe00000) + (page & 0x1ff000) + bits;
    *entry = table | 3;
    mm_port_invlpg(page);
    return 0;
}

static int walk_map_large(vaddr_t page, paddr_t frame, uint64_t bits)
{
    walk_make(page, 21)[page >> 21 & 511] = frame | bits | 0x80;
    return 0;
}

static void walk_begin(void)
{
    walk_root = walk_table(walk_new_table());
}

static void walk_free(uint64_t *table, unsigned level)
{
    for (unsigned i = 0; level > 1 && i < 512; i++)
        if ((table[i] & 1) != 0 && (level == 4 || (table[i] & 0x80) == 0))
            walk_free(walk_table(table[i] & 0xffffffffff000), level - 1);
    memset(table, 0, 4096);
    pmm_free_table(&tables_pmm, (paddr_t)((char *)table - tables_ram));
}

static void walk_end(void)
{
    walk_free(walk_root, 4);
}

/* ---- As subjects ---- */

#define WALK_BITS(rights) (((rights)&PAGING_WRITE) != 0 ? 0x8000000000000103u : 0x8000000000000101u)

static int plain_map(vaddr_t page, paddr_t frame, paging_rights_t rights)
{
    return walk_map(page, frame, WALK_BITS(rights));
}

static int plain_map_large(vaddr_t page, paddr_t frame, paging_rights_t rights)
{
    return walk_map_large(page, frame, WALK_BITS(rights));
}

static int plain_unmap(vaddr_t page, paddr_t *frame)
{
    return walk_unmap(page, frame);
}

static int plain_protect(vaddr_t page, paging_rights_t rights)
{
    return walk_protect(page, WALK_BITS(rights));
}

static int plain_split(vaddr_t page, paging_rights_t rights)
{
    return walk_split(page, WALK_BITS(rights));
}

#define LOCKED(call)                                                                               \
    do {                                                                                           \
        uint64_t saved = mm_port_lock(&walk_lock);                                                 \
        int status = (call);                                                                       \
        mm_port_unlock(&walk_lock, saved);                                                         \
        return status;                                                                             \
    } while (0)

static int locked_map(vaddr_t page, paddr_t frame, paging_rights_t rights)
{
    LOCKED(walk_map(page, frame, WALK_BITS(rights)));
}

static int locked_map_large(vaddr_t page, paddr_t frame, paging_rights_t rights)
{
    LOCKED(walk_map_large(page, frame, WALK_BITS(rights)));
}

static int locked_unmap(vaddr_t page, paddr_t *frame)
{
    LOCKED(walk_unmap(page, frame));
}

static int locked_protect(vaddr_t page, paging_rights_t rights)
{
    LOCKED(walk_protect(page, WALK_BITS(rights)));
}

static int locked_translate(vaddr_t address, paddr_t *out)
{
    LOCKED(walk_translate(address, out));
}

static int locked_split(vaddr_t page, paging_rights_t rights)
{
    LOCKED(walk_split(page, WALK_BITS(rights)));
}

const struct tables_subject tables_walk = {
    "walk",      walk_begin,    walk_end,       plain_map,   plain_map_large,
    plain_unmap, plain_protect, walk_translate, plain_split,
};

const struct tables_subject tables_walk_lock = {
    "walk_lock",  walk_begin,     walk_end,         locked_map,   locked_map_large,
    locked_unmap, locked_protect, locked_translate, locked_split,
};
