/* SPDX-License-Identifier: MIT */
/* Owns the search in the symbol table; the table itself is made while the kernel is linked.
 *
 *   link without names -> nm -> tools/symbols.awk -> symbols.S -> link with names
 *
 *   symbols_table   begin, bytes, name | begin, bytes, name | ...      at the end of .rodata
 *                   from __kernel_begin (.text, .rodata) | from __data_begin (.data, .bss)
 *                                              symbols_split ^              symbols_count ^
 *   symbols_names   "_start" 0 "gdt_init" 0 ...
 *
 * Invariants: both parts are sorted by `begin`; the Makefile checks that the second link has moved
 * nothing, so that the table is true. */
#include "kernel/symbols.h"
#include "kernel/image.h"

struct symbols_entry {
    uint32_t begin;
    uint32_t bytes;
    uint32_t name; /* offset into symbols_names */
};

extern const uint32_t symbols_count, symbols_split;
extern const struct symbols_entry symbols_table[];
extern const char symbols_names[];

/* The first entry of [from, to) that begins behind `offset`; `to` if there is none. */
static uint32_t symbols_first_behind(uint32_t from, uint32_t to, uint64_t offset)
{
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (symbols_table[middle].begin <= offset)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

bool symbols_find(vaddr_t address, struct boot_symbol *out)
{
    bool is_data = address >= (vaddr_t)__data_begin;
    vaddr_t base = (vaddr_t)(is_data ? __data_begin : __kernel_begin);
    uint32_t from = is_data ? symbols_split : 0;
    uint32_t to = is_data ? symbols_count : symbols_split;

    if (address < base || address >= (vaddr_t)__kernel_end)
        return false;
    uint32_t behind = symbols_first_behind(from, to, address - base);
    if (behind == from)
        return false;
    const struct symbols_entry *entry = &symbols_table[behind - 1];
    if (address - base - entry->begin >= entry->bytes)
        return false;
    *out = (struct boot_symbol){ .name = &symbols_names[entry->name],
                                 .begin = base + entry->begin,
                                 .bytes = entry->bytes };
    return true;
}
