/* SPDX-License-Identifier: MIT */
/* Chunks of 2 MiB and the states of the frames in them: the truth behind the caches. The picture is in
 * pmm_parts.h.
 *
 * A change of many frames (contiguous blocks, reserving, retiring) opens the chunks that it touches in
 * part, edits their words, and settles them: the kind that says it in the fewest words is chosen anew.
 * Chunks that it covers change their kind and nothing else. Single frames have short cuts:
 * pmm_claim_locked and pmm_give_locked.
 *
 * Invariants (pmm_verify): a chunk is in `whole` if all its 512 frames are free; in `partial` if it is
 * BITMAP or MIXED and has a free frame, in `tables` if it is TABLE and has one; counters equal the bits. */
#include "mm/pmm_parts.h"

/* ---- ranges ---- */

size_t pmm_range_from(const struct pmm *pmm, paddr_t address)
{
    size_t low = 0, high = pmm->range_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (range_end(&pmm->ranges[middle]) <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct pmm_range *pmm_range_of(const struct pmm *pmm, paddr_t address)
{
    size_t index = pmm_range_from(pmm, address);

    if (index == pmm->range_count || pmm->ranges[index].base > address)
        return NULL;
    return &pmm->ranges[index];
}

static bool range_has_chunk(const struct pmm_range *range, uint64_t chunk)
{
    return chunk >= range_first_id(range) / CHUNK_FRAMES &&
           chunk <= (range_end_id(range) - 1) / CHUNK_FRAMES;
}

struct pmm_range *pmm_range_of_chunk(const struct pmm *pmm, uint64_t chunk)
{
    size_t low = 0, high = pmm->range_count;
    struct pmm_range *last = &pmm->ranges[pmm->core->last_range];

    if (range_has_chunk(last, chunk))
        return last;
    /* A search goes upwards. */
    if (last + 1 < pmm->ranges + pmm->range_count && range_has_chunk(last + 1, chunk)) {
        pmm->core->last_range++;
        return last + 1;
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((range_end_id(&pmm->ranges[middle]) - 1) / CHUNK_FRAMES < chunk)
            low = middle + 1;
        else
            high = middle;
    }
    pmm->core->last_range = low;
    return &pmm->ranges[low];
}

/* ---- asking ---- */

uint64_t pmm_state_mask(const struct pmm_core *core, uint64_t word, enum pmm_frame_state state)
{
    static const enum pmm_frame_state states[] = {
        [CHUNK_FULL] = PMM_FRAME_USED,
        [CHUNK_RESERVED] = PMM_FRAME_RESERVED,
        [CHUNK_RETIRED] = PMM_FRAME_RETIRED,
    };
    uint64_t chunk = word / CHUNK_WORDS, taken = bits_load(&core->taken[word]);
    enum chunk_kind kind = chunk_kind(core, chunk);

    if (bittree_has(&core->whole, chunk))
        return state == PMM_FRAME_FREE ? UINT64_MAX : 0;
    if (kind >= CHUNK_FULL)
        return kind <= CHUNK_RETIRED && states[kind] == state ? UINT64_MAX : 0;
    if (state == PMM_FRAME_FREE)
        return ~taken;
    if (kind == CHUNK_BITMAP)
        return state == PMM_FRAME_USED ? taken : 0;
    if (kind == CHUNK_TABLE)
        return state == PMM_FRAME_TABLE ? taken : 0;
    const struct pmm_side *side = side_find(core, chunk);
    if (side == NULL)
        return 0;
    uint64_t reserved = bits_load(&side->reserved[word % CHUNK_WORDS]);
    uint64_t table = bits_load(&side->table[word % CHUNK_WORDS]);
    uint64_t bad = bits_load(&side->bad[word % CHUNK_WORDS]);
    switch (state) {
    case PMM_FRAME_USED:
        return taken & ~reserved & ~table;
    case PMM_FRAME_RESERVED:
        return reserved & ~bad;
    case PMM_FRAME_RETIRED:
        return reserved & bad;
    default:
        return state == PMM_FRAME_TABLE ? table : 0;
    }
}

enum pmm_frame_state pmm_state_of_id(const struct pmm_core *core, uint64_t id)
{
    static const enum pmm_frame_state states[] = { PMM_FRAME_FREE, PMM_FRAME_USED, PMM_FRAME_TABLE,
                                                   PMM_FRAME_RETIRED };

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
        if ((pmm_state_mask(core, id / BITS_PER_WORD, states[i]) >> id % BITS_PER_WORD & 1) != 0)
            return states[i];
    return PMM_FRAME_RESERVED;
}

uint64_t pmm_find_other_locked(const struct pmm *pmm, uint64_t from, uint64_t to,
                               enum pmm_frame_state state)
{
    for (uint64_t word = from / BITS_PER_WORD; word * BITS_PER_WORD < to; word++) {
        uint64_t others = ~pmm_state_mask(pmm->core, word, state) & bits_mask(word, from, to);
        if (others != 0)
            return word * BITS_PER_WORD + bits_lowest(others);
    }
    return to;
}

/* ---- opening and settling ---- */

static void set_words(struct pmm_core *core, uint64_t chunk, uint64_t value)
{
    for (unsigned w = 0; w < CHUNK_WORDS; w++)
        bits_store(&core->taken[chunk * CHUNK_WORDS + w], value);
}

static void set_member(struct bittree *tree, uint64_t chunk, bool member)
{
    if (bittree_has(tree, chunk) == member)
        return;
    if (member)
        bittree_add(tree, chunk);
    else
        bittree_remove(tree, chunk);
}

static void whole_remove(struct pmm_core *core, uint64_t chunk)
{
    bittree_remove(&core->whole, chunk);
    core->whole_count--;
}

/* A uniform chunk whose frames are not plain: its side says what they are. */
static void open_special(struct pmm_core *core, const struct pmm_range *range, uint64_t chunk,
                         enum chunk_kind kind)
{
    struct pmm_side *side = side_add_locked(core, chunk);

    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        uint64_t word = chunk * CHUNK_WORDS + w, inside = range_mask(range, word);
        uint64_t set = kind == CHUNK_TABLE ? core->taken[word] & inside : inside;
        bits_store(kind == CHUNK_TABLE ? &side->table[w] : &side->reserved[w], set);
        if (kind == CHUNK_RETIRED)
            bits_store(&side->bad[w], set);
    }
    if (kind != CHUNK_TABLE)
        set_words(core, chunk, UINT64_MAX);
    chunk_set_info(core, chunk, CHUNK_MIXED, 0);
}

void chunk_open_locked(struct pmm *pmm, struct pmm_range *range, uint64_t chunk)
{
    struct pmm_core *core = pmm->core;
    enum chunk_kind kind = chunk_kind(core, chunk);

    if (bittree_has(&core->whole, chunk)) {
        set_words(core, chunk, 0);
        chunk_set_plain(core, chunk, UINT8_MAX);
        chunk_set_info(core, chunk, CHUNK_BITMAP, CHUNK_FRAMES);
        whole_remove(core, chunk);
        bittree_add(&core->partial, chunk);
    } else if (kind == CHUNK_FULL) {
        set_words(core, chunk, UINT64_MAX);
        chunk_set_plain(core, chunk, UINT8_MAX);
        chunk_set_info(core, chunk, CHUNK_BITMAP, 0);
    } else if (kind != CHUNK_BITMAP && kind != CHUNK_MIXED) {
        set_member(&core->tables, chunk, false);
        chunk_set_plain(core, chunk, 0);
        open_special(core, range, chunk, kind);
        if (kind == CHUNK_TABLE) { /* its free frames are everybody's now */
            core->frees++;
            chunk_settle_locked(pmm, range, chunk);
        }
    }
}

/* A MIXED chunk: which words are plain, and whether its side is still needed.
 *   Returns:  the kind that it now has. */
static enum chunk_kind settle_side(struct pmm_core *core, const struct pmm_range *range,
                                   uint64_t chunk)
{
    struct pmm_side *side = side_find(core, chunk);
    uint64_t special = 0, unreserved = 0, good = 0, bad = 0;
    unsigned plain = 0;

    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        uint64_t inside = range_mask(range, chunk * CHUNK_WORDS + w);
        uint64_t here = side->reserved[w] | side->table[w] | side->bad[w];
        plain |= here == 0 ? 1u << w : 0;
        special |= here;
        unreserved |= inside & ~side->reserved[w];
        good |= inside & ~side->bad[w];
        bad |= side->bad[w];
    }
    chunk_set_plain(core, chunk, plain);
    if (special != 0 && (unreserved != 0 || (good != 0 && bad != 0)))
        return CHUNK_MIXED;
    side_drop_locked(core, chunk);
    chunk_set_plain(core, chunk, special == 0 ? UINT8_MAX : 0);
    return special == 0 ? CHUNK_BITMAP : bad == 0 ? CHUNK_RESERVED : CHUNK_RETIRED;
}

void chunk_settle_locked(struct pmm *pmm, struct pmm_range *range, uint64_t chunk)
{
    struct pmm_core *core = pmm->core;
    enum chunk_kind kind = chunk_kind(core, chunk);
    uint64_t free_frames = 0;

    for (unsigned w = 0; w < CHUNK_WORDS; w++)
        free_frames += bits_count(~core->taken[chunk * CHUNK_WORDS + w]);
    if (kind == CHUNK_MIXED)
        kind = settle_side(core, range, chunk);
    else
        chunk_set_plain(core, chunk, UINT8_MAX);
    chunk_set_info(core, chunk, kind, free_frames);
    set_member(&core->partial, chunk, free_frames != 0 && free_frames != CHUNK_FRAMES);
    if (free_frames == CHUNK_FRAMES && !bittree_has(&core->whole, chunk)) {
        chunk_set_plain(core, chunk, 0);
        bittree_add(&core->whole, chunk);
        core->whole_count++;
    }
}

/* ---- changing many ---- */

/* All 512 frames of a chunk become `new`, whatever its kind was. */
static void change_whole_chunk(struct pmm *pmm, uint64_t chunk, enum pmm_frame_state new)
{
    struct pmm_core *core = pmm->core;

    if (bittree_has(&core->whole, chunk)) {
        whole_remove(core, chunk);
    } else {
        if (chunk_kind(core, chunk) == CHUNK_MIXED)
            side_drop_locked(core, chunk);
        set_member(&core->partial, chunk, false);
        set_member(&core->tables, chunk, false);
    }
    chunk_set_plain(core, chunk, 0);
    if (new == PMM_FRAME_FREE) {
        chunk_set_info(core, chunk, CHUNK_BITMAP, CHUNK_FRAMES);
        bittree_add(&core->whole, chunk);
        core->whole_count++;
    } else {
        chunk_set_info(core, chunk,
                       new == PMM_FRAME_USED       ? CHUNK_FULL
                       : new == PMM_FRAME_RESERVED ? CHUNK_RESERVED
                                                   : CHUNK_RETIRED,
                       0);
    }
}

/* The frames of `mask` in one word of an open chunk; `side` is NULL if it needs none. */
static void change_word(struct pmm_core *core, struct pmm_side *side, uint64_t word, uint64_t mask,
                        enum pmm_frame_state new)
{
    uint64_t taken = core->taken[word] | mask;
    unsigned w = word % CHUNK_WORDS;

    bits_store(&core->taken[word], new == PMM_FRAME_FREE ? taken & ~mask : taken);
    if (side == NULL)
        return;
    bool reserved = new == PMM_FRAME_RESERVED || new == PMM_FRAME_RETIRED;
    bits_store(&side->reserved[w], reserved ? side->reserved[w] | mask : side->reserved[w] & ~mask);
    bits_store(&side->table[w],
               new == PMM_FRAME_TABLE ? side->table[w] | mask : side->table[w] & ~mask);
    if (new == PMM_FRAME_RETIRED)
        bits_store(&side->bad[w], side->bad[w] | mask);
}

static void change_part(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to,
                        enum pmm_frame_state new)
{
    struct pmm_core *core = pmm->core;
    uint64_t chunk = from / CHUNK_FRAMES;

    chunk_open_locked(pmm, range, chunk);
    struct pmm_side *side = NULL;
    if (chunk_kind(core, chunk) == CHUNK_MIXED) {
        side = side_find(core, chunk);
    } else if (new != PMM_FRAME_FREE &&new != PMM_FRAME_USED) {
        side = side_add_locked(core, chunk);
        chunk_set_info(core, chunk, CHUNK_MIXED, 0);
    }
    for (uint64_t word = from / BITS_PER_WORD; word * BITS_PER_WORD < to; word++)
        change_word(core, side, word, bits_mask(word, from, to), new);
    chunk_settle_locked(pmm, range, chunk);
}

static void count_state(struct pmm *pmm, struct pmm_range *range, enum pmm_frame_state state,
                        uint64_t count)
{
    struct pmm_stats *stats = &pmm->stats;

    if (state == PMM_FRAME_FREE) {
        stats->free_frames += count;
        range->free_frames += count;
    } else if (state == PMM_FRAME_USED || state == PMM_FRAME_TABLE) {
        stats->used_frames += count;
    } else {
        stats->reserved_frames += count;
        range->reserved_frames += count;
    }
    if (state == PMM_FRAME_TABLE) {
        stats->table_frames += count;
        range->table_frames += count;
    }
    if (state == PMM_FRAME_RETIRED) {
        stats->retired_frames += count;
        range->retired_frames += count;
    }
}

void pmm_change_locked(struct pmm *pmm, struct pmm_range *range, uint64_t from, uint64_t to,
                       enum pmm_frame_state old, enum pmm_frame_state new)
{
    count_state(pmm, range, old, -(to - from));
    count_state(pmm, range, new, to - from);
    if (new == PMM_FRAME_FREE)
        pmm->core->frees++;
    while (from < to) {
        uint64_t chunk = from / CHUNK_FRAMES, end = (chunk + 1) * CHUNK_FRAMES;
        end = end < to ? end : to;
        if (new == PMM_FRAME_FREE)
            bits_clear(pmm->core->clean, chunk);
        if (end - from == CHUNK_FRAMES)
            change_whole_chunk(pmm, chunk, new);
        else
            change_part(pmm, range, from, end, new);
        from = end;
    }
}

/* ---- single frames back ---- */

/* A frame that the short cut does not know: bad, or in a chunk that is FULL. */
static bool give_one_slowly(struct pmm *pmm, struct pmm_range *range, uint64_t id, bool zero)
{
    struct pmm_core *core = pmm->core;
    uint64_t chunk = id / CHUNK_FRAMES;
    bool was_clean = bits_test(core->clean, chunk);

    if (pmm_state_of_id(core, id) != PMM_FRAME_USED)
        return false;
    struct pmm_side *side = chunk_kind(core, chunk) == CHUNK_MIXED ? side_find(core, chunk) : NULL;
    bool bad = side != NULL && bits_test(side->bad, id % CHUNK_FRAMES);
    pmm_change_locked(pmm, range, id, id + 1, PMM_FRAME_USED,
                      bad ? PMM_FRAME_RETIRED : PMM_FRAME_FREE);
    if (was_clean && zero)
        bits_set(core->clean, chunk);
    return true;
}

static MM_COLD uint64_t give_slowly(struct pmm *pmm, struct pmm_range *range, uint64_t word,
                                    uint64_t mask, bool zero)
{
    uint64_t wrong = 0;

    for (; mask != 0; mask &= mask - 1)
        if (!give_one_slowly(pmm, range, word * BITS_PER_WORD + bits_lowest(mask), zero))
            wrong |= mask & -mask;
    return wrong;
}

/* The free frames of a chunk went from `before` to `after`, which is more. */
static inline void note_more_free(struct pmm_core *core, uint64_t chunk, uint64_t before,
                                  uint64_t after)
{
    if (after == CHUNK_FRAMES) {
        if (before != 0)
            bittree_remove(&core->partial, chunk);
        bittree_add(&core->whole, chunk);
        core->whole_count++;
        chunk_set_plain(core, chunk, 0);
    } else if (before == 0) {
        bittree_add(&core->partial, chunk);
    }
}

/* As pmm_give_locked, but for the counters of the pmm and of the range: *given says how many went.
 * `count` is the number of bits in the mask. */
static inline uint64_t give_word(struct pmm *pmm, struct pmm_range *range, uint64_t word,
                                 uint64_t mask, uint64_t count, bool zero, uint64_t *given)
{
    struct pmm_core *core = pmm->core;
    uint64_t chunk = word / CHUNK_WORDS, taken = core->taken[word], wrong = mask & ~taken;

    if (__builtin_expect(!bits_test(core->plain, word), 0))
        return give_slowly(pmm, range, word, mask, zero);
    if (__builtin_expect(wrong != 0, 0)) {
        mask &= taken;
        count = bits_count(mask);
        if (count == 0)
            return wrong;
    }
    unsigned info = core->info[chunk];
    uint64_t before = info & CHUNK_FREE;
    bits_store(&core->taken[word], taken & ~mask);
    __atomic_store_n(&core->info[chunk], (uint16_t)((info + count) | CHUNK_RUN), __ATOMIC_RELAXED);
    group_raise(core, chunk);
    /* Both at once: it had no free frame, or all are free now. */
    if (before - 1 >= CHUNK_FRAMES - 1 - count)
        note_more_free(core, chunk, before, before + count);
    if (!zero && __builtin_expect(bits_test(core->clean, chunk), 0))
        bits_clear(core->clean, chunk);
    *given += count;
    return wrong;
}

static void count_given(struct pmm *pmm, struct pmm_range *range, uint64_t given)
{
    pmm->core->frees += given;
    range->free_frames += given;
    pmm->stats.free_frames += given;
    pmm->stats.used_frames -= given;
}

uint64_t pmm_give_locked(struct pmm *pmm, struct pmm_range *range, uint64_t word, uint64_t mask,
                         bool zero)
{
    uint64_t given = 0;
    uint64_t wrong = give_word(pmm, range, word, mask, bits_count(mask), zero, &given);

    count_given(pmm, range, given);
    return wrong;
}

static MM_COLD void note_bugs(struct pmm_bugs *bugs, const struct pmm_range *range, uint64_t word,
                              uint64_t wrong)
{
    for (; wrong != 0; wrong &= wrong - 1) {
        if (bugs->count < BUGS_KEPT)
            bugs->frames[bugs->count] =
                address_of(range, word * BITS_PER_WORD + bits_lowest(wrong));
        bugs->count++;
    }
}

/* Neighbours at the end of a range, or one frame twice: each by itself. */
static MM_COLD void give_each(struct pmm *pmm, const paddr_t *entries, uint32_t count, bool zero,
                              struct pmm_bugs *bugs)
{
    for (uint32_t i = 0; i < count; i++) {
        paddr_t address = entry_frame(bits_load(&entries[i]));
        struct pmm_range *range = pmm_range_of(pmm, address);
        uint64_t id = id_of(range, address);
        if (!pmm_give_one_locked(pmm, range, id, zero))
            note_bugs(bugs, range, id / BITS_PER_WORD, (uint64_t)1 << id % BITS_PER_WORD);
    }
}

/* True if the 64 frames from number `frame` on are all of the range. */
static inline bool range_has_word(const struct pmm_range *range, uint64_t frame)
{
    uint64_t place = frame - (range->base >> FRAME_SHIFT);

    return place < range->frames && range->frames - place >= BITS_PER_WORD;
}

bool pmm_block_is_retiring_locked(const struct pmm *pmm, uint64_t chunk)
{
    uint64_t first = chunk * CHUNK_FRAMES, end = first + CHUNK_FRAMES;

    return !bittree_has(&pmm->core->whole, chunk) && chunk_kind(pmm->core, chunk) == CHUNK_MIXED &&
           pmm_find_other_locked(pmm, first, end, PMM_FRAME_USED) == end;
}

/* Its bad frames leave service, the others become free. */
static MM_COLD void give_retiring_block(struct pmm *pmm, struct pmm_range *range, uint64_t chunk)
{
    for (uint64_t w = 0; w < CHUNK_WORDS; w++)
        (void)pmm_give_locked(pmm, range, chunk * CHUNK_WORDS + w, UINT64_MAX, false);
}

void pmm_give_blocks_locked(struct pmm *pmm, const paddr_t *blocks, uint32_t count,
                            struct pmm_bugs *bugs)
{
    struct pmm_core *core = pmm->core;

    for (uint32_t i = 0; i < count; i++) {
        paddr_t block = bits_load(&blocks[i]);
        struct pmm_range *range = pmm_range_of(pmm, block);
        uint64_t id = id_of(range, block), chunk = id / CHUNK_FRAMES;
        /* This copy is out of its cache already: one that is still in a cache is another. */
        bool wrong = bittree_has(&core->whole, chunk) || pmm_block_is_cached(pmm, block);
        if (!wrong && pmm_block_is_retiring_locked(pmm, chunk)) {
            give_retiring_block(pmm, range, chunk);
            continue;
        }
        if (wrong || chunk_kind(core, chunk) != CHUNK_FULL) {
            note_bugs(bugs, range, id / BITS_PER_WORD, 1);
            continue;
        }
        bittree_add(&core->whole, chunk);
        core->whole_count++;
        if (chunk >= core->block_chunk)
            core->large_hint = chunk;
        bits_clear(core->clean, chunk);
        count_given(pmm, range, CHUNK_FRAMES);
    }
}

/* Neighbours of one word go back together: as long as frames were freed in order, that is one look at the
 * chunk for 64 of them. */
void pmm_give_entries_locked(struct pmm *pmm, const paddr_t *entries, uint32_t count, bool zero,
                             struct pmm_bugs *bugs)
{
    struct pmm_range *range = &pmm->ranges[pmm->core->last_range];
    uint64_t given = 0;

    for (uint32_t i = 0, first = 0; i < count; first = i) {
        uint64_t frame = bits_load(&entries[i]) >> FRAME_SHIFT, group = frame / BITS_PER_WORD;
        uint64_t mask = 0, twice = 0;
        do {
            uint64_t bit = (uint64_t)1 << frame % BITS_PER_WORD;
            twice |= mask & bit;
            mask |= bit;
            if (++i == count)
                break;
            frame = bits_load(&entries[i]) >> FRAME_SHIFT;
        } while (frame / BITS_PER_WORD == group);
        if (__builtin_expect(!range_has_word(range, group * BITS_PER_WORD), 0)) {
            count_given(pmm, range, given);
            given = 0;
            range = pmm_range_of(pmm, entry_frame(bits_load(&entries[first])));
        }
        if (__builtin_expect(twice != 0 || !range_has_word(range, group * BITS_PER_WORD), 0)) {
            give_each(pmm, entries + first, i - first, zero, bugs);
            continue;
        }
        uint64_t word = (group * BITS_PER_WORD + range->bias) / BITS_PER_WORD;
        uint64_t wrong = give_word(pmm, range, word, mask, i - first, zero, &given);
        if (__builtin_expect(wrong != 0, 0))
            note_bugs(bugs, range, word, wrong);
    }
    count_given(pmm, range, given);
}
