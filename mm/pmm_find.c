/* SPDX-License-Identifier: MIT */
/* Where free frames are: which chunk the next ones come from.
 *
 *      chunks   | low zone, below 4 GiB           | high zone                 |
 *      order      3: partly used  4: wholly free    1: partly used  2: wholly free
 *
 * Memory below 4 GiB is kept for devices that reach no further. Partly used chunks come first, so
 * that whole ones stay whole for 2 MiB blocks; but the caches pass over MIXED ones as long as
 * there are others, because the fast free does not work for frames beside special ones. Chunks of
 * page tables are touched last; their free frames are then everybody's. */
#include "mm/pmm_parts.h"

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
