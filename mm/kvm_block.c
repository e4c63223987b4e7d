/* SPDX-License-Identifier: MIT */
/* Blocks of any size, and devices: ranges of a window (vrange.h), each between two guard pages.
 *
 *      | guard | block ................. | guard |          tag: not used
 *      | guard | (lead) | device ....... | guard |          tag: the address that the caller has
 *
 * A device's lead is room that stays unmapped, so that virtual and physical addresses agree in their low
 * 21 bits and large leaves can be used.
 *
 * A call takes its range under the lock, works on the page tables without it while the range is
 * VRANGE_BUSY, and then says VRANGE_USED, or drops the range. Frames for nodes are taken and given back
 * without the lock too, because the pmm may log.
 *
 * Invariant: everything of a range is mapped while it is VRANGE_USED (but guards and lead, never). */
#include "mm/context.h"
#include "mm/kvm_parts.h"
#include "mm/vrange.h"

#include <mm/hhdm.h>
#include <mm/log.h>

#define GUARD_BYTES PAGE_SIZE

MM_INIT void kvm_ranges_init(struct kvm *kvm)
{
    vrange_init(&kvm->block_ranges, kvm->blocks.base, kvm->blocks.end);
    vrange_init(&kvm->device_ranges, kvm->devices.base, kvm->devices.end);
}

/* ---- ranges ---- */

/* Frees the frames of nodes that hold none any more. */
static void trim_nodes(struct kvm *kvm, struct vrange *ranges)
{
    void *page;

    do {
        uint64_t saved = mm_port_lock(&kvm->lock);
        page = vrange_take_page(ranges);
        mm_port_unlock(&kvm->lock, saved);
        if (page != NULL)
            pmm_free_frame(kvm->space->pmm, virt_to_phys(page));
    } while (page != NULL);
}

static mm_status_t add_nodes(struct kvm *kvm, struct vrange *ranges)
{
    paddr_t frame;
    mm_status_t status = pmm_alloc_frame(kvm->space->pmm, &frame);

    if (status != MM_OK)
        return status;
    uint64_t saved = mm_port_lock(&kvm->lock);
    vrange_add_page(ranges, phys_to_virt(frame));
    mm_port_unlock(&kvm->lock, saved);
    return MM_OK;
}

/* A range that is VRANGE_BUSY: nobody else changes or frees it. */
static mm_status_t take_range(struct kvm *kvm, struct vrange *ranges, uint64_t bytes,
                              uint64_t align, struct vrange_node **out)
{
    mm_status_t status;

    do {
        uint64_t saved = mm_port_lock(&kvm->lock);
        bool has_node = vrange_has_node(ranges);
        *out = has_node ? vrange_alloc(ranges, bytes, align, GUARD_BYTES) : NULL;
        mm_port_unlock(&kvm->lock, saved);
        if (*out != NULL)
            return MM_OK;
        status = has_node ? MM_OUT_OF_MEMORY : add_nodes(kvm, ranges);
    } while (status == MM_OK);
    trim_nodes(kvm, ranges);
    return status;
}

static void drop_range(struct kvm *kvm, struct vrange *ranges, struct vrange_node *node)
{
    uint64_t saved = mm_port_lock(&kvm->lock);

    vrange_free(ranges, node);
    mm_port_unlock(&kvm->lock, saved);
    trim_nodes(kvm, ranges);
}

static void publish_range(struct kvm *kvm, struct vrange_node *node, uint64_t tag)
{
    uint64_t saved = mm_port_lock(&kvm->lock);

    node->tag = tag;
    node->state = VRANGE_USED;
    mm_port_unlock(&kvm->lock, saved);
}

/* Marks the range whose caller holds `address` as being taken apart; NULL if nobody holds that, and then
 * *found is a copy of the range around it, if there is one. */
static struct vrange_node *claim_range(struct kvm *kvm, struct vrange *ranges, vaddr_t address,
                                       struct vrange_node *found)
{
    uint64_t saved = mm_port_lock(&kvm->lock);
    struct vrange_node *node = vrange_find(ranges, address);

    *found = node == NULL ? (struct vrange_node){ 0 } : *node;
    if (node != NULL && node->state == VRANGE_USED && node->tag == address)
        node->state = VRANGE_BUSY;
    else
        node = NULL;
    mm_port_unlock(&kvm->lock, saved);
    return node;
}

/* ---- reports ---- */

static void report_bad_address(const char *call, const char *thing, vaddr_t address,
                               const struct vrange_node *found)
{
    if (found->end == 0)
        mm_bug("%s of 0x%lx, where no %s is", call, address, thing);
    else if (found->state == VRANGE_BUSY)
        mm_bug("%s of 0x%lx: another CPU is making or freeing the %s at 0x%lx", call, address,
               thing, vrange_content(found));
    else if (address < found->tag)
        mm_bug("%s of 0x%lx, %lu bytes below the %s at 0x%lx", call, address, found->tag - address,
               thing, found->tag);
    else
        mm_bug("%s of 0x%lx, byte %lu of the %s at 0x%lx of %lu bytes", call, address,
               address - found->tag, thing, found->tag, vrange_content_end(found) - found->tag);
}

/* ---- blocks ---- */

static void count_block(struct kvm *kvm, bool added, uint64_t bytes)
{
    uint64_t saved = mm_port_lock(&kvm->lock);

    kvm->stats.blocks += added ? 1 : (uint64_t)-1;
    kvm->stats.block_bytes += added ? bytes : 0 - bytes;
    mm_port_unlock(&kvm->lock, saved);
}

/* Spares a call that cannot end well the clearing of all free memory; not asked for small ones. */
static bool is_beyond_memory(struct kvm *kvm, uint64_t bytes)
{
    return bytes >= LARGE_PAGE_SIZE && bytes / FRAME_SIZE > pmm_stats(kvm->space->pmm).free_frames;
}

mm_status_t kvm_alloc_aligned(struct kvm *kvm, uint64_t bytes, uint64_t align, uint32_t flags,
                              vaddr_t *out)
{
    struct vrange_node *node;

    if (bytes == 0 || !mm_is_power_of_two(align) || align > KVM_MAX_ALIGN ||
        (flags & ~KVM_FLAGS_ALL) != 0)
        return MM_INVALID_ARGUMENT;
    if (context_is_forbidden("kvm_alloc"))
        return MM_UNSUPPORTED;
    if (bytes > kvm->blocks.end - kvm->blocks.base)
        return MM_OUT_OF_MEMORY;
    bytes = mm_round_up(bytes, PAGE_SIZE);
    if (align < PAGE_SIZE)
        align = PAGE_SIZE;
    if (bytes >= LARGE_PAGE_SIZE && align < LARGE_PAGE_SIZE)
        align = LARGE_PAGE_SIZE;
    if (is_beyond_memory(kvm, bytes))
        return MM_OUT_OF_MEMORY;
    mm_status_t status = take_range(kvm, &kvm->block_ranges, bytes, align, &node);
    if (status != MM_OK)
        return status;
    vaddr_t base = vrange_content(node);
    status = kvm_back(kvm->space, base, bytes, flags);
    if (status != MM_OK) {
        drop_range(kvm, &kvm->block_ranges, node);
        return status;
    }
    publish_range(kvm, node, base);
    count_block(kvm, true, bytes);
    *out = base;
    return MM_OK;
}

mm_status_t kvm_alloc(struct kvm *kvm, uint64_t bytes, uint32_t flags, vaddr_t *out)
{
    return kvm_alloc_aligned(kvm, bytes, PAGE_SIZE, flags, out);
}

void kvm_free(struct kvm *kvm, vaddr_t address)
{
    struct vrange_node found;

    if (address == 0 || context_is_forbidden("kvm_free"))
        return;
    struct vrange_node *node = claim_range(kvm, &kvm->block_ranges, address, &found);
    if (node == NULL) {
        report_bad_address("kvm_free", "block", address, &found);
        return;
    }
    if (!kvm_guards_are_unmapped(kvm->space, "block", address, vrange_content_end(node))) {
        publish_range(kvm, node, address);
        return;
    }
    uint64_t bytes = vrange_content_end(node) - address;
    count_block(kvm, false, bytes);
    kvm_unback(kvm->space, address, bytes);
    drop_range(kvm, &kvm->block_ranges, node);
}

/* ---- devices ---- */

/* True if a frame of [base, end) belongs to the pmm. */
static bool holds_ram(struct pmm *pmm, paddr_t base, paddr_t end)
{
    size_t count = pmm_stats(pmm).range_count;

    for (size_t i = 0; i < count; i++) {
        struct mm_extent extent = pmm_range_extent(pmm, i);
        if (extent.base < end && base < extent.end)
            return true;
    }
    return false;
}

static mm_status_t check_device(const struct kvm *kvm, paddr_t phys, uint64_t bytes,
                                paging_rights_t type)
{
    paddr_t limit = (paddr_t)1 << kvm->space->physical_bits;

    if (bytes == 0 || (type != 0 && type != PAGING_UNCACHED && type != PAGING_WRITE_COMBINING))
        return MM_INVALID_ARGUMENT;
    if (phys >= limit || bytes > limit - phys || holds_ram(kvm->space->pmm, phys, phys + bytes))
        return MM_INVALID_ADDRESS;
    return MM_OK;
}

mm_status_t kvm_map_device(struct kvm *kvm, paddr_t phys, uint64_t bytes, paging_rights_t type,
                           vaddr_t *out)
{
    paddr_t base = mm_round_down(phys, FRAME_SIZE);
    struct vrange_node *node;

    if (context_is_forbidden("kvm_map_device"))
        return MM_UNSUPPORTED;
    mm_status_t status = check_device(kvm, phys, bytes, type);
    if (status != MM_OK)
        return status;
    uint64_t whole = mm_round_up(phys - base + bytes, PAGE_SIZE);
    bool is_large = whole >= LARGE_PAGE_SIZE;
    uint64_t lead = is_large ? base & (LARGE_PAGE_SIZE - 1) : 0;
    status = take_range(kvm, &kvm->device_ranges, lead + whole,
                        is_large ? LARGE_PAGE_SIZE : PAGE_SIZE, &node);
    if (status != MM_OK)
        return status;
    vaddr_t page = vrange_content(node) + lead;
    status = paging_map_range(kvm->space, page, base, whole, KVM_DATA_RIGHTS | type);
    if (status != MM_OK) {
        drop_range(kvm, &kvm->device_ranges, node);
        return status;
    }
    publish_range(kvm, node, page + (phys - base));
    *out = page + (phys - base);
    return MM_OK;
}

void kvm_unmap_device(struct kvm *kvm, vaddr_t address)
{
    vaddr_t page = mm_round_down(address, PAGE_SIZE);
    struct vrange_node found;

    if (context_is_forbidden("kvm_unmap_device"))
        return;
    struct vrange_node *node = claim_range(kvm, &kvm->device_ranges, address, &found);
    if (node == NULL) {
        report_bad_address("kvm_unmap_device", "device", address, &found);
        return;
    }
    mm_status_t status = paging_unmap_range(kvm->space, page, vrange_content_end(node) - page);
    MM_ASSERT(status == MM_OK);
    (void)status;
    drop_range(kvm, &kvm->device_ranges, node);
}

/* ---- what must be unmapped ---- */

static bool next_range_run(struct kvm *kvm, const struct vrange *ranges, vaddr_t *at,
                           struct kvm_window *run)
{
    uint64_t saved = mm_port_lock(&kvm->lock);
    const struct vrange_node *node = vrange_next(ranges, *at);

    if (node != NULL && vrange_content_end(node) <= *at) /* its upper guard: a part of this run */
        node = vrange_next(ranges, node->end);
    *run = (struct kvm_window){ *at, ranges->end };
    if (node != NULL && node->state == VRANGE_USED) {
        run->end = mm_round_down(node->tag, PAGE_SIZE);
        *at = vrange_content_end(node);
    } else if (node != NULL) {
        run->end = node->base;
        *at = node->end;
    }
    mm_port_unlock(&kvm->lock, saved);
    return node != NULL;
}

bool kvm_next_block_run(struct kvm *kvm, vaddr_t *at, struct kvm_window *run)
{
    return next_range_run(kvm, &kvm->block_ranges, at, run);
}

bool kvm_next_device_run(struct kvm *kvm, vaddr_t *at, struct kvm_window *run)
{
    return next_range_run(kvm, &kvm->device_ranges, at, run);
}

/* ---- what an address is ---- */

struct kvm_peek kvm_peek_range(const struct kvm *kvm, vaddr_t address)
{
    bool is_block = kvm_window_has(kvm->blocks, address);
    const struct vrange *ranges = is_block ? &kvm->block_ranges : &kvm->device_ranges;
    struct vrange_node node;

    if (!vrange_peek(ranges, kvm->space->pmm, address, &node) || node.state != VRANGE_USED)
        return (struct kvm_peek){ .place = KVM_UNUSED };
    vaddr_t base = mm_round_down(node.tag, PAGE_SIZE), end = vrange_content_end(&node);
    bool is_inside = address >= base && address < end;
    if (is_block)
        return (struct kvm_peek){ is_inside ? KVM_BLOCK : KVM_BLOCK_GUARD, base, end };
    return (struct kvm_peek){ is_inside ? KVM_DEVICE : KVM_DEVICE_GUARD, base, end };
}
