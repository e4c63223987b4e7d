/* SPDX-License-Identifier: MIT */
/* Asking page tables: translate, query, runs, peek.
 *
 * paging_translate() reads without the lock. What could go wrong is that a table leaves the space
 * between the load of the entry that leads to it and the load of the entry in it, and its frame has
 * become something else: then that load gives anything. So after each load below the root the count
 * of tables that left is compared with that of the beginning:
 *
 *      reader   count = n   load a -> T   load b in T           count == n ?  yes: b is an entry
 *      writer                                   a = 0   count = n + 1   shootdown   T is freed
 *
 * A load that gives anything is thrown away before it is used as an address, and T itself is RAM that
 * is always mapped. x86 does not reorder loads with loads, nor stores with stores (SDM vol. 3, 8.2.2),
 * so acquire and release cost nothing. If the count differs the lock is taken. The upper half of a
 * space that shares it is the kernel's: its count, its lock. */
#include "mm/paging_entry.h"
#include "mm/paging_owner.h"

#include <mm/hhdm.h>
#include <mm/log.h>

/* The reader races on purpose, with stores into a frame that is no table any more. */
#define READS_FREED_TABLES __attribute__((no_sanitize("address", "thread")))

static const uint64_t *table_at(paddr_t table)
{
    return phys_to_virt(table);
}

/* The space whose tables translate the address. */
static struct address_space *owner_of(struct address_space *space, vaddr_t address)
{
    return is_upper_half(address) && space->kernel != NULL ? space->kernel : space;
}

/* ---- with the lock ---- */

/* The leaf that maps the address, and the rights that all levels together give. */
static mm_status_t find_leaf_locked(const struct address_space *space, vaddr_t address,
                                    struct paging_mapping *out)
{
    uint64_t narrowed = ATTRIBUTES_ALL;
    paddr_t table = space->root;

    for (unsigned level = space->levels; level > 0; level--) {
        uint64_t entry = table_at(table)[entry_index(address, level)];
        if (!entry_is_present(entry))
            return MM_NOT_MAPPED;
        narrowed = attributes_narrow(narrowed, entry);
        table = entry_address(entry, level);
        if (!entry_is_leaf(entry, level))
            continue;
        out->frame = table;
        out->leaf_bytes = level_bytes(level);
        out->rights = leaf_rights(narrowed, entry, level);
        return MM_OK;
    }
    return MM_NOT_MAPPED;
}

mm_status_t paging_query(struct address_space *space, vaddr_t address, struct paging_mapping *out)
{
    struct address_space *owner = owner_of(space, address);
    struct paging_mapping found;

    if (!paging_is_canonical(address, space->levels))
        return MM_INVALID_ADDRESS;
    uint64_t saved = space_lock(owner);
    mm_status_t status = find_leaf_locked(owner, address, &found);
    space_unlock(owner, saved);
    if (status == MM_OK)
        *out = found;
    return status;
}

/* ---- without the lock ---- */

static MM_COLD mm_status_t translate_with_lock(struct address_space *space, vaddr_t address,
                                               paddr_t *out)
{
    struct paging_mapping mapping;
    mm_status_t status = paging_query(space, address, &mapping);

    if (status == MM_OK)
        *out = mapping.frame + (address & (mapping.leaf_bytes - 1));
    return status;
}

struct reading {
    const struct address_space *owner; /* of the tables */
    uint64_t unhooked;                 /* its count at the beginning */
    uint64_t hhdm;
};

enum step { STEP_ABSENT, STEP_TABLE, STEP_LEAF, STEP_UNSURE };

/* Reads one entry. Inlined with a constant level, so that the way down is a row of loads. The root never
 * leaves, so what was read there needs no look at the count. */
__attribute__((always_inline)) READS_FREED_TABLES static inline enum step
read_step(const struct reading *reading, vaddr_t address, unsigned level, bool root, paddr_t *table)
{
    const uint64_t *entries = (const uint64_t *)(uintptr_t)(*table + reading->hhdm);
    uint64_t entry = __atomic_load_n(&entries[entry_index(address, level)], __ATOMIC_ACQUIRE);

    if (!root && __builtin_expect(__atomic_load_n(&reading->owner->unhooked, __ATOMIC_ACQUIRE) !=
                                      reading->unhooked,
                                  0))
        return STEP_UNSURE;
    if (__builtin_expect((entry & ENTRY_PRESENT) == 0, 0))
        return STEP_ABSENT;
    *table = entry & ENTRY_ADDRESS;
    return level == 1 || (level <= 3 && (entry & ENTRY_LARGE) != 0) ? STEP_LEAF : STEP_TABLE;
}

#define TRANSLATE_STEP(level, root)                                                                \
    do {                                                                                           \
        step = read_step(&reading, address, (level), (root), &table);                              \
        mask = level_bytes(level) - 1;                                                             \
        if (__builtin_expect(step != STEP_TABLE, (level) == 1))                                    \
            goto end;                                                                              \
    } while (0)

READS_FREED_TABLES
mm_status_t paging_translate(struct address_space *space, vaddr_t address, paddr_t *out)
{
    const struct address_space *owner = owner_of(space, address);
    struct reading reading = { owner, __atomic_load_n(&owner->unhooked, __ATOMIC_ACQUIRE),
                               space->hhdm };
    paddr_t table = space->root;
    uint64_t mask;
    enum step step;

    if (__builtin_expect(space->levels == 5, 0)) {
        if (__builtin_expect(!paging_is_canonical(address, 5), 0))
            return MM_INVALID_ADDRESS;
        TRANSLATE_STEP(5, true);
        TRANSLATE_STEP(4, false);
    } else {
        if (__builtin_expect(!paging_is_canonical(address, 4), 0))
            return MM_INVALID_ADDRESS;
        TRANSLATE_STEP(4, true);
    }
    TRANSLATE_STEP(3, false);
    TRANSLATE_STEP(2, false);
    TRANSLATE_STEP(1, false);
end:
    if (__builtin_expect(step == STEP_UNSURE, 0))
        return translate_with_lock(space, address, out);
    if (__builtin_expect(step == STEP_ABSENT, 0))
        return MM_NOT_MAPPED;
    *out = (table & ~mask) | (address & mask);
    return MM_OK;
}

READS_FREED_TABLES
size_t paging_peek(const struct address_space *space, vaddr_t address,
                   struct paging_level levels[PAGING_LEVELS_MAX])
{
    paddr_t table = space->root;
    size_t count = 0;

    if (space->pmm == NULL || !paging_is_canonical(address, space->levels))
        return 0;
    for (unsigned level = space->levels; level > 0; level--) {
        const uint64_t *entries = (const uint64_t *)(uintptr_t)(table + space->hhdm);
        uint64_t entry = __atomic_load_n(&entries[entry_index(address, level)], __ATOMIC_RELAXED);
        bool leaf = entry_is_present(entry) && entry_is_leaf(entry, level);
        uint64_t attributes = leaf ? leaf_attributes(entry, level) : entry & ~ENTRY_LARGE;

        levels[count++] = (struct paging_level){
            .level = level,
            .table = table,
            .entry = entry,
            .present = entry_is_present(entry),
            .leaf = leaf,
            .rights = !entry_is_present(entry) ? 0
                      : leaf                   ? leaf_rights(attributes, entry, level)
                                               : rights_of(attributes),
        };
        table = entry & ENTRY_ADDRESS;
        if (!entry_is_present(entry) || leaf ||
            pmm_peek_frame(space->pmm, table) == PMM_FRAME_OUTSIDE)
            break;
    }
    return count;
}

bool paging_is_canonical(vaddr_t address, unsigned levels)
{
    unsigned unused_bits = 64 - (FRAME_SHIFT + 9 * levels);

    return (vaddr_t)((int64_t)(address << unused_bits) >> unused_bits) == address;
}

/* ---- runs ---- */

struct run_search {
    vaddr_t from;
    struct paging_run *run;
    bool found;
};

/* Whether a leaf goes on where the run ends. */
static bool continues(const struct paging_run *run, vaddr_t page, paddr_t frame,
                      paging_rights_t rights)
{
    return page == run->last + 1 && frame == run->frame + (page - run->begin) &&
           rights == run->rights;
}

/* Adds a leaf to the run, or begins it, from `from` on; false if the run is over. */
static bool add_leaf(struct run_search *search, vaddr_t page, unsigned level, paddr_t frame,
                     paging_rights_t rights)
{
    struct paging_run *run = search->run;
    vaddr_t last = page + (level_bytes(level) - 1);

    if (search->found && !continues(run, page, frame, rights))
        return false;
    if (!search->found) {
        vaddr_t begin = page < search->from ? search->from : page;
        *run = (struct paging_run){ .begin = begin, .rights = rights };
        run->frame = frame + (begin - page);
        search->found = true;
    }
    run->last = last;
    run->leaves[level - 1]++;
    return true;
}

/* Walks the table whose first entry stands for address `base`; false once the run is over. */
static bool search_table(struct run_search *search, paddr_t table, unsigned level, vaddr_t base,
                         uint64_t above)
{
    const uint64_t *entries = table_at(table);
    size_t index =
        search->from > base ? (search->from - base) >> (FRAME_SHIFT + 9 * (level - 1)) : 0;

    for (; index < PAGING_ENTRIES; index++) {
        uint64_t entry = entries[index];
        vaddr_t page = base + index * level_bytes(level);
        bool goes_on = true;

        if (!entry_is_present(entry))
            goes_on = !search->found;
        else if (entry_is_leaf(entry, level))
            goes_on = add_leaf(search, page, level, entry_address(entry, level),
                               leaf_rights(attributes_narrow(above, entry), entry, level));
        else
            goes_on = search_table(search, entry & ENTRY_ADDRESS, level - 1, page,
                                   attributes_narrow(above, entry));
        if (!goes_on)
            return false;
    }
    return true;
}

/* The root's entries [from's, end), under the lock of the space whose tables they are. */
static bool search_half(struct address_space *space, struct run_search *search, bool upper)
{
    unsigned levels = space->levels;
    vaddr_t hole = level_bytes(levels) * (PAGING_ENTRIES / 2);
    struct address_space *owner = upper && space->kernel != NULL ? space->kernel : space;
    vaddr_t begin = upper ? 0 - hole : 0;
    uint64_t saved = space_lock(owner);
    const uint64_t *root = table_at(owner->root);

    if (search->from < begin)
        search->from = begin;
    for (size_t i = entry_index(search->from, levels); i < PAGING_ENTRIES / 2 * (1u + upper); i++) {
        vaddr_t page = begin + (i & (PAGING_ENTRIES / 2 - 1)) * level_bytes(levels);
        if (!entry_is_present(root[i])) {
            if (search->found)
                break;
        } else if (!search_table(search, root[i] & ENTRY_ADDRESS, levels - 1, page,
                                 attributes_narrow(ATTRIBUTES_ALL, root[i]))) {
            break;
        }
    }
    space_unlock(owner, saved);
    return search->found;
}

bool paging_next_run(struct address_space *space, vaddr_t from, struct paging_run *out)
{
    vaddr_t hole = level_bytes(space->levels) * (PAGING_ENTRIES / 2);
    struct paging_run run;
    struct run_search search = { from, &run, false };
    bool found = from < hole && search_half(space, &search, false);

    if (!found)
        found = search_half(space, &search, true);
    if (found)
        *out = run;
    return found;
}

/* ---- in words ---- */

void paging_rights_text(paging_rights_t rights, char text[PAGING_RIGHTS_TEXT])
{
    const char *type = (rights & PAGING_WRITE_COMBINING) != 0 ? "-wc"
                       : (rights & PAGING_UNCACHED) != 0      ? "-uc"
                       : (rights & PAGING_WRITE_THROUGH) != 0 ? "-wt"
                                                              : "";

    mm_format(text, PAGING_RIGHTS_TEXT, "r%c%c%c%c%s", (rights & PAGING_WRITE) != 0 ? 'w' : '-',
              (rights & PAGING_EXECUTE) != 0 ? 'x' : '-', (rights & PAGING_USER) != 0 ? 'u' : '-',
              (rights & PAGING_GLOBAL) != 0 ? 'g' : '-', type);
}

static void log_run(const struct paging_run *run)
{
    static const char *const names[] = { "4K", "2M", "1G" };
    char rights[PAGING_RIGHTS_TEXT], sizes[12] = "", end[24];
    size_t length = 0;

    for (size_t i = 0; i < 3; i++)
        if (run->leaves[i] > 0)
            length += mm_format(sizes + length, sizeof(sizes) - length, "%s%s",
                                length > 0 ? "+" : "", names[i]);
    if (run->last == UINT64_MAX)
        mm_format(end, sizeof(end), "10000000000000000");
    else
        mm_format(end, sizeof(end), "%lx", run->last + 1);
    paging_rights_text(run->rights, rights);
    mm_info("map 0x%lx-0x%s %s %s -> 0x%lx", run->begin, end, rights, sizes, run->frame);
}

void paging_dump(struct address_space *space)
{
    struct paging_run run;
    vaddr_t from = 0;

    while (paging_next_run(space, from, &run)) {
        log_run(&run);
        from = run.last + 1;
        if (from == 0)
            return;
    }
}
