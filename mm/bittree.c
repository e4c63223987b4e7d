/* SPDX-License-Identifier: MIT */
/* A set of small numbers that finds its lowest member without a search: see bittree.h. */
#include "mm/bittree.h"

#include "mm/bits.h"

#include <mm/log.h>

static uint64_t words_for(uint64_t bits)
{
    return (bits + BITS_PER_WORD - 1) / BITS_PER_WORD;
}

uint64_t bittree_words(uint64_t size)
{
    uint64_t all = 0, words = size;

    do {
        words = words_for(words);
        all += words;
    } while (words > 1);
    return all;
}

void bittree_init(struct bittree *tree, uint64_t size, uint64_t *words)
{
    uint64_t count = size;

    memset(words, 0, bittree_words(size) * sizeof(uint64_t));
    tree->levels = 0;
    do {
        MM_ASSERT(tree->levels < BITTREE_LEVELS);
        count = words_for(count);
        tree->level[tree->levels++] = words;
        words += count;
    } while (count > 1);
}

void bittree_add(struct bittree *tree, uint64_t number)
{
    for (unsigned i = 0; i < tree->levels; i++) {
        bool was_empty = tree->level[i][number / BITS_PER_WORD] == 0;
        bits_set(tree->level[i], number);
        if (!was_empty)
            return; /* then the levels above know of this word */
        number /= BITS_PER_WORD;
    }
}

void bittree_add_range(struct bittree *tree, uint64_t from, uint64_t to)
{
    for (unsigned i = 0; i < tree->levels; i++) {
        for (uint64_t word = from / BITS_PER_WORD; word < words_for(to); word++)
            bits_store(&tree->level[i][word], tree->level[i][word] | bits_mask(word, from, to));
        from /= BITS_PER_WORD;
        to = words_for(to);
    }
}

void bittree_remove(struct bittree *tree, uint64_t number)
{
    for (unsigned i = 0; i < tree->levels; i++) {
        bits_clear(tree->level[i], number);
        number /= BITS_PER_WORD;
        if (tree->level[i][number] != 0)
            return;
    }
}

bool bittree_has(const struct bittree *tree, uint64_t number)
{
    return bits_test(tree->level[0], number);
}

bool bittree_is_empty(const struct bittree *tree)
{
    return tree->level[tree->levels - 1][0] == 0;
}

uint64_t bittree_lowest(const struct bittree *tree)
{
    uint64_t number = 0;

    for (unsigned i = tree->levels; i > 0; i--)
        number = number * BITS_PER_WORD + bits_lowest(tree->level[i - 1][number]);
    return number;
}

static uint64_t words_of_level(const struct bittree *tree, unsigned i)
{
    return i + 1 == tree->levels ? 1 : (uint64_t)(tree->level[i + 1] - tree->level[i]);
}

bool bittree_next(const struct bittree *tree, uint64_t from, uint64_t *out)
{
    uint64_t number = from;

    for (unsigned i = 0; i < tree->levels; i++) {
        uint64_t word = number / BITS_PER_WORD;
        if (word >= words_of_level(tree, i))
            return false;
        uint64_t bits = tree->level[i][word] & UINT64_MAX << number % BITS_PER_WORD;
        if (bits != 0) {
            number = word * BITS_PER_WORD + bits_lowest(bits);
            for (; i > 0; i--)
                number = number * BITS_PER_WORD + bits_lowest(tree->level[i - 1][number]);
            *out = number;
            return true;
        }
        number = word + 1;
    }
    return false;
}

bool bittree_is_consistent(const struct bittree *tree, uint64_t size)
{
    uint64_t words = words_for(size);

    for (unsigned i = 0; i + 1 < tree->levels; i++, words = words_for(words))
        for (uint64_t word = 0; word < words; word++)
            if (bits_test(tree->level[i + 1], word) != (tree->level[i][word] != 0))
                return false;
    return true;
}
