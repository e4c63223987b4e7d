/* SPDX-License-Identifier: MIT */
/* The audit of the kernel's own space: its rules, and the lines of the log.
 *
 *      boot information   sections of the image, guards in .data, framebuffer
 *      memory map         what the HHDM may show
 *      kvm                which sections have changed since boot, guards in the windows
 *
 * Owns nothing. The sections are cut where the image's own parts overlap: .data without its guards,
 * without what was released, and with what was sealed. */
#include <mm/audit.h>

#define SECTIONS_MAX (8u + 3u * BOOT_GUARD_MAX)

static const struct {
    const char *key;
    const char *name;
} classes[AUDIT_CLASSES] = {
    [AUDIT_EXCLUSIVE] = { "exclusive", "no frame is writable and executable, in any two mappings" },
    [AUDIT_USER] = { "user", "no user access to the kernel half" },
    [AUDIT_FREE] = { "free", "no mapping of a free frame" },
    [AUDIT_TABLES] = { "pagetables", "page tables are tables, reached through the HHDM alone" },
    [AUDIT_RESERVED] = { "reserved", "no reserved bit is set" },
    [AUDIT_GUARDS] = { "guards", "guard pages are not mapped" },
    [AUDIT_IMAGE] = { "image", "pages of the kernel image are as linked" },
    [AUDIT_ALIASES] = { "aliases", "no writable mapping of a constant" },
    [AUDIT_HHDM] = { "hhdm", "the HHDM shows RAM, in its place, not executable" },
};

const char *audit_class_name(enum audit_class class_)
{
    return (unsigned)class_ < AUDIT_CLASSES ? classes[class_].name : "unknown";
}

const char *audit_class_key(enum audit_class class_)
{
    return (unsigned)class_ < AUDIT_CLASSES ? classes[class_].key : "unknown";
}

/* ---- sections ---- */

struct section_list {
    const struct mm *mm;
    struct audit_section section[SECTIONS_MAX];
    size_t count;
    vaddr_t begin, end; /* of all of the image */
};

static void add_section(struct section_list *list, struct boot_section part, paging_rights_t rights)
{
    const struct boot_info *boot = &list->mm->boot;

    if (part.begin >= part.end)
        return;
    MM_ASSERT(list->count < SECTIONS_MAX);
    list->section[list->count++] =
        (struct audit_section){ .begin = part.begin,
                                .end = part.end,
                                .phys = boot->kernel_phys + (part.begin - boot->kernel_virt),
                                .rights = rights };
}

static bool is_inside(vaddr_t page, struct boot_section part)
{
    return page >= part.begin && page < part.end;
}

/* What a page of .data is: a guard or released (false), or mapped with these rights. */
static bool data_rights(const struct mm *mm, vaddr_t page, paging_rights_t *rights)
{
    for (uint32_t i = 0; i < mm->boot.guard_count; i++)
        if (is_inside(page, mm->boot.guard[i]))
            return false;
    if (mm->kvm.init_released && is_inside(page, mm->boot.init_data))
        return false;
    *rights = mm->kvm.constants_sealed && is_inside(page, mm->boot.ro_after_init) ? PAGING_READ
                                                                                  : PAGING_WRITE;
    return true;
}

/* Pages of .data with the same rights are one section. */
static void add_data(struct section_list *list)
{
    struct boot_section data = list->mm->boot.data, part = { data.begin, data.begin };
    paging_rights_t rights = 0, last = 0;

    for (vaddr_t page = data.begin; page < data.end; page += PAGE_SIZE) {
        bool mapped = data_rights(list->mm, page, &rights);
        if (part.end != part.begin && (!mapped || rights != last)) {
            add_section(list, part, last);
            part.begin = part.end = page;
        }
        if (!mapped)
            continue;
        if (part.end == part.begin)
            part.begin = page;
        part.end = page + PAGE_SIZE;
        last = rights;
    }
    add_section(list, part, last);
}

static void widen(struct section_list *list, struct boot_section part)
{
    if (part.begin >= part.end)
        return;
    list->begin = part.begin < list->begin ? part.begin : list->begin;
    list->end = part.end > list->end ? part.end : list->end;
}

static void add_sections(struct section_list *list)
{
    const struct boot_info *boot = &list->mm->boot;

    list->begin = boot->kernel_virt;
    list->end = boot->kernel_virt;
    widen(list, boot->text);
    widen(list, boot->rodata);
    widen(list, boot->data);
    widen(list, boot->init);
    add_section(list, boot->text, PAGING_EXECUTE);
    add_section(list, boot->rodata, PAGING_READ);
    if (!list->mm->kvm.init_released)
        add_section(list, boot->init, PAGING_EXECUTE);
    add_data(list);
}

/* ---- guards ---- */

static void visit_guards(void *context, void (*visit)(void *argument, vaddr_t base, uint64_t bytes),
                         void *argument)
{
    struct mm *mm = context;

    visit(argument, 0, PAGE_SIZE); /* a null pointer leads nowhere */
    for (uint32_t i = 0; i < mm->boot.guard_count; i++)
        if (mm->boot.guard[i].begin < mm->boot.guard[i].end)
            visit(argument, mm->boot.guard[i].begin,
                  mm->boot.guard[i].end - mm->boot.guard[i].begin);
    kvm_for_each_guard(&mm->kvm, visit, argument);
}

/* ---- the log ---- */

static void log_class(enum audit_class class_, const struct audit_finding *found)
{
    char rights[PAGING_RIGHTS_TEXT];

    if (found->violations == 0) {
        mm_info("✓ audit: %s: %lu", audit_class_name(class_), found->checked);
        return;
    }
    paging_rights_text(found->rights, rights);
    mm_log_at(MM_LOG_ERROR, "✗ audit: %s: %lu of %lu, first: 0x%lx %s -> 0x%lx",
              audit_class_name(class_), found->violations, found->checked, found->page, rights,
              found->frame);
}

static void log_classes(const struct audit_result *result, bool all)
{
    for (unsigned i = 0; i < AUDIT_CLASSES; i++)
        if (all || result->found[i].violations > 0)
            log_class((enum audit_class)i, &result->found[i]);
}

static void log_verdict(const char *which, const struct audit_result *result)
{
    char keys[MM_LOG_LINE_MAX];
    size_t length = 0;

    for (unsigned i = 0; i < AUDIT_CLASSES; i++)
        length += mm_format(keys + length, sizeof(keys) - length, " %s=%lu", classes[i].key,
                            result->found[i].violations);
    mm_info("%s ok=%d violations=%lu leaves=%lu tables=%lu us=%lu%s", which,
            result->violations == 0, result->violations, result->leaves, result->tables,
            result->ns / 1000, keys);
}

/* The addresses from the HHDM's beginning to the end of its last root slot are the HHDM's, since windows
 * take whole slots; the image may stand in one of them. What is mapped there beyond the end of RAM is
 * judged too: registers of a device, say, that look like memory. */
static paddr_t hhdm_limit(const struct mm *mm, const struct section_list *list)
{
    uint64_t slot = (uint64_t)1 << (FRAME_SHIFT + 9 * (mm->kernel_space.levels - 1));
    paddr_t end = mm_round_up(hhdm_offset() + hhdm_end(), slot) - hhdm_offset(); /* 2^64 is 0 */
    paddr_t image = list->begin - hhdm_offset();

    return image >= hhdm_end() && image < end ? image : end;
}

static mm_status_t audit_kernel(struct mm *mm, struct audit_result *result)
{
    const struct boot_info *boot = &mm->boot;
    struct section_list list = { .mm = mm, .count = 0 };
    paddr_t framebuffer_end = boot->framebuffer_base + boot->framebuffer_bytes;

    add_sections(&list);
    struct audit_rules rules = {
        .hhdm_offset = hhdm_offset(),
        .hhdm_end = hhdm_limit(mm, &list),
        .map = &mm->map,
        .also = { mm_round_down(boot->framebuffer_base, FRAME_SIZE),
                  mm_round_up(framebuffer_end, FRAME_SIZE) },
        .image_begin = list.begin,
        .image_end = list.end,
        .sections = list.section,
        .section_count = list.count,
        .guards = visit_guards,
        .guards_context = mm,
    };
    return paging_audit(&mm->kernel_space, &rules, result);
}

static bool audit_and_log(struct mm *mm, const char *which, bool all, struct audit_result *result)
{
    if (mm->boot.paging_is_foreign)
        return true;
    pmm_drain(&mm->pmm); /* a frame in no cache is found free in one look */
    mm_status_t status = audit_kernel(mm, result);
    if (status != MM_OK) {
        mm_error("no audit of the page tables: %s", mm_status_name(status));
        return false;
    }
    log_classes(result, all);
    log_verdict(which, result);
    return result->violations == 0;
}

bool mm_audit(struct mm *mm, struct audit_result *result)
{
    return audit_and_log(mm, "AUDIT", true, result);
}

bool mm_audit_again(struct mm *mm, struct audit_result *result)
{
    return audit_and_log(mm, "AUDIT AGAIN", false, result);
}
