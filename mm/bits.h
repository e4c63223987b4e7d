/* SPDX-License-Identifier: MIT */
/* Bits of 64-bit words, for the bitmaps of mm. Internal to mm.
 *
 * A run of bits is [from, to) in bit numbers over an array of words. Counting is written out because
 * the builtin becomes a call into the compiler's library on CPUs without POPCNT.
 *
 * Words are written by one CPU at a time (under a lock) and may be read by others meanwhile, so single
 * bits are read and written with relaxed atomics, which cost nothing. */
#ifndef MM_BITS_H
#define MM_BITS_H

#include <mm/types.h>

#define BITS_PER_WORD 64u

static inline unsigned bits_count(uint64_t word)
{
    word -= (word >> 1) & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (unsigned)((word * 0x0101010101010101u) >> 56);
}

/* The number of the lowest set bit; `word` is not 0. */
static inline unsigned bits_lowest(uint64_t word)
{
    return (unsigned)__builtin_ctzll(word);
}

/* The bits of word `index` that lie in the run [from, to). */
static inline uint64_t bits_mask(uint64_t index, uint64_t from, uint64_t to)
{
    uint64_t first = index * BITS_PER_WORD;
    uint64_t mask = UINT64_MAX;

    if (from > first)
        mask &= from - first >= BITS_PER_WORD ? 0 : UINT64_MAX << (from - first);
    if (to < first + BITS_PER_WORD)
        mask &= to <= first ? 0 : UINT64_MAX >> (first + BITS_PER_WORD - to);
    return mask;
}

static inline uint64_t bits_load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void bits_store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline bool bits_test(const uint64_t *words, uint64_t bit)
{
    return (bits_load(&words[bit / BITS_PER_WORD]) >> (bit % BITS_PER_WORD) & 1) != 0;
}

static inline void bits_set(uint64_t *words, uint64_t bit)
{
    uint64_t *word = &words[bit / BITS_PER_WORD];

    bits_store(word, *word | (uint64_t)1 << (bit % BITS_PER_WORD));
}

static inline void bits_clear(uint64_t *words, uint64_t bit)
{
    uint64_t *word = &words[bit / BITS_PER_WORD];

    bits_store(word, *word & ~((uint64_t)1 << (bit % BITS_PER_WORD)));
}

#endif
