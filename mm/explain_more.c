/* SPDX-License-Identifier: MIT */
/* The further lines on an address: its window, the rights at each level of the page tables, the frame
 * with its owner, the neighbours in the heap.
 *
 *      address -> window
 *              -> PML5e .. PTe -> frame -> state in the pmm
 *                                       -> owner: what is mapped to it outside the HHDM
 *              -> kheap_peek() of the byte below and of the byte above the block
 *
 * Owns nothing, takes no lock, never follows the address. */
#include "mm/explain_parts.h"

struct printer {
    void (*print)(void *context, const char *line);
    void *context;
};

static void print_line(struct printer printer, const char *format, ...) MM_PRINTF(2, 3);

static void print_line(struct printer printer, const char *format, ...)
{
    char line[MM_LOG_LINE_MAX];
    va_list arguments;

    va_start(arguments, format);
    mm_vformat(line, sizeof(line), format, arguments);
    va_end(arguments);
    printer.print(printer.context, line);
}

/* ---- windows ---- */

struct named_window {
    const char *name;
    struct kvm_window window;
};

#define WINDOW_COUNT 4u

static void list_windows(const struct kvm *kvm, struct named_window out[WINDOW_COUNT])
{
    out[0] = (struct named_window){ "heap", kvm->heap };
    out[1] = (struct named_window){ "kernel stacks", kvm->stacks };
    out[2] = (struct named_window){ "devices", kvm->devices };
    out[3] = (struct named_window){ "blocks", kvm->blocks };
}

static void print_window(const struct mm *mm, vaddr_t address, struct printer printer)
{
    struct named_window windows[WINDOW_COUNT];
    paddr_t physical;

    list_windows(&mm->kvm, windows);
    for (size_t i = 0; i < WINDOW_COUNT; i++)
        if (explain_is_in(address, windows[i].window.base, windows[i].window.end))
            print_line(printer, "window of the %s, 0x%lx-0x%lx", windows[i].name,
                       windows[i].window.base, windows[i].window.end);
    if (explain_hhdm_physical(mm, address, &physical))
        print_line(printer, "HHDM, from 0x%lx on: physical 0x%lx", hhdm_offset(), physical);
}

/* ---- page tables ---- */

static const char *const level_names[] = { "", "PTe", "PDe", "PDPTe", "PML4e", "PML5e" };
static const char *const leaf_sizes[] = { "", "4 KB", "2 MB", "1 GB" };

/* "PML4e rwx--, PDPTe rwx--, PDe rw--g (2 MB) -> 0x..." or "..., PTe not present". */
static void print_levels(const struct mm *mm, vaddr_t address, struct printer printer)
{
    struct paging_level levels[PAGING_LEVELS_MAX];
    size_t count = paging_peek(&mm->kernel_space, address, levels);
    char line[MM_LOG_LINE_MAX], rights[PAGING_RIGHTS_TEXT];
    size_t used = 0;

    for (size_t i = 0; i < count && used < sizeof(line); i++) {
        const struct paging_level *level = &levels[i];
        const char *comma = i > 0 ? ", " : "", *name = level_names[level->level];
        paging_rights_text(level->rights, rights);
        if (!level->present)
            used += mm_format(line + used, sizeof(line) - used, "%s%s not present", comma, name);
        else if (level->leaf && level->level <= 3)
            used +=
                mm_format(line + used, sizeof(line) - used, "%s%s %s (%s) -> 0x%lx", comma, name,
                          rights, leaf_sizes[level->level], explain_leaf_physical(level, address));
        else
            used += mm_format(line + used, sizeof(line) - used, "%s%s %s", comma, name, rights);
    }
    if (count > 0)
        print_line(printer, "page tables: %s", line);
}

/* ---- frames ---- */

/* Looks for a leaf of the window that maps the frame; *looks counts down to 0. */
static bool find_in_window(const struct mm *mm, struct kvm_window window, paddr_t frame,
                           uint64_t *looks, vaddr_t *out)
{
    struct paging_level levels[PAGING_LEVELS_MAX];

    for (vaddr_t at = window.base; at<window.end && * looks> 0; (*looks)--) {
        size_t count = paging_peek(&mm->kernel_space, at, levels);
        if (count == 0)
            return false;
        const struct paging_level *last = &levels[count - 1];
        uint64_t bytes = explain_level_bytes(last->level);
        paddr_t base = explain_leaf_physical(last, 0);
        if (last->present && last->leaf && frame >= base && frame - base < bytes) {
            *out = mm_round_down(at, bytes) + (frame - base);
            return true;
        }
        at = mm_round_down(at, bytes) + bytes;
    }
    return false;
}

/* Where else than in the HHDM the frame is mapped. */
static bool find_owner(const struct mm *mm, paddr_t frame, vaddr_t *out)
{
    struct named_window windows[WINDOW_COUNT];
    uint64_t looks = EXPLAIN_SEARCH_PAGES;

    list_windows(&mm->kvm, windows);
    for (size_t i = 0; i < WINDOW_COUNT; i++)
        if (find_in_window(mm, windows[i].window, frame, &looks, out))
            return true;
    return false;
}

static void print_owner(const struct mm *mm, paddr_t physical, struct printer printer)
{
    char owner[MM_LOG_LINE_MAX];
    vaddr_t mapped;

    if (pmm_peek_frame(&mm->pmm, physical) != PMM_FRAME_USED ||
        !find_owner(mm, mm_round_down(physical, FRAME_SIZE), &mapped))
        return;
    mapped += physical & (FRAME_SIZE - 1);
    mm_explain(mm, mapped, owner, sizeof(owner));
    print_line(printer, "the frame is mapped at 0x%lx too: %s", mapped, owner);
}

static void print_frame(const struct mm *mm, vaddr_t address, struct printer printer)
{
    struct paging_level leaf;
    paddr_t physical;
    bool in_hhdm = explain_hhdm_physical(mm, address, &physical);

    if (!in_hhdm && !explain_leaf(mm, address, &leaf))
        return;
    if (!in_hhdm)
        physical = explain_leaf_physical(&leaf, address);
    const struct mm_range *range = memmap_find(&mm->map, physical);
    print_line(printer, "frame 0x%lx: %s%s", mm_round_down(physical, FRAME_SIZE),
               range == NULL ? "no memory" : memmap_type_name(range->type),
               explain_frame_state(pmm_peek_frame(&mm->pmm, physical)));
    if (in_hhdm)
        print_owner(mm, physical, printer);
}

/* ---- neighbours ---- */

static void print_neighbour(const struct mm *mm, const char *where, vaddr_t address,
                            struct printer printer)
{
    struct kheap_peek block;

    if (!kheap_peek(mm->heap, address, &block) ||
        (block.what != KHEAP_USED && block.what != KHEAP_FREE))
        return;
    print_line(printer, "%s: %sheap block 0x%lx of %lu bytes", where,
               block.what == KHEAP_FREE ? "free " : "", block.start, block.bytes);
}

static void print_neighbours(const struct mm *mm, vaddr_t address, struct printer printer)
{
    struct kheap_peek block;

    if (mm->heap == NULL || !kheap_peek(mm->heap, address, &block) || block.what == KHEAP_STATE ||
        block.what == KHEAP_DAMAGED)
        return;
    print_neighbour(mm, "below", block.start - 1, printer);
    print_neighbour(mm, "above", block.start + block.bytes, printer);
}

/* Where the heap has recorded who took the block and who gave it back. */
static void print_sites(const struct mm *mm, vaddr_t address, struct printer printer)
{
    char site[MM_LOG_LINE_MAX];
    struct kheap_peek block;

    if (mm->heap == NULL || !kheap_peek(mm->heap, address, &block))
        return;
    const vaddr_t sites[2] = { block.alloc_site, block.free_site };
    for (size_t i = 0; i < 2; i++) {
        if (sites[i] == 0)
            continue;
        mm_explain(mm, sites[i], site, sizeof(site));
        print_line(printer, "%s by 0x%lx: %s", i == 0 ? "allocated" : "freed", sites[i], site);
    }
}

void mm_explain_more(const struct mm *mm, vaddr_t address,
                     void (*print)(void *context, const char *line), void *context)
{
    struct printer printer = { print, context };

    print_window(mm, address, printer);
    print_levels(mm, address, printer);
    print_frame(mm, address, printer);
    print_neighbours(mm, address, printer);
    print_sites(mm, address, printer);
}
