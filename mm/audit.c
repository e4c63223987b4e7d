/* SPDX-License-Identifier: MIT */
/* The audit of an address space: every entry read twice, under the lock.
 *
 *   1. collect   the physical runs of all executable leaves  --sort, merge-->  | X |   | X | ...
 *   2. judge     each entry, each table, and each leaf:
 *                    writable    does its frame range meet an X, or a read-only section?
 *                    in HHDM     is it its own address, RAM, not executable?
 *                    elsewhere   is no frame of it free, or a page table?
 *
 * So the union of rights over all leaves of a frame needs no memory for each frame: executable memory is
 * little and in few runs, and each writable leaf is looked up among them. Only if there are more
 * runs than fit on the stack is memory taken, without the lock, and the reading begun anew.
 *
 * Nothing here is shared with the code that makes the tables but the names of bits. */
#include "mm/paging_entry.h"
#include "mm/paging_owner.h"

#include <mm/audit.h>

#define RUNS_ON_STACK 32u

struct audit {
    struct address_space *space;
    struct address_space *kernel; /* whose tables the upper half is */
    const struct audit_rules *rules;
    struct audit_result *result;
    bool judging;          /* second reading */
    struct mm_extent *run; /* executable frames; sorted and disjoint while judging */
    size_t runs, capacity; /* found; `runs` may be more than fit */
    struct mm_extent ram;  /* found to be shown rightly by the HHDM, last */
    uint64_t image_pages;  /* of sections, found as they should be */
    paddr_t peek_base;     /* where the frames in `peek` begin */
    struct pmm_peek peek;
};

static const uint64_t *table_at(paddr_t table)
{
    return phys_to_virt(table);
}

static void violation(struct audit *audit, enum audit_class class_, vaddr_t page, paddr_t frame,
                      paging_rights_t rights)
{
    struct audit_finding *found = &audit->result->found[class_];

    if (found->violations++ == 0) {
        found->page = page;
        found->frame = frame;
        found->rights = rights;
    }
}

/* ---- executable frames ---- */

/* Adds a leaf; one that goes on where the last one ended makes that longer. */
static void collect_executable(struct audit *audit, paddr_t frame, uint64_t bytes)
{
    size_t last = audit->runs - 1;

    if (audit->runs > 0 && audit->runs <= audit->capacity && audit->run[last].end == frame) {
        audit->run[last].end += bytes;
        return;
    }
    if (audit->runs < audit->capacity)
        audit->run[audit->runs] = (struct mm_extent){ frame, frame + bytes };
    audit->runs++;
}

static void sift_down(struct mm_extent *run, size_t at, size_t count)
{
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && run[child].base < run[child + 1].base)
            child++;
        if (run[at].base >= run[child].base)
            return;
        struct mm_extent larger = run[child];
        run[child] = run[at];
        run[at] = larger;
    }
}

/* Heap sort: no recursion, no memory, O(n log n) always. */
static void sort_runs(struct mm_extent *run, size_t count)
{
    for (size_t at = count / 2; at > 0; at--)
        sift_down(run, at - 1, count);
    for (size_t left = count; left > 1; left--) {
        struct mm_extent largest = run[0];
        run[0] = run[left - 1];
        run[left - 1] = largest;
        sift_down(run, 0, left - 1);
    }
}

/* Sorted runs become disjoint ones; returns how many. */
static size_t merge_runs(struct mm_extent *run, size_t count)
{
    size_t merged = 0;

    for (size_t i = 0; i < count; i++) {
        if (merged > 0 && run[i].base <= run[merged - 1].end) {
            if (run[i].end > run[merged - 1].end)
                run[merged - 1].end = run[i].end;
        } else {
            run[merged++] = run[i];
        }
    }
    return merged;
}

static bool meets_executable(const struct audit *audit, paddr_t base, paddr_t end)
{
    size_t low = 0, high = audit->runs;

    while (low < high) { /* the first run that ends behind base */
        size_t middle = low + (high - low) / 2;
        if (audit->run[middle].end <= base)
            low = middle + 1;
        else
            high = middle;
    }
    return low < audit->runs && audit->run[low].base < end;
}

/* ---- leaves ---- */

struct leaf {
    vaddr_t page;
    paddr_t frame;
    uint64_t bytes;
    paging_rights_t rights;
};

static void leaf_is_wrong(struct audit *audit, enum audit_class class_, const struct leaf *leaf)
{
    violation(audit, class_, leaf->page, leaf->frame, leaf->rights);
}

/* Whether [base, end) is RAM or framebuffer; neighbouring ranges of the map count as one. */
static bool may_be_shown(struct audit *audit, paddr_t base, paddr_t end)
{
    const struct audit_rules *rules = audit->rules;

    if (rules->map == NULL || (base >= audit->ram.base && end <= audit->ram.end))
        return true;
    for (paddr_t at = base; at < end;) {
        const struct mm_range *range = memmap_find(rules->map, at);
        if (range != NULL && (memmap_type_is_ram(range->type) || range->type == BOOT_FRAMEBUFFER)) {
            audit->ram = (struct mm_extent){ at, range->end };
            at = range->end;
        } else if (at >= rules->also.base && at < rules->also.end) {
            at += FRAME_SIZE;
        } else {
            return false;
        }
    }
    return true;
}

static bool is_in_hhdm(const struct audit *audit, vaddr_t page)
{
    return page - audit->rules->hhdm_offset < audit->rules->hhdm_end;
}

static void judge_in_hhdm(struct audit *audit, const struct leaf *leaf)
{
    audit->result->found[AUDIT_HHDM].checked++;
    if (leaf->frame != leaf->page - audit->rules->hhdm_offset ||
        (leaf->rights & PAGING_EXECUTE) != 0 ||
        !may_be_shown(audit, leaf->frame, leaf->frame + leaf->bytes))
        leaf_is_wrong(audit, AUDIT_HHDM, leaf);
}

/* Whether a frame is free, or a page table: 64 frames are asked for at once. */
static void judge_frame(struct audit *audit, paddr_t frame, bool *free, bool *table)
{
    paddr_t base = mm_round_down(frame, PMM_PEEK_BYTES);
    unsigned bit = (unsigned)((frame - base) >> FRAME_SHIFT);

    if (audit->peek_base != base || (audit->peek.known >> bit & 1) == 0) {
        audit->peek = pmm_peek_frames(audit->space->pmm, frame);
        audit->peek_base = base;
    }
    *free |= (audit->peek.free & audit->peek.known) >> bit & 1;
    *table |= (audit->peek.table & audit->peek.known) >> bit & 1;
}

/* Each frame that is mapped elsewhere has an owner who is no page table. */
static void judge_frames(struct audit *audit, const struct leaf *leaf)
{
    bool free = false, table = false;

    for (paddr_t frame = leaf->frame; frame < leaf->frame + leaf->bytes; frame += FRAME_SIZE)
        judge_frame(audit, frame, &free, &table);
    audit->result->found[AUDIT_FREE].checked++;
    if (free)
        leaf_is_wrong(audit, AUDIT_FREE, leaf);
    if (table)
        leaf_is_wrong(audit, AUDIT_TABLES, leaf);
}

/* A page of the image: in a section, at its frame, with its rights. */
static void judge_image_page(struct audit *audit, const struct leaf *leaf, vaddr_t page)
{
    const paging_rights_t looked_at = PAGING_RIGHTS_ALL & ~PAGING_GLOBAL;
    paddr_t frame = leaf->frame + (page - leaf->page);

    for (size_t i = 0; i < audit->rules->section_count; i++) {
        const struct audit_section *section = &audit->rules->sections[i];
        if (page < section->begin || page >= section->end)
            continue;
        if (frame == section->phys + (page - section->begin) &&
            ((leaf->rights ^ section->rights) & looked_at) == 0) {
            audit->image_pages++;
            return;
        }
        break;
    }
    violation(audit, AUDIT_IMAGE, page, frame, leaf->rights);
}

static void judge_image(struct audit *audit, const struct leaf *leaf)
{
    vaddr_t last = leaf->page + (leaf->bytes - 1);

    for (vaddr_t page = leaf->page; page >= leaf->page && page <= last; page += PAGE_SIZE)
        if (page >= audit->rules->image_begin && page < audit->rules->image_end)
            judge_image_page(audit, leaf, page);
}

/* A writable leaf: to no frame that is executable, or belongs to a read-only section. */
static void judge_writable(struct audit *audit, const struct leaf *leaf)
{
    paddr_t end = leaf->frame + leaf->bytes;

    if (meets_executable(audit, leaf->frame, end))
        leaf_is_wrong(audit, AUDIT_EXCLUSIVE, leaf);
    for (size_t i = 0; i < audit->rules->section_count; i++) {
        const struct audit_section *section = &audit->rules->sections[i];
        if ((section->rights & PAGING_WRITE) == 0 && section->phys < end &&
            section->phys + (section->end - section->begin) > leaf->frame) {
            leaf_is_wrong(audit, AUDIT_ALIASES, leaf);
            return;
        }
    }
}

static void judge_leaf(struct audit *audit, const struct leaf *leaf)
{
    audit->result->leaves++;
    audit->result->found[AUDIT_EXCLUSIVE].checked++;
    if ((leaf->rights & PAGING_WRITE) != 0) {
        audit->result->found[AUDIT_ALIASES].checked++;
        judge_writable(audit, leaf);
    }
    if (is_in_hhdm(audit, leaf->page))
        judge_in_hhdm(audit, leaf);
    else
        judge_frames(audit, leaf);
    if (leaf->page < audit->rules->image_end &&
        leaf->page + (leaf->bytes - 1) >= audit->rules->image_begin)
        judge_image(audit, leaf);
}

/* ---- entries and tables ---- */

/* Bits that must be 0 in a present entry (SDM vol. 3, 4.5, tables 4-14 to 4-20). */
static uint64_t reserved_bits(const struct address_space *space, uint64_t entry, unsigned level)
{
    uint64_t reserved = ENTRY_ADDRESS & ~(((uint64_t)1 << space->physical_bits) - 1);

    if (level >= 4 || (level == 3 && !space->huge_pages))
        reserved |= ENTRY_LARGE;
    else if (level > 1 && (entry & ENTRY_LARGE) != 0)
        reserved |= (level_bytes(level) - 1) & ENTRY_ADDRESS & ~ENTRY_PAT_LARGE;
    return entry & reserved;
}

static void judge_entry(struct audit *audit, vaddr_t page, unsigned level, uint64_t entry)
{
    paddr_t frame = entry & ENTRY_ADDRESS;

    if (reserved_bits(audit->space, entry, level) != 0)
        violation(audit, AUDIT_RESERVED, page, frame, rights_of(entry));
    if ((entry & ENTRY_USER) != 0 && is_upper_half(page))
        violation(audit, AUDIT_USER, page, frame, rights_of(entry));
}

static void count_entries(struct audit *audit, vaddr_t page, uint64_t count)
{
    audit->result->found[AUDIT_RESERVED].checked += count;
    if (is_upper_half(page))
        audit->result->found[AUDIT_USER].checked += count;
}

/* A table and what the entry that leads to it says of it. `count`: its present entries. */
static void judge_table(struct audit *audit, vaddr_t page, paddr_t table, uint64_t entry,
                        uint64_t count)
{
    count_entries(audit, page, count);
    audit->result->tables++;
    audit->result->found[AUDIT_TABLES].checked++;
    if (pmm_peek_frame(audit->space->pmm, table) != PMM_FRAME_TABLE || count == 0 ||
        entry_count(entry) != count)
        violation(audit, AUDIT_TABLES, page, table, rights_of(entry));
}

/* Whether an entry leads where one can look: what it says may be anything. */
static bool leads_to_table(const struct audit *audit, uint64_t entry, unsigned level)
{
    return level > 1 && (level > 3 || !entry_is_leaf(entry, level)) &&
           pmm_peek_frame(audit->space->pmm, entry & ENTRY_ADDRESS) != PMM_FRAME_OUTSIDE;
}

static void read_leaf(struct audit *audit, vaddr_t page, unsigned level, uint64_t entry,
                      uint64_t narrowed)
{
    struct leaf leaf = { page, entry_address(entry, level), level_bytes(level),
                         leaf_rights(narrowed, entry, level) };

    if (audit->judging)
        judge_leaf(audit, &leaf);
    else if ((leaf.rights & PAGING_EXECUTE) != 0)
        collect_executable(audit, leaf.frame, leaf.bytes);
}

/* Reads a table whose first entry stands for `base`; `above` is the entry that leads to it. */
static void read_table(struct audit *audit, vaddr_t base, unsigned level, uint64_t above,
                       uint64_t narrowed_above)
{
    const uint64_t *entries = table_at(above & ENTRY_ADDRESS);
    uint64_t count = 0;

    if (!audit->judging && (narrowed_above & ENTRY_NX) != 0)
        return; /* nothing below is executable */
    for (size_t i = 0; i < PAGING_ENTRIES; i++) {
        uint64_t entry = entries[i];
        vaddr_t page = base + i * level_bytes(level);
        uint64_t narrowed = attributes_narrow(narrowed_above, entry);

        if (!entry_is_present(entry))
            continue;
        count++;
        if (!audit->judging && (entry & ENTRY_NX) != 0)
            continue;
        if (audit->judging)
            judge_entry(audit, page, level, entry);
        if (leads_to_table(audit, entry, level))
            read_table(audit, page, level - 1, entry, narrowed);
        else if (level <= 3 && entry_is_leaf(entry, level))
            read_leaf(audit, page, level, entry, narrowed);
        else if (audit->judging) /* a table outside of RAM */
            violation(audit, AUDIT_TABLES, page, entry & ENTRY_ADDRESS, rights_of(entry));
    }
    if (audit->judging)
        judge_table(audit, base, above & ENTRY_ADDRESS, above, count);
}

/* The root has no entry above it that could count: each of its entries is looked at here. The tables
 * of the upper half are read from the kernel's root, which knows their counts. */
static void read_root(struct audit *audit)
{
    const struct address_space *space = audit->space, *kernel = audit->kernel;
    const uint64_t *own = table_at(space->root), *upper = table_at(kernel->root);
    unsigned levels = space->levels, shift = FRAME_SHIFT + 9 * (levels - 1);

    for (size_t i = 0; i < PAGING_ENTRIES; i++) {
        bool is_upper = i >= PAGING_ENTRIES / 2;
        uint64_t entry = is_upper ? upper[i] : own[i];
        vaddr_t page = (vaddr_t)i << shift;

        if (is_upper)
            page |= ~(((vaddr_t)1 << (shift + 9)) - 1); /* sign extension */
        if (audit->judging && ((entry ^ own[i]) & ~(ENTRY_COUNT | ENTRY_ACCESSED)) != 0)
            violation(audit, AUDIT_TABLES, page, own[i] & ENTRY_ADDRESS, rights_of(own[i]));
        if (!entry_is_present(entry))
            continue;
        if (audit->judging) {
            judge_entry(audit, page, levels, entry);
            count_entries(audit, page, 1);
        }
        if (leads_to_table(audit, entry, levels))
            read_table(audit, page, levels - 1, entry, attributes_narrow(ATTRIBUTES_ALL, entry));
        else if (audit->judging)
            violation(audit, AUDIT_TABLES, page, entry & ENTRY_ADDRESS, rights_of(entry));
    }
    if (!audit->judging)
        return;
    audit->result->tables++;
    audit->result->found[AUDIT_TABLES].checked++;
    if (pmm_peek_frame(space->pmm, space->root) != PMM_FRAME_TABLE)
        violation(audit, AUDIT_TABLES, 0, space->root, PAGING_READ);
}

/* ---- guards ---- */

/* The first leaf in `rest`; false if there is none. */
static bool find_leaf_in(const struct audit *audit, const uint64_t *table, unsigned level,
                         struct piece rest, struct leaf *leaf)
{
    while (rest.bytes > 0) {
        struct piece piece = piece_split(&rest, level);
        uint64_t entry = table[entry_index(piece.page, level)];

        if (!entry_is_present(entry))
            continue;
        if (leads_to_table(audit, entry, level)) {
            if (find_leaf_in(audit, table_at(entry & ENTRY_ADDRESS), level - 1, piece, leaf))
                return true;
        } else if (level <= 3 && entry_is_leaf(entry, level)) {
            *leaf = (struct leaf){ piece.page, entry_address(entry, level), piece.bytes,
                                   rights_of(entry) };
            return true;
        }
    }
    return false;
}

static void judge_guard(void *context, vaddr_t base, uint64_t bytes)
{
    struct audit *audit = context;
    struct address_space *owner = is_upper_half(base) ? audit->kernel : audit->space;
    struct leaf leaf;
    uint64_t saved = space_lock(owner);
    bool mapped = find_leaf_in(audit, table_at(owner->root), owner->levels,
                               (struct piece){ base, 0, bytes }, &leaf);

    space_unlock(owner, saved);
    audit->result->found[AUDIT_GUARDS].checked++;
    if (mapped)
        leaf_is_wrong(audit, AUDIT_GUARDS, &leaf);
}

/* ---- all of it ---- */

/* Both readings under the locks; false if the executable runs did not fit. */
static bool read_space(struct audit *audit)
{
    struct address_space *space = audit->space, *kernel = audit->kernel;
    uint64_t saved = space_lock(space);
    uint64_t saved_kernel = kernel != space ? space_lock(kernel) : 0;
    bool fits;

    audit->runs = 0;
    audit->judging = false;
    read_root(audit);
    fits = audit->runs <= audit->capacity;
    if (fits) {
        sort_runs(audit->run, audit->runs);
        audit->runs = merge_runs(audit->run, audit->runs);
        audit->judging = true;
        read_root(audit);
    }
    if (kernel != space)
        space_unlock(kernel, saved_kernel);
    space_unlock(space, saved);
    return fits;
}

/* Reads with as much memory for executable runs as it takes. */
static mm_status_t read_with_memory(struct audit *audit)
{
    struct pmm *pmm = audit->space->pmm;

    while (!read_space(audit)) {
        uint64_t bytes = mm_round_up(audit->runs * sizeof(struct mm_extent), FRAME_SIZE);
        paddr_t memory;
        mm_status_t status =
            pmm_alloc_contiguous(pmm, bytes / FRAME_SIZE, FRAME_SIZE, PMM_NO_LIMIT, &memory);
        if (audit->capacity > RUNS_ON_STACK)
            pmm_free_contiguous(pmm, virt_to_phys(audit->run),
                                audit->capacity * sizeof(struct mm_extent) / FRAME_SIZE);
        audit->capacity = 0;
        if (status != MM_OK)
            return status;
        audit->run = phys_to_virt(memory);
        audit->capacity = bytes / sizeof(struct mm_extent);
    }
    if (audit->capacity > RUNS_ON_STACK)
        pmm_free_contiguous(pmm, virt_to_phys(audit->run),
                            audit->capacity * sizeof(struct mm_extent) / FRAME_SIZE);
    return MM_OK;
}

/* Pages of sections that are not there, or not as linked, are missing from those found. */
static void judge_sections(struct audit *audit)
{
    struct audit_finding *found = &audit->result->found[AUDIT_IMAGE];
    const struct audit_rules *rules = audit->rules;

    for (size_t i = 0; i < rules->section_count; i++)
        found->checked += (rules->sections[i].end - rules->sections[i].begin) / PAGE_SIZE;
    if (audit->image_pages != found->checked && found->violations == 0)
        violation(audit, AUDIT_IMAGE, rules->image_begin, 0, PAGING_READ);
}

mm_status_t paging_audit(struct address_space *space, const struct audit_rules *rules,
                         struct audit_result *result)
{
    struct mm_extent first_runs[RUNS_ON_STACK];
    struct audit_result found = { .leaves = 0 };
    struct audit audit = { .space = space,
                           .kernel = space->kernel != NULL ? space->kernel : space,
                           .rules = rules,
                           .result = &found,
                           .run = first_runs,
                           .capacity = RUNS_ON_STACK,
                           .peek_base = UINT64_MAX };
    uint64_t start = mm_port_time_ns();
    mm_status_t status = read_with_memory(&audit);

    if (status != MM_OK)
        return status;
    judge_sections(&audit);
    if (rules->guards != NULL)
        rules->guards(rules->guards_context, judge_guard, &audit);
    for (unsigned i = 0; i < AUDIT_CLASSES; i++)
        if (i != AUDIT_EXCLUSIVE || !MM_ALLOW_WRITE_EXECUTE)
            found.violations += found.found[i].violations;
    found.ns = mm_port_time_ns() - start;
    *result = found;
    return MM_OK;
}
