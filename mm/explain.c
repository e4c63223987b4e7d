/* SPDX-License-Identifier: MIT */
/* What a virtual address is: one question after the other, the narrowest first.
 *
 *      canonical? -> image -> heap -> stacks -> blocks -> devices -> HHDM -> null -> nothing
 *
 * Owns nothing and takes no lock. Invariant: a part of mm is asked only once it stands (its count, its
 * pointer or its space is set last when it is made), so that a fault inside mm_init() can be explained
 * too; the address itself is never followed. */
#include "mm/explain_parts.h"

#define HHDM_LEAST_BYTES MM_GIB(4) /* device memory lies below it, whatever the map says */
#define ENTRY_ADDRESS    0x000ffffffffff000u

/* ---- page tables ---- */

bool explain_leaf(const struct mm *mm, vaddr_t address, struct paging_level *out)
{
    struct paging_level levels[PAGING_LEVELS_MAX];
    size_t count = paging_peek(&mm->kernel_space, address, levels);

    if (count == 0 || !levels[count - 1].present || !levels[count - 1].leaf)
        return false;
    *out = levels[count - 1];
    return true;
}

uint64_t explain_level_bytes(unsigned level)
{
    return (uint64_t)1 << (FRAME_SHIFT + 9 * (level - 1));
}

paddr_t explain_leaf_physical(const struct paging_level *leaf, vaddr_t address)
{
    uint64_t bytes = explain_level_bytes(leaf->level);

    return mm_round_down(leaf->entry & ENTRY_ADDRESS, bytes) + (address & (bytes - 1));
}

/* ---- the heap ---- */

/* Where an address lies that is not in the bytes asked for of a block. */
static void explain_beside(const struct kheap_peek *block, vaddr_t address, const char *free,
                           struct explain_text text)
{
    vaddr_t end = block->start + block->asked;
    uint64_t bytes = address >= end ? address - end : block->start - address;

    mm_format(text.buffer, text.capacity, "%lu byte%s %s the %lu-byte %sheap block 0x%lx", bytes,
              explain_plural(bytes), address >= end ? "past the end of" : "below", block->asked,
              free, block->start);
}

static bool explain_heap(const struct mm *mm, vaddr_t address, struct explain_text text)
{
    struct kheap_peek block;

    if (mm->heap == NULL || !kheap_peek(mm->heap, address, &block))
        return false;
    const char *free = block.what == KHEAP_FREE ? "free " : "";
    bool is_beside = address < block.start || address - block.start >= block.asked;
    if (block.what == KHEAP_STATE)
        mm_format(text.buffer, text.capacity, "state of the heap, byte %lu", address - block.start);
    else if (block.what == KHEAP_DAMAGED)
        mm_format(text.buffer, text.capacity, "heap, byte %lu, in no block: damaged state",
                  address - block.start);
    else if (block.what == KHEAP_GUARD || (block.asked > 0 && is_beside))
        explain_beside(&block, address, free, text);
    else
        mm_format(text.buffer, text.capacity, "%sheap block 0x%lx of %lu bytes, byte %lu", free,
                  block.start, block.asked > 0 ? block.asked : block.bytes, address - block.start);
    return true;
}

/* Where the committed memory below the address ends, if that is less than 2 MiB away; else 0. */
#define HEAP_END_STEPS (LARGE_PAGE_SIZE / KVM_HEAP_STEP_BYTES)

static vaddr_t find_heap_end(const struct mm *mm, vaddr_t address)
{
    vaddr_t at = mm_round_down(address, KVM_HEAP_STEP_BYTES);
    struct paging_level leaf;

    for (unsigned i = 0; i < HEAP_END_STEPS && at > kvm_heap_window(&mm->kvm).base; i++) {
        if (explain_leaf(mm, at - 1, &leaf))
            return at;
        at -= KVM_HEAP_STEP_BYTES;
    }
    return 0;
}

/* The large block (heap_large.c) whose unmapped surroundings hold the address: 2 MiB below it, and what is
 * left of its last 2 MiB, at least a page. `end` is where memory below the address ends, or 0. */
static bool find_large_block(const struct mm *mm, vaddr_t address, vaddr_t end,
                             struct kheap_peek *out)
{
    vaddr_t above = mm_round_down(address, LARGE_PAGE_SIZE) + LARGE_PAGE_SIZE;
    struct paging_level leaf;

    if (mm->heap == NULL)
        return false;
    if (explain_leaf(mm, above, &leaf) && kheap_peek(mm->heap, above, out) &&
        (out->what == KHEAP_USED || out->what == KHEAP_GUARD) && out->bytes > MAX_BLOCK_SIZE)
        return true;
    if (end == 0 || address >= mm_round_up(end + PAGE_SIZE, LARGE_PAGE_SIZE))
        return false;
    for (vaddr_t at = end - PAGE_SIZE; end - at <= KVM_HEAP_STEP_BYTES; at -= PAGE_SIZE)
        if (kheap_peek(mm->heap, at, out))
            return (out->what == KHEAP_USED || out->what == KHEAP_GUARD) &&
                   out->bytes > MAX_BLOCK_SIZE;
    return false;
}

static bool explain_heap_window(const struct mm *mm, vaddr_t address, struct explain_text text)
{
    const struct kvm *kvm = &mm->kvm;
    vaddr_t base = kvm_heap_window(kvm).base;
    struct paging_level leaf;
    struct kheap_peek block;

    if (!explain_is_in(address, kvm->heap.base, kvm->heap.end))
        return false;
    vaddr_t end = find_heap_end(mm, address);
    if (mm->heap == NULL && kvm->stats.heap_bytes == 0)
        mm_format(text.buffer, text.capacity, "window of the heap, before there is a heap");
    else if (address < base)
        mm_format(text.buffer, text.capacity, "heap guard, %lu byte%s below the heap",
                  base - address, explain_plural(base - address));
    else if (explain_leaf(mm, address, &leaf))
        mm_format(text.buffer, text.capacity, "heap, byte %lu", address - base);
    else if (find_large_block(mm, address, end, &block))
        explain_beside(&block, address, "", text);
    else if (end != 0)
        mm_format(text.buffer, text.capacity, "heap guard, %lu byte%s above the heap",
                  address - end, explain_plural(address - end));
    else
        mm_format(text.buffer, text.capacity, "window of the heap + 0x%lx, where no memory is",
                  address - base);
    return true;
}

/* ---- stacks ---- */

/* One stack slot: unmapped, guard, stack, guard (kvm.c). */
struct stack_slot {
    uint64_t number;
    uint64_t pages; /* 0 or KVM_STACK_BUSY: no stack */
    vaddr_t begin;  /* of the stack */
    vaddr_t top;
};

static bool find_stack_slot(const struct mm *mm, vaddr_t address, struct stack_slot *out)
{
    const struct kvm *kvm = &mm->kvm;

    if (!explain_is_in(address, kvm->stacks.base, kvm->stacks.end))
        return false;
    out->number = (address - kvm->stacks.base) / KVM_STACK_SLOT_BYTES;
    out->pages = out->number < KVM_STACK_SLOTS ? kvm->stack_pages[out->number] : 0;
    if (out->pages == KVM_STACK_BUSY)
        out->pages = 0;
    out->top = kvm->stacks.base + (out->number + 1) * KVM_STACK_SLOT_BYTES - PAGE_SIZE;
    out->begin = out->top - out->pages * PAGE_SIZE;
    return true;
}

static bool explain_stack(const struct mm *mm, vaddr_t address, struct explain_text text)
{
    struct stack_slot slot;

    if (!find_stack_slot(mm, address, &slot))
        return false;
    if (slot.number >= KVM_STACK_SLOTS)
        mm_format(text.buffer, text.capacity, "window of the kernel stacks, behind the last slot");
    else if (slot.pages == 0)
        mm_format(text.buffer, text.capacity, "kernel stack slot %lu, which holds no stack",
                  slot.number);
    else if (address >= slot.top)
        mm_format(text.buffer, text.capacity, "guard page above kernel stack %lu", slot.number);
    else if (address >= slot.begin)
        mm_format(text.buffer, text.capacity, "kernel stack %lu, %lu byte%s below its top",
                  slot.number, slot.top - address, explain_plural(slot.top - address));
    else if (slot.begin - address <= PAGE_SIZE)
        mm_format(text.buffer, text.capacity, "guard page below kernel stack %lu (stack overflow)",
                  slot.number);
    else
        mm_format(text.buffer, text.capacity, "%lu bytes below kernel stack %lu (stack overflow)",
                  slot.begin - address, slot.number);
    return true;
}

bool mm_is_stack_overflow(const struct mm *mm, vaddr_t address)
{
    struct stack_slot slot;

    return find_stack_slot(mm, address, &slot) && slot.pages != 0 && address < slot.begin;
}

/* ---- blocks and devices ---- */

static void explain_block(const struct kvm_peek *peek, vaddr_t address, struct explain_text text)
{
    uint64_t bytes = peek->end - peek->base;

    if (peek->place == KVM_BLOCK)
        mm_format(text.buffer, text.capacity, "block 0x%lx of %lu bytes, byte %lu", peek->base,
                  bytes, address - peek->base);
    else if (address >= peek->end)
        mm_format(text.buffer, text.capacity,
                  "%lu byte%s past the end of the %lu-byte block 0x%lx (guard)",
                  address - peek->end, explain_plural(address - peek->end), bytes, peek->base);
    else
        mm_format(text.buffer, text.capacity, "%lu byte%s below the %lu-byte block 0x%lx (guard)",
                  peek->base - address, explain_plural(peek->base - address), bytes, peek->base);
}

static void explain_device(const struct mm *mm, const struct kvm_peek *peek, vaddr_t address,
                           struct explain_text text)
{
    struct paging_level leaf;

    if (peek->place == KVM_DEVICE && explain_leaf(mm, address, &leaf))
        mm_format(text.buffer, text.capacity, "device at physical 0x%lx, byte %lu of its pages",
                  explain_leaf_physical(&leaf, address), address - peek->base);
    else if (peek->place == KVM_DEVICE_GUARD)
        mm_format(text.buffer, text.capacity, "guard page %s the device at 0x%lx",
                  address >= peek->end ? "above" : "below", peek->base);
    else
        mm_format(text.buffer, text.capacity,
                  "window of device registers + 0x%lx, where no device is",
                  address - mm->kvm.devices.base);
}

static bool explain_range(const struct mm *mm, vaddr_t address, struct explain_text text)
{
    const struct kvm *kvm = &mm->kvm;
    bool is_block = explain_is_in(address, kvm->blocks.base, kvm->blocks.end);

    if (!is_block && !explain_is_in(address, kvm->devices.base, kvm->devices.end))
        return false;
    struct kvm_peek peek = kvm_peek(kvm, address);
    if (!is_block)
        explain_device(mm, &peek, address, text);
    else if (peek.place == KVM_BLOCK || peek.place == KVM_BLOCK_GUARD)
        explain_block(&peek, address, text);
    else
        mm_format(text.buffer, text.capacity, "window of blocks + 0x%lx, where no block is",
                  address - kvm->blocks.base);
    return true;
}

/* ---- the HHDM ---- */

const char *explain_frame_state(enum pmm_frame_state state)
{
    switch (state) {
    case PMM_FRAME_FREE:
        return ", free";
    case PMM_FRAME_USED:
        return ", used";
    case PMM_FRAME_RESERVED:
        return ", reserved";
    case PMM_FRAME_TABLE:
        return ", page table";
    case PMM_FRAME_RETIRED:
        return ", retired (bad RAM)";
    case PMM_FRAME_OUTSIDE:
        break;
    }
    return "";
}

/* Where the HHDM's addresses end: behind the map's last range, which need not be RAM. */
static paddr_t hhdm_reach(const struct mm *mm)
{
    const struct memmap *map = &mm->map;
    paddr_t end = map->count == 0 ? hhdm_end() : map->ranges[map->count - 1].end;

    return end < HHDM_LEAST_BYTES ? HHDM_LEAST_BYTES : end;
}

bool explain_hhdm_physical(const struct mm *mm, vaddr_t address, paddr_t *out)
{
    uint64_t offset = hhdm_offset();

    *out = address - offset;
    return offset != 0 && address >= offset && *out < hhdm_reach(mm);
}

static bool explain_hhdm(const struct mm *mm, vaddr_t address, struct explain_text text)
{
    paddr_t physical;

    if (!explain_hhdm_physical(mm, address, &physical))
        return false;
    const struct mm_range *range = memmap_find(&mm->map, physical);
    const char *type = range == NULL ? "no memory" : memmap_type_name(range->type);
    if (range != NULL && memmap_type_is_ram(range->type))
        mm_format(text.buffer, text.capacity, "HHDM of frame 0x%lx, byte %lu (%s%s)",
                  mm_round_down(physical, FRAME_SIZE), physical & (FRAME_SIZE - 1), type,
                  explain_frame_state(pmm_peek_frame(&mm->pmm, physical)));
    else
        mm_format(text.buffer, text.capacity, "HHDM of physical 0x%lx (%s)", physical, type);
    return true;
}

/* ---- all of it ---- */

static void explain_rest(const struct mm *mm, vaddr_t address, struct explain_text text)
{
    const char *half = address >> 63 == 0 ? "lower" : "higher";
    struct paging_level leaf;

    if (address < PAGE_SIZE)
        mm_format(text.buffer, text.capacity, "null + 0x%lx", address);
    else if (0 - address <= PAGE_SIZE)
        mm_format(text.buffer, text.capacity, "null - 0x%lx", 0 - address);
    else if (explain_leaf(mm, address, &leaf))
        mm_format(text.buffer, text.capacity, "%s half, a page mapped to physical 0x%lx", half,
                  mm_round_down(explain_leaf_physical(&leaf, address), FRAME_SIZE));
    else
        mm_format(text.buffer, text.capacity, "%s half, outside everything that mm maps", half);
}

void mm_explain(const struct mm *mm, vaddr_t address, char *buffer, size_t capacity)
{
    struct explain_text text = { buffer, capacity };
    unsigned levels = mm->cpu.levels == 0 ? 4 : mm->cpu.levels;

    if (!paging_is_canonical(address, levels))
        mm_format(buffer, capacity, "not canonical");
    else if (!explain_image(mm, address, text) && !explain_heap(mm, address, text) &&
             !explain_heap_window(mm, address, text) && !explain_stack(mm, address, text) &&
             !explain_range(mm, address, text) && !explain_image_alias(mm, address, text) &&
             !explain_hhdm(mm, address, text))
        explain_rest(mm, address, text);
}

#define ERROR_WRITE ((uint64_t)1 << 1)
#define ERROR_FETCH ((uint64_t)1 << 4)

const char *mm_explain_access(uint64_t error)
{
    return (error & ERROR_FETCH) != 0   ? "instruction fetch from"
           : (error & ERROR_WRITE) != 0 ? "write to"
                                        : "read of";
}

void mm_explain_fault(const struct mm *mm, vaddr_t address, uint64_t error, char *buffer,
                      size_t capacity)
{
    char what[MM_LOG_LINE_MAX];

    mm_explain(mm, address, what, sizeof(what));
    mm_format(buffer, capacity, "%s 0x%lx: %s", mm_explain_access(error), address, what);
}
