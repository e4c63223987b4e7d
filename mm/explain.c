/* SPDX-License-Identifier: MIT */
/* What a virtual address is: one question after the other, the narrowest first.
 *
 *      canonical? -> image -> heap -> stacks -> devices -> HHDM -> null -> nothing
 *
 * Owns nothing and takes no lock. Invariant: a part of mm is asked only once it stands (its count, its
 * pointer or its space is set last when it is made), so that a fault inside mm_init() can be explained
 * too; the address itself is never followed. */
#include <mm/explain.h>

#define HHDM_LEAST_BYTES MM_GIB(4) /* device memory lies below it, whatever the map says */

struct text {
    char *buffer;
    size_t capacity;
};

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static bool is_in(vaddr_t address, vaddr_t begin, vaddr_t end)
{
    return address >= begin && address < end;
}

/* ---- the image ---- */

static bool explain_section(struct boot_section section, const char *name, vaddr_t address,
                            struct text text)
{
    if (!is_in(address, section.begin, section.end))
        return false;
    mm_format(text.buffer, text.capacity, "%s + 0x%lx", name, address - section.begin);
    return true;
}

static bool explain_image(const struct mm *mm, vaddr_t address, struct text text)
{
    const struct boot_info *boot = &mm->boot;

    for (uint32_t i = 0; i < boot->guard_count; i++)
        if (explain_section(boot->guard[i], "guard page of the kernel image", address, text))
            return true;
    return explain_section(boot->text, "kernel text", address, text) ||
           explain_section(boot->rodata, "kernel rodata", address, text) ||
           explain_section(boot->data, "kernel data", address, text);
}

/* ---- the heap ---- */

static bool explain_block(const struct mm *mm, vaddr_t address, struct text text)
{
    struct kheap_peek block;

    if (mm->heap == NULL || !kheap_peek(mm->heap, address, &block))
        return false;
    uint64_t byte = address - block.start;
    if (block.what == KHEAP_STATE)
        mm_format(text.buffer, text.capacity, "state of the heap, byte %lu", byte);
    else if (block.what == KHEAP_DAMAGED)
        mm_format(text.buffer, text.capacity, "heap, byte %lu, in no block: damaged state", byte);
    else
        mm_format(text.buffer, text.capacity, "%sheap block 0x%lx of %lu bytes, byte %lu",
                  block.what == KHEAP_FREE ? "free " : "", block.start, block.bytes, byte);
    return true;
}

/* The rest of the heap's window: kvm_map_heap() leaves the same room below and above. */
static bool explain_heap_window(const struct mm *mm, vaddr_t address, struct text text)
{
    const struct kvm *kvm = &mm->kvm;
    vaddr_t base = kvm->heap.base + LARGE_PAGE_SIZE, end = base + kvm->heap_bytes;

    if (!is_in(address, kvm->heap.base, kvm->heap.end))
        return false;
    if (kvm->heap_bytes == 0)
        mm_format(text.buffer, text.capacity, "window of the heap, before there is a heap");
    else if (address < base)
        mm_format(text.buffer, text.capacity, "heap guard, %lu byte%s below the heap",
                  base - address, plural(base - address));
    else if (address >= end)
        mm_format(text.buffer, text.capacity, "heap guard, %lu byte%s above the heap",
                  address - end, plural(address - end));
    else
        mm_format(text.buffer, text.capacity, "heap, byte %lu", address - base);
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

    if (!is_in(address, kvm->stacks.base, kvm->stacks.end))
        return false;
    out->number = (address - kvm->stacks.base) / KVM_STACK_SLOT_BYTES;
    out->pages = out->number < KVM_STACK_SLOTS ? kvm->stack_pages[out->number] : 0;
    if (out->pages == KVM_STACK_BUSY)
        out->pages = 0;
    out->top = kvm->stacks.base + (out->number + 1) * KVM_STACK_SLOT_BYTES - PAGE_SIZE;
    out->begin = out->top - out->pages * PAGE_SIZE;
    return true;
}

static bool explain_stack(const struct mm *mm, vaddr_t address, struct text text)
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
                  slot.number, slot.top - address, plural(slot.top - address));
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

/* ---- devices ---- */

static bool explain_device(const struct mm *mm, vaddr_t address, struct text text)
{
    const struct kvm *kvm = &mm->kvm;

    if (!is_in(address, kvm->devices.base, kvm->devices.end))
        return false;
    mm_format(text.buffer, text.capacity, "window of device registers + 0x%lx%s",
              address - kvm->devices.base,
              kvm_place_of(kvm, address) == KVM_DEVICE ? "" : ", where no device is");
    return true;
}

/* ---- the HHDM ---- */

static const char *frame_state_name(enum pmm_frame_state state)
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

static bool explain_hhdm(const struct mm *mm, vaddr_t address, struct text text)
{
    uint64_t offset = hhdm_offset();
    paddr_t physical = address - offset;

    if (offset == 0 || address < offset || physical >= hhdm_reach(mm))
        return false;
    const struct mm_range *range = memmap_find(&mm->map, physical);
    const char *type = range == NULL ? "no memory" : memmap_type_name(range->type);
    if (range != NULL && memmap_type_is_ram(range->type))
        mm_format(text.buffer, text.capacity, "HHDM of frame 0x%lx, byte %lu (%s%s)",
                  mm_round_down(physical, FRAME_SIZE), physical & (FRAME_SIZE - 1), type,
                  frame_state_name(pmm_peek_frame(&mm->pmm, physical)));
    else
        mm_format(text.buffer, text.capacity, "HHDM of physical 0x%lx (%s)", physical, type);
    return true;
}

/* ---- all of it ---- */

static void explain_rest(vaddr_t address, struct text text)
{
    if (address < PAGE_SIZE)
        mm_format(text.buffer, text.capacity, "null + 0x%lx", address);
    else if (0 - address <= PAGE_SIZE)
        mm_format(text.buffer, text.capacity, "null - 0x%lx", 0 - address);
    else
        mm_format(text.buffer, text.capacity, "%s half, outside everything that mm maps",
                  address >> 63 == 0 ? "lower" : "higher");
}

void mm_explain(const struct mm *mm, vaddr_t address, char *buffer, size_t capacity)
{
    struct text text = { buffer, capacity };
    unsigned levels = mm->cpu.levels == 0 ? 4 : mm->cpu.levels;

    if (!paging_is_canonical(address, levels))
        mm_format(buffer, capacity, "not canonical");
    else if (!explain_image(mm, address, text) && !explain_block(mm, address, text) &&
             !explain_heap_window(mm, address, text) && !explain_stack(mm, address, text) &&
             !explain_device(mm, address, text) && !explain_hhdm(mm, address, text))
        explain_rest(address, text);
}
