/* SPDX-License-Identifier: MIT */
/* The higher-half direct map: where it begins and which physical memory it holds.
 *
 *   base revision 3   usable, loader, executable and framebuffer memory; nothing else
 *   base revision 2   [0, 4 GiB) whatever is there; above, all but reserved and bad memory
 *
 * Planned before the page tables are built and before the last allocations: those turn usable pages
 * into loader pages, both of which are mapped, so the plan stays true. */
#include "loader/hhdm.h"

#include "loader/cmdline.h"
#include "loader/elf.h"
#include "loader/memory.h"
#include "loader/print.h"

/* Each range of the map, and the gap before it, is one stretch at most; and the gap behind. */
#define HHDM_STRETCHES_MAX (2 * MEMORY_RANGES_MAX + 1)

static struct hhdm_stretch stretches[HHDM_STRETCHES_MAX];
static size_t stretch_count;

/* Appends [base, end), which lies above all stretches before; an empty one vanishes. */
static void hhdm_append(uint64_t base, uint64_t end, bool framebuffer)
{
    if (base >= end) {
        return;
    }
    if (stretch_count > 0) {
        struct hhdm_stretch *last = &stretches[stretch_count - 1];

        if (last->end == base && last->framebuffer == framebuffer) {
            last->end = end;
            return;
        }
    }
    stretches[stretch_count++] = (struct hhdm_stretch){ base, end, framebuffer };
}

static bool hhdm_holds_type(enum memory_type type, uint64_t base_revision)
{
    switch (type) {
    case MEMORY_USABLE:
    case MEMORY_LOADER:
    case MEMORY_EXECUTABLE:
    case MEMORY_FRAMEBUFFER:
        return true;
    case MEMORY_ACPI_RECLAIMABLE:
    case MEMORY_ACPI_NVS:
        return base_revision < 3;
    default:
        return false;
    }
}

static uint64_t hhdm_lesser(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

static void hhdm_collect(uint64_t base_revision)
{
    uint64_t blanket = base_revision < 3 ? FOUR_GIB : 0; /* mapped whatever is there */
    uint64_t done = 0;

    stretch_count = 0;
    for (size_t i = 0; i < memory_count(); i++) {
        const struct memory_range *range = memory_get(i);
        bool held = hhdm_holds_type(range->type, base_revision);

        hhdm_append(done, hhdm_lesser(range->base, blanket), false);
        hhdm_append(range->base, held ? range->end : hhdm_lesser(range->end, blanket),
                    range->type == MEMORY_FRAMEBUFFER);
        done = range->end;
    }
    hhdm_append(done, blanket, false);
}

/* The lowest address of the higher half, which is also where loaders put the HHDM by default. */
static uint64_t hhdm_lowest_offset(unsigned levels)
{
    return levels == 5 ? 0xff00000000000000 : 0xffff800000000000;
}

void hhdm_plan(const struct loader_options *options, unsigned levels,
               const struct kernel_image *image, struct hhdm *out)
{
    uint64_t lowest = hhdm_lowest_offset(levels), top, end;

    hhdm_collect(options->base_revision);
    out->offset = options->hhdm_given ? options->hhdm : lowest;
    out->levels = levels;
    out->count = stretch_count;
    out->stretches = stretches;
    top = stretches[stretch_count - 1].end;
    if (out->offset < lowest) {
        print_fail("HHDM offset %#lx is not in the higher half (from %#lx with %u levels)",
                   out->offset, lowest, levels);
    }
    if (__builtin_add_overflow(out->offset, top, &end)) {
        print_fail("HHDM offset %#lx leaves no room for physical memory up to %#lx", out->offset,
                   top);
    }
    if (out->offset < image->virt_base + image->bytes && image->virt_base < end) {
        print_fail("HHDM [%#lx, %#lx) meets the kernel at [%#lx, %#lx)", out->offset, end,
                   image->virt_base, image->virt_base + image->bytes);
    }
}
