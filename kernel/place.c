/* SPDX-License-Identifier: MIT */
/* Owns the map of the kernel image as a reader of a failure report wants it.
 *
 *   stacks and their guards: place_table | text, init, rodata, data: place_sections, with the symbol
 *   everything else, and the image seen through the HHDM: mm_explain()
 *
 * Invariants: works at any time, before mm is up too; rows of both tables are disjoint, and those
 * of place_table, which are narrower, come first. */
#include "kernel/place.h"
#include "kernel/image.h"
#include "kernel/symbols.h"
#include <mm/explain.h>

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
};

/* What one kind of contents is called. */
struct place_section {
    const char *begin;
    const char *end;
    const char *name;
    const char *what; /* of a symbol in it */
};

static const struct place_section place_sections[] = {
    { __text_begin, __text_end, "text", "function " },
    { __init_begin, __init_end, "init", "function " },
    { __rodata_begin, __rodata_end, "rodata", "" },
    { __ro_after_init_begin, __ro_after_init_end, "ro_after_init", "" },
    { __init_data_begin, __init_data_end, "init_data", "" },
    { __data_begin, __data_end, "data", "" }, /* what is left of it */
};

static MM_RO_AFTER_INIT paddr_t place_image; /* of __kernel_begin */
static MM_RO_AFTER_INIT bool place_image_known;

static const struct place *place_find(vaddr_t address)
{
    for (size_t i = 0; i < sizeof(place_table) / sizeof(place_table[0]); i++) {
        if (address >= (vaddr_t)place_table[i].begin && address < (vaddr_t)place_table[i].end)
            return &place_table[i];
    }
    return NULL;
}

MM_INIT void place_set_image(paddr_t image)
{
    place_image = image;
    place_image_known = true;
}

static const struct place_section *place_find_section(vaddr_t address)
{
    for (size_t i = 0; i < sizeof(place_sections) / sizeof(place_sections[0]); i++) {
        if (address >= (vaddr_t)place_sections[i].begin && address < (vaddr_t)place_sections[i].end)
            return &place_sections[i];
    }
    return NULL;
}

/* True for what the end of the boot has unmapped; its frames belong to somebody else now. */
static bool place_is_given_back(vaddr_t address)
{
    return mm_kernel()->kvm.init_released &&
           ((address >= (vaddr_t)__init_begin && address < (vaddr_t)__init_end) ||
            (address >= (vaddr_t)__init_data_begin && address < (vaddr_t)__init_data_end));
}

static void place_describe_row(const struct place *place, vaddr_t address, char *text)
{
    if (place->kind == PLACE_STACK)
        (void)mm_format(text, PLACE_TEXT_MAX, "%s, %llu bytes below its top", place->name,
                        (unsigned long long)((vaddr_t)place->end - address));
    else
        (void)mm_format(text, PLACE_TEXT_MAX, "%s%s", place->name,
                        place->kind == PLACE_GUARD ? " (stack overflow)" : "");
}

/* "text of function kmain + 0x12", or "kernel text + 0x4000" where no symbol is.
 *   Returns:  false, and nothing written, if the address is not in the image. */
static bool place_describe_image(vaddr_t address, char *text)
{
    const struct place *place = place_find(address);
    const struct place_section *section = place_find_section(address);
    const char *gone = place_is_given_back(address) ? " (given back after boot)" : "";
    struct boot_symbol symbol;

    if (place != NULL)
        place_describe_row(place, address, text);
    else if (section != NULL && symbols_find(address, &symbol))
        (void)mm_format(text, PLACE_TEXT_MAX, "%s of %s%s + 0x%llx%s", section->name, section->what,
                        symbol.name, (unsigned long long)(address - symbol.begin), gone);
    else if (section != NULL)
        (void)mm_format(text, PLACE_TEXT_MAX, "kernel %s + 0x%llx%s", section->name,
                        (unsigned long long)(address - (vaddr_t)section->begin), gone);
    return place != NULL || section != NULL;
}

/* The kernel image once more, where the HHDM shows it. */
static bool place_describe_alias(vaddr_t address, char *text)
{
    uint64_t offset = hhdm_offset();
    uint64_t image_bytes = (uint64_t)(__kernel_end - __kernel_begin);
    vaddr_t original = (vaddr_t)__kernel_begin + (address - offset - place_image);
    char image[PLACE_TEXT_MAX];

    if (!place_image_known || offset == 0 || address - offset < place_image ||
        address - offset - place_image >= image_bytes || place_is_given_back(original) ||
        !place_describe_image(original, image))
        return false;
    (void)mm_format(text, PLACE_TEXT_MAX, "HHDM of frame 0x%llx: %s",
                    (unsigned long long)mm_round_down(address - offset, FRAME_SIZE), image);
    return true;
}

void place_describe(vaddr_t address, char *text)
{
    if (!place_describe_image(address, text) && !place_describe_alias(address, text))
        mm_explain(mm_kernel(), address, text, PLACE_TEXT_MAX);
}

void place_describe_fault(vaddr_t address, uint64_t error, char *text)
{
    char what[PLACE_TEXT_MAX];

    if (place_describe_image(address, what) || place_describe_alias(address, what))
        (void)mm_format(text, PLACE_FAULT_MAX, "%s 0x%llx: %s", mm_explain_access(error),
                        (unsigned long long)address, what);
    else
        mm_explain_fault(mm_kernel(), address, error, text, PLACE_FAULT_MAX);
}

void place_describe_return(vaddr_t address, char *text)
{
    struct boot_symbol symbol;

    if (symbols_find(address - 1, &symbol))
        (void)mm_format(text, PLACE_TEXT_MAX, "%s + 0x%llx", symbol.name,
                        (unsigned long long)(address - symbol.begin));
    else
        place_describe(address, text);
}

bool place_is_stack_overflow(vaddr_t address)
{
    const struct place *place = place_find(address);

    if (place != NULL)
        return place->kind == PLACE_GUARD;
    return mm_is_stack_overflow(mm_kernel(), address);
}

/* Between two stacks of mm lie guard pages, so a few bytes whose ends are on stacks are on one. */
static bool place_is_on_window_stack(vaddr_t first, vaddr_t last)
{
    const struct kvm *kvm = &mm_kernel()->kvm;

    return kvm->space != NULL && kvm_place_of(kvm, first) == KVM_STACK &&
           kvm_place_of(kvm, last) == KVM_STACK;
}

bool place_is_on_stack(vaddr_t address, uint64_t bytes)
{
    vaddr_t last = address + bytes - 1;
    const struct place *place = place_find(address);

    if (last < address)
        return false;
    if (place != NULL)
        return place->kind == PLACE_STACK && place == place_find(last);
    return place_is_on_window_stack(address, last);
}

bool place_is_text(vaddr_t address)
{
    return (address >= (vaddr_t)__text_begin && address < (vaddr_t)__text_end) ||
           (address >= (vaddr_t)__init_begin && address < (vaddr_t)__init_end &&
            !place_is_given_back(address));
}
