/* SPDX-License-Identifier: MIT */
/* Sides: what the set bits of a MIXED chunk are. Few chunks are mixed (at the ends of the kernel, of the
 * loader's memory, of mm's own), so the sides are kept beside the bitmap, in a tree over the chunks' numbers:
 *
 *                 [chunk 7]              bit 0 of the number leads from the root, bit 1 from there, ...;
 *               0 /       \ 1            a side lies anywhere on the way that its number leads
 *          [chunk 4]    [chunk 9]
 *                \ 1        \ 0
 *             [chunk 2]   [chunk 5]      unused sides: chained through child[0], chunk is SIDE_UNUSED
 *
 * The first ones lie in the metadata, as many as the map needs and some to spare. More come by single
 * frames of the pmm, which become reserved, so that any free frame will do. SIDES_KEPT are never used up:
 * marking such a frame may take a side, and releasing a range may take two before any frame is free.
 *
 * A side never moves but out of bad RAM. pmm_peek_frame walks without the lock: it may be led astray by a
 * change, then it ends after as many steps as a number has bits, at a side of another chunk.
 *
 * Invariants: each side is in the tree or in the chain; at least SIDES_KEPT are in the chain. */
#include "mm/pmm_parts.h"

#define SIDE_UNUSED   UINT64_MAX
#define SIDES_KEPT    3u
#define SIDES_IN_PAGE ((FRAME_SIZE - sizeof(uint64_t)) / sizeof(struct pmm_side))

struct pmm_side_page {
    struct pmm_side_page *next;
    struct pmm_side sides[SIDES_IN_PAGE];
};

_Static_assert(sizeof(struct pmm_side_page) <= FRAME_SIZE, "a page of sides fits in a frame");

/* ---- the tree ---- */

static struct pmm_side *load_side(struct pmm_side *const *link)
{
    return __atomic_load_n(link, __ATOMIC_ACQUIRE);
}

static void store_side(struct pmm_side **link, struct pmm_side *side)
{
    __atomic_store_n(link, side, __ATOMIC_RELEASE);
}

struct pmm_side *side_find(const struct pmm_core *core, uint64_t chunk)
{
    struct pmm_side *side = load_side(&core->side_root);

    for (unsigned bit = 0; side != NULL && bit < BITS_PER_WORD; bit++) {
        if (bits_load(&side->chunk) == chunk)
            return side;
        side = load_side(&side->child[chunk >> bit & 1]);
    }
    return NULL;
}

/* The link that leads to the chunk's side; to NULL if it has none. */
static struct pmm_side **link_to(struct pmm_core *core, uint64_t chunk)
{
    struct pmm_side **link = &core->side_root;

    for (unsigned bit = 0; *link != NULL && (*link)->chunk != chunk; bit++)
        link = &(*link)->child[chunk >> bit & 1];
    return link;
}

static void hang_in(struct pmm_core *core, struct pmm_side *side)
{
    struct pmm_side **link = link_to(core, side->chunk);

    MM_ASSERT(*link == NULL);
    store_side(&side->child[0], NULL);
    store_side(&side->child[1], NULL);
    store_side(link, side);
}

static void put_unused(struct pmm_core *core, struct pmm_side *side)
{
    bits_store(&side->chunk, SIDE_UNUSED);
    store_side(&side->child[0], core->side_unused);
    core->side_unused = side;
    core->side_unused_count++;
}

struct pmm_side *side_add_locked(struct pmm_core *core, uint64_t chunk)
{
    struct pmm_side *side = core->side_unused;

    MM_ASSERT(side != NULL);
    core->side_unused = side->child[0];
    core->side_unused_count--;
    core->side_count++;
    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        bits_store(&side->reserved[w], 0);
        bits_store(&side->table[w], 0);
        bits_store(&side->bad[w], 0);
    }
    bits_store(&side->chunk, chunk);
    hang_in(core, side);
    return side;
}

/* A side without children, from below, takes the place of the one that goes. */
void side_drop_locked(struct pmm_core *core, uint64_t chunk)
{
    struct pmm_side **link = link_to(core, chunk), *gone = *link, **last = link;

    MM_ASSERT(gone != NULL);
    while ((*last)->child[0] != NULL || (*last)->child[1] != NULL)
        last = &(*last)->child[(*last)->child[0] == NULL];
    struct pmm_side *leaf = *last;
    store_side(last, NULL);
    if (leaf != gone) {
        store_side(&leaf->child[0], gone->child[0]);
        store_side(&leaf->child[1], gone->child[1]);
        store_side(link, leaf);
    }
    put_unused(core, gone);
    core->side_count--;
}

/* ---- frames of the pmm's own ---- */

/* A free frame of the chunk that is not to be kept clear of, beside other special ones if possible: the
 * fast free works where a word has none. */
static bool find_in_chunk(const struct pmm_core *core, uint64_t chunk, uint64_t *id)
{
    bool found = false;

    for (unsigned w = CHUNK_WORDS; w > 0; w--) {
        uint64_t word = chunk * CHUNK_WORDS + w - 1;
        uint64_t free = pmm_state_mask(core, word, PMM_FRAME_FREE) &
                        ~bits_mask(word, core->clear_from, core->clear_to);
        if (free == 0 || (found && bits_test(core->plain, word)))
            continue;
        *id = word * BITS_PER_WORD + bits_lowest(free);
        found = true;
        if (!bits_test(core->plain, word))
            break;
    }
    return found;
}

static bool find_in_set(const struct pmm_core *core, const struct bittree *set, uint64_t from,
                        uint64_t *id)
{
    for (uint64_t chunk = from; bittree_next(set, chunk, &chunk); chunk++) {
        if (find_in_chunk(core, chunk, id))
            return true;
        if (chunk * CHUNK_FRAMES >= core->clear_from &&
            (chunk + 1) * CHUNK_FRAMES <= core->clear_to)
            chunk = core->clear_to / CHUNK_FRAMES - 1;
    }
    return false;
}

/* In the highest MIXED chunk that has one. */
static bool find_in_mixed(const struct pmm_core *core, uint64_t *id)
{
    const struct pmm_side_page *page = core->side_pages;
    const struct pmm_side *sides = core->sides;
    uint64_t count = core->sides_first, best = 0, at;
    bool found = false;

    while (sides != NULL) {
        for (uint64_t i = 0; i < count; i++) {
            uint64_t chunk = sides[i].chunk;
            if (chunk == SIDE_UNUSED || (found && chunk < best) || chunk_free(core, chunk) == 0 ||
                !find_in_chunk(core, chunk, &at))
                continue;
            *id = at;
            best = chunk;
            found = true;
        }
        sides = page == NULL ? NULL : page->sides;
        count = SIDES_IN_PAGE;
        page = page == NULL ? NULL : page->next;
    }
    return found;
}

void *pmm_take_own_locked(struct pmm *pmm)
{
    struct pmm_core *core = pmm->core;
    uint64_t id;

    if (!find_in_mixed(core, &id) && !find_in_set(core, &core->partial, core->high_chunk, &id) &&
        !find_in_set(core, &core->whole, core->high_chunk, &id) &&
        !find_in_set(core, &core->partial, 0, &id) && !find_in_set(core, &core->whole, 0, &id) &&
        !find_in_set(core, &core->tables, 0, &id))
        return NULL;
    struct pmm_range *range = pmm_range_of_chunk(pmm, id / CHUNK_FRAMES);
    void *memory = phys_to_virt(address_of(range, id));
    pmm_change_locked(pmm, range, id, id + 1, PMM_FRAME_FREE, PMM_FRAME_RESERVED);
    mm_port_memory_allocated(memory, FRAME_SIZE);
    return memory;
}

/* ---- more of them ---- */

void side_start(struct pmm_core *core, struct pmm_side *sides, uint64_t count)
{
    core->sides = sides;
    core->sides_first = count;
    for (uint64_t i = count; i > 0; i--)
        put_unused(core, &sides[i - 1]);
}

bool side_ensure_locked(struct pmm *pmm, uint64_t count)
{
    struct pmm_core *core = pmm->core;

    if (core->side_unused_count >= count + SIDES_KEPT)
        return true;
    struct pmm_side_page *page = pmm_take_own_locked(pmm);
    if (page == NULL)
        return false;
    page->next = core->side_pages;
    core->side_pages = page;
    for (uint64_t i = SIDES_IN_PAGE; i > 0; i--)
        put_unused(core, &page->sides[i - 1]);
    return true;
}

bool side_ensure_all_locked(struct pmm *pmm, uint64_t count, struct pmm_bugs *bugs)
{
    return side_ensure_locked(pmm, count) ||
           (pmm_take_back_locked(pmm, bugs) && side_ensure_locked(pmm, count));
}

bool side_are_consistent(const struct pmm_core *core)
{
    uint64_t all = core->sides_first, unused = 0, found = 0;
    const struct pmm_side_page *page = core->side_pages;
    const struct pmm_side *sides = core->sides;

    for (const struct pmm_side *side = core->side_unused; side != NULL; side = side->child[0]) {
        if (side->chunk != SIDE_UNUSED || ++unused > core->side_unused_count)
            return false;
    }
    for (uint64_t count = all; sides != NULL; count = SIDES_IN_PAGE) {
        for (uint64_t i = 0; i < count; i++)
            found += sides[i].chunk != SIDE_UNUSED && side_find(core, sides[i].chunk) == &sides[i];
        all += page == NULL ? 0 : SIDES_IN_PAGE;
        sides = page == NULL ? NULL : page->sides;
        page = page == NULL ? NULL : page->next;
    }
    return unused == core->side_unused_count && unused >= SIDES_KEPT && found == core->side_count &&
           found + unused == all;
}

/* ---- out of bad RAM ---- */

/* One by one the sides of `old` are copied and leave the tree or the chain to their copies: not all at once,
 * since the links between them change as well. */
static void move_sides(struct pmm_core *core, struct pmm_side_page *old, struct pmm_side_page *copy)
{
    for (uint64_t i = 0; i < SIDES_IN_PAGE; i++) {
        struct pmm_side **link = &core->side_unused;
        copy->sides[i] = old->sides[i];
        if (copy->sides[i].chunk != SIDE_UNUSED)
            link = link_to(core, copy->sides[i].chunk);
        else
            while (*link != &old->sides[i])
                link = &(*link)->child[0];
        MM_ASSERT(*link == &old->sides[i]);
        store_side(link, &copy->sides[i]);
    }
}

/* The link to a page of sides that lies in [base, end); NULL if none does. */
static struct pmm_side_page **page_inside(struct pmm_core *core, paddr_t base, paddr_t end)
{
    for (struct pmm_side_page **link = &core->side_pages; *link != NULL; link = &(*link)->next)
        if (virt_to_phys(*link) >= base && virt_to_phys(*link) < end)
            return link;
    return NULL;
}

bool side_lies_in(const struct pmm_core *core, const struct pmm_range *range, uint64_t from,
                  uint64_t to)
{
    paddr_t base = address_of(range, from), end = address_of(range, to);

    for (const struct pmm_side_page *page = core->side_pages; page != NULL; page = page->next)
        if (virt_to_phys(page) >= base && virt_to_phys(page) < end)
            return true;
    return false;
}

bool side_leave_locked(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to)
{
    struct pmm_core *core = pmm->core;
    paddr_t base = address_of(range, from), end = address_of(range, to);

    while (page_inside(core, base, end) != NULL) {
        struct pmm_side_page *copy = side_ensure_locked(pmm, 2) ? pmm_take_own_locked(pmm) : NULL;
        if (copy == NULL)
            return false;
        struct pmm_side_page **link = page_inside(core, base, end), *old = *link;
        copy->next = old->next;
        move_sides(core, old, copy);
        *link = copy;
        uint64_t id = id_of(range, virt_to_phys(old));
        pmm_change_locked(pmm, range, id, id + 1, PMM_FRAME_RESERVED, PMM_FRAME_RETIRED);
    }
    return true;
}
