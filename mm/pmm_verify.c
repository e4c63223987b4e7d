/* SPDX-License-Identifier: MIT */
/* The full consistency check: every bit, counter, summary and cache against the others.
 *
 *      taken[] and sides  ->  states of frames  ->  info, plain, partial / whole / tables
 *      sums over chunks   ->  range counters, pmm->stats
 *      caches             ->  each entry a used frame of its chunk, found by its index, in no other cache
 *
 * The first difference is told in one line. */
#include "mm/pmm_parts.h"

struct check {
    const struct pmm *pmm;
    const char *what; /* the first difference; NULL: none so far */
    paddr_t where;
    uint64_t found, expected;
    struct pmm_stats range_sums; /* of the range that is looked at */
    struct pmm_stats sums;
    uint32_t sides;
    uint64_t wholes;
};

static void note(struct check *c, const char *what, paddr_t where, uint64_t found,
                 uint64_t expected)
{
    if (c->what != NULL || found == expected)
        return;
    c->what = what;
    c->where = where;
    c->found = found;
    c->expected = expected;
}

/* ---- chunks ---- */

static void check_side(struct check *c, const struct pmm_range *range, uint64_t chunk, paddr_t at)
{
    const struct pmm_core *core = c->pmm->core;
    const struct pmm_side *side = side_find(core, chunk);
    uint64_t all = 0;

    note(c, "a mixed chunk has a side", at, side != NULL, 1);
    if (side == NULL)
        return;
    c->sides++;
    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        uint64_t word = chunk * CHUNK_WORDS + w, inside = range_mask(range, word);
        uint64_t reserved = side->reserved[w], table = side->table[w], bad = side->bad[w];
        note(c, "a special frame is taken", at, (reserved | table | bad) & ~core->taken[word], 0);
        note(c, "a reserved frame is no table", at, reserved & table, 0);
        note(c, "a special frame is RAM", at, (reserved | table | bad) & ~inside, 0);
        note(c, "a plain word has no special frame", at, chunk_plain(core, chunk) >> w & 1,
             (reserved | table | bad) == 0);
        all |= reserved | table | bad;
    }
    note(c, "a side says something", at, all != 0, 1);
}

static void check_members(struct check *c, uint64_t chunk, paddr_t at, uint64_t free_frames)
{
    const struct pmm_core *core = c->pmm->core;
    bool whole = bittree_has(&core->whole, chunk);
    enum chunk_kind kind = whole ? CHUNK_BITMAP : chunk_kind(core, chunk);

    note(c, "chunk in partial", at, bittree_has(&core->partial, chunk),
         !whole && kind <= CHUNK_MIXED && free_frames > 0);
    note(c, "chunk in tables", at, bittree_has(&core->tables, chunk),
         kind == CHUNK_TABLE && free_frames > 0);
    note(c, "a chunk that is wholly free is in whole", at, whole, free_frames == CHUNK_FRAMES);
    if (whole)
        note(c, "words of a wholly free chunk", at, chunk_plain(core, chunk), 0);
    if (whole)
        return;
    note(c, "kind of a chunk", at, kind <= CHUNK_RETIRED, 1);
    note(c, "free frames of a chunk", at, chunk_free(core, chunk), free_frames);
    if (bittree_has(&core->partial, chunk))
        note(c, "runs of a chunk", at, pmm_runs_are_known(c->pmm, pmm_range_of(c->pmm, at), chunk),
             1);
    if (kind == CHUNK_BITMAP)
        note(c, "words of a plain chunk", at, chunk_plain(core, chunk), UINT8_MAX);
    else if (kind != CHUNK_MIXED)
        note(c, "words of a special chunk", at, chunk_plain(core, chunk), 0);
}

static void check_chunk(struct check *c, const struct pmm_range *range, uint64_t chunk)
{
    static const enum pmm_frame_state states[] = { PMM_FRAME_FREE, PMM_FRAME_USED,
                                                   PMM_FRAME_RESERVED, PMM_FRAME_TABLE,
                                                   PMM_FRAME_RETIRED };
    const struct pmm_core *core = c->pmm->core;
    uint64_t counts[PMM_FRAME_RETIRED + 1] = { 0 }, sum = 0, inside = 0;
    uint64_t first =
        chunk * CHUNK_FRAMES > range_first_id(range) ? chunk * CHUNK_FRAMES : range_first_id(range);
    paddr_t at = address_of(range, first);
    bool whole = bittree_has(&core->whole, chunk);

    if (whole && first + CHUNK_FRAMES <= range_end_id(range)) { /* most of a large memory */
        check_members(c, chunk, at, CHUNK_FRAMES);
        c->wholes++;
        c->range_sums.free_frames += CHUNK_FRAMES;
        return;
    }
    for (uint64_t word = chunk * CHUNK_WORDS; word < (chunk + 1) * CHUNK_WORDS; word++) {
        uint64_t mask = range_mask(range, word);
        inside += bits_count(mask);
        for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
            uint64_t count = bits_count(pmm_state_mask(core, word, states[i]) & mask);
            counts[states[i]] += count;
            sum += count;
        }
        if (!whole && chunk_kind(core, chunk) < CHUNK_FULL)
            note(c, "places outside RAM are taken", at, ~core->taken[word] & ~mask, 0);
    }
    note(c, "each frame of a chunk is in one state", at, sum, inside);
    if (!whole && chunk_kind(core, chunk) == CHUNK_MIXED)
        check_side(c, range, chunk, at);
    check_members(c, chunk, at, counts[PMM_FRAME_FREE]);
    c->wholes += whole;
    c->range_sums.free_frames += counts[PMM_FRAME_FREE];
    c->range_sums.used_frames += counts[PMM_FRAME_USED] + counts[PMM_FRAME_TABLE];
    c->range_sums.table_frames += counts[PMM_FRAME_TABLE];
    c->range_sums.reserved_frames += counts[PMM_FRAME_RESERVED] + counts[PMM_FRAME_RETIRED];
    c->range_sums.retired_frames += counts[PMM_FRAME_RETIRED];
}

static void check_sums_of_range(struct check *c, const struct pmm_range *range)
{
    const struct pmm_stats *found = &c->range_sums;

    note(c, "free frames of a range", range->base, range->free_frames, found->free_frames);
    note(c, "page tables of a range", range->base, range->table_frames, found->table_frames);
    note(c, "reserved frames of a range", range->base, range->reserved_frames,
         found->reserved_frames);
    note(c, "retired frames of a range", range->base, range->retired_frames, found->retired_frames);
    c->sums.total_frames += range->frames;
    c->sums.free_frames += found->free_frames;
    c->sums.used_frames += found->used_frames;
    c->sums.table_frames += found->table_frames;
    c->sums.reserved_frames += found->reserved_frames;
    c->sums.retired_frames += found->retired_frames;
}

static void check_ranges(struct check *c)
{
    const struct pmm *pmm = c->pmm;
    uint64_t chunk = 0;

    for (size_t i = 0; i < pmm->range_count; i++) {
        const struct pmm_range *range = &pmm->ranges[i];
        c->range_sums = (struct pmm_stats){ 0 };
        note(c, "first chunk of a range", range->base, range_first_id(range) / CHUNK_FRAMES, chunk);
        for (; chunk * CHUNK_FRAMES < range_end_id(range) && c->what == NULL; chunk++)
            check_chunk(c, range, chunk);
        check_sums_of_range(c, range);
    }
    note(c, "chunks", 0, pmm->core->chunks, chunk);
}

/* No member beyond the last chunk, and the levels agree. */
static void check_set(struct check *c, const struct bittree *set)
{
    uint64_t beyond;

    note(c, "levels of a set agree", 0, bittree_is_consistent(set, c->pmm->core->chunks), 1);
    note(c, "a set ends with the last chunk", 0, bittree_next(set, c->pmm->core->chunks, &beyond),
         0);
}

static void check_sums(struct check *c)
{
    const struct pmm_core *core = c->pmm->core;
    const struct pmm_stats *stats = &c->pmm->stats, *sums = &c->sums;
    uint64_t tables = core->zero_table_count; /* free, although their chunks call them tables */

    note(c, "total frames", 0, stats->total_frames, sums->total_frames);
    note(c, "free frames", 0, stats->free_frames, sums->free_frames);
    note(c, "used frames", 0, stats->used_frames + tables, sums->used_frames);
    note(c, "page tables", 0, stats->table_frames + tables, sums->table_frames);
    note(c, "reserved frames", 0, stats->reserved_frames, sums->reserved_frames);
    note(c, "retired frames", 0, stats->retired_frames, sums->retired_frames);
    note(c, "all frames", 0, sums->free_frames + sums->used_frames + sums->reserved_frames,
         sums->total_frames);
    note(c, "wholly free chunks", 0, core->whole_count, c->wholes);
    note(c, "sides", 0, core->side_count, c->sides);
    note(c, "each side is in use or unused", 0, side_are_consistent(core), 1);
    for (unsigned i = 0; i < core->zero_table_count; i++) {
        uint64_t id = core->zero_tables[i];
        note(c, "a free table is one", id, pmm_state_of_id(core, id), PMM_FRAME_TABLE);
        for (unsigned j = 0; j < i; j++)
            note(c, "a table is free once", id, id == core->zero_tables[j], 0);
    }
}

/* ---- caches ---- */

static void check_entry(struct check *c, unsigned owner, paddr_t at)
{
    const struct pmm *pmm = c->pmm;
    const struct pmm_range *range = pmm_range_of(pmm, at);

    note(c, "a cached frame is RAM", at, range != NULL, 1);
    if (range == NULL)
        return;
    note(c, "a cached frame is used in its chunk", at, pmm_state_of_id(pmm->core, id_of(range, at)),
         PMM_FRAME_USED);
    for (unsigned i = 0; i < pmm->core->slots_end; i++)
        if (pmm->slots[i] != &pmm_absent_slot)
            note(c, "a cached frame lies in one cache", at, slot_holds(pmm->slots[i], at),
                 i == owner);
}

static void check_magazine(struct check *c, unsigned owner, bool zero)
{
    const struct pmm_slot *slot = c->pmm->slots[owner];
    const struct magazine *magazine = zero ? &slot->zero : &slot->dirty;
    const uint64_t *entries = slot->entries + slot_first(zero);
    int32_t bottom = __atomic_load_n(&magazine->bottom, __ATOMIC_ACQUIRE);

    note(c, "bounds of a cache", owner,
         magazine->floor >= 0 && magazine->floor <= bottom && bottom <= magazine->capacity, 1);
    for (int32_t i = magazine->floor; i < bottom && c->what == NULL; i++) {
        paddr_t address = entry_frame(bits_load(&entries[i]));
        check_entry(c, owner, address);
        for (int32_t j = magazine->floor; j < i; j++)
            note(c, "a frame lies in a cache once", address,
                 entry_frame(bits_load(&entries[j])) == address, 0);
    }
}

/* Or, in a suspended cache, one that was retired while its owner had it in its hands. */
static bool may_be_cached(const struct pmm *pmm, unsigned owner, uint64_t chunk)
{
    const struct pmm_core *core = pmm->core;

    if (bits_test(core->suspended, owner) && pmm_block_is_retiring_locked(pmm, chunk))
        return true;
    return !bittree_has(&core->whole, chunk) && chunk_kind(core, chunk) == CHUNK_FULL;
}

static void check_blocks(struct check *c, unsigned owner)
{
    const struct pmm *pmm = c->pmm;
    const struct pmm_slot *slot = pmm->slots[owner];
    const struct magazine *magazine = &slot->large;

    note(c, "bounds of a cache of blocks", owner,
         magazine->floor >= 0 && magazine->floor <= magazine->bottom &&
             magazine->bottom <= magazine->capacity,
         1);
    for (int32_t i = magazine->floor; i < magazine->bottom && c->what == NULL; i++) {
        paddr_t block = bits_load(&slot->blocks[i]);
        const struct pmm_range *range = pmm_range_of(pmm, block);
        uint64_t chunk = range == NULL ? 0 : id_of(range, block) / CHUNK_FRAMES;
        note(c, "a cached block is RAM", block,
             range != NULL && id_of(range, block) % CHUNK_FRAMES == 0, 1);
        note(c, "a cached block is a full chunk", block, may_be_cached(pmm, owner, chunk), 1);
        for (unsigned j = 0; j < pmm->core->slots_end; j++)
            if (pmm->slots[j] != &pmm_absent_slot)
                note(c, "a cached block lies in one cache", block,
                     slot_holds_block(pmm->slots[j], block), j == owner);
        for (int32_t j = magazine->floor; j < i; j++)
            note(c, "a block lies in a cache once", block, bits_load(&slot->blocks[j]) == block, 0);
    }
}

static void check_caches(struct check *c)
{
    const struct pmm *pmm = c->pmm;
    unsigned present = 0;

    for (unsigned i = 0; i < MM_PORT_SLOT_TABLE && c->what == NULL; i++) {
        if (pmm->slots[i] == &pmm_absent_slot)
            continue;
        present++;
        paddr_t at = virt_to_phys(pmm->slots[i]);
        const struct pmm_range *range = pmm_range_of(pmm, at);
        enum pmm_frame_state state =
            range == NULL ? PMM_FRAME_OUTSIDE : pmm_state_of_id(pmm->core, id_of(range, at));
        note(c, "a cache lies in a reserved frame", at, state, PMM_FRAME_RESERVED);
        check_magazine(c, i, false);
        check_magazine(c, i, true);
        check_blocks(c, i);
    }
    note(c, "caches", 0, pmm->core->slots_present, present);
}

/* ---- all of it ---- */

bool pmm_verify(struct pmm *pmm)
{
    struct check c = { .pmm = pmm };
    uint64_t saved = mm_port_lock(&pmm->lock);

    check_ranges(&c);
    check_set(&c, &pmm->core->partial);
    check_set(&c, &pmm->core->whole);
    check_set(&c, &pmm->core->tables);
    check_sums(&c);
    check_caches(&c);
    mm_port_unlock(&pmm->lock, saved);
    if (c.what != NULL)
        mm_error("pmm: %s at 0x%lx: found 0x%lx, expected 0x%lx", c.what, c.where, c.found,
                 c.expected);
    return c.what == NULL;
}
