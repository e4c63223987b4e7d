/* SPDX-License-Identifier: MIT */
/* Ranges of addresses that are damaged: vrange_is_sound() sees each kind, and a look without the lock
 * follows no node that may not be read. */
#include "support.h"

#include "mm/vrange.h"

#include <string.h>

#define BASE  ((vaddr_t)0xffffe00000000000)
#define COUNT 7u

static struct machine machine;
static struct vrange ranges;
static struct vrange_node *node[COUNT]; /* by address */
static paddr_t frame;                   /* of all nodes */

/* What stands before the nodes in their frame (vrange.c). */
struct header {
    struct header *next, *previous;
    struct vrange_node *free;
    uint32_t used;
};

/* Seven ranges of a page without guards or holes between them: the root is node[3]. */
static void set_up(void)
{
    machine_set_up_simple(&machine, MM_MIB(4));
    vrange_init(&ranges, BASE, BASE + 100 * PAGE_SIZE);
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    vrange_add_page(&ranges, phys_to_virt(frame));
    for (size_t i = 0; i < COUNT; i++)
        node[i] = vrange_alloc(&ranges, PAGE_SIZE, PAGE_SIZE, 0);
    assert_ptr_equal(ranges.root, node[3]);
    assert_true(vrange_is_sound(&ranges));
}

/* ---- The check ---- */

#define assert_seen(field, damage)                                                                 \
    do {                                                                                           \
        __typeof__(field) right = (field);                                                         \
        damage;                                                                                    \
        if (vrange_is_sound(&ranges))                                                              \
            fail_msg("not seen: %s", #damage);                                                     \
        (field) = right;                                                                           \
        assert_true(vrange_is_sound(&ranges));                                                     \
    } while (0)

static void vrange_check_sees_a_wrong_number(void **state)
{
    (void)state;
    set_up();
    for (size_t i = 0; i < COUNT; i++) {
        assert_seen(node[i]->first, node[i]->first -= PAGE_SIZE);
        assert_seen(node[i]->last, node[i]->last += PAGE_SIZE);
        assert_seen(node[i]->hole, node[i]->hole += PAGE_SIZE);
        assert_seen(node[i]->height, node[i]->height++);
        assert_seen(node[i]->end, node[i]->end = node[i]->base);
    }
    assert_seen(ranges.count, ranges.count++);
    assert_seen(ranges.frames, ranges.frames++);
    struct header *header = phys_to_virt(frame);
    assert_int_equal(header->used, COUNT);
    assert_seen(header->used, header->used--);
    assert_seen(header->free->left, header->free->left = NULL);
}

/* What `node` says of its subtree, all of it right. */
static void say(struct vrange_node *of, vaddr_t first, vaddr_t last, unsigned height)
{
    of->first = first;
    of->last = last;
    of->height = (uint16_t)height;
}

/*   0                    0 -> 1 -> 2 in one line, which is sorted and says what is true     */
static void vrange_check_sees_a_tree_that_leans(void **state)
{
    vaddr_t first, last;

    (void)state;
    set_up();
    for (size_t i = 3; i < COUNT; i++)
        vrange_free(&ranges, node[i]);
    first = node[0]->base;
    last = node[2]->end;
    node[0]->left = node[1]->left = node[2]->left = node[2]->right = NULL;
    node[0]->right = node[1];
    node[1]->right = node[2];
    say(node[2], node[2]->base, last, 1);
    say(node[1], node[1]->base, last, 2);
    say(node[0], first, last, 3);
    ranges.root = node[0];
    assert_false(vrange_is_sound(&ranges));
    node[0]->right = node[1]->right = NULL;
    node[2]->left = node[1];
    node[1]->left = node[0];
    say(node[0], first, node[0]->end, 1);
    say(node[1], first, node[1]->end, 2);
    say(node[2], first, last, 3);
    ranges.root = node[2];
    assert_false(vrange_is_sound(&ranges));
    node[2]->left = NULL;
    node[1]->left = node[0];
    node[1]->right = node[2];
    say(node[2], node[2]->base, last, 1);
    say(node[1], first, last, 2);
    ranges.root = node[1];
    assert_true(vrange_is_sound(&ranges));
}

/* Two ranges share a page; every sum of the tree is made to agree with that. */
static void vrange_check_sees_ranges_that_overlap(void **state)
{
    (void)state;
    set_up();
    for (size_t i = 2; i < COUNT; i++)
        vrange_free(&ranges, node[i]);
    struct vrange_node *top = ranges.root, *other = top->left != NULL ? top->left : top->right;
    assert_true(vrange_is_sound(&ranges));
    if (top->left != NULL) {
        other->end = other->last = top->base + PAGE_SIZE;
        top->hole = top->base - other->last; /* below zero */
    } else {
        other->base = other->first = top->end - PAGE_SIZE;
        top->hole = other->first - top->end;
    }
    assert_false(vrange_is_sound(&ranges));
}

static void vrange_check_sees_a_lost_node(void **state)
{
    (void)state;
    set_up();
    node[1]->left = NULL; /* of the tree: node[0] is in nothing */
    say(node[1], node[1]->base, node[1]->last, 2);
    node[3]->first = node[1]->base;
    assert_false(vrange_is_sound(&ranges));
    ranges.count--;
    assert_false(vrange_is_sound(&ranges)); /* nor is it free */
}

/* ---- A look without the lock ---- */

/* A node that would answer, at `address`; its copy stands where nothing may be read. */
static void expect_no_answer(vaddr_t address, void *where)
{
    struct vrange_node *root = ranges.root, right = *root, answer = right, copy;

    answer.base = address;
    answer.end = address + PAGE_SIZE;
    memcpy(where, &answer, sizeof answer);
    root->right = where;
    assert_false(vrange_peek(&ranges, &machine.pmm, address, &copy));
    *root = right;
}

static void vrange_peek_reads_frames_in_use_alone(void **state)
{
    const vaddr_t address = BASE + 50 * PAGE_SIZE;
    struct vrange_node copy, *root;
    paddr_t two;

    (void)state;
    set_up();
    assert_ok(pmm_alloc_contiguous(&machine.pmm, 2, FRAME_SIZE, PMM_NO_LIMIT, &two));
    root = ranges.root;
    struct vrange_node right = *root, *fine = phys_to_virt(two + PAGE_SIZE - sizeof copy);
    *fine = (struct vrange_node){ .base = address, .end = address + PAGE_SIZE };
    root->right = fine; /* in its frame up to the last byte */
    assert_true(vrange_peek(&ranges, &machine.pmm, address, &copy));
    *root = right;
    for (size_t beyond = sizeof(uint64_t); beyond < sizeof copy; beyond += sizeof(uint64_t))
        expect_no_answer(address, phys_to_virt(two + PAGE_SIZE - sizeof copy + beyond));
    assert_ok(pmm_reserve_range(&machine.pmm, MM_MIB(4), MM_MIB(4) + FRAME_SIZE));
    expect_no_answer(address, phys_to_virt(MM_MIB(4))); /* reserved: not the ranges' */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(vrange_check_sees_a_wrong_number),      TEST(vrange_check_sees_a_tree_that_leans),
        TEST(vrange_check_sees_ranges_that_overlap), TEST(vrange_check_sees_a_lost_node),
        TEST(vrange_peek_reads_frames_in_use_alone),
    };

    return RUN_TESTS(tests);
}
