/* SPDX-License-Identifier: MIT */
/* A set of small numbers that finds its lowest member without a search. Internal to mm.
 *
 * Level 0 is a bitmap of the members; a bit of level n + 1 says that a word of level n is not zero. The
 * last level is one word:
 *
 *      level 2                1                        64^3 = 262 144 numbers: 3 levels,
 *      level 1        1 0 1 1 0 ...                    so adding, removing and finding the lowest
 *      level 0   0100 0000 0001 1000 ...               each touch at most 3 words
 *
 * The words are memory of the owner: bittree_words() says how many. */
#ifndef MM_BITTREE_H
#define MM_BITTREE_H

#include "mm/bits.h"

#include <mm/types.h>

#define BITTREE_LEVELS 6u /* 64^6 numbers */

struct bittree {
    uint64_t *level[BITTREE_LEVELS];
    unsigned levels;
};

/* Words that a set of numbers below `size` takes; `size` is at least 1. */
uint64_t bittree_words(uint64_t size);

/* Makes the empty set of numbers below `size` in words[bittree_words(size)]. */
void bittree_init(struct bittree *tree, uint64_t size, uint64_t *words);

void bittree_add(struct bittree *tree, uint64_t number);

/* Adds the numbers [from, to), word by word; from < to. */
void bittree_add_range(struct bittree *tree, uint64_t from, uint64_t to);

void bittree_remove(struct bittree *tree, uint64_t number);
bool bittree_has(const struct bittree *tree, uint64_t number);

/* The same, for a path that must not call. */
static inline bool bittree_has_inline(const struct bittree *tree, uint64_t number)
{
    return bits_test(tree->level[0], number);
}
bool bittree_is_empty(const struct bittree *tree);

/* The lowest member; the set is not empty. */
uint64_t bittree_lowest(const struct bittree *tree);

/* The lowest member that is not below `from`: true and the number in *out, or false. */
bool bittree_next(const struct bittree *tree, uint64_t from, uint64_t *out);

/* True if each bit of a higher level says what is so of its word below. */
bool bittree_is_consistent(const struct bittree *tree, uint64_t size);

#endif
