/* SPDX-License-Identifier: MIT */
/* The loader's own memory map: who owns each byte of physical memory, by Limine's types.
 *
 *   ranges[]   | 0 .. 9f | 9f .. a0 | f0 .. 100 | 100 .. 11a | 11a .. 1ff00 | ...   (pages)
 *                usable    reserved   reserved    loader       usable
 *
 * Invariants: sorted, disjoint, page aligned, neighbours that touch have different types. Every
 * change is one "paint" of a range: the borders are split first, so that afterwards each range lies
 * wholly inside or wholly outside, then the inside is retyped and its gaps are filled. The
 * allocator is a paint too; the map that the kernel gets is this array after the last one. */
#include "loader/memory.h"

#include "loader/cpu.h"
#include "loader/print.h"
#include "loader/text.h"

#define MEMORY_ALLOC_BASE 0x100000ul /* below: real-mode tables, and what APs will start in */

#define E820_USABLE           1
#define E820_ACPI_RECLAIMABLE 3
#define E820_ACPI_NVS         4
#define E820_BAD              5

static struct memory_range ranges[MEMORY_RANGES_MAX];
static size_t range_count;

size_t memory_count(void)
{
    return range_count;
}

const struct memory_range *memory_get(size_t index)
{
    return &ranges[index];
}

/* Which type wins where rows overlap: the higher rank. */
static unsigned memory_rank(enum memory_type type)
{
    static const uint8_t rank[] = {
        [MEMORY_USABLE] = 0,     [MEMORY_ACPI_RECLAIMABLE] = 1,
        [MEMORY_ACPI_NVS] = 2,   [MEMORY_RESERVED] = 3,
        [MEMORY_BAD] = 4,        [MEMORY_LOADER] = 5,
        [MEMORY_EXECUTABLE] = 5, [MEMORY_FRAMEBUFFER] = 5,
    };

    return rank[type];
}

static void memory_insert_at(size_t index, uint64_t base, uint64_t end, enum memory_type type)
{
    if (range_count == MEMORY_RANGES_MAX) {
        print_fail("memory map: more than %u ranges", MEMORY_RANGES_MAX);
    }
    memmove(&ranges[index + 1], &ranges[index], (range_count - index) * sizeof ranges[0]);
    ranges[index] = (struct memory_range){ base, end, type };
    range_count++;
}

/* The first range that ends above `address`, or range_count. */
static size_t memory_find(uint64_t address)
{
    size_t index = 0;

    while (index < range_count && ranges[index].end <= address) {
        index++;
    }
    return index;
}

/* Makes `address` a border if it lies inside a range. */
static void memory_split(uint64_t address)
{
    size_t index = memory_find(address);

    if (index < range_count && ranges[index].base < address) {
        memory_insert_at(index, ranges[index].base, address, ranges[index].type);
        ranges[index + 1].base = address;
    }
}

/* Joins neighbours that touch and have the same type. */
static void memory_join(void)
{
    size_t kept = 0;

    for (size_t i = 1; i < range_count; i++) {
        if (ranges[i].base == ranges[kept].end && ranges[i].type == ranges[kept].type) {
            ranges[kept].end = ranges[i].end;
        } else {
            ranges[++kept] = ranges[i];
        }
    }
    range_count = range_count == 0 ? 0 : kept + 1;
}

/* Gives [base, end) the type, in gaps too. Ranges of a higher rank keep theirs unless `forced`. */
static void memory_paint(uint64_t base, uint64_t end, enum memory_type type, bool forced)
{
    if (base >= end) {
        return;
    }
    memory_split(base);
    memory_split(end);
    for (size_t i = memory_find(base); base < end; i++) {
        uint64_t next = i < range_count && ranges[i].base < end ? ranges[i].base : end;

        if (base < next) {
            memory_insert_at(i, base, next, type);
        } else if (forced || memory_rank(type) > memory_rank(ranges[i].type)) {
            ranges[i].type = type;
        }
        base = ranges[i].end;
    }
    memory_join();
}

static enum memory_type memory_type_of_e820(uint32_t type)
{
    switch (type) {
    case E820_USABLE:
        return MEMORY_USABLE;
    case E820_ACPI_RECLAIMABLE:
        return MEMORY_ACPI_RECLAIMABLE;
    case E820_ACPI_NVS:
        return MEMORY_ACPI_NVS;
    case E820_BAD:
        return MEMORY_BAD;
    default:
        return MEMORY_RESERVED;
    }
}

/* The first address that this CPU cannot have (SDM vol. 2A, CPUID leaf 80000008h). */
static uint64_t memory_address_limit(void)
{
    unsigned bits = 36;

    if (cpu_id(0x80000000, 0).eax >= 0x80000008) {
        bits = cpu_id(0x80000008, 0).eax & 0xff;
    }
    return 1ul << (bits > 52 ? 52 : bits);
}

void memory_add_e820(uint64_t base, uint64_t bytes, uint32_t e820_type)
{
    enum memory_type type = memory_type_of_e820(e820_type);
    uint64_t limit = memory_address_limit(), end;

    if (bytes == 0) {
        return;
    }
    if (__builtin_add_overflow(base, bytes, &end) || end > limit) {
        print_line("memory map: row %#lx + %#lx type %u is cut off at %#lx", base, bytes, e820_type,
                   limit);
        end = limit;
    }
    if (base >= end) {
        return;
    }
    if (type == MEMORY_USABLE) {
        memory_paint(align_up(base, PAGE_BYTES), align_down(end, PAGE_BYTES), type, false);
    } else {
        memory_paint(align_down(base, PAGE_BYTES), align_up(end, PAGE_BYTES), type, false);
    }
}

void memory_reserve(uint64_t base, uint64_t end)
{
    memory_paint(base, end, MEMORY_RESERVED, true);
}

bool memory_take(uint64_t base, uint64_t end, enum memory_type type)
{
    base = align_down(base, PAGE_BYTES);
    end = align_up(end, PAGE_BYTES);
    size_t index = memory_find(base);

    /* Neighbours of one type are joined, so usable memory without a gap is a single range. */
    if (base >= end || index == range_count || ranges[index].type != MEMORY_USABLE ||
        ranges[index].base > base || ranges[index].end < end) {
        return false;
    }
    memory_paint(base, end, type, true);
    return true;
}

bool memory_claim(uint64_t base, uint64_t end, enum memory_type type)
{
    for (uint64_t page = align_down(base, PAGE_BYTES); page < end; page += PAGE_BYTES) {
        size_t index = memory_find(page);

        if (index == range_count || ranges[index].base > page) {
            return false;
        }
        if (ranges[index].type != MEMORY_LOADER && ranges[index].type != MEMORY_EXECUTABLE &&
            !memory_take(page, page + PAGE_BYTES, type)) {
            return false;
        }
    }
    return true;
}

bool memory_mark_framebuffer(uint64_t base, uint64_t end)
{
    base = align_down(base, PAGE_BYTES);
    end = align_up(end, PAGE_BYTES);
    for (size_t i = memory_find(base); i < range_count && ranges[i].base < end; i++) {
        if (ranges[i].type != MEMORY_RESERVED) {
            return false;
        }
    }
    memory_paint(base, end, MEMORY_FRAMEBUFFER, true);
    return true;
}

uint64_t memory_alloc(uint64_t bytes, uint64_t align, enum memory_type type, const char *what)
{
    uint64_t room = align_up(bytes, PAGE_BYTES);

    for (size_t i = room < bytes ? 0 : range_count; i-- > 0;) {
        uint64_t end = ranges[i].end < FOUR_GIB ? ranges[i].end : FOUR_GIB;
        uint64_t least = ranges[i].base > MEMORY_ALLOC_BASE ? ranges[i].base : MEMORY_ALLOC_BASE;

        if (ranges[i].type != MEMORY_USABLE || end < least || end - least < room) {
            continue;
        }
        uint64_t base = align_down(end - room, align);
        if (base >= least) {
            memory_paint(base, base + room, type, true);
            return base;
        }
    }
    print_fail("out of memory: %lu KB for %s, aligned to %#lx, in usable memory below 4 GiB",
               bytes / 1024 + (bytes % 1024 != 0), what, align);
}

uint64_t memory_alloc_zeroed(uint64_t bytes, const char *what)
{
    uint64_t base = memory_alloc(bytes, PAGE_BYTES, MEMORY_LOADER, what);

    memset(phys_pointer(base), 0, align_up(bytes, PAGE_BYTES));
    return base;
}
