/* SPDX-License-Identifier: MIT */
/* Owns the walk through the page tables for fault reports, apart from mm/paging.c on purpose: it
 * takes no lock, believes nothing that it reads, and starts at the real CR3.
 *
 *   CR3 -> PML5e (with LA57) -> PML4e -> PDPTe -> PDe -> PTe       an entry with PS is a leaf
 *
 *   63 NX | 51..12 address | 12 PAT (large leaf) | 8 G | 7 PS, PAT (PTe) | 6 D | 5 A | 4 PCD
 *   | 3 PWT | 2 U | 1 W | 0 P
 *
 * Invariants: a table is read only where the memory map knows RAM, which is what the HHDM maps; at
 * most five entries are read. Source: SDM vol. 3, 4.5, tables 4-14 to 4-20; 11.12 (PAT). */
#include "kernel/walk.h"
#include "kernel/console.h"
#include <mm/mm.h>

#define WALK_PRESENT  ((uint64_t)1 << 0)
#define WALK_WRITE    ((uint64_t)1 << 1)
#define WALK_USER     ((uint64_t)1 << 2)
#define WALK_PWT      ((uint64_t)1 << 3)
#define WALK_PCD      ((uint64_t)1 << 4)
#define WALK_ACCESSED ((uint64_t)1 << 5)
#define WALK_DIRTY    ((uint64_t)1 << 6)
#define WALK_LARGE    ((uint64_t)1 << 7)
#define WALK_GLOBAL   ((uint64_t)1 << 8)
#define WALK_NX       ((uint64_t)1 << 63)
#define WALK_ADDRESS  0x000ffffffffff000u

#define WALK_MSR_EFER 0xc0000080u
#define WALK_MSR_PAT  0x277u
#define WALK_EFER_NXE ((uint64_t)1 << 11)

#define WALK_TEXT_MAX 160

static const char *const walk_level_names[] = { "", "PTe", "PDe", "PDPTe", "PML4e", "PML5e" };

/* ---- Entries ---- */

static bool walk_is_leaf(const struct walk_entry *entry)
{
    return entry->level == 1 || (entry->level <= 3 && (entry->value & WALK_LARGE) != 0);
}

/* Bytes that one entry of this level covers. */
static uint64_t walk_level_bytes(unsigned level)
{
    return (uint64_t)1 << (FRAME_SHIFT + 9 * (level - 1));
}

/* The table or leaf that the entry leads to. Bit 12 of a large leaf is no address. */
static paddr_t walk_target(const struct walk_entry *entry)
{
    uint64_t address = entry->value & WALK_ADDRESS;

    return walk_is_leaf(entry) ? mm_round_down(address, walk_level_bytes(entry->level)) : address;
}

/* Bits that must be 0: beyond MAXPHYADDR; PS where no such leaf exists; below a large leaf's
 * alignment; NX without EFER.NXE (SDM vol. 3, 4.5.4). */
static uint64_t walk_reserved_bits(const struct walk_entry *entry,
                                   const struct mm_cpu_features *cpu)
{
    uint64_t bits = WALK_ADDRESS & ~(((uint64_t)1 << cpu->physical_bits) - 1);

    if (entry->level > 3 || (entry->level == 3 && !cpu->huge_pages))
        bits |= WALK_LARGE;
    else if (entry->level > 1 && (entry->value & WALK_LARGE) != 0)
        bits |= (walk_level_bytes(entry->level) - 1) & ~(uint64_t)0x1fff;
    if (!cpu->nx || (mm_port_read_msr(WALK_MSR_EFER) & WALK_EFER_NXE) == 0)
        bits |= WALK_NX;
    return entry->value & bits;
}

/* ---- The walk ---- */

/* Only where the map knows RAM: the HHDM maps that, under the loader's tables as under our own. */
static bool walk_can_read(paddr_t table)
{
    const struct memmap *map = &mm_kernel()->map;
    const struct mm_range *range;

    if (hhdm_offset() == 0 || table >= hhdm_end() || map->count == 0)
        return false;
    range = memmap_find(map, table);
    return range != NULL && memmap_type_is_ram(range->type);
}

static bool walk_step(vaddr_t address, paddr_t table, unsigned level, struct walk *out,
                      const struct mm_cpu_features *cpu)
{
    struct walk_entry *entry = &out->entry[out->count];

    if (!walk_can_read(table)) {
        out->end = WALK_UNREADABLE;
        out->table = table;
        return false;
    }
    entry->level = level;
    entry->index = (unsigned)(address >> (FRAME_SHIFT + 9 * (level - 1))) & (PAGING_ENTRIES - 1);
    entry->at = table + entry->index * sizeof(uint64_t);
    entry->value = *(const volatile uint64_t *)phys_to_virt(entry->at);
    entry->reserved = 0;
    out->count++;
    out->end = WALK_NOT_PRESENT;
    if ((entry->value & WALK_PRESENT) == 0)
        return false;
    entry->reserved = walk_reserved_bits(entry, cpu);
    out->end = entry->reserved != 0 ? WALK_RESERVED_BIT : WALK_LEAF;
    return entry->reserved == 0 && !walk_is_leaf(entry);
}

void walk_tables(vaddr_t address, struct walk *out)
{
    struct mm_cpu_features cpu = mm_cpu_features();
    paddr_t table = mm_port_read_cr(3) & WALK_ADDRESS;

    out->count = 0;
    out->table = 0;
    out->end = WALK_NOT_CANONICAL;
    if (!paging_is_canonical(address, cpu.levels))
        return;
    for (unsigned level = cpu.levels; level > 0; level--) {
        if (!walk_step(address, table, level, out, &cpu))
            return;
        table = walk_target(&out->entry[out->count - 1]);
    }
}

/* ---- In words ---- */

static const char *walk_memory_type(const struct walk_entry *entry)
{
    static const char *const names[8] = { "uncached",   "write-combining", "?",
                                          "?",          "write-through",   "write-protected",
                                          "write-back", "uncached-" };
    uint64_t pat_bit = entry->level == 1 ? WALK_LARGE : (uint64_t)1 << 12;
    unsigned index = ((entry->value & pat_bit) != 0 ? 4u : 0) |
                     ((entry->value & WALK_PCD) != 0 ? 2u : 0) |
                     ((entry->value & WALK_PWT) != 0 ? 1u : 0);

    if (!mm_cpu_features().pat)
        return (index & 2) != 0 ? "uncached" : (index & 1) != 0 ? "write-through" : "write-back";
    return names[mm_port_read_msr(WALK_MSR_PAT) >> (8 * index) & 7];
}

static void walk_describe_rights(uint64_t allowed, bool no_execute, char text[16])
{
    (void)mm_format(text, 16, "R%c%c %s", (allowed & WALK_WRITE) != 0 ? 'W' : '-',
                    no_execute ? '-' : 'X', (allowed & WALK_USER) != 0 ? "user" : "kernel");
}

static void walk_describe_leaf(const struct walk_entry *entry, char *text)
{
    uint64_t kilobytes = walk_level_bytes(entry->level) >> 10;

    (void)mm_format(text, WALK_TEXT_MAX, "%llu %s at 0x%llx, %s",
                    (unsigned long long)(kilobytes >= 1024 ? kilobytes >> 10 : kilobytes),
                    kilobytes >= 1024 ? "MB" : "KB", (unsigned long long)walk_target(entry),
                    walk_memory_type(entry));
}

/* What the entry says, without the rights. */
static void walk_describe_target(const struct walk_entry *entry, char *text)
{
    if ((entry->value & WALK_PRESENT) == 0)
        (void)mm_format(text, WALK_TEXT_MAX, "not present");
    else if (entry->reserved != 0)
        (void)mm_format(text, WALK_TEXT_MAX, "reserved bits 0x%llx are set",
                        (unsigned long long)entry->reserved);
    else if (walk_is_leaf(entry))
        walk_describe_leaf(entry, text);
    else
        (void)mm_format(text, WALK_TEXT_MAX, "table 0x%llx",
                        (unsigned long long)walk_target(entry));
}

static void walk_print_entry(const struct walk_entry *entry)
{
    char target[WALK_TEXT_MAX], rights[16] = "";
    bool present = (entry->value & WALK_PRESENT) != 0;
    bool leaf = present && walk_is_leaf(entry);

    walk_describe_target(entry, target);
    if (present)
        walk_describe_rights(entry->value, (entry->value & WALK_NX) != 0, rights);
    console_print("    %-5s %3u at 0x%llx = 0x%016llx: %s%s%s%s%s%s",
                  walk_level_names[entry->level], entry->index, (unsigned long long)entry->at,
                  (unsigned long long)entry->value, target, present ? ", " : "", rights,
                  leaf && (entry->value & WALK_GLOBAL) != 0 ? " global" : "",
                  present && (entry->value & WALK_ACCESSED) != 0 ? " accessed" : "",
                  leaf && (entry->value & WALK_DIRTY) != 0 ? " dirty" : "");
}

/* A right holds only if every level gives it (SDM vol. 3, 4.6.1). */
static void walk_print_leaf(vaddr_t address, const struct walk *walk)
{
    const struct walk_entry *leaf = &walk->entry[walk->count - 1];
    uint64_t allowed = UINT64_MAX, forbidden = 0;
    char rights[16];

    for (unsigned i = 0; i < walk->count; i++) {
        allowed &= walk->entry[i].value;
        forbidden |= walk->entry[i].value & WALK_NX;
    }
    walk_describe_rights(allowed, forbidden != 0, rights);
    console_print("    together: physical 0x%llx, %s",
                  (unsigned long long)(walk_target(leaf) +
                                       (address & (walk_level_bytes(leaf->level) - 1))),
                  rights);
}

bool walk_is_user_page(vaddr_t address)
{
    uint64_t allowed = WALK_USER;
    struct walk walk;

    walk_tables(address, &walk);
    for (unsigned i = 0; i < walk.count; i++)
        allowed &= walk.entry[i].value;
    return walk.end == WALK_LEAF && allowed != 0;
}

void walk_print(vaddr_t address)
{
    struct walk walk;

    walk_tables(address, &walk);
    console_print("  page tables of 0x%016llx%s", (unsigned long long)address,
                  walk.end == WALK_NOT_CANONICAL ? ": none, it is not canonical" : "");
    for (unsigned i = 0; i < walk.count; i++)
        walk_print_entry(&walk.entry[i]);
    if (walk.end == WALK_LEAF)
        walk_print_leaf(address, &walk);
    else if (walk.end == WALK_UNREADABLE)
        console_print("    the table at 0x%llx lies in no known RAM and is not read",
                      (unsigned long long)walk.table);
}
