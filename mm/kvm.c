/* SPDX-License-Identifier: MIT */
/* Kernel virtual memory: where the windows are, what is committed in the heap's, what an address is.
 *
 *      higher half, root slots (512 GiB each, or 256 TiB with 5 levels):
 *      | HHDM: as many as RAM needs | ... | blocks | devices | stacks | heap | ... | kernel image |
 *
 * The loader chooses where HHDM and image go; the windows take the highest slots that neither of them
 * touches. In the heap's window 2 MiB at each end stay unmapped:
 *
 *      | guard | step | step | not committed | step | ...... | guard |
 *
 * Invariants: windows meet neither each other nor what was taken; the page below and the page above
 * whatever is placed in them is never mapped, but between steps of the heap. */
#include "mm/context.h"
#include "mm/kvm_parts.h"

#include <mm/log.h>

#define ROOT_SLOTS   512u
#define WINDOW_COUNT 4u

/* ---- windows ---- */

static MM_INIT uint64_t root_slot_bytes(const struct address_space *space)
{
    return (uint64_t)1 << (FRAME_SHIFT + 9 * (space->levels - 1));
}

static MM_INIT bool slot_is_free(vaddr_t base, uint64_t bytes, const struct kvm_window *taken,
                                 size_t count)
{
    vaddr_t last = base + (bytes - 1);

    for (size_t i = 0; i < count; i++)
        if (taken[i].base != taken[i].end && taken[i].base <= last && taken[i].end - 1 >= base)
            return false;
    return true;
}

/* The highest free root slots of the higher half, `slots` neighbours below slot *slot, which becomes the
 * lowest of them. */
static MM_INIT bool next_window(const struct address_space *space, const struct kvm_window *taken,
                                size_t count, unsigned slots, unsigned *slot,
                                struct kvm_window *out)
{
    uint64_t bytes = root_slot_bytes(space);
    unsigned run = 0;

    while (run<slots && * slot> ROOT_SLOTS / 2) {
        vaddr_t base = 0 - bytes * (ROOT_SLOTS - --*slot);
        run = slot_is_free(base, bytes, taken, count) ? run + 1 : 0;
        *out = (struct kvm_window){ base, base + bytes * slots };
    }
    return run == slots;
}

/* Heap and blocks get `slots` root slots each, the others one. */
static MM_INIT bool place_windows(const struct address_space *space, const struct kvm_window *taken,
                                  size_t count, unsigned slots,
                                  struct kvm_window windows[WINDOW_COUNT])
{
    const unsigned wanted[WINDOW_COUNT] = { slots, 1, 1, slots };
    unsigned slot = ROOT_SLOTS - 1; /* the last one's end, 2^64, is no address */

    for (size_t i = 0; i < WINDOW_COUNT; i++)
        if (!next_window(space, taken, count, wanted[i], &slot, &windows[i]))
            return false;
    return true;
}

/* Root slots for all of RAM and the guards of the heap. */
static MM_INIT unsigned slots_for_ram(const struct address_space *space)
{
    uint64_t bytes = pmm_stats(space->pmm).total_frames * FRAME_SIZE + 2 * KVM_HEAP_GUARD_BYTES;
    uint64_t slots = (bytes + root_slot_bytes(space) - 1) / root_slot_bytes(space);

    return slots > ROOT_SLOTS / 2 ? ROOT_SLOTS / 2 : (unsigned)slots;
}

MM_INIT mm_status_t kvm_init(struct kvm *kvm, struct address_space *space,
                             const struct kvm_window *taken, size_t taken_count)
{
    struct kvm_window windows[WINDOW_COUNT];
    unsigned slots = slots_for_ram(space);

    while (slots > 0 && !place_windows(space, taken, taken_count, slots, windows))
        slots -= (slots + 7) / 8;
    if (slots == 0)
        return MM_OUT_OF_MEMORY;
    memset(kvm, 0, sizeof(*kvm));
    kvm->heap = windows[0];
    kvm->stacks = windows[1];
    kvm->devices = windows[2];
    kvm->blocks = windows[3];
    kvm_ranges_init(kvm);
    kvm->space = space; /* last: kvm_peek() looks at it first */
    return MM_OK;
}

/* ---- the heap's window ---- */

struct kvm_window kvm_heap_window(const struct kvm *kvm)
{
    return (struct kvm_window){ kvm->heap.base + KVM_HEAP_GUARD_BYTES,
                                kvm->heap.end - KVM_HEAP_GUARD_BYTES };
}

static mm_status_t check_heap_range(const struct kvm *kvm, vaddr_t base, uint64_t bytes)
{
    struct kvm_window window = kvm_heap_window(kvm);

    if (!mm_is_aligned(base | bytes, KVM_HEAP_STEP_BYTES))
        return MM_NOT_ALIGNED;
    if (bytes == 0)
        return MM_INVALID_ARGUMENT;
    if (!kvm_window_has(window, base) || bytes > window.end - base)
        return MM_INVALID_ADDRESS;
    if (context_is_forbidden("a change of the heap's window"))
        return MM_UNSUPPORTED;
    return MM_OK;
}

static void count_heap(struct kvm *kvm, uint64_t bytes)
{
    uint64_t saved = mm_port_lock(&kvm->lock);

    kvm->stats.heap_bytes += bytes;
    mm_port_unlock(&kvm->lock, saved);
}

/* Looks at one page of each step, so that a CPU that comes second at a step takes no frames first: where
 * memory is short, the one that came first may need them. */
static bool is_committed_in_part(const struct kvm *kvm, vaddr_t base, uint64_t bytes)
{
    paddr_t frame;

    for (uint64_t at = 0; at < bytes; at += KVM_HEAP_STEP_BYTES)
        if (paging_translate(kvm->space, base + at, &frame) == MM_OK)
            return true;
    return false;
}

mm_status_t kvm_heap_commit(struct kvm *kvm, vaddr_t base, uint64_t bytes)
{
    mm_status_t status = check_heap_range(kvm, base, bytes);

    if (status == MM_OK && is_committed_in_part(kvm, base, bytes))
        return MM_ALREADY_MAPPED;
    if (status == MM_OK)
        status = kvm_back(kvm->space, base, bytes, 0);
    if (status == MM_OK)
        count_heap(kvm, bytes);
    return status;
}

/* MM_OK if whole leaves make up the range. */
static mm_status_t check_committed(struct kvm *kvm, vaddr_t base, uint64_t bytes)
{
    struct paging_mapping leaf;

    for (vaddr_t at = base; at - base < bytes; at += leaf.leaf_bytes) {
        mm_status_t status = paging_query(kvm->space, at, &leaf);
        if (status != MM_OK)
            return status;
        if (!mm_is_aligned(at, leaf.leaf_bytes) || leaf.leaf_bytes > base + bytes - at)
            return MM_LARGE_PAGE;
    }
    return MM_OK;
}

mm_status_t kvm_heap_decommit(struct kvm *kvm, vaddr_t base, uint64_t bytes)
{
    mm_status_t status = check_heap_range(kvm, base, bytes);

    if (status == MM_OK)
        status = check_committed(kvm, base, bytes);
    if (status != MM_OK)
        return status;
    kvm_unback(kvm->space, base, bytes);
    count_heap(kvm, 0 - bytes);
    return MM_OK;
}

mm_status_t kvm_heap_move(struct kvm *kvm, vaddr_t from, vaddr_t to, uint64_t bytes)
{
    mm_status_t status = check_heap_range(kvm, from, bytes);

    if (status == MM_OK)
        status = check_heap_range(kvm, to, bytes);
    if (status == MM_OK && !mm_is_aligned(from ^ to, LARGE_PAGE_SIZE))
        status = MM_NOT_ALIGNED;
    return status == MM_OK ? kvm_move(kvm->space, from, to, bytes) : status;
}

mm_status_t kvm_map_heap(struct kvm *kvm, uint64_t bytes, vaddr_t *out)
{
    struct kvm_window window = kvm_heap_window(kvm);

    if (bytes == 0 || !mm_is_aligned(bytes, PAGE_SIZE) || bytes > window.end - window.base)
        return MM_INVALID_ARGUMENT;
    mm_status_t status = kvm_back(kvm->space, window.base, bytes, 0);
    if (status != MM_OK)
        return status;
    kvm->heap_bytes = bytes;
    count_heap(kvm, bytes);
    *out = window.base;
    return MM_OK;
}

/* ---- what an address is ---- */

static bool is_mapped(const struct address_space *space, vaddr_t address)
{
    struct paging_level levels[PAGING_LEVELS_MAX];
    size_t count = paging_peek(space, address, levels);

    return count > 0 && levels[count - 1].present && levels[count - 1].leaf;
}

struct kvm_peek kvm_peek(const struct kvm *kvm, vaddr_t address)
{
    if (kvm->space == NULL)
        return (struct kvm_peek){ .place = KVM_NOWHERE };
    if (kvm_window_has(kvm->heap, address)) {
        bool committed = is_mapped(kvm->space, address);
        return (struct kvm_peek){ .place = committed ? KVM_HEAP : KVM_HEAP_GUARD };
    }
    if (kvm_window_has(kvm->stacks, address))
        return kvm_peek_stack(kvm, address);
    if (kvm_window_has(kvm->blocks, address) || kvm_window_has(kvm->devices, address))
        return kvm_peek_range(kvm, address);
    return (struct kvm_peek){ .place = KVM_NOWHERE };
}

enum kvm_place kvm_place_of(const struct kvm *kvm, vaddr_t address)
{
    return kvm_peek(kvm, address).place;
}

void kvm_for_each_guard(struct kvm *kvm, void (*visit)(void *context, vaddr_t base, uint64_t bytes),
                        void *context)
{
    const struct {
        vaddr_t base;
        kvm_next_run_fn next;
    } windows[] = {
        { kvm->stacks.base, kvm_next_stack_run },
        { kvm->blocks.base, kvm_next_block_run },
        { kvm->devices.base, kvm_next_device_run },
    };
    struct kvm_window run;

    visit(context, kvm->heap.base, KVM_HEAP_GUARD_BYTES);
    visit(context, kvm->heap.end - KVM_HEAP_GUARD_BYTES, KVM_HEAP_GUARD_BYTES);
    for (size_t i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
        vaddr_t at = windows[i].base;
        bool goes_on;
        do {
            goes_on = windows[i].next(kvm, &at, &run);
            if (run.base < run.end)
                visit(context, run.base, run.end - run.base);
        } while (goes_on);
    }
}

struct kvm_stats kvm_stats(struct kvm *kvm)
{
    uint64_t saved = mm_port_lock(&kvm->lock);
    struct kvm_stats stats = kvm->stats;

    stats.node_frames = kvm->block_ranges.frames + kvm->device_ranges.frames;
    stats.devices = kvm->device_ranges.count;
    mm_port_unlock(&kvm->lock, saved);
    return stats;
}
