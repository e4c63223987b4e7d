/* SPDX-License-Identifier: MIT */
/* Each wrong use of frames, at both levels: one report with the address and what is wrong with it, and
 * nothing changes. The default level reports a second free at once if this slot has the frame or the
 * bitmap says free, else at the latest when the second copy goes back; the full level at once, from
 * any slot. Rows that a status answers change nothing either. */
#include "threads.h"

#include <string.h>

static struct machine machine;
static struct pmm *const pmm = &machine.pmm;
static struct pmm_stats before;

static const struct pmm_config levels[] = {
    { .magazine_frames = 0 },
    { .magazine_frames = 4 },
    { .full_harden = true },
};

#define FOR_EACH_LEVEL(config)                                                                     \
    for (const struct pmm_config *(config) = levels; (config) < levels + COUNT_OF(levels);         \
         (config)++)

static void set_up(const struct pmm_config *config)
{
    const struct boot_range list[] = {
        ROW(0, 0x9f000, BOOT_USABLE),
        ROW(0xf0000, 0x100000, BOOT_RESERVED),
        ROW(MM_MIB(1), MM_MIB(3), BOOT_EXECUTABLE),
        ROW(MM_MIB(3), MM_MIB(10), BOOT_USABLE),
        ROW(MM_MIB(10), MM_MIB(11), BOOT_LOADER_RECLAIMABLE),
    };
    paddr_t frame;

    machine_set_up_config(&machine, list, COUNT_OF(list), config);
    assert_ok(pmm_alloc_frame(pmm, &frame)); /* the slot's cache stands now */
    pmm_free_frame(pmm, frame);
    before = pmm_stats(pmm);
}

static void assert_unchanged(void)
{
    assert_pmm_stats_equal(pmm_stats(pmm), before);
    assert_true(pmm_verify(pmm));
}

static paddr_t alloc_one(void)
{
    paddr_t frame = 0;

    assert_ok(pmm_alloc_frame(pmm, &frame));
    return frame;
}

/* Every call that frees one frame must report it with these words and the address. */
static void expect_bugs(const char *what, paddr_t frame)
{
    char words[96];

    mm_format(words, sizeof words, "free|0x%lx|%s", frame, what);
    EXPECT_BUG(words, pmm_free_frame(pmm, frame));
    EXPECT_BUG(words, pmm_free_zeroed_frame(pmm, frame));
    EXPECT_BUG(words, pmm_free_frames(pmm, &frame, 1));
    EXPECT_BUG(words, pmm_free_contiguous(pmm, frame, 1));
    EXPECT_BUG(words, pmm_free_table(pmm, frame));
}

/* ---- Frames that are not allocated ---- */

static void free_twice_is_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        paddr_t frame, other;

        set_up(config);
        frame = alloc_one();
        other = alloc_one();
        pmm_free_frame(pmm, frame);
        expect_bugs("", frame);
        pmm_free_frame(pmm, other);
        expect_bugs("", frame);
        assert_unchanged();
    }
}

static void free_twice_with_many_between_is_reported(void **state)
{
    static paddr_t frames[600];

    (void)state;
    FOR_EACH_LEVEL(config)
    {
        set_up(config);
        for (size_t i = 0; i < COUNT_OF(frames); i++)
            frames[i] = alloc_one();
        for (size_t i = 0; i < COUNT_OF(frames); i++)
            pmm_free_frame(pmm, frames[i]);
        for (size_t i = 0; i < COUNT_OF(frames); i += 7)
            expect_bugs("", frames[i]);
        assert_unchanged();
    }
}

static void free_of_never_allocated_is_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        set_up(config);
        for (paddr_t frame = MM_MIB(10) - 4 * FRAME_SIZE; frame < MM_MIB(10); frame += FRAME_SIZE)
            if (pmm_frame_state(pmm, frame) == PMM_FRAME_FREE)
                expect_bugs("free", frame);
        assert_unchanged();
    }
}

static void free_of_reserved_is_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        set_up(config);
        expect_bugs("reserved", 0);
        expect_bugs("reserved", FRAME_SIZE);
        expect_bugs("reserved", MM_MIB(2));
        expect_bugs("reserved", MM_MIB(10));
        expect_bugs("reserved", virt_to_phys(machine.metadata));
        expect_bugs("reserved", virt_to_phys(machine.map.ranges));
        assert_unchanged();
    }
}

static void free_outside_ram_is_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        set_up(config);
        expect_bugs("outside", 0xf0000);
        expect_bugs("outside", MM_MIB(11));
        expect_bugs("outside", MM_GIB(64));
        expect_bugs("outside", (paddr_t)1 << 52);
        expect_bugs("outside", ~(paddr_t)0xfff);
        assert_unchanged();
    }
}

static void free_of_unaligned_is_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        paddr_t frame;

        set_up(config);
        frame = alloc_one();
        expect_bugs("aligned", frame + 1);
        expect_bugs("aligned", frame + 8);
        expect_bugs("aligned", frame + 4095);
        pmm_free_frame(pmm, frame);
        assert_unchanged();
    }
}

static void free_of_a_page_table_is_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        paddr_t table, frame;
        char words[96];

        set_up(config);
        assert_ok(pmm_alloc_table(pmm, &table));
        mm_format(words, sizeof words, "free|0x%lx|table", table);
        EXPECT_BUG(words, pmm_free_frame(pmm, table));
        EXPECT_BUG(words, pmm_free_zeroed_frame(pmm, table));
        EXPECT_BUG(words, pmm_free_frames(pmm, &table, 1));
        EXPECT_BUG(words, pmm_free_contiguous(pmm, table, 1));
        frame = alloc_one();
        mm_format(words, sizeof words, "free|0x%lx", frame);
        EXPECT_BUG(words, pmm_free_table(pmm, frame));
        pmm_free_frame(pmm, frame);
        pmm_free_table(pmm, table);
        EXPECT_BUG("free", pmm_free_table(pmm, table));
        assert_unchanged();
    }
}

/* ---- Many at once ---- */

static void free_of_many_with_a_wrong_one_is_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        paddr_t list[3];
        char words[96];

        set_up(config);
        list[0] = alloc_one();
        list[1] = MM_MIB(2);
        list[2] = alloc_one();
        mm_format(words, sizeof words, "free|0x%lx|reserved", list[1]);
        EXPECT_BUG(words, pmm_free_frames(pmm, list, 3));
        /* Whether the right ones are freed is the contract's to say: both ways they are not lost. */
        for (size_t i = 0; i < 3; i += 2)
            if (pmm_frame_state(pmm, list[i]) == PMM_FRAME_USED)
                pmm_free_frame(pmm, list[i]);
        assert_unchanged();
    }
}

static void free_of_a_block_that_reaches_too_far_is_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        struct pmm_stats held;
        paddr_t first;

        set_up(config);
        assert_ok(pmm_alloc_contiguous(pmm, 8, FRAME_SIZE, PMM_NO_LIMIT, &first));
        pmm_free_contiguous(pmm, first + 5 * FRAME_SIZE, 1);
        held = pmm_stats(pmm);
        EXPECT_BUG("free", pmm_free_contiguous(pmm, first, 8));
        EXPECT_BUG("free", pmm_free_contiguous(pmm, first, 6));
        EXPECT_BUG("free", pmm_free_contiguous(pmm, first, 0));
        EXPECT_BUG("free", pmm_free_contiguous(pmm, first, UINT64_MAX));
        EXPECT_BUG("free", pmm_free_contiguous(pmm, first, (uint64_t)1 << 52));
        EXPECT_BUG("free", pmm_free_contiguous(pmm, first + 1, 1));
        assert_pmm_stats_equal(pmm_stats(pmm), held);
        pmm_free_contiguous(pmm, first, 5);
        pmm_free_contiguous(pmm, first + 6 * FRAME_SIZE, 2);
        assert_unchanged();
    }
}

static void free_of_a_wrong_large_block_is_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        struct pmm_stats held;
        paddr_t block;

        set_up(config);
        assert_ok(pmm_alloc_large(pmm, 0, &block));
        held = pmm_stats(pmm);
        EXPECT_BUG("free", pmm_free_large(pmm, block + FRAME_SIZE));
        EXPECT_BUG("free", pmm_free_large(pmm, block + 1));
        EXPECT_BUG("free", pmm_free_large(pmm, 0));
        EXPECT_BUG("free", pmm_free_large(pmm, MM_GIB(64)));
        EXPECT_BUG("free", pmm_free_large(pmm, (paddr_t)1 << 63));
        assert_pmm_stats_equal(pmm_stats(pmm), held);
        pmm_free_large(pmm, block);
        EXPECT_BUG("free", pmm_free_large(pmm, block));
        assert_unchanged();
    }
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        paddr_t out = 0x1234;

        set_up(config);
        for (unsigned shift = 0; shift < 12; shift++)
            assert_status(pmm_alloc_contiguous(pmm, 1, (uint64_t)1 << shift, PMM_NO_LIMIT, &out),
                          MM_INVALID_ARGUMENT);
        assert_status(pmm_alloc_contiguous(pmm, 1, 0, PMM_NO_LIMIT, &out), MM_INVALID_ARGUMENT);
        assert_status(pmm_alloc_contiguous(pmm, 1, 0x3000, PMM_NO_LIMIT, &out),
                      MM_INVALID_ARGUMENT);
        assert_status(pmm_alloc_contiguous(pmm, 0, FRAME_SIZE, PMM_NO_LIMIT, &out),
                      MM_INVALID_ARGUMENT);
        for (uint64_t count = (uint64_t)1 << 40; count != 0; count <<= 1)
            assert_status(pmm_alloc_contiguous(pmm, count, FRAME_SIZE, PMM_NO_LIMIT, &out),
                          MM_OUT_OF_MEMORY);
        assert_status(pmm_alloc_contiguous(pmm, UINT64_MAX, FRAME_SIZE, PMM_NO_LIMIT, &out),
                      MM_OUT_OF_MEMORY);
        assert_status(pmm_alloc_contiguous(pmm, 1, (uint64_t)1 << 63, PMM_NO_LIMIT, &out),
                      MM_OUT_OF_MEMORY);
        assert_status(pmm_alloc_contiguous(pmm, 1, FRAME_SIZE, 0, &out), MM_OUT_OF_MEMORY);
        assert_status(pmm_alloc_contiguous(pmm, 1, FRAME_SIZE, FRAME_SIZE - 1, &out),
                      MM_OUT_OF_MEMORY);
        assert_status(pmm_reserve_range(pmm, MM_MIB(4), MM_MIB(4)), MM_INVALID_ADDRESS);
        assert_status(pmm_reserve_range(pmm, MM_MIB(5), MM_MIB(4)), MM_INVALID_ADDRESS);
        assert_status(pmm_reserve_range(pmm, MM_MIB(9), MM_GIB(4)), MM_INVALID_ADDRESS);
        assert_status(pmm_reserve_range(pmm, ~(paddr_t)0xfff, 0), MM_INVALID_ADDRESS);
        assert_status(pmm_reserve_range(pmm, MM_MIB(4) + 1, MM_MIB(5)), MM_NOT_ALIGNED);
        assert_status(pmm_reserve_range(pmm, MM_MIB(2), MM_MIB(4)), MM_NOT_FREE);
        assert_status(pmm_release_range(pmm, MM_MIB(4), MM_MIB(5)), MM_NOT_FREE);
        assert_status(pmm_release_range(pmm, 0, FRAME_SIZE), MM_INVALID_ADDRESS);
        assert_int_equal(out, 0x1234);
        assert_unchanged();
    }
}

/* ---- Two slots, two CPUs ---- */

/* The full level knows at once that another slot has freed the frame. */
static void second_free_in_a_handler_is_reported_at_the_full_level(void **state)
{
    paddr_t frame;
    char words[64];

    (void)state;
    set_up(&(struct pmm_config){ .full_harden = true });
    frame = alloc_one();
    mm_format(words, sizeof words, "free|0x%lx", frame);
    assert_true(hosted_interrupt_enter());
    pmm_free_frame(pmm, frame);
    hosted_interrupt_leave();
    EXPECT_BUG(words, pmm_free_frame(pmm, frame));
    assert_unchanged();
}

/* Takes frames and gives them back; returns how many of them came twice. */
static size_t take_and_give(size_t most)
{
    static paddr_t all[8192];
    static bool taken[COUNT_OF(all)]; /* by number: this memory ends below 32 MiB */
    size_t count = 0, twice = 0;

    memset(taken, 0, sizeof taken);
    while (count < most && pmm_alloc_frame(pmm, &all[count]) == MM_OK) {
        assert_true(all[count] / FRAME_SIZE < COUNT_OF(taken));
        twice += taken[all[count] / FRAME_SIZE];
        taken[all[count] / FRAME_SIZE] = true;
        count++;
    }
    while (count > 0)
        pmm_free_frame(pmm, all[--count]);
    return twice;
}

/* The default level may learn it only when the second copy goes back; two may own the frame until then.
 * Afterwards each frame comes once. */
static void second_free_in_a_handler_is_reported_in_the_end(void **state)
{
    paddr_t frame;

    (void)state;
    set_up(&(struct pmm_config){ .magazine_frames = 4 });
    bugs_count_begin();
    frame = alloc_one();
    pmm_free_frame(pmm, frame);
    assert_true(hosted_interrupt_enter());
    pmm_free_frame(pmm, frame);
    (void)take_and_give(64);
    hosted_interrupt_leave();
    (void)take_and_give(SIZE_MAX);
    assert_true(bugs_counted() >= 1);
    pmm_drain(pmm);
    (void)bugs_count_end();
    assert_int_equal(take_and_give(SIZE_MAX), 0);
    pmm_drain(pmm);
    assert_unchanged();
}

#define SHARED 300u

static paddr_t shared[SHARED];

static void *free_all_body(void *argument)
{
    (void)argument;
    threads_meet();
    for (size_t i = 0; i < SHARED; i++)
        pmm_free_frame(pmm, shared[i]);
    return NULL;
}

/* Two CPUs free the same frames: at the full level exactly one of each two is reported. */
static void free_by_two_cpus_takes_effect_once(void **state)
{
    (void)state;
    set_up(&(struct pmm_config){ .full_harden = true });
    for (size_t i = 0; i < SHARED; i++)
        shared[i] = alloc_one();
    bugs_count_begin();
    threads_run(2, free_all_body);
    assert_int_equal(bugs_count_end(), SHARED);
    assert_unchanged();
}

/* In an NMI handler nothing is allocated or freed. */
static void calls_in_an_nmi_are_reported(void **state)
{
    (void)state;
    FOR_EACH_LEVEL(config)
    {
        paddr_t frame, out = 0x1234;

        set_up(config);
        frame = alloc_one();
        hosted_nmi_enter();
        EXPECT_BUG("NMI", assert_int_not_equal(pmm_alloc_frame(pmm, &out), MM_OK));
        EXPECT_BUG("NMI", assert_int_not_equal(pmm_alloc_large(pmm, 0, &out), MM_OK));
        EXPECT_BUG("NMI", assert_int_not_equal(pmm_alloc_frames(pmm, 1, 0, &out), MM_OK));
        EXPECT_BUG("NMI", assert_int_not_equal(pmm_alloc_table(pmm, &out), MM_OK));
        EXPECT_BUG("NMI", pmm_free_frame(pmm, frame));
        EXPECT_BUG("NMI", pmm_free_frames(pmm, &frame, 1));
        EXPECT_BUG("NMI", pmm_free_contiguous(pmm, frame, 1));
        hosted_nmi_leave();
        assert_int_equal(out, 0x1234);
        pmm_free_frame(pmm, frame);
        assert_unchanged();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(free_twice_is_reported),
        TEST(free_twice_with_many_between_is_reported),
        TEST(free_of_never_allocated_is_reported),
        TEST(free_of_reserved_is_reported),
        TEST(free_outside_ram_is_reported),
        TEST(free_of_unaligned_is_reported),
        TEST(free_of_a_page_table_is_reported),
        TEST(free_of_many_with_a_wrong_one_is_reported),
        TEST(free_of_a_block_that_reaches_too_far_is_reported),
        TEST(free_of_a_wrong_large_block_is_reported),
        TEST(bad_arguments_are_refused),
        TEST(second_free_in_a_handler_is_reported_at_the_full_level),
        TEST(second_free_in_a_handler_is_reported_in_the_end),
        TEST(free_by_two_cpus_takes_effect_once),
        TEST(calls_in_an_nmi_are_reported),
    };

    return RUN_TESTS(tests);
}
