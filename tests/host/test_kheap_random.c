/* SPDX-License-Identifier: MIT */
/* A random program on the heap against a naive model that knows every block and every byte of it. */
#include "heap_fixture.h"

#include <string.h>

/* ---- Random program against the model ---- */

#define BLOCKS_MAX 2048u

static struct {
    struct {
        unsigned char *address;
        size_t bytes;
        unsigned char fill;
    } block[BLOCKS_MAX];
    size_t count;
} model;

static void check_content(size_t index, size_t bytes)
{
    unsigned char fill = model.block[index].fill;

    for (size_t at = 0; at < bytes; at++)
        if (model.block[index].address[at] != fill)
            fail_msg("byte %zu of the block of %zu at %p was overwritten", at,
                     model.block[index].bytes, (void *)model.block[index].address);
}

static void fill_block(size_t index, unsigned char *address, size_t bytes)
{
    model.block[index].address = address;
    model.block[index].bytes = bytes;
    model.block[index].fill = (unsigned char)(1 + random_below(255));
    memset(address, model.block[index].fill, bytes);
}

static size_t random_size(void)
{
    size_t most = (size_t)16 << random_below(random_chance(90) ? 9 : 14);

    return 1 + (size_t)random_below(most);
}

static void step_alloc(void)
{
    size_t bytes = random_size();
    size_t align = random_chance(10) ? (size_t)1 << random_below(14) : 1;
    unsigned char *block =
        align > 1 ? kheap_alloc_aligned(heap, bytes, align) : kheap_alloc(heap, bytes);

    if (block == NULL || model.count == BLOCKS_MAX) {
        kheap_free(heap, block);
        return;
    }
    assert_int_equal((uintptr_t)block % align, 0);
    assert_true(kheap_size(heap, block) >= bytes);
    assert_true(is_zero(block, bytes));
    for (size_t i = 0; i < model.count; i++)
        assert_true(block + bytes <= model.block[i].address ||
                    model.block[i].address + model.block[i].bytes <= block);
    fill_block(model.count++, block, bytes);
}

static void step_free(void)
{
    size_t index;

    if (model.count == 0)
        return;
    index = (size_t)random_below(model.count);
    check_content(index, model.block[index].bytes);
    if (random_chance(30)) {
        size_t bytes = random_size(), old = model.block[index].bytes;
        unsigned char *moved = kheap_realloc(heap, model.block[index].address, bytes);
        if (moved == NULL)
            return;
        model.block[index].address = moved;
        check_content(index, bytes < old ? bytes : old);
        assert_true(bytes <= old || is_zero(moved + old, bytes - old));
        fill_block(index, moved, bytes);
        return;
    }
    kheap_free(heap, model.block[index].address);
    model.block[index] = model.block[--model.count];
}

/* A free of any address that is no block: reported, nothing happens. */
static void step_misuse(void)
{
    unsigned char *address = region + random_below(region_bytes);

    for (size_t i = 0; i < model.count; i++)
        if (model.block[i].address == address)
            return;
    EXPECT_BUG(address_words("", address), kheap_free(heap, address));
}

static void step(unsigned alloc_percent)
{
    if (random_chance(2))
        step_misuse();
    else if (random_chance(alloc_percent))
        step_alloc();
    else
        step_free();
}

static void run_program(unsigned steps)
{
    unsigned alloc_percent = 40 + (unsigned)random_below(25);

    model.count = 0;
    mm_log_level = MM_LOG_ERROR;
    for (unsigned i = 0; i < steps; i++) {
        step(alloc_percent);
        if (i % 500 == 0) {
            assert_int_equal(kheap_stats(heap).used_blocks, model.count);
            assert_heap_sound();
        }
    }
    while (model.count != 0) {
        check_content(model.count - 1, model.block[model.count - 1].bytes);
        kheap_free(heap, model.block[--model.count].address);
    }
}

static void kheap_random_program_agrees_with_the_model(void **state)
{
    (void)state;
    for (seeds_begin(8); seeds_next();) {
        heap_set_up((size_t)MM_MIB(1 + random_below(4)));
        run_program(4000);
        assert_all_free();
    }
}

static void kheap_random_program_agrees_at_the_full_level(void **state)
{
    (void)state;
    for (seeds_begin(4); seeds_next();) {
        heap_set_up_full((size_t)MM_MIB(2 + random_below(4)));
        run_program(3000);
        kheap_set_level(heap, KHEAP_DEFAULT);
        assert_all_free();
    }
}

static void kheap_random_program_agrees_while_the_heap_grows(void **state)
{
    (void)state;
    for (seeds_begin(4); seeds_next();) {
        heap_set_up_growing(MM_MIB(24), NULL);
        region = phys_to_virt(MM_MIB(1));
        region_bytes = MM_MIB(24);
        model.count = 0;
        mm_log_level = MM_LOG_ERROR;
        for (unsigned i = 0; i < 6000; i++)
            step(55);
        while (model.count != 0) {
            check_content(model.count - 1, model.block[model.count - 1].bytes);
            kheap_free(heap, model.block[--model.count].address);
        }
        assert_all_free();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kheap_random_program_agrees_with_the_model),
        TEST(kheap_random_program_agrees_at_the_full_level),
        TEST(kheap_random_program_agrees_while_the_heap_grows),
    };

    return RUN_TESTS(tests);
}
