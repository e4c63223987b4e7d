/* SPDX-License-Identifier: MIT */
/* x86-64 page tables: map, unmap, translate.
 *
 * A table is one frame of 512 entries, reached through the HHDM. An entry (SDM vol. 3, 4.5, tables
 * 4-14 to 4-20; level 5 is the PML5, level 1 the page table):
 *
 *      63  62..52   51..12             11..9  8  7     6  5  4    3    2  1  0
 *      NX  ignored  physical address   ign.   G  PS    D  A  PCD  PWT  U  W  P
 *                                                PAT (level 1; bit 12 of a large leaf)
 *
 * Changing a range goes in three steps: check all of it and count the tables it lacks; take these
 * from the pmm, without the lock of the space, since the pmm may log; then write. Nothing can fail
 * while writing, so a call that fails has changed nothing. Tables are counted again after the lock
 * was taken again.
 *
 * Translations that change are collected in a batch, which mm_port_tlb_shootdown() drops from every CPU
 * while the lock of the space is held; frames and tables go back to the pmm only after that.
 *
 * Invariants: every table but the root has a present entry (an empty one is freed), so a large leaf
 * meets a table only where something is mapped; no entry is writable and executable at once. */
#include <mm/hhdm.h>
#include <mm/log.h>
#include <mm/paging.h>

#define ENTRY_PRESENT   ((uint64_t)1 << 0)
#define ENTRY_WRITE     ((uint64_t)1 << 1)
#define ENTRY_USER      ((uint64_t)1 << 2)
#define ENTRY_PWT       ((uint64_t)1 << 3)
#define ENTRY_PCD       ((uint64_t)1 << 4)
#define ENTRY_LARGE     ((uint64_t)1 << 7)
#define ENTRY_GLOBAL    ((uint64_t)1 << 8)
#define ENTRY_NX        ((uint64_t)1 << 63)
#define ENTRY_PAT_4K    ((uint64_t)1 << 7)
#define ENTRY_PAT_LARGE ((uint64_t)1 << 12)
#define ENTRY_ADDRESS   0x000ffffffffff000u
#define CR4_PGE         ((uint64_t)1 << 7)

/* ---- entries ---- */

static bool entry_is_present(uint64_t entry)
{
    return (entry & ENTRY_PRESENT) != 0;
}

static bool entry_is_leaf(uint64_t entry, unsigned level)
{
    return level == 1 || (entry & ENTRY_LARGE) != 0;
}

static paddr_t entry_addr(uint64_t entry, unsigned level)
{
    if (level > 1 && (entry & ENTRY_LARGE) != 0)
        return entry & ENTRY_ADDRESS & ~ENTRY_PAT_LARGE;
    return entry & ENTRY_ADDRESS;
}

/* One store of 8 bytes: another CPU's walk sees the old entry or the new one. */
static void entry_set(uint64_t *entry, uint64_t value)
{
    __atomic_store_n(entry, value, __ATOMIC_RELAXED);
}

static void entry_clear(uint64_t *entry)
{
    entry_set(entry, 0);
}

static uint64_t leaf_entry(paddr_t frame, unsigned level, paging_rights_t rights)
{
    uint64_t entry = frame | ENTRY_PRESENT;

    if ((rights & PAGING_WRITE) != 0)
        entry |= ENTRY_WRITE;
    if ((rights & PAGING_EXECUTE) == 0)
        entry |= ENTRY_NX;
    if ((rights & PAGING_USER) != 0)
        entry |= ENTRY_USER;
    if ((rights & PAGING_GLOBAL) != 0)
        entry |= ENTRY_GLOBAL;
    if (level > 1)
        entry |= ENTRY_LARGE;
    if ((rights & PAGING_WRITE_COMBINING) != 0) /* PAT entry 5 */
        entry |= ENTRY_PWT | (level > 1 ? ENTRY_PAT_LARGE : ENTRY_PAT_4K);
    if ((rights & PAGING_UNCACHED) != 0) /* PAT entry 3 */
        entry |= ENTRY_PWT | ENTRY_PCD;
    if ((rights & PAGING_WRITE_THROUGH) != 0) /* PAT entry 1 */
        entry |= ENTRY_PWT;
    return entry;
}

static paging_rights_t memory_type_of(uint64_t entry, unsigned level)
{
    bool pat = (entry & (level > 1 ? ENTRY_PAT_LARGE : ENTRY_PAT_4K)) != 0;

    if ((entry & ENTRY_PCD) != 0)
        return PAGING_UNCACHED;
    if ((entry & ENTRY_PWT) == 0)
        return PAGING_WRITE_BACK;
    return pat ? PAGING_WRITE_COMBINING : PAGING_WRITE_THROUGH;
}

/* ---- addresses ---- */

/* Bytes that one entry of a table of this level covers. */
static uint64_t level_bytes(unsigned level)
{
    return (uint64_t)1 << (FRAME_SHIFT + 9 * (level - 1));
}

static size_t entry_index(vaddr_t address, unsigned level)
{
    return (address >> (FRAME_SHIFT + 9 * (level - 1))) & (PAGING_ENTRIES - 1);
}

static uint64_t *table_at(paddr_t table)
{
    return phys_to_virt(table);
}

bool paging_is_canonical(vaddr_t address, unsigned levels)
{
    unsigned unused_bits = 64 - (FRAME_SHIFT + 9 * levels);

    return (vaddr_t)((int64_t)(address << unused_bits) >> unused_bits) == address;
}

/* A part of a range that is being mapped or unmapped. `bytes` rather than an end: the last range ends
 * at 2^64. */
struct piece {
    vaddr_t page;
    paddr_t frame; /* not used when unmapping */
    uint64_t bytes;
};

/* The first part of `rest` that one entry of this level covers; `rest` begins behind it then. */
static struct piece piece_split(struct piece *rest, unsigned level)
{
    uint64_t size = level_bytes(level);
    uint64_t to_end = size - (rest->page & (size - 1));
    struct piece first = *rest;

    if (first.bytes > to_end)
        first.bytes = to_end;
    rest->page += first.bytes;
    rest->frame += first.bytes;
    rest->bytes -= first.bytes;
    return first;
}

static bool piece_is_leaf(const struct address_space *space, unsigned level, struct piece piece)
{
    unsigned highest = space->huge_pages ? 3 : 2;

    return level == 1 || (level <= highest && piece.bytes == level_bytes(level) &&
                          mm_is_aligned(piece.page | piece.frame, level_bytes(level)));
}

static mm_status_t check_pages(const struct address_space *space, vaddr_t page, uint64_t bytes)
{
    vaddr_t last = page + bytes - 1;

    if (!mm_is_aligned(page | bytes, PAGE_SIZE))
        return MM_NOT_ALIGNED;
    if (bytes == 0)
        return MM_INVALID_ARGUMENT;
    if (last < page || !paging_is_canonical(page, space->levels) ||
        !paging_is_canonical(last, space->levels) || (page ^ last) >> 63 != 0)
        return MM_INVALID_ADDRESS;
    return MM_OK;
}

static mm_status_t check_mapping(const struct address_space *space, struct piece piece,
                                 paging_rights_t rights)
{
    paddr_t limit = (paddr_t)1 << space->physical_bits;
    const paging_rights_t write_execute = PAGING_WRITE | PAGING_EXECUTE;
    const paging_rights_t types = rights & PAGING_MEMORY_TYPES;
    mm_status_t status = check_pages(space, piece.page, piece.bytes);

    if (status != MM_OK)
        return status;
    if (!mm_is_aligned(piece.frame, FRAME_SIZE))
        return MM_NOT_ALIGNED;
    if (piece.frame >= limit || piece.bytes > limit - piece.frame)
        return MM_INVALID_ADDRESS;
    if ((rights & ~PAGING_RIGHTS_ALL) != 0 || (rights & write_execute) == write_execute ||
        (types & (types - 1)) != 0)
        return MM_INVALID_ARGUMENT;
    return MM_OK;
}

/* ---- tables in stock: a list through the first entry of each ---- */

struct table_stock {
    paddr_t first;
    uint64_t count;
};

static void stock_put(struct table_stock *stock, paddr_t table)
{
    *table_at(table) = stock->first;
    stock->first = table;
    stock->count++;
}

static paddr_t stock_take(struct table_stock *stock)
{
    paddr_t table = stock->first;

    MM_ASSERT(stock->count > 0);
    stock->first = *table_at(table);
    *table_at(table) = 0;
    stock->count--;
    return table;
}

static void stock_release(struct table_stock *stock, struct pmm *pmm)
{
    while (stock->count > 0)
        pmm_free_table(pmm, stock_take(stock));
}

static mm_status_t stock_fill(struct table_stock *stock, struct pmm *pmm, uint64_t count)
{
    paddr_t table;

    while (stock->count < count) {
        mm_status_t status = pmm_alloc_table(pmm, &table);
        if (status != MM_OK)
            return status;
        stock_put(stock, table);
    }
    return MM_OK;
}

/* ---- translations to drop ---- */

static void batch_add(struct mm_tlb_batch *batch, vaddr_t page)
{
    if (batch->count < MM_TLB_BATCH_MAX)
        batch->pages[batch->count++] = page;
    else
        batch->everything = true;
}

static void batch_drop(const struct mm_tlb_batch *batch)
{
    if (batch->count > 0)
        mm_port_tlb_shootdown(batch);
}

/* What a change takes from the pmm or gives back to it, and which translations it makes stale. A table
 * that was emptied goes on the stock before it is out of every CPU's caches: the link in its first
 * entry is a frame's address, so its present bit is clear. */
struct change {
    struct table_stock stock;
    struct mm_tlb_batch batch;
};

/* ---- mapping ---- */

/* Checks that nothing is mapped in `rest` and adds the tables that mapping it takes. `table` is NULL
 * below a table that does not exist yet. */
static mm_status_t plan_map_locked(const struct address_space *space, const uint64_t *table,
                                   unsigned level, struct piece rest, uint64_t *tables)
{
    while (rest.bytes > 0) {
        struct piece piece = piece_split(&rest, level);
        uint64_t entry = table == NULL ? 0 : table[entry_index(piece.page, level)];
        const uint64_t *below = NULL;

        if (piece_is_leaf(space, level, piece)) {
            if (entry_is_present(entry))
                return MM_ALREADY_MAPPED;
            continue;
        }
        if (!entry_is_present(entry))
            (*tables)++;
        else if (entry_is_leaf(entry, level))
            return MM_ALREADY_MAPPED;
        else
            below = table_at(entry_addr(entry, level));
        mm_status_t status = plan_map_locked(space, below, level - 1, piece, tables);
        if (status != MM_OK)
            return status;
    }
    return MM_OK;
}

/* The table below an entry; a new one from the stock if there is none. The entry allows everything
 * (but user access, until a user mapping needs it): rights are the leaf's. */
static uint64_t *table_below(struct address_space *space, uint64_t *entry, struct piece piece,
                             unsigned level, paging_rights_t rights, struct change *change)
{
    uint64_t user = (rights & PAGING_USER) != 0 ? ENTRY_USER : 0;

    if (!entry_is_present(*entry)) {
        entry_set(entry, stock_take(&change->stock) | ENTRY_PRESENT | ENTRY_WRITE | user);
        space->stats.table_frames++;
    } else if ((*entry & user) != user) {
        entry_set(entry, *entry | user);
        batch_add(&change->batch, piece.page); /* may be cached (SDM vol. 3, 4.10.4.3) */
    }
    return table_at(entry_addr(*entry, level));
}

static void map_locked(struct address_space *space, uint64_t *table, unsigned level,
                       struct piece rest, paging_rights_t rights, struct change *change)
{
    while (rest.bytes > 0) {
        struct piece piece = piece_split(&rest, level);
        uint64_t *entry = &table[entry_index(piece.page, level)];

        if (piece_is_leaf(space, level, piece)) {
            entry_set(entry, leaf_entry(piece.frame, level, rights));
            space->stats.leaves[level - 1]++;
        } else {
            uint64_t *below = table_below(space, entry, piece, level, rights, change);
            map_locked(space, below, level - 1, piece, rights, change);
        }
    }
}

/* Maps, or says how many tables are missing in the stock. */
static mm_status_t try_map(struct address_space *space, struct piece piece, paging_rights_t rights,
                           struct change *change, uint64_t *tables)
{
    uint64_t saved = mm_port_lock(&space->lock);
    mm_status_t status;

    *tables = 0;
    status = plan_map_locked(space, table_at(space->root), space->levels, piece, tables);
    if (status == MM_OK && *tables <= change->stock.count) {
        map_locked(space, table_at(space->root), space->levels, piece, rights, change);
        batch_drop(&change->batch);
    }
    mm_port_unlock(&space->lock, saved);
    return status;
}

mm_status_t paging_map_range(struct address_space *space, vaddr_t page, paddr_t frame,
                             uint64_t bytes, paging_rights_t rights)
{
    struct piece piece = { page, frame, bytes };
    struct change change = { 0 };
    mm_status_t status = check_mapping(space, piece, rights);
    uint64_t tables = 0, had;

    if (status != MM_OK)
        return status;
    do {
        had = change.stock.count;
        status = try_map(space, piece, rights, &change, &tables);
        if (status != MM_OK || tables <= had)
            break;
        status = stock_fill(&change.stock, space->pmm, tables);
    } while (status == MM_OK);
    stock_release(&change.stock, space->pmm);
    return status;
}

mm_status_t paging_map_page(struct address_space *space, vaddr_t page, paddr_t frame,
                            paging_rights_t rights)
{
    return paging_map_range(space, page, frame, PAGE_SIZE, rights);
}

/* ---- unmapping: the work ---- */

static mm_status_t check_unmap_locked(const uint64_t *table, unsigned level, struct piece rest)
{
    while (rest.bytes > 0) {
        struct piece piece = piece_split(&rest, level);
        uint64_t entry = table[entry_index(piece.page, level)];

        if (!entry_is_present(entry))
            return MM_NOT_MAPPED;
        if (entry_is_leaf(entry, level)) {
            if (piece.bytes != level_bytes(level))
                return MM_LARGE_PAGE;
            continue;
        }
        mm_status_t status =
            check_unmap_locked(table_at(entry_addr(entry, level)), level - 1, piece);
        if (status != MM_OK)
            return status;
    }
    return MM_OK;
}

static bool table_is_empty(const uint64_t *table)
{
    for (size_t i = 0; i < PAGING_ENTRIES; i++)
        if (table[i] != 0)
            return false;
    return true;
}

/* Clears the leaves of `rest`; tables that become empty are unhooked into the stock. Dropping a page's
 * translation also drops the cached entries that led there (SDM vol. 3, 4.10.4.1), so one page of an
 * emptied table is enough for it. */
static void unmap_locked(struct address_space *space, uint64_t *table, unsigned level,
                         struct piece rest, struct change *change)
{
    while (rest.bytes > 0) {
        struct piece piece = piece_split(&rest, level);
        uint64_t *entry = &table[entry_index(piece.page, level)];

        if (entry_is_leaf(*entry, level)) {
            entry_clear(entry);
            space->stats.leaves[level - 1]--;
            batch_add(&change->batch, piece.page);
            continue;
        }
        paddr_t below = entry_addr(*entry, level);
        unmap_locked(space, table_at(below), level - 1, piece, change);
        if (table_is_empty(table_at(below))) {
            entry_clear(entry);
            space->stats.table_frames--;
            stock_put(&change->stock, below);
        }
    }
}

/* ---- asking ---- */

/* The leaf that maps the address, and the rights that all levels together give. */
static mm_status_t find_leaf_locked(const struct address_space *space, vaddr_t address,
                                    struct paging_mapping *out)
{
    uint64_t allowed = ENTRY_WRITE | ENTRY_USER, forbidden = 0;
    paddr_t table = space->root;

    for (unsigned level = space->levels; level > 0; level--) {
        uint64_t entry = table_at(table)[entry_index(address, level)];
        if (!entry_is_present(entry))
            return MM_NOT_MAPPED;
        allowed &= entry;
        forbidden |= entry & ENTRY_NX;
        table = entry_addr(entry, level);
        if (!entry_is_leaf(entry, level))
            continue;
        out->frame = table;
        out->leaf_bytes = level_bytes(level);
        out->rights = memory_type_of(entry, level) |
                      ((allowed & ENTRY_WRITE) != 0 ? PAGING_WRITE : 0) |
                      ((allowed & ENTRY_USER) != 0 ? PAGING_USER : 0) |
                      ((entry & ENTRY_GLOBAL) != 0 ? PAGING_GLOBAL : 0) |
                      (forbidden == 0 ? PAGING_EXECUTE : 0);
        return MM_OK;
    }
    return MM_NOT_MAPPED;
}

mm_status_t paging_query(struct address_space *space, vaddr_t address, struct paging_mapping *out)
{
    struct paging_mapping found;

    if (!paging_is_canonical(address, space->levels))
        return MM_INVALID_ADDRESS;
    uint64_t saved = mm_port_lock(&space->lock);
    mm_status_t status = find_leaf_locked(space, address, &found);
    mm_port_unlock(&space->lock, saved);
    if (status == MM_OK)
        *out = found;
    return status;
}

mm_status_t paging_translate(struct address_space *space, vaddr_t address, paddr_t *out)
{
    struct paging_mapping mapping;
    mm_status_t status = paging_query(space, address, &mapping);

    if (status == MM_OK)
        *out = mapping.frame + (address & (mapping.leaf_bytes - 1));
    return status;
}

/* ---- unmapping: the calls ---- */

/* Unmaps the piece; *frame is what its first page led to. */
static mm_status_t unmap(struct address_space *space, struct piece piece, paddr_t *frame)
{
    struct change change = { 0 };
    struct paging_mapping mapping = { 0 };
    mm_status_t status = check_pages(space, piece.page, piece.bytes);

    if (status != MM_OK)
        return status;
    uint64_t saved = mm_port_lock(&space->lock);
    status = check_unmap_locked(table_at(space->root), space->levels, piece);
    if (status == MM_OK) {
        status = find_leaf_locked(space, piece.page, &mapping);
        unmap_locked(space, table_at(space->root), space->levels, piece, &change);
        batch_drop(&change.batch);
    }
    mm_port_unlock(&space->lock, saved);
    stock_release(&change.stock, space->pmm);
    if (status == MM_OK)
        *frame = mapping.frame;
    return status;
}

mm_status_t paging_unmap_page(struct address_space *space, vaddr_t page, paddr_t *frame)
{
    paddr_t ignored;

    return unmap(space, (struct piece){ page, 0, PAGE_SIZE }, frame == NULL ? &ignored : frame);
}

mm_status_t paging_unmap_range(struct address_space *space, vaddr_t page, uint64_t bytes)
{
    paddr_t ignored;

    return unmap(space, (struct piece){ page, 0, bytes }, &ignored);
}

/* ---- whole spaces ---- */

mm_status_t paging_init(struct address_space *space, struct pmm *pmm,
                        const struct mm_cpu_features *features)
{
    paddr_t root;
    mm_status_t status = pmm_alloc_table(pmm, &root);

    if (status != MM_OK)
        return status;
    *space = (struct address_space){
        .root = root,
        .pmm = pmm,
        .levels = features->levels,
        .physical_bits = features->physical_bits,
        .huge_pages = features->huge_pages,
        .stats = { .table_frames = 1 },
    };
    return MM_OK;
}

enum visit_order {
    TABLE_FIRST, /* before its entries are read */
    TABLE_LAST,  /* after everything below it: it may be freed */
};

static void visit_tables(paddr_t table, unsigned level, enum visit_order order,
                         void (*visit)(void *context, paddr_t table), void *context)
{
    if (order == TABLE_FIRST)
        visit(context, table);
    for (size_t i = 0; level > 1 && i < PAGING_ENTRIES; i++) {
        uint64_t entry = table_at(table)[i];
        if (entry_is_present(entry) && !entry_is_leaf(entry, level))
            visit_tables(entry_addr(entry, level), level - 1, order, visit, context);
    }
    if (order == TABLE_LAST)
        visit(context, table);
}

void paging_for_each_table(struct paging_root root, void (*visit)(void *context, paddr_t table),
                           void *context)
{
    visit_tables(root.root & ENTRY_ADDRESS, root.levels, TABLE_FIRST, visit, context);
}

static void free_table(void *context, paddr_t table)
{
    pmm_free_table(context, table);
}

void paging_destroy(struct address_space *space)
{
    visit_tables(space->root, space->levels, TABLE_LAST, free_table, space->pmm);
    *space = (struct address_space){ 0 };
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

void paging_activate(struct address_space *space, const struct mm_cpu_features *features)
{
    uint64_t cr4 = mm_port_read_cr(4) & ~CR4_PGE;

    /* A CR3 load keeps global translations; clearing PGE drops them (SDM vol. 3, 4.10.4.1). */
    mm_port_write_cr(4, cr4);
    mm_port_write_cr(3, space->root);
    if (features->pge)
        mm_port_write_cr(4, cr4 | CR4_PGE);
}
