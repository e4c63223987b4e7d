/* SPDX-License-Identifier: MIT */
/* The kernel's own mappings: the image and the HHDM, and how their rights change after boot.
 *
 *                  image                                HHDM alias
 *      text        R-X                                  R--
 *      .init       R-X, then unmapped                   R--, then RW-: ordinary frames
 *      rodata      R--                                  R--
 *      data        RW-, but for the guard pages         RW-
 *        .init data          then unmapped              RW-
 *        ro_after_init       then R--                   RW-, then R--
 *      all other RAM                                    RW-
 *      framebuffer                                      RW-, write-combining
 *
 * Invariant: no frame is writable through one mapping and executable through another, at any moment: a
 * frame of .init becomes writable only after its executable mapping is gone from every CPU. */
#include "mm/kvm_parts.h"

#include <mm/hhdm.h>
#include <mm/log.h>

/* ---- the image ---- */

static MM_INIT mm_status_t map_image_part(struct address_space *space, const struct boot_info *boot,
                                          struct boot_section part, paging_rights_t rights)
{
    if (part.begin == part.end)
        return MM_OK;
    return paging_map_range(space, part.begin, boot->kernel_phys + (part.begin - boot->kernel_virt),
                            part.end - part.begin, rights | PAGING_GLOBAL);
}

static MM_INIT vaddr_t lower_border(struct boot_section part, vaddr_t from, vaddr_t next)
{
    if (part.begin == part.end)
        return next;
    if (part.begin > from && part.begin < next)
        return part.begin;
    return part.end > from && part.end < next ? part.end : next;
}

/* The lowest border of a guard or of a part that changes later, above `from`; else the end of data. */
static MM_INIT vaddr_t next_border(const struct boot_info *boot, vaddr_t from)
{
    const struct boot_section parts[] = { boot->init_data, boot->ro_after_init };
    vaddr_t next = boot->data.end;

    for (uint32_t i = 0; i < boot->guard_count; i++)
        next = lower_border(boot->guard[i], from, next);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        next = lower_border(parts[i], from, next);
    return next;
}

static MM_INIT bool is_guard(const struct boot_info *boot, vaddr_t page)
{
    for (uint32_t i = 0; i < boot->guard_count; i++)
        if (page >= boot->guard[i].begin && page < boot->guard[i].end)
            return true;
    return false;
}

/* .data and .bss, with holes where the guard pages are. No leaf crosses the border of a part that changes
 * later, so that changing it splits none. */
static MM_INIT mm_status_t map_image_data(struct address_space *space, const struct boot_info *boot)
{
    vaddr_t from = boot->data.begin;
    mm_status_t status = MM_OK;

    while (status == MM_OK && from < boot->data.end) {
        vaddr_t to = next_border(boot, from);
        if (!is_guard(boot, from))
            status = map_image_part(space, boot, (struct boot_section){ from, to }, PAGING_WRITE);
        from = to;
    }
    return status;
}

static MM_INIT mm_status_t map_image(struct address_space *space, const struct boot_info *boot)
{
    mm_status_t status = map_image_part(space, boot, boot->text, PAGING_EXECUTE);

    if (status == MM_OK)
        status = map_image_part(space, boot, boot->init, PAGING_EXECUTE);
    if (status == MM_OK)
        status = map_image_part(space, boot, boot->rodata, PAGING_READ);
    if (status == MM_OK)
        status = map_image_data(space, boot);
    return status;
}

/* ---- the HHDM ---- */

static MM_INIT mm_status_t map_alias(struct address_space *space, paddr_t base, paddr_t end,
                                     paging_rights_t rights)
{
    if (base >= end)
        return MM_OK;
    return paging_map_range(space, hhdm_offset() + base, base, end - base, rights);
}

#define CONSTANT_SECTIONS 3u

/* The frames that nobody may write through the HHDM, sorted by address. */
static MM_INIT void find_constant(const struct boot_info *boot,
                                  struct mm_extent out[CONSTANT_SECTIONS])
{
    const struct boot_section sections[CONSTANT_SECTIONS] = { boot->text, boot->init,
                                                              boot->rodata };

    for (size_t i = 0; i < CONSTANT_SECTIONS; i++) {
        struct mm_extent extent = kvm_section_frames(boot, sections[i]);
        size_t at = i;
        for (; at > 0 && out[at - 1].base > extent.base; at--)
            out[at] = out[at - 1];
        out[at] = extent;
    }
}

/* RAM [base, end): writable, but for the constant frames. */
static MM_INIT mm_status_t map_ram(struct address_space *space, const struct boot_info *boot,
                                   paddr_t base, paddr_t end)
{
    struct mm_extent constant[CONSTANT_SECTIONS];
    mm_status_t status = MM_OK;

    find_constant(boot, constant);
    for (size_t i = 0; status == MM_OK && i < CONSTANT_SECTIONS; i++) {
        paddr_t from = constant[i].base < base ? base : constant[i].base;
        paddr_t to = constant[i].end > end ? end : constant[i].end;
        if (from >= to)
            continue;
        status = map_alias(space, base, from, KVM_DATA_RIGHTS);
        if (status == MM_OK)
            status = map_alias(space, from, to, PAGING_READ | PAGING_GLOBAL);
        base = to;
    }
    return status == MM_OK ? map_alias(space, base, end, KVM_DATA_RIGHTS) : status;
}

/* Adjacent ranges of RAM are mapped as one, so that the leaves are as large as can be. */
static MM_INIT mm_status_t map_all_ram(struct address_space *space, const struct memmap *map,
                                       const struct boot_info *boot)
{
    mm_status_t status = MM_OK;

    for (size_t i = 0; status == MM_OK && i < map->count; i++) {
        if (!memmap_type_is_ram(map->ranges[i].type))
            continue;
        paddr_t base = map->ranges[i].base;
        while (i + 1 < map->count && memmap_type_is_ram(map->ranges[i + 1].type) &&
               map->ranges[i + 1].base == map->ranges[i].end)
            i++;
        status = map_ram(space, boot, base, map->ranges[i].end);
    }
    return status;
}

/* Maps what is not mapped yet of [base, end): the framebuffer of the boot information counts even where
 * rows of the map call parts of its memory reserved. */
static MM_INIT mm_status_t map_gaps(struct address_space *space, paddr_t base, paddr_t end,
                                    paging_rights_t rights)
{
    mm_status_t status = MM_OK;
    paddr_t gap = base; /* [gap, at) is not mapped */
    paddr_t mapped;

    for (paddr_t at = base; status == MM_OK && at < end; at += FRAME_SIZE) {
        if (paging_translate(space, hhdm_offset() + at, &mapped) != MM_OK)
            continue;
        status = map_alias(space, gap, at, rights);
        gap = at + FRAME_SIZE;
    }
    return status == MM_OK ? map_alias(space, gap, end, rights) : status;
}

static MM_INIT mm_status_t map_framebuffers(struct address_space *space, const struct memmap *map,
                                            const struct boot_info *boot)
{
    paddr_t base = mm_round_down(boot->framebuffer_base, FRAME_SIZE);
    paddr_t end = mm_round_up(boot->framebuffer_base + boot->framebuffer_bytes, FRAME_SIZE);
    const paging_rights_t rights = KVM_DATA_RIGHTS | PAGING_WRITE_COMBINING;
    mm_status_t status = MM_OK;

    for (size_t i = 0; status == MM_OK && i < map->count; i++)
        if (map->ranges[i].type == BOOT_FRAMEBUFFER)
            status = map_alias(space, map->ranges[i].base, map->ranges[i].end, rights);
    if (status == MM_OK && boot->framebuffer_bytes > 0)
        status = map_gaps(space, base, end, rights);
    return status;
}

MM_INIT mm_status_t kvm_map_kernel(struct address_space *space, const struct memmap *map,
                                   const struct boot_info *boot)
{
    const char *part = "kernel image";
    mm_status_t status = map_image(space, boot);

    if (status == MM_OK) {
        part = "HHDM";
        status = map_all_ram(space, map, boot);
    }
    if (status == MM_OK) {
        part = "framebuffer";
        status = map_framebuffers(space, map, boot);
    }
    if (status != MM_OK)
        mm_error("cannot map the %s: %s", part, mm_status_name(status));
    return status;
}
