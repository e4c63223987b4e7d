/* SPDX-License-Identifier: MIT */
/* Kernel virtual memory: the image, the HHDM, and the windows for heap, stacks and devices.
 *
 *      higher half, one root slot each (512 GiB, or 256 TiB with 5 levels):
 *      | HHDM: as many slots as RAM needs | ... | devices | stacks | heap | ... | kernel image |
 *
 * The loader chooses where HHDM and image go; the windows take the highest three slots that neither of
 * them touches. In the stacks' window each stack has a slot of its own:
 *
 *      | unmapped ................ | guard | stack <- grows down | guard |
 *      slot                                                  top ^       next slot
 *
 * Invariant: the page below and the page above the heap, each stack and each device are never mapped. */
#include <mm/hhdm.h>
#include <mm/kvm.h>
#include <mm/log.h>

#define HEAP_GUARD_BYTES LARGE_PAGE_SIZE /* keeps the heap aligned to its leaves */
#define ROOT_SLOTS       512u

static const paging_rights_t kernel_data = PAGING_WRITE | PAGING_GLOBAL;

/* ---- the image ---- */

static mm_status_t map_image_part(struct address_space *space, const struct boot_info *boot,
                                  struct boot_section part, paging_rights_t rights)
{
    if (part.begin == part.end)
        return MM_OK;
    return paging_map_range(space, part.begin, boot->kernel_phys + (part.begin - boot->kernel_virt),
                            part.end - part.begin, rights | PAGING_GLOBAL);
}

/* The guard section with the lowest start at or above `from`, or none; empty ones do not count. */
static const struct boot_section *next_guard(const struct boot_info *boot, vaddr_t from)
{
    const struct boot_section *next = NULL;

    for (uint32_t i = 0; i < boot->guard_count; i++) {
        const struct boot_section *guard = &boot->guard[i];
        if (guard->begin != guard->end && guard->begin >= from &&
            (next == NULL || guard->begin < next->begin))
            next = guard;
    }
    return next;
}

/* .data and .bss, with holes where the guard pages are. */
static mm_status_t map_image_data(struct address_space *space, const struct boot_info *boot)
{
    vaddr_t from = boot->data.begin;
    const struct boot_section *guard;
    mm_status_t status = MM_OK;

    while (status == MM_OK && (guard = next_guard(boot, from)) != NULL) {
        status =
            map_image_part(space, boot, (struct boot_section){ from, guard->begin }, PAGING_WRITE);
        from = guard->end;
    }
    if (status == MM_OK)
        status = map_image_part(space, boot, (struct boot_section){ from, boot->data.end },
                                PAGING_WRITE);
    return status;
}

static mm_status_t map_image(struct address_space *space, const struct boot_info *boot)
{
    mm_status_t status = map_image_part(space, boot, boot->text, PAGING_EXECUTE);

    if (status == MM_OK)
        status = map_image_part(space, boot, boot->rodata, PAGING_READ);
    if (status == MM_OK)
        status = map_image_data(space, boot);
    return status;
}

/* ---- the HHDM ---- */

static struct mm_extent section_frames(const struct boot_info *boot, struct boot_section section)
{
    paddr_t base = boot->kernel_phys + (section.begin - boot->kernel_virt);

    return (struct mm_extent){ base, base + (section.end - section.begin) };
}

static mm_status_t map_alias(struct address_space *space, paddr_t base, paddr_t end,
                             paging_rights_t rights)
{
    if (base >= end)
        return MM_OK;
    return paging_map_range(space, hhdm_offset() + base, base, end - base, rights);
}

/* RAM [base, end): writable, but for the frames of text and rodata. */
static mm_status_t map_ram(struct address_space *space, const struct boot_info *boot, paddr_t base,
                           paddr_t end)
{
    struct mm_extent constant[2] = { section_frames(boot, boot->text),
                                     section_frames(boot, boot->rodata) };
    mm_status_t status = MM_OK;

    if (constant[1].base < constant[0].base) {
        struct mm_extent first = constant[1];
        constant[1] = constant[0];
        constant[0] = first;
    }
    for (size_t i = 0; status == MM_OK && i < 2; i++) {
        paddr_t from = constant[i].base < base ? base : constant[i].base;
        paddr_t to = constant[i].end > end ? end : constant[i].end;
        if (from >= to)
            continue;
        status = map_alias(space, base, from, kernel_data);
        if (status == MM_OK)
            status = map_alias(space, from, to, PAGING_READ | PAGING_GLOBAL);
        base = to;
    }
    return status == MM_OK ? map_alias(space, base, end, kernel_data) : status;
}

/* Adjacent ranges of RAM are mapped as one, so that the leaves are as large as can be. */
static mm_status_t map_all_ram(struct address_space *space, const struct memmap *map,
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
static mm_status_t map_gaps(struct address_space *space, paddr_t base, paddr_t end,
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

static mm_status_t map_framebuffers(struct address_space *space, const struct memmap *map,
                                    const struct boot_info *boot)
{
    paddr_t base = mm_round_down(boot->framebuffer_base, FRAME_SIZE);
    paddr_t end = mm_round_up(boot->framebuffer_base + boot->framebuffer_bytes, FRAME_SIZE);
    const paging_rights_t rights = kernel_data | PAGING_WRITE_COMBINING;
    mm_status_t status = MM_OK;

    for (size_t i = 0; status == MM_OK && i < map->count; i++)
        if (map->ranges[i].type == BOOT_FRAMEBUFFER)
            status = map_alias(space, map->ranges[i].base, map->ranges[i].end, rights);
    if (status == MM_OK && boot->framebuffer_bytes > 0)
        status = map_gaps(space, base, end, rights);
    return status;
}

mm_status_t kvm_map_kernel(struct address_space *space, const struct memmap *map,
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

/* ---- windows ---- */

static uint64_t root_slot_bytes(const struct address_space *space)
{
    return (uint64_t)1 << (FRAME_SHIFT + 9 * (space->levels - 1));
}

static bool slot_is_free(vaddr_t base, uint64_t bytes, const struct kvm_window *taken, size_t count)
{
    vaddr_t last = base + (bytes - 1);

    for (size_t i = 0; i < count; i++)
        if (taken[i].base != taken[i].end && taken[i].base <= last && taken[i].end - 1 >= base)
            return false;
    return true;
}

/* The highest free root slot of the higher half below slot *slot. */
static bool next_window(const struct address_space *space, const struct kvm_window *taken,
                        size_t count, unsigned *slot, struct kvm_window *out)
{
    uint64_t bytes = root_slot_bytes(space);

    while (*slot > ROOT_SLOTS / 2) {
        vaddr_t base = 0 - bytes * (ROOT_SLOTS - --*slot);
        if (!slot_is_free(base, bytes, taken, count))
            continue;
        *out = (struct kvm_window){ base, base + bytes };
        return true;
    }
    return false;
}

mm_status_t kvm_init(struct kvm *kvm, struct address_space *space, const struct kvm_window *taken,
                     size_t taken_count)
{
    unsigned slot = ROOT_SLOTS - 1; /* the last one's end, 2^64, is no address */
    struct kvm_window heap, stacks, devices;

    if (!next_window(space, taken, taken_count, &slot, &heap) ||
        !next_window(space, taken, taken_count, &slot, &stacks) ||
        !next_window(space, taken, taken_count, &slot, &devices))
        return MM_OUT_OF_MEMORY;
    *kvm = (struct kvm){ .space = space,
                         .heap = heap,
                         .stacks = stacks,
                         .devices = devices,
                         .devices_next = devices.base + PAGE_SIZE };
    return MM_OK;
}

/* ---- backing with frames ---- */

/* Unmaps [base, base + bytes), whatever leaves it consists of, and frees the frames. */
static void unback(struct address_space *space, vaddr_t base, uint64_t bytes)
{
    while (bytes > 0) {
        struct paging_mapping leaf;
        mm_status_t status = paging_query(space, base, &leaf);
        if (status == MM_OK)
            status = paging_unmap_range(space, base, leaf.leaf_bytes);
        MM_ASSERT(status == MM_OK && leaf.leaf_bytes <= bytes);
        pmm_free_contiguous(space->pmm, leaf.frame, leaf.leaf_bytes / FRAME_SIZE);
        base += leaf.leaf_bytes;
        bytes -= leaf.leaf_bytes;
    }
}

static mm_status_t back_with(struct address_space *space, vaddr_t page, uint64_t bytes)
{
    paddr_t frame;
    mm_status_t status =
        pmm_alloc_contiguous(space->pmm, bytes / FRAME_SIZE, bytes, PMM_NO_LIMIT, &frame);

    if (status != MM_OK)
        return status;
    status = paging_map_range(space, page, frame, bytes, kernel_data);
    if (status != MM_OK)
        pmm_free_contiguous(space->pmm, frame, bytes / FRAME_SIZE);
    return status;
}

/* Maps fresh frames at [base, base + bytes): large leaves where they can be had. */
static mm_status_t back(struct address_space *space, vaddr_t base, uint64_t bytes)
{
    uint64_t done = 0;

    while (done < bytes) {
        uint64_t step = LARGE_PAGE_SIZE;
        mm_status_t status = MM_OUT_OF_MEMORY;
        if (mm_is_aligned(base + done, step) && bytes - done >= step)
            status = back_with(space, base + done, step);
        if (status == MM_OUT_OF_MEMORY) {
            step = PAGE_SIZE;
            status = back_with(space, base + done, step);
        }
        if (status != MM_OK) {
            unback(space, base, done);
            return status;
        }
        done += step;
    }
    return MM_OK;
}

mm_status_t kvm_map_heap(struct kvm *kvm, uint64_t bytes, vaddr_t *out)
{
    vaddr_t base = kvm->heap.base + HEAP_GUARD_BYTES;

    if (bytes == 0 || !mm_is_aligned(bytes, PAGE_SIZE) ||
        bytes > kvm->heap.end - base - HEAP_GUARD_BYTES)
        return MM_INVALID_ARGUMENT;
    mm_status_t status = back(kvm->space, base, bytes);
    if (status != MM_OK)
        return status;
    kvm->heap_bytes = bytes;
    *out = base;
    return MM_OK;
}

/* ---- stacks ---- */

static vaddr_t stack_top(const struct kvm *kvm, size_t slot)
{
    return kvm->stacks.base + (slot + 1) * KVM_STACK_SLOT_BYTES - PAGE_SIZE;
}

static bool take_stack_slot(struct kvm *kvm, size_t *out)
{
    size_t slot = 0;
    uint64_t saved = mm_port_lock(&kvm->lock);

    while (slot < KVM_STACK_SLOTS && kvm->stack_pages[slot] != 0)
        slot++;
    if (slot < KVM_STACK_SLOTS)
        kvm->stack_pages[slot] = KVM_STACK_BUSY;
    mm_port_unlock(&kvm->lock, saved);
    *out = slot;
    return slot < KVM_STACK_SLOTS;
}

static void set_stack_pages(struct kvm *kvm, size_t slot, uint64_t pages)
{
    uint64_t saved = mm_port_lock(&kvm->lock);

    kvm->stack_pages[slot] = (uint8_t)pages;
    mm_port_unlock(&kvm->lock, saved);
}

mm_status_t kvm_alloc_stack(struct kvm *kvm, uint64_t bytes, vaddr_t *top)
{
    size_t slot;

    if (bytes == 0 || bytes > KVM_STACK_MAX_BYTES)
        return MM_INVALID_ARGUMENT;
    bytes = mm_round_up(bytes, PAGE_SIZE);
    if (!take_stack_slot(kvm, &slot))
        return MM_OUT_OF_MEMORY;
    mm_status_t status = back(kvm->space, stack_top(kvm, slot) - bytes, bytes);
    set_stack_pages(kvm, slot, status == MM_OK ? bytes / PAGE_SIZE : 0);
    if (status == MM_OK)
        *top = stack_top(kvm, slot);
    return status;
}

/* Marks the stack as being taken apart; 0 if there is none, or another CPU is at it. */
static uint64_t claim_stack_pages(struct kvm *kvm, size_t slot)
{
    uint64_t saved = mm_port_lock(&kvm->lock);
    uint64_t pages = kvm->stack_pages[slot];

    if (pages == KVM_STACK_BUSY)
        pages = 0;
    if (pages > 0)
        kvm->stack_pages[slot] = KVM_STACK_BUSY;
    mm_port_unlock(&kvm->lock, saved);
    return pages;
}

void kvm_free_stack(struct kvm *kvm, vaddr_t top)
{
    uint64_t slot = (top - kvm->stacks.base) / KVM_STACK_SLOT_BYTES;
    uint64_t pages = 0;

    if (top >= kvm->stacks.base && slot < KVM_STACK_SLOTS && top == stack_top(kvm, slot))
        pages = claim_stack_pages(kvm, slot);
    if (pages == 0) {
        mm_bug("free of a kernel stack with top 0x%lx, which is no allocated stack", top);
        return;
    }
    unback(kvm->space, top - pages * PAGE_SIZE, pages * PAGE_SIZE);
    set_stack_pages(kvm, slot, 0);
}

/* ---- devices ---- */

/* Room for `bytes` with a page behind it that stays unmapped. */
static mm_status_t take_device_room(struct kvm *kvm, uint64_t bytes, vaddr_t *out)
{
    mm_status_t status = MM_OUT_OF_MEMORY;
    uint64_t saved = mm_port_lock(&kvm->lock);

    if (bytes + PAGE_SIZE <= kvm->devices.end - kvm->devices_next) {
        *out = kvm->devices_next;
        kvm->devices_next += bytes + PAGE_SIZE;
        status = MM_OK;
    }
    mm_port_unlock(&kvm->lock, saved);
    return status;
}

mm_status_t kvm_map_device(struct kvm *kvm, paddr_t phys, uint64_t bytes, vaddr_t *out)
{
    paddr_t limit = (paddr_t)1 << kvm->space->physical_bits;
    paddr_t base = mm_round_down(phys, FRAME_SIZE);
    vaddr_t page;

    if (bytes == 0)
        return MM_INVALID_ARGUMENT;
    if (phys >= limit || bytes > limit - phys)
        return MM_INVALID_ADDRESS;
    uint64_t whole = mm_round_up(phys - base + bytes, PAGE_SIZE);
    mm_status_t status = take_device_room(kvm, whole, &page);
    /* Where the mapping fails its room stays empty: the window is far larger than all devices. */
    if (status == MM_OK)
        status = paging_map_range(kvm->space, page, base, whole, kernel_data | PAGING_UNCACHED);
    if (status == MM_OK)
        *out = page + (phys - base);
    return status;
}

/* ---- what an address is ---- */

static bool is_in(struct kvm_window window, vaddr_t address)
{
    return address >= window.base && address < window.end;
}

static enum kvm_place stack_place(const struct kvm *kvm, vaddr_t address)
{
    uint64_t slot = (address - kvm->stacks.base) / KVM_STACK_SLOT_BYTES;
    uint64_t pages = slot < KVM_STACK_SLOTS ? kvm->stack_pages[slot] : 0;
    vaddr_t top = stack_top(kvm, slot);

    if (pages == KVM_STACK_BUSY || address >= top || address < top - pages * PAGE_SIZE)
        return KVM_STACK_GUARD;
    return KVM_STACK;
}

enum kvm_place kvm_place_of(const struct kvm *kvm, vaddr_t address)
{
    if (is_in(kvm->heap, address))
        return address - kvm->heap.base - HEAP_GUARD_BYTES < kvm->heap_bytes ? KVM_HEAP
                                                                             : KVM_HEAP_GUARD;
    return is_in(kvm->stacks, address) ? stack_place(kvm, address) : KVM_NOWHERE;
}
