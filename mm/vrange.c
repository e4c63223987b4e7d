/* SPDX-License-Identifier: MIT */
/* Ranges of addresses: an AVL tree with the holes between its ranges.
 *
 *      window  base |..hole..|range|...hole...|range|range|......hole......| end
 *
 *                     node: base, end | of its subtree: first, last, largest hole
 *                     /                                       \
 *              left: all below base                    right: all above end
 *
 * What a node says of its subtree follows from itself and its two children, so it is mended on the way
 * up from a change. The holes at the window's ends belong to no node: a subtree is asked together with
 * the addresses that bound it.
 *
 * Nodes come from pages:   | header | node | node | ... |   header: list of free nodes, count in use
 *
 * Invariants: ranges are disjoint, in [base, end) and sorted from left to right; the heights of two
 * sisters differ by at most one; every page on the list has a free node. Depth is below 1.45 log2 n, so
 * the recursion of 2^32 ranges stays below 50 calls. */
#include "mm/vrange.h"

#include <mm/hhdm.h>
#include <mm/log.h>

#define PEEK_STEPS 64u /* deeper than any tree: a reader without the lock gives up */

struct vrange_page {
    struct vrange_page *next;
    struct vrange_page *previous;
    struct vrange_node *free; /* linked by `left` */
    uint32_t used;
};

#define PAGE_NODES ((PAGE_SIZE - sizeof(struct vrange_page)) / sizeof(struct vrange_node))

void vrange_init(struct vrange *ranges, vaddr_t base, vaddr_t end)
{
    *ranges = (struct vrange){ .base = base, .end = end };
}

/* ---- nodes ---- */

static void page_link(struct vrange *ranges, struct vrange_page *page)
{
    page->previous = NULL;
    page->next = ranges->pages;
    if (page->next != NULL)
        page->next->previous = page;
    ranges->pages = page;
}

static void page_unlink(struct vrange *ranges, struct vrange_page *page)
{
    if (page->next != NULL)
        page->next->previous = page->previous;
    if (page->previous != NULL)
        page->previous->next = page->next;
    else
        ranges->pages = page->next;
}

bool vrange_has_node(const struct vrange *ranges)
{
    return ranges->pages != NULL;
}

void vrange_add_page(struct vrange *ranges, void *memory)
{
    struct vrange_page *page = memory;
    struct vrange_node *nodes = (struct vrange_node *)(void *)(page + 1);

    page->used = 0;
    page->free = NULL;
    for (size_t i = PAGE_NODES; i > 0; i--) {
        nodes[i - 1].left = page->free;
        page->free = &nodes[i - 1];
    }
    page_link(ranges, page);
    ranges->frames++;
}

/* Pages that become empty go to the front of the list. */
void *vrange_take_page(struct vrange *ranges)
{
    struct vrange_page *page = ranges->pages;

    if (page == NULL || page->used > 0)
        return NULL;
    page_unlink(ranges, page);
    ranges->frames--;
    return page;
}

static struct vrange_page *page_of(const struct vrange_node *node)
{
    return (struct vrange_page *)mm_round_down((uintptr_t)node, PAGE_SIZE);
}

static struct vrange_node *node_take(struct vrange *ranges)
{
    struct vrange_page *page = ranges->pages;
    struct vrange_node *node = page->free;

    page->free = node->left;
    page->used++;
    if (page->free == NULL)
        page_unlink(ranges, page);
    return node;
}

static void node_put(struct vrange *ranges, struct vrange_node *node)
{
    struct vrange_page *page = page_of(node);

    if (page->free != NULL)
        page_unlink(ranges, page);
    node->left = page->free;
    page->free = node;
    page->used--;
    page_link(ranges, page);
}

/* ---- the tree ---- */

static unsigned height_of(const struct vrange_node *node)
{
    return node == NULL ? 0 : node->height;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The largest hole of [from, to), of which the subtree holds all ranges. */
static uint64_t hole_between(const struct vrange_node *node, vaddr_t from, vaddr_t to)
{
    if (node == NULL)
        return to - from;
    return larger(larger(node->first - from, to - node->last), node->hole);
}

static void node_mend(struct vrange_node *node)
{
    const struct vrange_node *left = node->left, *right = node->right;

    node->first = left == NULL ? node->base : left->first;
    node->last = right == NULL ? node->end : right->last;
    node->hole = 0;
    if (left != NULL)
        node->hole = hole_between(left, left->first, node->base);
    if (right != NULL)
        node->hole = larger(node->hole, hole_between(right, node->end, right->last));
    node->height = (uint16_t)(1 + larger(height_of(left), height_of(right)));
}

static struct vrange_node *rotate_right(struct vrange_node *node)
{
    struct vrange_node *top = node->left;

    node->left = top->right;
    top->right = node;
    node_mend(node);
    node_mend(top);
    return top;
}

static struct vrange_node *rotate_left(struct vrange_node *node)
{
    struct vrange_node *top = node->right;

    node->right = top->left;
    top->left = node;
    node_mend(node);
    node_mend(top);
    return top;
}

/* Mends the node, one of whose subtrees has changed its height by at most one.
 *   Returns:  the top of the subtree now. */
static struct vrange_node *balance(struct vrange_node *node)
{
    unsigned left = height_of(node->left), right = height_of(node->right);

    if (left > right + 1) {
        if (height_of(node->left->left) < height_of(node->left->right))
            node->left = rotate_left(node->left);
        return rotate_right(node);
    }
    if (right > left + 1) {
        if (height_of(node->right->right) < height_of(node->right->left))
            node->right = rotate_right(node->right);
        return rotate_left(node);
    }
    node_mend(node);
    return node;
}

static struct vrange_node *insert_node(struct vrange_node *tree, struct vrange_node *node)
{
    if (tree == NULL) {
        node_mend(node);
        return node;
    }
    if (node->base < tree->base)
        tree->left = insert_node(tree->left, node);
    else
        tree->right = insert_node(tree->right, node);
    return balance(tree);
}

static struct vrange_node *remove_lowest(struct vrange_node *tree, struct vrange_node **lowest)
{
    if (tree->left == NULL) {
        *lowest = tree;
        return tree->right;
    }
    tree->left = remove_lowest(tree->left, lowest);
    return balance(tree);
}

static struct vrange_node *remove_node(struct vrange_node *tree, const struct vrange_node *node)
{
    struct vrange_node *next;

    if (node->base < tree->base) {
        tree->left = remove_node(tree->left, node);
        return balance(tree);
    }
    if (node->base > tree->base) {
        tree->right = remove_node(tree->right, node);
        return balance(tree);
    }
    if (tree->left == NULL || tree->right == NULL)
        return tree->left == NULL ? tree->right : tree->left;
    struct vrange_node *right = remove_lowest(tree->right, &next);
    next->left = tree->left;
    next->right = right;
    return balance(next);
}

/* ---- ranges ---- */

/* The lowest hole of at least `bytes` bytes. */
static bool find_hole(const struct vrange *ranges, uint64_t bytes, vaddr_t *out)
{
    const struct vrange_node *node = ranges->root;
    vaddr_t from = ranges->base, to = ranges->end;

    if (hole_between(node, from, to) < bytes)
        return false;
    while (node != NULL) {
        if (hole_between(node->left, from, node->base) >= bytes) {
            to = node->base;
            node = node->left;
        } else {
            from = node->end;
            node = node->right;
        }
    }
    MM_ASSERT(to - from >= bytes);
    *out = from;
    return true;
}

struct vrange_node *vrange_alloc(struct vrange *ranges, uint64_t bytes, uint64_t align,
                                 uint64_t guard)
{
    uint64_t around = 2 * guard + (align - PAGE_SIZE), window = ranges->end - ranges->base;
    vaddr_t hole;

    if (around > window || bytes > window - around || !find_hole(ranges, bytes + around, &hole))
        return NULL;
    struct vrange_node *node = node_take(ranges);
    vaddr_t content = mm_round_up(hole + guard, align);
    *node = (struct vrange_node){
        .base = content - guard,
        .end = content + bytes + guard,
        .guard = (uint32_t)guard,
        .state = VRANGE_BUSY,
    };
    ranges->root = insert_node(ranges->root, node);
    ranges->count++;
    return node;
}

void vrange_free(struct vrange *ranges, struct vrange_node *node)
{
    ranges->root = remove_node(ranges->root, node);
    ranges->count--;
    node_put(ranges, node);
}

struct vrange_node *vrange_find(const struct vrange *ranges, vaddr_t address)
{
    struct vrange_node *node = ranges->root;

    while (node != NULL && (address < node->base || address >= node->end))
        node = address < node->base ? node->left : node->right;
    return node;
}

struct vrange_node *vrange_next(const struct vrange *ranges, vaddr_t address)
{
    struct vrange_node *node = ranges->root, *next = NULL;

    while (node != NULL) {
        if (node->end > address)
            next = node;
        node = node->end > address ? node->left : node->right;
    }
    return next;
}

/* ---- without the lock ---- */

/* A frame that is RAM and in use can be read, whatever stands in it by now. */
static bool is_readable(const struct pmm *pmm, const struct vrange_node *node)
{
    uint64_t offset = (uintptr_t)node - hhdm_offset();

    return (uintptr_t)node % sizeof(uint64_t) == 0 && (uintptr_t)node >= hhdm_offset() &&
           offset % PAGE_SIZE <= PAGE_SIZE - sizeof(*node) &&
           pmm_peek_frame(pmm, mm_round_down(offset, PAGE_SIZE)) == PMM_FRAME_USED;
}

bool vrange_peek(const struct vrange *ranges, const struct pmm *pmm, vaddr_t address,
                 struct vrange_node *copy)
{
    const struct vrange_node *node = __atomic_load_n(&ranges->root, __ATOMIC_RELAXED);

    for (unsigned i = 0; i < PEEK_STEPS && node != NULL && is_readable(pmm, node); i++) {
        *copy = *(const volatile struct vrange_node *)node;
        if (address >= copy->base && address < copy->end)
            return copy->end - copy->base >= 2 * (uint64_t)copy->guard;
        node = address < copy->base ? copy->left : copy->right;
    }
    return false;
}

/* ---- checking ---- */

/* Counts the ranges of the subtree, all of which lie in [from, to). */
static bool subtree_is_sound(const struct vrange_node *node, vaddr_t from, vaddr_t to,
                             uint64_t *count)
{
    if (node == NULL)
        return true;
    struct vrange_node mended = *node;
    node_mend(&mended);
    unsigned left = height_of(node->left), right = height_of(node->right);
    if (node->base < from || node->end > to || node->base >= node->end || left > right + 1 ||
        right > left + 1 || mended.first != node->first || mended.last != node->last ||
        mended.hole != node->hole || mended.height != node->height)
        return false;
    (*count)++;
    return subtree_is_sound(node->left, from, node->base, count) &&
           subtree_is_sound(node->right, node->end, to, count);
}

bool vrange_is_sound(const struct vrange *ranges)
{
    uint64_t count = 0, free_nodes = 0, listed = 0;

    if (!subtree_is_sound(ranges->root, ranges->base, ranges->end, &count) ||
        count != ranges->count)
        return false;
    for (const struct vrange_page *page = ranges->pages; page != NULL; page = page->next) {
        uint64_t in_page = 0;
        for (const struct vrange_node *node = page->free; node != NULL; node = node->left)
            in_page++;
        if (in_page == 0 || in_page + page->used != PAGE_NODES)
            return false;
        free_nodes += in_page;
        listed++;
    }
    return listed <= ranges->frames && count + free_nodes == ranges->frames * PAGE_NODES;
}
