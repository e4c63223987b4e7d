/* SPDX-License-Identifier: MIT */
/* Ranges of addresses: against a naive list, at their borders, with many nodes, and a look at them
 * without the lock. Addresses are only numbers; the nodes lie in memory of the test, or of the fake RAM
 * where they are looked at. */
#include "support.h"

#include "mm/vrange.h"

#include <stdlib.h>
#include <string.h>

#define BASE ((vaddr_t)0xffffe00000000000)

static struct vrange ranges;

static void page_add(void)
{
    void *page = aligned_alloc(PAGE_SIZE, PAGE_SIZE);

    memset(page, 0x5a, PAGE_SIZE);
    vrange_add_page(&ranges, page);
}

static void ranges_set_up(uint64_t pages)
{
    vrange_init(&ranges, BASE, BASE + pages * PAGE_SIZE);
}

static struct vrange_node *take(uint64_t pages, uint64_t align, uint64_t guard)
{
    if (!vrange_has_node(&ranges))
        page_add();
    return vrange_alloc(&ranges, pages * PAGE_SIZE, align, guard);
}

/* All ranges are gone; so are the pages. */
static void ranges_tear_down(void)
{
    void *page;

    assert_int_equal(ranges.count, 0);
    while ((page = vrange_take_page(&ranges)) != NULL)
        free(page);
    assert_int_equal(ranges.frames, 0);
    assert_null(ranges.pages);
}

static void drop(struct vrange_node *node)
{
    void *page;

    vrange_free(&ranges, node);
    while ((page = vrange_take_page(&ranges)) != NULL)
        free(page);
}

/*   | a | b | c |.....    b goes: the next one that fits takes its place, a longer one does not */
static void vrange_lowest_place_is_taken(void **state)
{
    struct vrange_node *node[4];

    (void)state;
    ranges_set_up(100);
    for (size_t i = 0; i < 3; i++) {
        node[i] = take(4, PAGE_SIZE, 0);
        assert_int_equal(node[i]->base, BASE + i * 4 * PAGE_SIZE);
    }
    drop(node[1]);
    node[3] = take(5, PAGE_SIZE, 0);
    assert_int_equal(node[3]->base, BASE + 12 * PAGE_SIZE);
    node[1] = take(3, PAGE_SIZE, 0);
    assert_int_equal(node[1]->base, BASE + 4 * PAGE_SIZE);
    assert_int_equal(node[1]->end, BASE + 7 * PAGE_SIZE);
    assert_true(vrange_is_sound(&ranges));
    for (size_t i = 0; i < 4; i++)
        drop(node[i]);
    ranges_tear_down();
}

static void vrange_guards_and_alignment_are_kept(void **state)
{
    (void)state;
    ranges_set_up(MM_GIB(8) / PAGE_SIZE);
    for (uint64_t align = PAGE_SIZE; align <= MM_GIB(1); align *= 2) {
        struct vrange_node *small = take(1, PAGE_SIZE, PAGE_SIZE);
        struct vrange_node *node = take(3, align, PAGE_SIZE);

        assert_int_equal(vrange_content(node) % align, 0);
        assert_int_equal(vrange_content_end(node) - vrange_content(node), 3 * PAGE_SIZE);
        assert_int_equal(node->end - node->base, 5 * PAGE_SIZE);
        assert_true(node->base >= small->end || node->end <= small->base);
        assert_int_equal(node->state, VRANGE_BUSY);
        assert_int_equal(node->tag, 0);
        drop(node);
        drop(small);
    }
    ranges_tear_down();
}

static void vrange_full_window_has_no_place(void **state)
{
    struct vrange_node *node, *second;

    (void)state;
    ranges_set_up(10);
    assert_null(take(11, PAGE_SIZE, 0));
    assert_null(take(9, PAGE_SIZE, PAGE_SIZE));
    assert_null(take(UINT64_MAX / PAGE_SIZE, PAGE_SIZE, PAGE_SIZE));
    assert_null(take(1, MM_GIB(1), 0));
    node = take(8, PAGE_SIZE, PAGE_SIZE);
    assert_int_equal(node->base, BASE);
    assert_int_equal(node->end, BASE + 10 * PAGE_SIZE);
    assert_null(take(1, PAGE_SIZE, 0));
    drop(node);
    node = take(4, PAGE_SIZE, 0);
    second = take(6, PAGE_SIZE, 0);
    assert_int_equal(second->end, BASE + 10 * PAGE_SIZE);
    drop(node);
    drop(second);
    ranges_tear_down();
}

static void vrange_find_knows_every_byte(void **state)
{
    struct vrange_node *node[64];

    (void)state;
    ranges_set_up(1000);
    for (size_t i = 0; i < COUNT_OF(node); i++)
        node[i] = take(1 + i % 5, PAGE_SIZE, PAGE_SIZE);
    for (size_t i = 0; i < COUNT_OF(node); i += 2)
        vrange_free(&ranges, node[i]);
    for (size_t i = 1; i < COUNT_OF(node); i += 2) {
        assert_ptr_equal(vrange_find(&ranges, node[i]->base), node[i]);
        assert_ptr_equal(vrange_find(&ranges, node[i]->end - 1), node[i]);
        assert_null(vrange_find(&ranges, node[i]->base - 1));
    }
    assert_null(vrange_find(&ranges, BASE - 1));
    assert_null(vrange_find(&ranges, BASE + 1000 * PAGE_SIZE));
    assert_null(vrange_find(&ranges, 0));
    assert_null(vrange_find(&ranges, UINT64_MAX));
    for (size_t i = 1; i < COUNT_OF(node); i += 2)
        drop(node[i]);
    ranges_tear_down();
}

/* ---- Against a list of pages ---- */

#define MODEL_PAGES 600u

static struct vrange_node *model[MODEL_PAGES]; /* who owns each page of the window */

/* The lowest place in the model: what first-fit must answer. */
static size_t model_fit(uint64_t pages, uint64_t around)
{
    size_t run = 0;

    for (size_t i = 0; i < MODEL_PAGES; i++) {
        run = model[i] == NULL ? run + 1 : 0;
        if (run == pages + around)
            return i + 1 - run;
    }
    return MODEL_PAGES;
}

static void model_set(const struct vrange_node *node, struct vrange_node *owner)
{
    for (vaddr_t at = node->base; at < node->end; at += PAGE_SIZE) {
        size_t page = (at - BASE) / PAGE_SIZE;

        if (owner != NULL)
            assert_null(model[page]);
        model[page] = owner;
    }
}

static struct vrange_node *model_take(void)
{
    uint64_t pages = 1 + random_below(random_chance(90) ? 8 : 80);
    uint64_t align = PAGE_SIZE << random_below(5), guard = random_below(3) * PAGE_SIZE;
    uint64_t around = 2 * guard / PAGE_SIZE + align / PAGE_SIZE - 1;
    size_t fit = model_fit(pages, around);
    struct vrange_node *node = take(pages, align, guard);

    if (fit == MODEL_PAGES) {
        assert_null(node);
        return NULL;
    }
    assert_non_null(node);
    assert_int_equal(vrange_content(node), mm_round_up(BASE + fit * PAGE_SIZE + guard, align));
    assert_int_equal(vrange_content_end(node) - vrange_content(node), pages * PAGE_SIZE);
    model_set(node, node);
    return node;
}

static void model_drop(struct vrange_node *node)
{
    model_set(node, NULL);
    drop(node);
}

static void vrange_agrees_with_a_list(void **state)
{
    struct vrange_node *node[MODEL_PAGES];

    (void)state;
    for (seeds_begin(20); seeds_next();) {
        size_t count = 0;

        ranges_set_up(MODEL_PAGES);
        memset(model, 0, sizeof model);
        for (unsigned step = 0; step < 2000; step++) {
            bool grow = random_chance(step / 500 % 2 == 0 ? 65 : 35);

            if (grow && (node[count] = model_take()) != NULL) {
                count++;
            } else if (count > 0) {
                size_t victim = random_below(count);

                model_drop(node[victim]);
                node[victim] = node[--count];
            }
            if (step % 16 == 0)
                assert_true(vrange_is_sound(&ranges));
            vaddr_t asked = BASE + random_below(MODEL_PAGES * PAGE_SIZE);
            assert_ptr_equal(vrange_find(&ranges, asked), model[(asked - BASE) / PAGE_SIZE]);
        }
        while (count > 0)
            model_drop(node[--count]);
        ranges_tear_down();
    }
}

/* The tree stays low whatever the order of frees; 100 000 ranges are at most 1.45 * 17 deep. */
static void vrange_many_ranges_stay_balanced(void **state)
{
    const size_t count = 100000;
    struct vrange_node **node = calloc(count, sizeof *node);

    (void)state;
    ranges_set_up(count * 4);
    for (size_t i = 0; i < count; i++)
        node[i] = take(1, PAGE_SIZE, PAGE_SIZE);
    assert_true(ranges.root->height <= 24);
    assert_true(vrange_is_sound(&ranges));
    for (size_t i = 0; i < count; i += 3) {
        drop(node[i]);
        node[i] = NULL;
    }
    assert_true(ranges.root->height <= 24);
    assert_true(vrange_is_sound(&ranges));
    for (size_t i = 0; i < count; i++)
        if (node[i] != NULL)
            drop(node[i]);
    ranges_tear_down();
    free(node);
}

/* ---- A look without the lock ---- */

static void vrange_peek_follows_only_readable_nodes(void **state)
{
    struct machine machine;
    struct vrange_node *node[100], copy;
    paddr_t frames[4];
    size_t used = 0;

    (void)state;
    machine_set_up_simple(&machine, MM_MIB(4));
    ranges_set_up(1000);
    for (size_t i = 0; i < COUNT_OF(node); i++) {
        if (!vrange_has_node(&ranges)) {
            assert_ok(pmm_alloc_frame(&machine.pmm, &frames[used]));
            vrange_add_page(&ranges, phys_to_virt(frames[used++]));
        }
        node[i] = vrange_alloc(&ranges, PAGE_SIZE, PAGE_SIZE, PAGE_SIZE);
        node[i]->tag = i;
    }
    for (size_t i = 0; i < COUNT_OF(node); i++) {
        assert_true(vrange_peek(&ranges, &machine.pmm, node[i]->base + 5, &copy));
        assert_int_equal(copy.tag, i);
    }
    assert_false(vrange_peek(&ranges, &machine.pmm, BASE + 999 * PAGE_SIZE, &copy));
    /* What a tree looks like while it changes: pointers to anything, and in circles. */
    struct vrange_node *root = ranges.root, saved = *root;
    vaddr_t above = node[99]->base, below = BASE + 1;
    static const uintptr_t bad[] = { 8, 0x1234567, 0x0123456789abcdf0, UINTPTR_MAX - 7 };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        root->left = root->right = (struct vrange_node *)bad[i];
        assert_false(vrange_peek(&ranges, &machine.pmm, above, &copy));
        assert_false(vrange_peek(&ranges, &machine.pmm, below, &copy));
    }
    root->left = root->right = root;
    assert_false(vrange_peek(&ranges, &machine.pmm, above, &copy));
    root->right =
        phys_to_virt(frames[0] + PAGE_SIZE - sizeof(uint64_t)); /* crosses the frame's end */
    assert_false(vrange_peek(&ranges, &machine.pmm, above, &copy));
    *root = saved;
    root->guard = (uint32_t)(PAGE_SIZE * 2); /* guards that leave nothing between them */
    assert_false(vrange_peek(&ranges, &machine.pmm, root->base, &copy));
    *root = saved;
    assert_true(vrange_is_sound(&ranges));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(vrange_lowest_place_is_taken),
        TEST(vrange_guards_and_alignment_are_kept),
        TEST(vrange_full_window_has_no_place),
        TEST(vrange_find_knows_every_byte),
        TEST(vrange_agrees_with_a_list),
        TEST(vrange_many_ranges_stay_balanced),
        TEST(vrange_peek_follows_only_readable_nodes),
    };

    return RUN_TESTS(tests);
}
