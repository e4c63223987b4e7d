/* SPDX-License-Identifier: MIT */
/* What is kept of runs of free frames: a request that cannot be met looks at no 2 MiB block twice, and
 * none that can be met is refused, also across the borders of blocks. */
#include "mm/pmm_parts.h"
#include "support.h"

static struct machine machine;
static struct pmm *const pmm = &machine.pmm;

#define BLOCKS 40u

static paddr_t blocks[BLOCKS]; /* neighbours: all of their frames are used */

/* All memory is used, without caches: what is freed goes to its block at once. */
static void set_up(void)
{
    const struct boot_range list[] = { ROW(MM_MIB(16), MM_MIB(17), BOOT_USABLE), /* metadata */
                                       ROW(MM_MIB(32), MM_MIB(112), BOOT_USABLE) };
    const struct pmm_config config = { .full_harden = true };
    paddr_t frame;

    machine_set_up_config(&machine, list, COUNT_OF(list), &config);
    for (unsigned i = 0; i < BLOCKS; i++) {
        assert_ok(pmm_alloc_large(pmm, PMM_NOZERO, &blocks[i]));
        assert_true(i == 0 || blocks[i] == blocks[i - 1] + LARGE_PAGE_SIZE);
    }
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        continue;
    assert_int_equal(pmm_stats(pmm).free_frames, 0);
}

static uint64_t chunk_of(paddr_t address)
{
    return id_of(pmm_range_of(pmm, address), address) / CHUNK_FRAMES;
}

/* 0: no two neighbours are free there, ... RUN_UNKNOWN: long, or not known. */
static unsigned known_run(paddr_t block)
{
    return pmm->core->info[chunk_of(block)] / (CHUNK_RUN & -CHUNK_RUN);
}

static void expect_no(uint64_t count)
{
    paddr_t first = 0x1234;

    assert_status(pmm_alloc_contiguous(pmm, count, FRAME_SIZE, PMM_NO_LIMIT, &first),
                  MM_OUT_OF_MEMORY);
    assert_int_equal(first, 0x1234);
    assert_true(pmm_verify(pmm));
}

static void expect_at(uint64_t count, paddr_t expected)
{
    paddr_t first;

    assert_ok(pmm_alloc_contiguous(pmm, count, FRAME_SIZE, PMM_NO_LIMIT, &first));
    assert_int_equal(first, expected);
    assert_true(pmm_verify(pmm));
}

/* Every second frame of each block is free: |.#.#.#.#...| */
static void refused_request_writes_down_what_it_saw(void **state)
{
    (void)state;
    set_up();
    for (unsigned i = 0; i < BLOCKS; i++)
        for (unsigned j = 0; j < 256; j++)
            pmm_free_frame(pmm, blocks[i] + 2 * j * FRAME_SIZE);
    for (unsigned i = 0; i < BLOCKS; i++)
        assert_int_equal(known_run(blocks[i]), RUN_UNKNOWN);
    expect_no(2);
    for (unsigned i = 0; i < BLOCKS; i++)
        assert_int_equal(known_run(blocks[i]), 0);
    assert_int_equal(pmm->core->run_groups[0], 1); /* and they all lie in the first group */
    /* One becomes free between two others: three side by side, of one block nothing is known. */
    pmm_free_frame(pmm, blocks[7] + 101 * FRAME_SIZE);
    for (unsigned i = 0; i < BLOCKS; i++)
        assert_int_equal(known_run(blocks[i]), i == 7 ? RUN_UNKNOWN : 0);
    expect_no(4);
    assert_int_equal(known_run(blocks[7]), 1);
    expect_at(3, blocks[7] + 100 * FRAME_SIZE);
    expect_no(2);
    assert_int_equal(known_run(blocks[7]), 0);
}

/* A run of five frames at a border, on one side, then one more after the other on its other side:
 *
 *      |.......#####|+++++.......|     neither block has the whole run */
static void run_across_a_border_is_found(void **state)
{
    (void)state;
    for (unsigned left_first = 0; left_first < 2; left_first++) {
        set_up();
        const paddr_t border = blocks[8];
        for (unsigned i = 0; i < 20; i++) /* else there would be too few to look for */
            pmm_free_frame(pmm, blocks[20] + 2 * i * FRAME_SIZE);
        pmm_free_contiguous(pmm, left_first ? border - 5 * FRAME_SIZE : border, 5);
        expect_no(6);
        for (unsigned i = 1; i <= 5; i++) {
            pmm_free_frame(pmm,
                           left_first ? border + (i - 1) * FRAME_SIZE : border - i * FRAME_SIZE);
            expect_no(6 + i);
        }
        expect_at(10, border - 5 * FRAME_SIZE);
    }
}

/* Blocks that are wholly free with partly used ones around them. */
static void long_runs_are_found_around_free_blocks(void **state)
{
    (void)state;
    set_up();
    for (unsigned i = 10; i < 20; i++)
        pmm_free_large(pmm, blocks[i]);
    pmm_free_large(pmm, blocks[30]);
    pmm_free_contiguous(pmm, blocks[9] + MM_MIB(1), 256);
    pmm_free_contiguous(pmm, blocks[20], 100);
    pmm_free_contiguous(pmm, blocks[29] + 10 * FRAME_SIZE, 502);
    pmm_free_contiguous(pmm, blocks[31], 511);
    expect_no(10 * 512 + 357);
    expect_at(10 * 512 + 356, blocks[9] + MM_MIB(1));
    expect_no(1526);
    expect_at(1525, blocks[29] + 10 * FRAME_SIZE);
    pmm_free_contiguous(pmm, blocks[29] + 10 * FRAME_SIZE, 502);
    pmm_free_contiguous(pmm, blocks[31], 511);
    expect_no(513); /* the block between them is used */
    expect_at(511, blocks[31]);
    expect_at(502, blocks[29] + 10 * FRAME_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(refused_request_writes_down_what_it_saw),
        TEST(run_across_a_border_is_found),
        TEST(long_runs_are_found_around_free_blocks),
    };

    return RUN_TESTS(tests);
}
