/* SPDX-License-Identifier: MIT */
/* The kernel image in words: guard pages, sections, symbols; also where the HHDM shows it.
 *
 *      guard? -> its name | section -> "text of function kmain + 0x12" | "kernel text + 0x4000"
 *
 * Owns nothing. Invariant: what boot has given back is the image's no more through the HHDM, because its
 * frames belong to others now. */
#include "mm/explain_parts.h"

struct named_section {
    struct boot_section section;
    const char *name;
    const char *what; /* of a symbol in it */
};

#define SECTION_COUNT 6u

/* Parts of data come before data itself. */
static void list_sections(const struct boot_info *boot, struct named_section out[SECTION_COUNT])
{
    out[0] = (struct named_section){ boot->text, "text", "function " };
    out[1] = (struct named_section){ boot->init, "init", "function " };
    out[2] = (struct named_section){ boot->rodata, "rodata", "" };
    out[3] = (struct named_section){ boot->ro_after_init, "ro_after_init", "" };
    out[4] = (struct named_section){ boot->init_data, "init_data", "" };
    out[5] = (struct named_section){ boot->data, "data", "" };
}

static bool is_in_section(vaddr_t address, struct boot_section section)
{
    return explain_is_in(address, section.begin, section.end);
}

static bool is_given_back(const struct mm *mm, vaddr_t address)
{
    return mm->kvm.init_released &&
           (is_in_section(address, mm->boot.init) || is_in_section(address, mm->boot.init_data));
}

static bool explain_guard(const struct boot_info *boot, vaddr_t address, struct explain_text text)
{
    for (uint32_t i = 0; i < boot->guard_count && i < BOOT_GUARD_MAX; i++) {
        if (!is_in_section(address, boot->guard[i]))
            continue;
        if (boot->guard_name[i] != NULL)
            mm_format(text.buffer, text.capacity, "%s", boot->guard_name[i]);
        else
            mm_format(text.buffer, text.capacity, "guard page of the kernel image + 0x%lx",
                      address - boot->guard[i].begin);
        return true;
    }
    return false;
}

bool explain_image(const struct mm *mm, vaddr_t address, struct explain_text text)
{
    const char *gone = is_given_back(mm, address) ? " (given back after boot)" : "";
    const struct boot_info *boot = &mm->boot;
    struct named_section sections[SECTION_COUNT];
    struct boot_symbol symbol;
    size_t i = 0;

    if (explain_guard(boot, address, text))
        return true;
    list_sections(boot, sections);
    while (i < SECTION_COUNT && !is_in_section(address, sections[i].section))
        i++;
    if (i == SECTION_COUNT)
        return false;
    if (boot->find_symbol != NULL && boot->find_symbol(address, &symbol))
        mm_format(text.buffer, text.capacity, "%s of %s%s + 0x%lx%s", sections[i].name,
                  sections[i].what, symbol.name, address - symbol.begin, gone);
    else
        mm_format(text.buffer, text.capacity, "kernel %s + 0x%lx%s", sections[i].name,
                  address - sections[i].section.begin, gone);
    return true;
}

bool explain_image_alias(const struct mm *mm, vaddr_t address, struct explain_text text)
{
    const struct boot_info *boot = &mm->boot;
    paddr_t physical;
    char image[MM_LOG_LINE_MAX];

    if (!explain_hhdm_physical(mm, address, &physical) || physical < boot->kernel_phys)
        return false;
    vaddr_t original = boot->kernel_virt + (physical - boot->kernel_phys);
    if (is_given_back(mm, original) ||
        !explain_image(mm, original, (struct explain_text){ image, sizeof(image) }))
        return false;
    mm_format(text.buffer, text.capacity, "HHDM of frame 0x%lx: %s",
              mm_round_down(physical, FRAME_SIZE), image);
    return true;
}
