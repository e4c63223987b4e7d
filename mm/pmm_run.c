/* SPDX-License-Identifier: MIT */
/* Free frames side by side: where a block of neighbours fits, and that there is none, without a look at
 * all memory.
 *
 *      run       neighbouring free frames of one range; it may go on from chunk to chunk
 *      info      of a partly used chunk, three bits: log2 of the longest run there (7: 128 or more, or unknown)
 *      groups    for 64 chunks: the most of these and 1; 0 if none is partly used
 *
 * A free makes it unknown (one bit more in a word that it writes anyway). A search passes over what is too
 * short by its group or its chunk, looks at the others and writes down what it finds; so each chunk is
 * looked at in vain once, until frames of it become free again. An allocation makes runs shorter only.
 *
 * Invariant (pmm_verify): no run inside a chunk is longer than its info says, none across a border longer
 * than one of the two says; a group says no less than its chunks. A block of up to 1022 frames that meets
 * no wholly free chunk lies in two chunks at most; the others are sought around wholly free ones. */
#include "mm/pmm_parts.h"

#define MOST_IN_PARTIAL                                                                            \
    (2u * CHUNK_FRAMES - 2) /* frames of a run that meets no wholly free chunk */

struct search {
    struct pmm *pmm;
    uint64_t count, align_bytes;
    paddr_t limit;
    uint64_t
        wholes; /* so many wholly free chunks side by side must a block have; 0: all are looked at */
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

/* ---- partly used chunks ---- */

/* What is kept of a run of so many frames (not 0). */
static unsigned run_class(uint64_t frames)
{
    unsigned log2 = 63 - (unsigned)__builtin_clzll(frames);

    return log2 < RUN_UNKNOWN ? log2 : RUN_UNKNOWN;
}

static unsigned chunk_run(const struct pmm_core *core, uint64_t chunk)
{
    return core->info[chunk] / (CHUNK_RUN & -CHUNK_RUN);
}

/* Free frames at the end of a partly used chunk, and at its beginning. */
static uint64_t free_at_end(const struct pmm_core *core, uint64_t chunk)
{
    for (unsigned w = CHUNK_WORDS; w-- > 0;)
        if (core->taken[chunk * CHUNK_WORDS + w] != 0)
            return (CHUNK_WORDS - 1 - w) * BITS_PER_WORD +
                   (unsigned)__builtin_clzll(core->taken[chunk * CHUNK_WORDS + w]);
    return CHUNK_FRAMES;
}

static uint64_t free_at_begin(const struct pmm_core *core, uint64_t chunk)
{
    for (unsigned w = 0; w < CHUNK_WORDS; w++)
        if (core->taken[chunk * CHUNK_WORDS + w] != 0)
            return w * BITS_PER_WORD + bits_lowest(core->taken[chunk * CHUNK_WORDS + w]);
    return CHUNK_FRAMES;
}

/* The free frames that join those at the beginning, or at the end, of a chunk from its neighbour. */
static uint64_t joins_before(const struct pmm_core *core, const struct pmm_range *range,
                             uint64_t chunk)
{
    return chunk * CHUNK_FRAMES > range_first_id(range) && bittree_has(&core->partial, chunk - 1)
               ? free_at_end(core, chunk - 1)
               : 0;
}

static uint64_t joins_behind(const struct pmm_core *core, const struct pmm_range *range,
                             uint64_t chunk)
{
    return (chunk + 1) * CHUNK_FRAMES < range_end_id(range) &&
                   bittree_has(&core->partial, chunk + 1)
               ? free_at_begin(core, chunk + 1)
               : 0;
}

/* The longest run of a partly used chunk that `before` free frames join; *at_end is the last one's part.
 *   Cost:  about a nanosecond for each word and frame of its longest run: a fifth of looking at each run,
 *          as scan_partial() does (fail_request_run: 0.9 us with that, 0.6 with this). */
static uint64_t longest_run(const struct pmm_core *core, uint64_t chunk, uint64_t before,
                            uint64_t *at_end)
{
    uint64_t run = before, longest = before;

    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        uint64_t taken = core->taken[chunk * CHUNK_WORDS + w], inside = 0;
        run += taken == 0 ? BITS_PER_WORD : bits_lowest(taken);
        for (uint64_t starts = ~taken; taken != 0 && starts != 0; starts &= starts << 1)
            inside++;
        longest = longest > run ? longest : run;
        longest = longest > inside ? longest : inside;
        run = taken == 0 ? run : (unsigned)__builtin_clzll(taken);
    }
    *at_end = run;
    return longest;
}

/* Looks for the block in the runs that meet the chunk, `before` and `behind` frames of which lie outside. */
static bool fits_around(struct search *s, struct pmm_range *range, uint64_t chunk, uint64_t before,
                        uint64_t behind)
{
    uint64_t id = chunk * CHUNK_FRAMES, end = id + CHUNK_FRAMES;

    s->range = NULL;
    if (before != 0 && add_to_run(s, range, id - before, id))
        return true;
    return scan_partial(s, range, chunk) ||
           (behind != 0 && add_to_run(s, range, end, end + behind));
}

/* Looks for the block at the chunk; writes down how long its runs are if it is not there. `alone`: not in
 * what lies before the chunk. */
static bool examine(struct search *s, uint64_t chunk, bool alone)
{
    struct pmm_core *core = s->pmm->core;
    struct pmm_range *range = pmm_range_of_chunk(s->pmm, chunk);
    bool is_begin_taken = (core->taken[chunk * CHUNK_WORDS] & 1) != 0;
    uint64_t before = is_begin_taken ? 0 : joins_before(core, range, chunk), at_end;
    uint64_t longest = longest_run(core, chunk, before, &at_end);
    uint64_t behind = at_end == 0 ? 0 : joins_behind(core, range, chunk);

    longest = longest > at_end + behind ? longest : at_end + behind;
    if (longest >= s->count && fits_around(s, range, chunk, alone ? 0 : before, behind))
        return true;
    core->info[chunk] = (uint16_t)((core->info[chunk] & ~CHUNK_RUN) |
                                   run_class(longest) * (CHUNK_RUN & -CHUNK_RUN));
    return false;
}

#define GROUPS_AT_ONCE 32u

/* The first group from `group` on that may hold such a run; `end` if none does. 1 TiB has 8192. */
static uint64_t next_group(const struct pmm_core *core, uint64_t group, uint64_t end, unsigned run)
{
    /* Added to eight of them at once, it sets the highest bit of each that is above `run`. */
    const uint64_t above = (0x7f - run) * (UINT64_MAX / 0xff), highest = 0x80 * (UINT64_MAX / 0xff);
    uint64_t few[GROUPS_AT_ONCE / 8];

    while (group < end && core->run_groups[group] <= run) {
        group++;
        while (group + GROUPS_AT_ONCE <= end) {
            memcpy(few, &core->run_groups[group], sizeof(few));
            if ((((few[0] + above) | (few[1] + above) | (few[2] + above) | (few[3] + above)) &
                 highest) != 0)
                break;
            group += GROUPS_AT_ONCE;
        }
    }
    return group;
}

static paddr_t chunk_address(const struct pmm_range *range, uint64_t chunk)
{
    return mm_round_down(range->base, LARGE_PAGE_SIZE) +
           (chunk - range_first_id(range) / CHUNK_FRAMES) * LARGE_PAGE_SIZE;
}

/* Goes over the partly used chunks [from, to) whose runs may be long enough. */
static bool scan_runs(struct search *s, uint64_t from, uint64_t to)
{
    struct pmm_core *core = s->pmm->core;
    unsigned run = run_class(s->count);
    uint64_t end = (to + RUN_GROUP - 1) / RUN_GROUP;

    for (uint64_t group = from / RUN_GROUP; (group = next_group(core, group, end, run)) < end;
         group++) {
        uint64_t bits = core->partial.level[0][group], most = 0;
        for (; bits != 0; bits &= bits - 1) {
            uint64_t chunk = group * RUN_GROUP + bits_lowest(bits);
            if (chunk_run(core, chunk) >= run && chunk >= from && chunk < to) {
                if (chunk_address(pmm_range_of_chunk(s->pmm, chunk), chunk) >= s->limit)
                    return false;
                if (examine(s, chunk, chunk == from))
                    return true;
            }
            most = chunk_run(core, chunk) >= most ? chunk_run(core, chunk) + 1 : most;
        }
        core->run_groups[group] = (uint8_t)most;
    }
    return false;
}

/* ---- around wholly free chunks ---- */

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

/* How many wholly free chunks stand side by side from `chunk` on; as far as `most`. */
static uint64_t count_wholes(const struct pmm_core *core, uint64_t chunk, uint64_t most)
{
    uint64_t count = 0;

    while (count < most && chunk + count < core->chunks) {
        uint64_t at = chunk + count, room = BITS_PER_WORD - at % BITS_PER_WORD;
        uint64_t others = ~(core->whole.level[0][at / BITS_PER_WORD] >> at % BITS_PER_WORD);
        uint64_t here = others == 0 ? room : bits_lowest(others);
        if (here < room)
            return count + here;
        count += room;
    }
    return count;
}

/* The chunk before the next wholly free ones, if there are enough side by side; from, if that is one of
 * them or behind them. `to` if there are none. */
static uint64_t skip_to_wholes(const struct search *s, uint64_t from, uint64_t to)
{
    const struct pmm_core *core = s->pmm->core;
    uint64_t at = from, whole;

    while (at < to && bittree_next(&core->whole, at, &whole) && whole < to) {
        uint64_t count = count_wholes(core, whole, s->wholes);
        if (count >= s->wholes)
            return whole > from ? whole - 1 : from;
        at = whole + count;
    }
    return to;
}

/* Goes over the chunks [from, to) that have free frames. */
static bool scan(struct search *s, uint64_t from, uint64_t to)
{
    const struct pmm_core *core = s->pmm->core;

    while (from < to) {
        uint64_t partial = to, whole = to;
        if (s->wholes != 0 && (s->range == NULL || s->end != from * CHUNK_FRAMES))
            from = skip_to_wholes(s, from, to);
        if (!bittree_next(&core->partial, from, &partial))
            partial = to;
        if (!bittree_next(&core->whole, from, &whole))
            whole = to;
        uint64_t chunk = partial < whole ? partial : whole;
        if (chunk >= to)
            return false;
        struct pmm_range *range = pmm_range_of_chunk(s->pmm, chunk);
        if (chunk_address(range, chunk) >= s->limit)
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

/* ---- a block ---- */

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

/* In the zone [from, to): first where no wholly free chunk is broken, then the lowest place. */
static bool find_in_zone(struct search *s, uint64_t from, uint64_t to)
{
    uint64_t count = s->count;

    bool is_whole = count >= CHUNK_FRAMES && s->align_bytes >= LARGE_PAGE_SIZE;
    if (count <= MOST_IN_PARTIAL && !is_whole && scan_runs(s, from, to))
        return true;
    s->range = NULL;
    s->wholes =
        count <= MOST_IN_PARTIAL ? 1 : (count - MOST_IN_PARTIAL + CHUNK_FRAMES - 1) / CHUNK_FRAMES;
    return s->wholes <= s->pmm->core->whole_count && scan(s, from, to);
}

bool pmm_find_block_locked(struct pmm *pmm, uint64_t count, uint64_t align_bytes, paddr_t limit,
                           struct pmm_range **range, uint64_t *first)
{
    const struct pmm_core *core = pmm->core;

    for (unsigned zone = 0; zone < 2; zone++) {
        struct search search = {
            .pmm = pmm, .count = count, .align_bytes = align_bytes, .limit = limit
        };
        uint64_t from = zone == 0 ? core->high_chunk : 0;
        uint64_t to = zone == 0 ? core->chunks : low_end(pmm);
        /* What lies above the border and nowhere below it is known already. */
        uint64_t behind = core->high_chunk + count / CHUNK_FRAMES + 2;
        to = zone != 0 && to > behind ? behind : to;
        if (!find_in_zone(&search, from, to))
            continue;
        *range = search.range;
        *first = search.first;
        return true;
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

bool pmm_runs_are_known(const struct pmm *pmm, const struct pmm_range *range, uint64_t chunk)
{
    struct search s = { .pmm = (struct pmm *)pmm, .count = UINT64_MAX, .align_bytes = FRAME_SIZE };
    const struct pmm_core *core = pmm->core;
    unsigned run = chunk_run(core, chunk);
    uint64_t end = free_at_end(core, chunk), behind = joins_behind(core, range, chunk);

    (void)scan_partial(&s, (struct pmm_range *)range, chunk);
    if (core->run_groups[chunk / RUN_GROUP] <= run || run_class(s.longest) > run)
        return false;
    return end == 0 || behind == 0 || run_class(end + behind) <= run ||
           run_class(end + behind) <= chunk_run(core, chunk + 1);
}
