/* SPDX-License-Identifier: MIT */
/* Kernel stacks: each in a slot of its own, so that an overflow has far to go to the next one.
 *
 *      | unmapped ................ | guard | stack <- grows down | guard |
 *      slot                                                  top ^       next slot
 *
 * Invariants: stack_pages[slot] is the size of the stack there, and KVM_STACK_BUSY while its pages are
 * being mapped or unmapped, without the lock; no slot below stack_next is free. */
#include "mm/context.h"
#include "mm/kvm_parts.h"

#include <mm/log.h>

static vaddr_t stack_top(const struct kvm *kvm, uint64_t slot)
{
    return kvm->stacks.base + (slot + 1) * KVM_STACK_SLOT_BYTES - PAGE_SIZE;
}

static bool take_stack_slot(struct kvm *kvm, uint32_t *out)
{
    uint64_t saved = mm_port_lock(&kvm->lock);
    uint32_t slot = kvm->stack_next;

    while (slot < KVM_STACK_SLOTS && kvm->stack_pages[slot] != 0)
        slot++;
    if (slot < KVM_STACK_SLOTS)
        kvm->stack_pages[slot] = KVM_STACK_BUSY;
    kvm->stack_next = slot;
    mm_port_unlock(&kvm->lock, saved);
    *out = slot;
    return slot < KVM_STACK_SLOTS;
}

static void drop_stack_slot(struct kvm *kvm, uint32_t slot)
{
    uint64_t saved = mm_port_lock(&kvm->lock);

    kvm->stack_pages[slot] = 0;
    if (slot < kvm->stack_next)
        kvm->stack_next = slot;
    mm_port_unlock(&kvm->lock, saved);
}

static void set_stack_pages(struct kvm *kvm, uint32_t slot, uint64_t pages)
{
    uint64_t saved = mm_port_lock(&kvm->lock);

    kvm->stack_pages[slot] = (uint8_t)pages;
    kvm->stats.stacks++;
    kvm->stats.stack_bytes += pages * PAGE_SIZE;
    mm_port_unlock(&kvm->lock, saved);
}

mm_status_t kvm_alloc_stack(struct kvm *kvm, uint64_t bytes, vaddr_t *top)
{
    uint32_t slot;

    if (bytes == 0 || bytes > KVM_STACK_MAX_BYTES)
        return MM_INVALID_ARGUMENT;
    if (context_is_forbidden("kvm_alloc_stack"))
        return MM_UNSUPPORTED;
    bytes = mm_round_up(bytes, PAGE_SIZE);
    if (!take_stack_slot(kvm, &slot))
        return MM_OUT_OF_MEMORY;
    mm_status_t status = kvm_back(kvm->space, stack_top(kvm, slot) - bytes, bytes, 0);
    if (status != MM_OK) {
        drop_stack_slot(kvm, slot);
        return status;
    }
    set_stack_pages(kvm, slot, bytes / PAGE_SIZE);
    *top = stack_top(kvm, slot);
    return MM_OK;
}

/* Marks the stack as being taken apart; 0 if there is none, or another CPU is at it. */
static uint64_t claim_stack_pages(struct kvm *kvm, uint32_t slot)
{
    uint64_t saved = mm_port_lock(&kvm->lock);
    uint64_t pages = kvm->stack_pages[slot];

    if (pages == KVM_STACK_BUSY)
        pages = 0;
    if (pages > 0) {
        kvm->stack_pages[slot] = KVM_STACK_BUSY;
        kvm->stats.stacks--;
        kvm->stats.stack_bytes -= pages * PAGE_SIZE;
    }
    mm_port_unlock(&kvm->lock, saved);
    return pages;
}

void kvm_free_stack(struct kvm *kvm, vaddr_t top)
{
    uint64_t slot = (top - kvm->stacks.base) / KVM_STACK_SLOT_BYTES;
    uint64_t pages = 0;

    if (context_is_forbidden("kvm_free_stack"))
        return;
    if (top >= kvm->stacks.base && slot < KVM_STACK_SLOTS && top == stack_top(kvm, slot))
        pages = claim_stack_pages(kvm, (uint32_t)slot);
    if (pages == 0) {
        mm_bug("free of a kernel stack with top 0x%lx, which is no allocated stack", top);
        return;
    }
    vaddr_t base = top - pages * PAGE_SIZE;
    if (!kvm_guards_are_unmapped(kvm->space, "kernel stack", base, top)) {
        set_stack_pages(kvm, (uint32_t)slot, pages);
        return;
    }
    kvm_unback(kvm->space, base, pages * PAGE_SIZE);
    drop_stack_slot(kvm, (uint32_t)slot);
}

bool kvm_next_stack_run(struct kvm *kvm, vaddr_t *at, struct kvm_window *run)
{
    uint64_t slot = (*at - kvm->stacks.base + PAGE_SIZE) / KVM_STACK_SLOT_BYTES, pages = 0;
    uint64_t saved = mm_port_lock(&kvm->lock);

    while (slot < KVM_STACK_SLOTS && (pages = kvm->stack_pages[slot]) == 0)
        slot++;
    mm_port_unlock(&kvm->lock, saved);
    *run = (struct kvm_window){ *at, kvm->stacks.end };
    if (slot == KVM_STACK_SLOTS)
        return false;
    vaddr_t top = stack_top(kvm, slot);
    uint64_t bytes = pages == KVM_STACK_BUSY ? KVM_STACK_MAX_BYTES : pages * PAGE_SIZE;
    run->end = top - bytes;
    *at = top;
    return true;
}

struct kvm_peek kvm_peek_stack(const struct kvm *kvm, vaddr_t address)
{
    uint64_t slot = (address - kvm->stacks.base) / KVM_STACK_SLOT_BYTES;
    uint64_t pages = slot < KVM_STACK_SLOTS ? kvm->stack_pages[slot] : 0;
    vaddr_t top = stack_top(kvm, slot), begin = top - pages * PAGE_SIZE;

    if (pages == 0 || pages == KVM_STACK_BUSY)
        return (struct kvm_peek){ .place = KVM_STACK_GUARD };
    return (struct kvm_peek){ address >= begin && address < top ? KVM_STACK : KVM_STACK_GUARD,
                              begin, top };
}
