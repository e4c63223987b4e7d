/* SPDX-License-Identifier: MIT */
/* Owns the map of the kernel's addresses as a reader of a failure report wants it.
 *
 *   image: place_table, from the linker's symbols | direct map: the image part behind it
 *   windows of mm (heap, stacks, their guards): kvm_place_of()
 *
 * Invariants: works at any time, before mm is up too, where windows and direct map are still
 * empty; rows of place_table are disjoint but for the last ones, which are wider. */
#include "kernel/place.h"
#include "kernel/image.h"
#include <mm/mm.h>

enum place_kind {
    PLACE_MEMORY,
    PLACE_STACK,
    PLACE_GUARD, /* below a stack: reached by its overflow */
};

struct place {
    const char *begin;
    const char *end;
    enum place_kind kind;
    const char *name;
};

static const struct place place_table[] = {
    { __guard_0, __boot_stack_begin, PLACE_GUARD, "guard page below the boot stack" },
    { __boot_stack_begin, __boot_stack_end, PLACE_STACK, "the boot stack" },
    { __guard_1, __double_fault_stack_begin, PLACE_MEMORY,
      "guard page above the boot stack and below the double fault stack" },
    { __double_fault_stack_begin, __double_fault_stack_end, PLACE_STACK, "the double fault stack" },
    { __guard_2, __nmi_stack_begin, PLACE_GUARD, "guard page below the NMI stack" },
    { __nmi_stack_begin, __nmi_stack_end, PLACE_STACK, "the NMI stack" },
    { __guard_3, __machine_check_stack_begin, PLACE_GUARD,
      "guard page below the machine check stack" },
    { __machine_check_stack_begin, __machine_check_stack_end, PLACE_STACK,
      "the machine check stack" },
    { __guard_4, __data_end, PLACE_MEMORY, "guard page above the machine check stack" },
    { __text_begin, __text_end, PLACE_MEMORY, "kernel text" },
    { __rodata_begin, __rodata_end, PLACE_MEMORY, "kernel rodata" },
    { __data_begin, __data_end, PLACE_MEMORY, "kernel data" },
};

static paddr_t place_image; /* of __kernel_begin */
static bool place_image_known;

static const struct place *place_find(vaddr_t address)
{
    for (size_t i = 0; i < sizeof(place_table) / sizeof(place_table[0]); i++) {
        if (address >= (vaddr_t)place_table[i].begin && address < (vaddr_t)place_table[i].end)
            return &place_table[i];
    }
    return NULL;
}

static enum kvm_place place_in_windows(vaddr_t address)
{
    struct mm *mm = mm_kernel();

    return mm->kvm.space == NULL ? KVM_NOWHERE : kvm_place_of(&mm->kvm, address);
}

static const char *place_window_name(enum kvm_place place)
{
    switch (place) {
    case KVM_HEAP:
        return "the heap";
    case KVM_HEAP_GUARD:
        return "guard page of the heap";
    case KVM_STACK:
        return "a kernel stack";
    case KVM_STACK_GUARD:
        return "stack overflow: guard page of a kernel stack";
    case KVM_NOWHERE:
        break;
    }
    return NULL;
}

void place_set_image(paddr_t image)
{
    place_image = image;
    place_image_known = true;
}

/* The kernel image once more, where the direct map shows it. */
static const struct place *place_find_alias(paddr_t address)
{
    if (!place_image_known || address < place_image)
        return NULL;
    return place_find((vaddr_t)__kernel_begin + (address - place_image));
}

void place_describe(vaddr_t address, char *text)
{
    const struct place *place = place_find(address);
    const char *window = place_window_name(place_in_windows(address));
    uint64_t offset = hhdm_offset();

    if (place != NULL) {
        (void)mm_format(text, PLACE_TEXT_MAX, "%s%s",
                        place->kind == PLACE_GUARD ? "stack overflow: " : "", place->name);
    } else if (window != NULL) {
        (void)mm_format(text, PLACE_TEXT_MAX, "%s", window);
    } else if (offset != 0 && address >= offset && address - offset < hhdm_end()) {
        place = place_find_alias(address - offset);
        (void)mm_format(text, PLACE_TEXT_MAX, "direct map of physical 0x%llx%s%s",
                        (unsigned long long)(address - offset), place == NULL ? "" : ", ",
                        place == NULL ? "" : place->name);
    } else if (address < PAGE_SIZE) {
        (void)mm_format(text, PLACE_TEXT_MAX, "the null page");
    } else {
        (void)mm_format(text, PLACE_TEXT_MAX, "%s half, nothing is there",
                        address >> 63 == 0 ? "lower" : "higher");
    }
}

bool place_is_stack_overflow(vaddr_t address)
{
    const struct place *place = place_find(address);

    if (place != NULL)
        return place->kind == PLACE_GUARD;
    return place_in_windows(address) == KVM_STACK_GUARD;
}

bool place_is_on_stack(vaddr_t address, uint64_t bytes)
{
    vaddr_t last = address + bytes - 1;
    const struct place *place = place_find(address);

    if (last < address)
        return false;
    if (place != NULL)
        return place->kind == PLACE_STACK && place == place_find(last);
    return place_in_windows(address) == KVM_STACK && place_in_windows(last) == KVM_STACK;
}

bool place_is_text(vaddr_t address)
{
    return address >= (vaddr_t)__text_begin && address < (vaddr_t)__text_end;
}
