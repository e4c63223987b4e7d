/* SPDX-License-Identifier: MIT */
/* Where free frames are: which chunk the next ones come from, and where a block of neighbours fits.
 *
 *      chunks   | low zone, below 4 GiB           | high zone                 |
 *      order      3: partly used  4: wholly free    1: partly used  2: wholly free
 *
 * Memory below 4 GiB is kept for devices that reach no further. Partly used chunks come first, so
 * that whole ones stay whole for 2 MiB blocks; but the caches pass over MIXED ones as long as
 * there are others, because the fast free does not work for frames beside special ones. Chunks of
 * page tables are touched last; their free frames are then everybody's.
 *
 * A block is found by one pass over the chunks that have free frames at all: neighbouring free frames
 * make a run, which goes on from chunk to chunk inside one range. */
#include "mm/pmm_parts.h"

/* ---- chunks ---- */

#define MIXED_SKIPPED 8u

/* The first partly used chunk from `from` on; with `plain` not one of the first few MIXED ones. */
static bool next_partial(const struct pmm_core *core, uint64_t from, bool plain, uint64_t *chunk)
{
    for (unsigned skipped = 0; bittree_next(&core->partial, from, chunk); skipped++) {
        if (!plain || skipped == MIXED_SKIPPED || chunk_kind(core, *chunk) != CHUNK_MIXED)
            return true;
        from = *chunk + 1;
    }
    return false;
}

uint64_t pmm_find_chunk_locked(struct pmm *pmm, uint64_t hint, bool plain)
{
    struct pmm_core *core = pmm->core;
    uint64_t chunk;

    if (hint < core->chunks && bittree_has(&core->partial, hint))
        return hint;
    if (next_partial(core, core->high_chunk, plain, &chunk))
        return chunk;
    if (!bittree_next(&core->whole, core->high_chunk, &chunk)) {
        if (next_partial(core, 0, plain, &chunk))
            return chunk;
        if (!bittree_next(&core->whole, 0, &chunk)) {
            if (plain)
                return pmm_find_chunk_locked(pmm, hint, false);
            if (!bittree_next(&core->tables, 0, &chunk) || !side_ensure_locked(pmm, 1))
                return CHUNK_NONE;
            /* A frame for sides may have opened one already, or taken the last. */
            if (next_partial(core, 0, false, &chunk))
                return chunk;
            if (!bittree_next(&core->tables, 0, &chunk))
                return CHUNK_NONE;
            chunk_open_locked(pmm, pmm_range_of_chunk(pmm, chunk), chunk);
        }
    }
    return chunk;
}

/* The lowest `most` set bits of a word. */
static uint64_t lowest_bits(uint64_t word, uint64_t most)
{
    uint64_t bits = 0;

    for (; most > 0 && word != 0; most--) {
        bits |= word & -word;
        word &= word - 1;
    }
    return bits;
}

static void count_claimed(struct pmm *pmm, struct pmm_range *range, uint64_t chunk,
                          uint64_t claimed)
{
    struct pmm_core *core = pmm->core;

    core->info[chunk] = (uint16_t)(core->info[chunk] - claimed);
    if (chunk_free(core, chunk) == 0)
        bittree_remove(&core->partial, chunk);
    range->free_frames -= claimed;
    pmm->stats.free_frames -= claimed;
    pmm->stats.used_frames += claimed;
}

uint64_t pmm_claim_locked(struct pmm *pmm, struct pmm_range *range, uint64_t chunk, uint64_t most,
                          uint64_t masks[CHUNK_WORDS])
{
    struct pmm_core *core = pmm->core;
    uint64_t *words = &core->taken[chunk * CHUNK_WORDS];
    uint64_t claimed = 0;

    if (bittree_has(&core->whole, chunk))
        chunk_open_locked(pmm, range, chunk);
    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        masks[w] = 0;
        if (words[w] == UINT64_MAX || claimed == most)
            continue;
        uint64_t bits = ~words[w];
        unsigned count = bits_count(bits);
        if (count > most - claimed) {
            bits = lowest_bits(bits, most - claimed);
            count = (unsigned)(most - claimed);
        }
        masks[w] = bits;
        claimed += count;
        bits_store(&words[w], words[w] | bits);
    }
    count_claimed(pmm, range, chunk, claimed);
    return claimed;
}

/* Few branches: this is the way of the last free frames, which nobody has taken for long. */
uint64_t pmm_claim_one_locked(struct pmm *pmm, struct pmm_range *range, uint64_t chunk)
{
    struct pmm_core *core = pmm->core;
    uint64_t word = chunk * CHUNK_WORDS;

    if (bittree_has(&core->whole, chunk))
        chunk_open_locked(pmm, range, chunk);
    while (core->taken[word] == UINT64_MAX)
        word++;
    unsigned bit = bits_lowest(~core->taken[word]);
    bits_store(&core->taken[word], core->taken[word] | (uint64_t)1 << bit);
    count_claimed(pmm, range, chunk, 1);
    return word * BITS_PER_WORD + bit;
}

/* ---- blocks ---- */

struct search {
    struct pmm *pmm;
    bool partial_only;
    uint64_t count, align_bytes;
    paddr_t limit;
    /* the run of free frames that the scan is in */
    struct pmm_range *range;
    uint64_t first, end;
    uint64_t longest;
};

/* Adds the free frames [first, end) to the run, or begins a new one with them.
 *   Returns:  true if the block fits into the run: s->first is its first frame. */
static bool add_to_run(struct search *s, struct pmm_range *range, uint64_t first, uint64_t end)
{
    if (s->range != range || s->end != first) {
        s->range = range;
        s->first = first;
    }
    s->end = end;
    if (s->end - s->first > s->longest)
        s->longest = s->end - s->first;
    if (s->end - s->first < s->count)
        return false;
    paddr_t run = address_of(range, s->first), stop = address_of(range, s->end);
    paddr_t start = mm_round_up(run, s->align_bytes);
    stop = stop < s->limit ? stop : mm_round_down(s->limit, FRAME_SIZE);
    if (start < run || start >= stop || (stop - start) / FRAME_SIZE < s->count)
        return false;
    s->first = id_of(range, start);
    return true;
}

static bool scan_partial(struct search *s, struct pmm_range *range, uint64_t chunk)
{
    const uint64_t *words = &s->pmm->core->taken[chunk * CHUNK_WORDS];

    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        uint64_t id = (chunk * CHUNK_WORDS + w) * BITS_PER_WORD;
        for (uint64_t bits = ~words[w]; bits != 0;) {
            unsigned from = bits_lowest(bits);
            uint64_t rest = ~(bits >> from);
            unsigned length = rest == 0 ? BITS_PER_WORD - from : bits_lowest(rest);
            if (length > BITS_PER_WORD - from)
                length = BITS_PER_WORD - from;
            if (add_to_run(s, range, id + from, id + from + length))
                return true;
            if (from + length == BITS_PER_WORD)
                break;
            bits &= UINT64_MAX << (from + length);
        }
    }
    return false;
}

/* How many wholly free chunks of the range stand side by side from `chunk` on, as far as one look
 * tells: 64 if a word of the set is full. */
static uint64_t whole_side_by_side(const struct pmm_core *core, const struct pmm_range *range,
                                   uint64_t chunk)
{
    bool all = chunk % BITS_PER_WORD == 0 &&
               core->whole.level[0][chunk / BITS_PER_WORD] == UINT64_MAX &&
               (chunk + BITS_PER_WORD) * CHUNK_FRAMES <= range_end_id(range);

    return all ? BITS_PER_WORD : 1;
}

/* Goes over the chunks [from, to) that have free frames. */
static bool scan(struct search *s, uint64_t from, uint64_t to)
{
    const struct pmm_core *core = s->pmm->core;

    while (from < to) {
        uint64_t partial = to, whole = to;
        if (!bittree_next(&core->partial, from, &partial))
            partial = to;
        if (s->partial_only || !bittree_next(&core->whole, from, &whole))
            whole = to;
        uint64_t chunk = partial < whole ? partial : whole;
        if (chunk >= to)
            return false;
        struct pmm_range *range = pmm_range_of_chunk(s->pmm, chunk);
        paddr_t start = mm_round_down(range->base, LARGE_PAGE_SIZE) +
                        (chunk - range_first_id(range) / CHUNK_FRAMES) * LARGE_PAGE_SIZE;
        if (start >= s->limit)
            return false;
        from = chunk + 1;
        if (chunk == whole) {
            from = chunk + whole_side_by_side(core, range, chunk);
            if (add_to_run(s, range, chunk * CHUNK_FRAMES, from * CHUNK_FRAMES))
                return true;
        } else if (scan_partial(s, range, chunk)) {
            return true;
        }
    }
    return false;
}

/* Where the search of the low zone ends: a range that goes on above 4 GiB is searched to its end, so that
 * a block may lie across the border. */
static uint64_t low_end(const struct pmm *pmm)
{
    uint64_t border = pmm->core->high_chunk;

    if (border == 0 || border >= pmm->core->chunks)
        return border;
    const struct pmm_range *range = pmm_range_of_chunk(pmm, border);
    return range_first_id(range) / CHUNK_FRAMES == border
               ? border
               : (range_end_id(range) + CHUNK_FRAMES - 1) / CHUNK_FRAMES;
}

bool pmm_find_block_locked(struct pmm *pmm, uint64_t count, uint64_t align_bytes, paddr_t limit,
                           struct pmm_range **range, uint64_t *first)
{
    const struct pmm_core *core = pmm->core;

    for (unsigned zone = 0; zone < 2; zone++) {
        uint64_t from = zone == 0 ? core->high_chunk : 0;
        uint64_t to = zone == 0 ? core->chunks : low_end(pmm);
        for (unsigned pass = count < CHUNK_FRAMES ? 0 : 1; pass < 2; pass++) {
            struct search search = { .pmm = pmm,
                                     .partial_only = pass == 0,
                                     .count = count,
                                     .align_bytes = align_bytes,
                                     .limit = limit };
            if (!scan(&search, from, to))
                continue;
            *range = search.range;
            *first = search.first;
            return true;
        }
    }
    return false;
}

uint64_t pmm_longest_run_locked(struct pmm *pmm)
{
    struct search search = {
        .pmm = pmm, .count = UINT64_MAX, .align_bytes = FRAME_SIZE, .limit = PMM_NO_LIMIT
    };

    (void)scan(&search, 0, pmm->core->chunks);
    return search.longest;
}
