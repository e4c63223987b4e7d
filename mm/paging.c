/* SPDX-License-Identifier: MIT */
/* Address spaces: made, shared, switched, destroyed; page faults; a loader's tables.
 *
 *      kernel space  --shared-->  user space  --shared-->  user space  --> none
 *           ^---------kernel---------'              |
 *           '--------------------kernel-------------'
 *
 * The upper half of the root of each user space is a copy of the kernel's, entry by entry. While the list
 * stands, whoever changes such an entry in the kernel's root writes the copies too (paging_change.c),
 * under the kernel's lock, which also guards the list. The tables below belong to the kernel space.
 *
 * What maps is in paging_map.c, what changes mappings in paging_alter.c, what asks in paging_read.c.
 *
 * Invariants: every table but a root has a present entry (an empty one is freed); no entry is
 * writable and executable at once. */
#include "mm/paging_entry.h"
#include "mm/paging_owner.h"

#include <mm/hhdm.h>
#include <mm/log.h>

#define CR4_PGE ((uint64_t)1 << 7)

static uint64_t *table_at(paddr_t table)
{
    return phys_to_virt(table);
}

/* ---- making ---- */

mm_status_t paging_init(struct address_space *space, struct pmm *pmm,
                        const struct mm_cpu_features *features)
{
    paddr_t root;
    mm_status_t status = pmm_alloc_table(pmm, &root);

    if (status != MM_OK)
        return status;
    *space = (struct address_space){
        .levels = features->levels,
        .physical_bits = features->physical_bits,
        .huge_pages = features->huge_pages,
        .root = root,
        .hhdm = hhdm_offset(),
        .pmm = pmm,
        .visitor = MM_PORT_NO_SLOT,
        .last = { .region = UINT64_MAX },
        .stats = { .table_frames = 1 },
    };
    return MM_OK;
}

mm_status_t paging_create_user(struct address_space *space, struct address_space *kernel)
{
    paddr_t root;

    if (kernel->kernel != NULL)
        return MM_INVALID_ARGUMENT;
    mm_status_t status = pmm_alloc_table(kernel->pmm, &root);
    if (status != MM_OK)
        return status;
    *space = (struct address_space){
        .levels = kernel->levels,
        .physical_bits = kernel->physical_bits,
        .huge_pages = kernel->huge_pages,
        .root = root,
        .hhdm = kernel->hhdm,
        .pmm = kernel->pmm,
        .kernel = kernel,
        .visitor = MM_PORT_NO_SLOT,
        .last = { .region = UINT64_MAX },
        .stats = { .table_frames = 1 },
    };
    uint64_t saved = space_lock(kernel);
    for (size_t i = PAGING_ENTRIES / 2; i < PAGING_ENTRIES; i++)
        table_at(root)[i] = table_at(kernel->root)[i] & ~ENTRY_COUNT;
    space->shared = kernel->shared;
    kernel->shared = space;
    space_unlock(kernel, saved);
    return MM_OK;
}

/* ---- tables of a hierarchy ---- */

enum visit_order {
    TABLE_FIRST, /* before its entries are read */
    TABLE_LAST,  /* after everything below it: it may be freed */
};

struct visit {
    enum visit_order order;
    void (*visit)(void *context, paddr_t table);
    void *context;
};

static void visit_tables(const struct visit *visit, paddr_t table, unsigned level, size_t entries)
{
    if (visit->order == TABLE_FIRST)
        visit->visit(visit->context, table);
    for (size_t i = 0; level > 1 && i < entries; i++) {
        uint64_t entry = table_at(table)[i];
        if (entry_is_present(entry) && !entry_is_leaf(entry, level))
            visit_tables(visit, entry & ENTRY_ADDRESS, level - 1, PAGING_ENTRIES);
    }
    if (visit->order == TABLE_LAST)
        visit->visit(visit->context, table);
}

void paging_for_each_table(struct paging_root root, void (*visit)(void *context, paddr_t table),
                           void *context)
{
    struct visit all = { TABLE_FIRST, visit, context };

    visit_tables(&all, root.root & ENTRY_ADDRESS, root.levels, PAGING_ENTRIES);
}

struct obstacle_search {
    paddr_t base, end, found;
};

static void note_obstacle(void *context, paddr_t table)
{
    struct obstacle_search *search = context;

    if (table < search->end && table + FRAME_SIZE > search->base && table >= search->found)
        search->found = table + FRAME_SIZE;
}

paddr_t paging_tables_obstacle(void *context, paddr_t base, paddr_t end)
{
    const struct paging_root *root = context;
    struct obstacle_search search = { base, end, base };

    paging_for_each_table(*root, note_obstacle, &search);
    return search.found;
}

/* ---- the end of a space ---- */

static void free_table(void *context, paddr_t table)
{
    memset(table_at(table), 0, FRAME_SIZE); /* the pmm keeps it as known zero */
    pmm_free_table(context, table);
}

static void leave_kernel(struct address_space *space)
{
    struct address_space *kernel = space->kernel, **link = &kernel->shared;
    uint64_t saved = space_lock(kernel);

    while (*link != space)
        link = &(*link)->shared;
    *link = space->shared;
    space_unlock(kernel, saved);
}

static bool is_in_use_here(const struct address_space *space)
{
    return space->activated && (mm_port_read_cr(3) & ENTRY_ADDRESS) == space->root;
}

void paging_destroy(struct address_space *space)
{
    if (space == NULL || space->pmm == NULL) {
        mm_bug("destruction of address space 0x%lx, which is none", (uintptr_t)space);
        return;
    }
    if (is_in_use_here(space) || (space->kernel == NULL && space->shared != NULL)) {
        mm_bug("destruction of address space 0x%lx with root 0x%lx, which %s", (uintptr_t)space,
               space->root,
               is_in_use_here(space) ? "this CPU uses" : "lends its upper half to others");
        return;
    }
    struct visit own = { .order = TABLE_LAST, .visit = free_table, .context = space->pmm };
    if (space->kernel != NULL)
        leave_kernel(space);
    visit_tables(&own, space->root, space->levels,
                 space->kernel != NULL ? PAGING_ENTRIES / 2 : PAGING_ENTRIES);
    *space = (struct address_space){ 0 };
}

/* ---- in use ---- */

static void mark_activated(struct address_space *space)
{
    __atomic_store_n(&space->activated, true, __ATOMIC_RELAXED);
}

void paging_activate(struct address_space *space, const struct mm_cpu_features *features)
{
    uint64_t cr4 = mm_port_read_cr(4) & ~CR4_PGE;

    mark_activated(space);
    /* A CR3 load keeps global translations; clearing PGE drops them (SDM vol. 3, 4.10.4.1). */
    mm_port_write_cr(4, cr4);
    mm_port_write_cr(3, space->root);
    if (features->pge)
        mm_port_write_cr(4, cr4 | CR4_PGE);
}

void paging_switch(struct address_space *space)
{
    if ((mm_port_read_cr(3) & ENTRY_ADDRESS) == space->root)
        return;
    mark_activated(space);
    mm_port_write_cr(3, space->root);
}

/* ---- page faults ---- */

/* Both are half-open in the end but may end at 2^64: compared by last bytes. */
static bool windows_meet(const struct paging_window *a, const struct paging_window *b)
{
    return a->base <= b->base + (b->bytes - 1) && b->base <= a->base + (a->bytes - 1);
}

mm_status_t paging_watch(struct address_space *space, struct paging_window *window)
{
    vaddr_t last = window->base + window->bytes - 1;
    mm_status_t status = MM_OK;

    if (!mm_is_aligned(window->base | window->bytes, PAGE_SIZE))
        return MM_NOT_ALIGNED;
    if (window->bytes == 0 || window->fill == NULL)
        return MM_INVALID_ARGUMENT;
    if (last < window->base || is_upper_half(window->base) != is_upper_half(last) ||
        (is_upper_half(last) && space->kernel != NULL) ||
        !paging_is_canonical(window->base, space->levels) ||
        !paging_is_canonical(last, space->levels))
        return MM_INVALID_ADDRESS;
    uint64_t saved = space_lock(space);
    for (const struct paging_window *other = space->window; other != NULL; other = other->next)
        if (windows_meet(window, other))
            status = MM_ALREADY_MAPPED;
    if (status == MM_OK) {
        window->next = space->window;
        __atomic_store_n(&space->window, window, __ATOMIC_RELEASE);
    }
    space_unlock(space, saved);
    return status;
}

void paging_unwatch(struct address_space *space, struct paging_window *window)
{
    struct paging_window **link = &space->window;
    uint64_t saved = space_lock(space);

    while (*link != NULL && *link != window)
        link = &(*link)->next;
    bool found = *link != NULL;
    if (found)
        __atomic_store_n(link, window->next, __ATOMIC_RELEASE);
    space_unlock(space, saved);
    if (!found)
        mm_bug("address space 0x%lx does not watch the window at 0x%lx", (uintptr_t)space,
               (uintptr_t)window);
}

/* A fault in the upper half of a space that shares it is the kernel space's. */
bool paging_fault(struct address_space *space, vaddr_t address, uint64_t error)
{
    struct address_space *owner =
        is_upper_half(address) && space->kernel != NULL ? space->kernel : space;
    const struct paging_window *window = __atomic_load_n(&owner->window, __ATOMIC_ACQUIRE);

    while (window != NULL && address - window->base >= window->bytes)
        window = __atomic_load_n(&window->next, __ATOMIC_ACQUIRE);
    return window != NULL && window->fill(window->context, owner, address, error);
}
