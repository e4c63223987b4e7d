/* SPDX-License-Identifier: MIT */
/* The steps of a change of page tables; paging_change.h tells them. */
#include "mm/paging_change.h"

/* ---- rights ---- */

#define HAS(rights, right) (((rights) & (right)) != 0)
#define IS_WRITE_EXECUTE(rights)                                                                   \
    (!MM_ALLOW_WRITE_EXECUTE && HAS(rights, PAGING_WRITE) && HAS(rights, PAGING_EXECUTE))
#define HAS_TWO_TYPES(rights)                                                                      \
    (HAS(rights, PAGING_WRITE_COMBINING) + HAS(rights, PAGING_UNCACHED) +                          \
         HAS(rights, PAGING_WRITE_THROUGH) >                                                       \
     1)

/* PAT entries as enable_cpu_protection() sets them: 0 write-back, 5 write-combining, 3 uncached, 1
 * write-through. */
#define ATTRIBUTES(rights)                                                                         \
    (IS_WRITE_EXECUTE(rights) || HAS_TWO_TYPES(rights)                                             \
         ? 0                                                                                       \
         : ENTRY_PRESENT | (HAS(rights, PAGING_WRITE) ? ENTRY_WRITE : 0) |                         \
               (HAS(rights, PAGING_EXECUTE) ? 0 : ENTRY_NX) |                                      \
               (HAS(rights, PAGING_USER) ? ENTRY_USER : 0) |                                       \
               (HAS(rights, PAGING_GLOBAL) ? ENTRY_GLOBAL : 0) |                                   \
               (HAS(rights, PAGING_WRITE_COMBINING) ? ENTRY_PWT | ENTRY_PAT_4K : 0) |              \
               (HAS(rights, PAGING_UNCACHED) ? ENTRY_PWT | ENTRY_PCD : 0) |                        \
               (HAS(rights, PAGING_WRITE_THROUGH) ? ENTRY_PWT : 0))

#define ROW_OF_4(r)  ATTRIBUTES(r), ATTRIBUTES((r) + 1), ATTRIBUTES((r) + 2), ATTRIBUTES((r) + 3)
#define ROW_OF_16(r) ROW_OF_4(r), ROW_OF_4((r) + 4), ROW_OF_4((r) + 8), ROW_OF_4((r) + 12)
#define ROW_OF_64(r) ROW_OF_16(r), ROW_OF_16((r) + 16), ROW_OF_16((r) + 32), ROW_OF_16((r) + 48)

const uint64_t paging_attributes[PAGING_RIGHTS_ALL + 1] = { ROW_OF_64(0u), ROW_OF_64(64u) };

/* ---- lists of tables ---- */

void table_list_put(struct table_list *list, paddr_t table)
{
    entry_set(table_at(table), list->first);
    list->first = table;
    list->count++;
}

paddr_t table_list_take(struct table_list *list)
{
    paddr_t table = list->first;

    MM_ASSERT(list->count > 0);
    list->first = *table_at(table);
    *table_at(table) = 0;
    list->count--;
    return table;
}

/* Gives tables back, all zero: the pmm keeps them as such. */
static void table_list_release(struct table_list *list, struct pmm *pmm, bool is_zero)
{
    while (list->count > 0) {
        paddr_t table = table_list_take(list);
        if (!is_zero)
            memset(table_at(table), 0, FRAME_SIZE);
        pmm_free_table(pmm, table);
    }
}

static mm_status_t table_list_fill(struct table_list *list, struct pmm *pmm, unsigned flags,
                                   uint64_t count)
{
    paddr_t table;

    while (list->count < count) {
        mm_status_t status = pmm_alloc_table_flags(pmm, flags, &table);
        if (status != MM_OK)
            return status;
        table_list_put(list, table);
    }
    return MM_OK;
}

/* ---- checks ---- */

mm_status_t change_check_pages(const struct address_space *space, vaddr_t page, uint64_t bytes)
{
    vaddr_t last = page + bytes - 1;

    if (!mm_is_aligned(page | bytes, PAGE_SIZE))
        return MM_NOT_ALIGNED;
    if (bytes == 0)
        return MM_INVALID_ARGUMENT;
    if (last < page || !paging_is_canonical(page, space->levels) ||
        !paging_is_canonical(last, space->levels) || is_upper_half(page) != is_upper_half(last) ||
        (is_upper_half(page) && space->kernel != NULL))
        return MM_INVALID_ADDRESS;
    return MM_OK;
}

mm_status_t change_check_frames(const struct address_space *space, paddr_t frame, uint64_t bytes)
{
    paddr_t limit = (paddr_t)1 << space->physical_bits;

    if (!mm_is_aligned(frame, FRAME_SIZE))
        return MM_NOT_ALIGNED;
    return frame >= limit || bytes > limit - frame ? MM_INVALID_ADDRESS : MM_OK;
}

mm_status_t change_check_rights(const struct address_space *space, paging_rights_t rights,
                                uint64_t *attributes)
{
    *attributes = attributes_of(rights);
    if (*attributes == 0 || ((rights & PAGING_GLOBAL) != 0 && space->kernel != NULL))
        return MM_INVALID_ARGUMENT;
    return MM_OK;
}

/* ---- entries that lead to tables ---- */

/* The upper half of the kernel's root goes into the roots of all that share it. Their copies have no
 * count: nobody changes the tables from there. */
static void mirror(const struct address_space *kernel, size_t index, uint64_t value)
{
    for (struct address_space *user = kernel->shared; user != NULL; user = user->shared)
        entry_set(&table_at(user->root)[index], value & ~ENTRY_COUNT);
}

void change_set_table_entry(struct change *change, uint64_t *entry, unsigned level, uint64_t value)
{
    const struct address_space *space = change->space;

    entry_set(entry, value);
    if (level == space->levels && space->kernel == NULL && space->shared != NULL) {
        size_t index = (size_t)(entry - table_at(space->root));
        if (index >= PAGING_ENTRIES / 2)
            mirror(space, index, value);
    }
}

void change_let_user_in(struct change *change, uint64_t *entry, unsigned level, vaddr_t page)
{
    if ((change->attributes & ENTRY_USER) == 0 || (*entry & ENTRY_USER) != 0)
        return;
    change_set_table_entry(change, entry, level, *entry | ENTRY_USER);
    batch_add(&change->batch, page); /* may be cached (SDM vol. 3, 4.10.4.3) */
}

/* The count of tables that went lets a reader without the lock know that its own may be among them;
 * it is raised before the table can become anything else. */
void change_unhook(struct change *change, uint64_t *entry, unsigned level, bool is_zero)
{
    struct address_space *space = change->space;
    paddr_t table = *entry & ENTRY_ADDRESS;

    if (space->last.entry == entry)
        space->last.region = UINT64_MAX;
    change_set_table_entry(change, entry, level, 0);
    __atomic_store_n(&space->unhooked, space->unhooked + 1, __ATOMIC_RELEASE);
    space->stats.table_frames--;
    table_list_put(is_zero ? &change->emptied : &change->unhooked, table);
}

/* ---- the steps ---- */

void change_init(struct change *change, struct address_space *space, enum change_kind kind,
                 vaddr_t base)
{
    change->space = space;
    change->kind = kind;
    change->attributes = 0;
    change->base = base;
    change->frames = NULL;
    change->taken = NULL;
    change->fresh = change->raw = (struct table_list){ 0, 0 };
    change->emptied = change->unhooked = (struct table_list){ 0, 0 };
    change->batch.everything = false;
    change->batch.count = 0;
}

/* Plans, and applies if there are as many tables as that takes; *done says if so. */
static mm_status_t try_change(struct change *change, struct piece piece, change_plan_fn plan,
                              change_apply_fn apply, struct table_need *need, bool *done)
{
    struct address_space *space = change->space;
    uint64_t saved = space_lock(space);
    uint64_t *root = table_at(space->root);
    uint64_t nobody = 0; /* above the root there is no entry to count in */

    *need = (struct table_need){ 0, 0 };
    mm_status_t status = plan(change, root, space->levels, piece, need);
    *done = status == MM_OK && need->fresh <= change->fresh.count && need->raw <= change->raw.count;
    if (*done) {
        apply(change, root, space->levels, piece, &nobody);
        if (change->batch.count > 0)
            mm_port_tlb_shootdown(&change->batch);
    }
    space_unlock(space, saved);
    return status;
}

mm_status_t change_run(struct change *change, struct piece piece, change_plan_fn plan,
                       change_apply_fn apply)
{
    struct pmm *pmm = change->space->pmm;
    struct table_need need;
    mm_status_t status;
    bool done;

    do {
        status = try_change(change, piece, plan, apply, &need, &done);
        if (status != MM_OK || done)
            break;
        status = table_list_fill(&change->fresh, pmm, 0, need.fresh);
        if (status == MM_OK)
            status = table_list_fill(&change->raw, pmm, PMM_NOZERO, need.raw);
    } while (status == MM_OK);
    table_list_release(&change->fresh, pmm, true);
    table_list_release(&change->raw, pmm, false);
    table_list_release(&change->emptied, pmm, true);
    table_list_release(&change->unhooked, pmm, false);
    return status;
}

mm_status_t change_run_to_frames(struct change *change, struct piece piece, paging_rights_t rights,
                                 change_plan_fn plan, change_apply_fn apply)
{
    mm_status_t status = change_check_pages(change->space, piece.page, piece.bytes);

    if (status == MM_OK)
        status = change_check_frames(change->space, piece.frame, piece.bytes);
    if (status == MM_OK)
        status = change_check_rights(change->space, rights, &change->attributes);
    return status == MM_OK ? change_run(change, piece, plan, apply) : status;
}
