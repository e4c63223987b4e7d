/* SPDX-License-Identifier: MIT */
/* Page tables: the loader's own identity map, and the ones the kernel starts on.
 *
 *   level 5    level 4   level 3   level 2   level 1      (PML5, PML4, PDPT, PD, PT)
 *   256 TiB    512 GiB   1 GiB     2 MiB     4 KiB        covered by one entry
 *
 *   entry  | NX 63 | physical 51..12 | PAT 12 (large) | PS or PAT 7 | PCD 4 | PWT 3 | W 1 | P 0 |
 *
 * Both trees are filled by one recursive function that stores the largest leaf that fits: a start
 * of 1 TiB costs half a million stores with 2 MiB leaves, a thousand with 1 GiB leaves. Memory
 * types follow the protocol's PAT: entry 0 is write-back, 5 (PAT and PWT) is write-combining.
 * SDM vol. 3A, sections 4.5 (formats) and 4.9.2 (PAT). */
#include "loader/pagetables.h"

#include "loader/cpu.h"
#include "loader/elf.h"
#include "loader/hhdm.h"
#include "loader/memory.h"
#include "loader/print.h"

#define PTE_PRESENT    (1ul << 0)
#define PTE_WRITABLE   (1ul << 1)
#define PTE_PWT        (1ul << 3)
#define PTE_LARGE      (1ul << 7)
#define PTE_PAT        (1ul << 7)
#define PTE_PAT_LARGE  (1ul << 12)
#define PTE_NO_EXECUTE (1ul << 63)
#define PTE_ADDRESS    0x000ffffffffff000ul
#define TABLE_ENTRIES  512

extern uint64_t boot_pml4[TABLE_ENTRIES]; /* entry.S: virtual = physical for [0, 4 GiB) */

struct pagetables {
    uint64_t *root;
    unsigned levels;       /* 4 or 5 */
    unsigned largest_leaf; /* level of the largest leaf: 2 = 2 MiB, 3 = 1 GiB */
};

/* What is still to be mapped; advances while it is filled in. */
struct mapping {
    uint64_t virt;
    uint64_t phys;
    uint64_t bytes;
    uint64_t rights; /* PTE_WRITABLE, PTE_NO_EXECUTE */
    bool write_combining;
};

static uint64_t pagetables_level_bytes(unsigned level)
{
    return PAGE_BYTES << (9 * (level - 1));
}

static uint64_t pagetables_leaf(const struct mapping *map, unsigned level)
{
    uint64_t entry = map->phys | map->rights | PTE_PRESENT;

    if (level > 1) {
        entry |= PTE_LARGE;
    }
    if (map->write_combining) {
        entry |= PTE_PWT | (level > 1 ? PTE_PAT_LARGE : PTE_PAT);
    }
    return entry;
}

/* The table behind an entry; a new, empty one where there is none. */
static uint64_t *pagetables_descend(uint64_t *entry, uint64_t virt)
{
    if ((*entry & PTE_PRESENT) == 0) {
        *entry = memory_alloc_zeroed(PAGE_BYTES, "page tables") | PTE_PRESENT | PTE_WRITABLE;
    } else if ((*entry & PTE_LARGE) != 0) {
        print_fail("page tables: %#lx is mapped twice", virt);
    }
    return phys_pointer(*entry & PTE_ADDRESS);
}

/* Fills in what of *map this table covers from map->virt on. */
static void pagetables_fill(uint64_t *table, unsigned level, unsigned largest_leaf,
                            struct mapping *map)
{
    uint64_t span = pagetables_level_bytes(level);

    for (uint64_t index = map->virt / span % TABLE_ENTRIES; index < TABLE_ENTRIES; index++) {
        if (map->bytes == 0) {
            return;
        }
        if (level > largest_leaf || map->bytes < span || (map->virt | map->phys) % span != 0) {
            pagetables_fill(pagetables_descend(&table[index], map->virt), level - 1, largest_leaf,
                            map);
            continue;
        }
        if ((table[index] & PTE_PRESENT) != 0) {
            print_fail("page tables: %#lx is mapped twice", map->virt);
        }
        table[index] = pagetables_leaf(map, level);
        map->virt += span;
        map->phys += span;
        map->bytes -= span;
    }
}

static void pagetables_map(const struct pagetables *tables, struct mapping map)
{
    pagetables_fill(tables->root, tables->levels, tables->largest_leaf, &map);
}

static bool pagetables_is_mapped(const struct pagetables *tables, uint64_t virt)
{
    const uint64_t *table = tables->root;

    for (unsigned level = tables->levels;; level--) {
        uint64_t entry = table[virt / pagetables_level_bytes(level) % TABLE_ENTRIES];

        if ((entry & PTE_PRESENT) == 0) {
            return false;
        }
        if (level == 1 || (entry & PTE_LARGE) != 0) {
            return true;
        }
        table = phys_pointer(entry & PTE_ADDRESS);
    }
}

void pagetables_reach(uint64_t base, uint64_t end)
{
    const struct pagetables boot = { boot_pml4, 4, 2 };
    const uint64_t step = pagetables_level_bytes(2);

    for (uint64_t at = align_down(base, step); at < end; at += step) {
        if (!pagetables_is_mapped(&boot, at)) {
            pagetables_map(&boot, (struct mapping){ at, at, step, PTE_WRITABLE, false });
        }
    }
    cpu_reload_cr3();
}

/* 1 GiB leaves where the CPU has them (SDM vol. 2A, CPUID leaf 80000001h, EDX bit 26). */
static unsigned pagetables_largest_leaf(void)
{
    return (cpu_id(0x80000001, 0).edx >> 26 & 1) != 0 ? 3 : 2;
}

static void pagetables_map_hhdm(const struct pagetables *tables, const struct hhdm *hhdm)
{
    for (size_t i = 0; i < hhdm->count; i++) {
        const struct hhdm_stretch *stretch = &hhdm->stretches[i];

        pagetables_map(tables, (struct mapping){ .virt = hhdm->offset + stretch->base,
                                                 .phys = stretch->base,
                                                 .bytes = stretch->end - stretch->base,
                                                 .rights = PTE_WRITABLE,
                                                 .write_combining = stretch->framebuffer });
    }
}

static void pagetables_map_image(const struct pagetables *tables, const struct kernel_image *image)
{
    uint64_t done = 0;

    for (size_t i = 0; i < image->segment_count; i++) {
        const struct kernel_segment *segment = &image->segments[i];
        uint64_t base = align_down(segment->base, PAGE_BYTES);
        uint64_t end = align_up(segment->end, PAGE_BYTES);

        base = base < done ? done : base; /* a page shared with the segment below, same rights */
        pagetables_map(tables,
                       (struct mapping){ .virt = base,
                                         .phys = image->phys_base + (base - image->virt_base),
                                         .bytes = end - base,
                                         .rights = (segment->writable ? PTE_WRITABLE : 0) |
                                                   (segment->executable ? 0 : PTE_NO_EXECUTE) });
        done = end;
    }
}

uint64_t pagetables_build(const struct hhdm *hhdm, const struct kernel_image *image)
{
    uint64_t root = memory_alloc_zeroed(PAGE_BYTES, "page tables");
    const struct pagetables tables = { phys_pointer(root), hhdm->levels,
                                       pagetables_largest_leaf() };

    pagetables_map_hhdm(&tables, hhdm);
    pagetables_map_image(&tables, image);
    return root;
}
