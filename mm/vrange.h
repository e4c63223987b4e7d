/* SPDX-License-Identifier: MIT */
/* Ranges of addresses in a window. Internal to mm.
 *
 * One node for each range that is handed out, in a balanced tree sorted by address; each node knows the
 * largest hole below it, so the lowest hole that is large enough is found in one way down. Nothing
 * stands for what is free, so nothing needs merging. The caller holds a lock for every call but
 * vrange_peek(). Addresses are only numbers here: nothing at them is touched. */
#ifndef MM_VRANGE_H
#define MM_VRANGE_H

#include <mm/kvm.h>

enum vrange_state {
    VRANGE_BUSY, /* being made or taken apart */
    VRANGE_USED,
};

struct vrange_node {
    vaddr_t base; /* the range, guards included */
    vaddr_t end;
    vaddr_t first; /* of the subtree: its lowest base */
    vaddr_t last;  /* and its highest end */
    uint64_t hole; /* the largest hole between two ranges of the subtree */
    struct vrange_node *left;
    struct vrange_node *right;
    uint64_t tag;    /* the owner's */
    uint32_t guard;  /* bytes of guard at each end */
    uint16_t height; /* 1: a leaf of the tree */
    uint16_t state;  /* enum vrange_state, the owner's */
};

/* The empty set of ranges of [base, end): page-aligned. */
void vrange_init(struct vrange *ranges, vaddr_t base, vaddr_t end);

/* Nodes lie in frames that the owner gives, since the pmm may not be called under a lock. */
bool vrange_has_node(const struct vrange *ranges);
void vrange_add_page(struct vrange *ranges, void *page);

/* A page without a node in use, taken out. One that has become empty stands first in the list until another
 * page gets a node back; only the first is looked at.
 *   Returns:  NULL if that has a node in use.
 *   Cost:     one load then. */
void *vrange_take_page(struct vrange *ranges);

/* Takes the lowest place for `bytes` with `guard` bytes at each end.
 *   Units:    bytes, guard: multiples of PAGE_SIZE; align: of the bytes' first address, a power of two,
 *             at least PAGE_SIZE. A node is there (vrange_has_node).
 *   Returns:  the node, VRANGE_BUSY with tag 0; NULL if there is no hole of bytes + 2 * guard +
 *             (align - PAGE_SIZE).
 *   Cost:     O(log n). */
struct vrange_node *vrange_alloc(struct vrange *ranges, uint64_t bytes, uint64_t align,
                                 uint64_t guard);
void vrange_free(struct vrange *ranges, struct vrange_node *node);

/* The range that holds the address, guards included, or NULL. O(log n). */
struct vrange_node *vrange_find(const struct vrange *ranges, vaddr_t address);

/* The lowest range that ends above the address, or NULL. O(log n). */
struct vrange_node *vrange_next(const struct vrange *ranges, vaddr_t address);

/* As vrange_find without the lock, for fault reports: a copy of the node. `pmm` tells which nodes can be
 * read at all; a tree that is being changed leads nowhere or to a range of a moment ago. */
MM_MUST_USE bool vrange_peek(const struct vrange *ranges, const struct pmm *pmm, vaddr_t address,
                             struct vrange_node *copy);

/* Without the guards. */
static inline vaddr_t vrange_content(const struct vrange_node *node)
{
    return node->base + node->guard;
}

static inline vaddr_t vrange_content_end(const struct vrange_node *node)
{
    return node->end - node->guard;
}

/* True if order, balance, holes, heights and counters agree. O(n). */
bool vrange_is_sound(const struct vrange *ranges);

#endif
