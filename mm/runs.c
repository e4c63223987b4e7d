/* SPDX-License-Identifier: MIT */
/* Runs of free units in a map of 512: see runs.h.
 *
 * Invariants (runs_is_consistent): `longest` is the length of the longest run of set bits, 0 if there is none. */
#include "mm/runs.h"

#include <mm/log.h>

void runs_init(struct runs *runs)
{
    *runs = (struct runs){ .longest = 0 };
}

/* The first unit from `from` on whose bit, turned over by `flip`, is set; RUNS_UNITS: none. */
static inline unsigned next_bit(const struct runs *runs, unsigned from, uint64_t flip)
{
    unsigned word = from / BITS_PER_WORD;

    if (from >= RUNS_UNITS)
        return RUNS_UNITS;
    uint64_t bits = (runs->free[word] ^ flip) & UINT64_MAX << (from % BITS_PER_WORD);
    while (bits == 0) {
        if (++word == RUNS_WORDS)
            return RUNS_UNITS;
        bits = runs->free[word] ^ flip;
    }
    return word * BITS_PER_WORD + bits_lowest(bits);
}

/* The next run from *first on: [*first, *end). False: there is none. */
static inline bool next_run(const struct runs *runs, unsigned *first, unsigned *end)
{
    *first = next_bit(runs, *first, 0);
    *end = next_bit(runs, *first, UINT64_MAX);
    return *first < RUNS_UNITS;
}

static unsigned longest_run(const struct runs *runs)
{
    unsigned longest = 0, end;

    for (unsigned first = 0; next_run(runs, &first, &end); first = end)
        longest = end - first > longest ? end - first : longest;
    return longest;
}

static void mark(struct runs *runs, unsigned first, unsigned units, bool is_free)
{
    unsigned end = first + units;

    for (unsigned word = first / BITS_PER_WORD; word * BITS_PER_WORD < end; word++) {
        uint64_t mask = bits_mask(word, first, end);
        MM_ASSERT((runs->free[word] & mask) == (is_free ? 0 : mask));
        runs->free[word] ^= mask;
    }
}

unsigned runs_alloc(struct runs *runs, unsigned units)
{
    unsigned best = RUNS_UNITS, best_units = RUNS_UNITS + 1, others = 0, end;

    MM_ASSERT(units > 0 && units <= runs->longest);
    for (unsigned first = 0; next_run(runs, &first, &end); first = end) {
        unsigned found = end - first, lost = found;
        if (found >= units && found < best_units) {
            lost = best < RUNS_UNITS ? best_units : 0;
            best = first;
            best_units = found;
        }
        others = lost > others ? lost : others;
        if (best_units == units && others == runs->longest)
            break; /* nothing fits better, and the longest stays what it is */
    }
    mark(runs, best, units, false);
    runs->longest = best_units - units > others ? best_units - units : others;
    return best;
}

void runs_take(struct runs *runs, unsigned first, unsigned units)
{
    mark(runs, first, units, false);
    runs->longest = longest_run(runs);
}

/* The first unit of the run that ends before `end`. */
static unsigned run_start(const struct runs *runs, unsigned end)
{
    unsigned word = end / BITS_PER_WORD, at = end % BITS_PER_WORD;
    uint64_t taken = at == 0 ? 0 : ~runs->free[word] & (UINT64_MAX >> (BITS_PER_WORD - at));

    while (taken == 0) {
        if (word-- == 0)
            return 0;
        taken = ~runs->free[word];
    }
    return word * BITS_PER_WORD + BITS_PER_WORD - (unsigned)__builtin_clzll(taken);
}

void runs_give(struct runs *runs, unsigned first, unsigned units)
{
    mark(runs, first, units, true);
    unsigned found = next_bit(runs, first + units, UINT64_MAX) - run_start(runs, first);
    runs->longest = found > runs->longest ? found : runs->longest;
}

bool runs_is_consistent(const struct runs *runs)
{
    return runs->longest == longest_run(runs);
}
