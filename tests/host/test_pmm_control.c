/* SPDX-License-Identifier: MIT */
/* Steering and asking: low water, injected failures, trace, the report, and how little a start writes. */
#include "pmm_fixture.h"

#include <string.h>

static unsigned calls;

static void count_call(void *context)
{
    calls++;
    pmm_free_frame(pmm, *(paddr_t *)context); /* it may call mm */
}

static void low_water_calls_once_for_each_fall(void **state)
{
    paddr_t spare, frame;

    (void)state;
    calls = 0;
    pmm_set_up(MM_MIB(8), (struct pmm_config){ 0 });
    spare = alloc_one();
    uint64_t free_frames = pmm_stats(pmm).free_frames;
    pmm_set_low_water(pmm, free_frames, count_call, &spare);
    frame = alloc_one();
    assert_int_equal(calls, 1);
    (void)alloc_one();
    assert_int_equal(calls, 1);
    pmm_free_frame(pmm, frame);
    pmm_set_low_water(pmm, free_frames - 100, NULL, NULL);
    pmm_drain_to(pmm, 0, NULL, 0);
    assert_int_equal(calls, 1);
}

static void only_count(void *context)
{
    (void)context;
    calls++;
}

/* Nobody allocates while memory is above the mark. */
static void low_water_sees_memory_rise_by_frees_alone(void **state)
{
    paddr_t frames[100], block;

    (void)state;
    calls = 0;
    pmm_set_up(MM_MIB(8), (struct pmm_config){ 0 });
    pmm_set_low_water(pmm, pmm_stats(pmm).free_frames - 50, only_count, NULL);
    for (unsigned i = 0; i < 100; i++)
        frames[i] = alloc_one();
    assert_int_equal(calls, 1);
    for (unsigned i = 0; i < 100; i++)
        pmm_free_frame(pmm, frames[i]);
    assert_ok(pmm_alloc_contiguous(pmm, 100, FRAME_SIZE, PMM_NO_LIMIT, &block));
    assert_int_equal(calls, 2);
    pmm_free_contiguous(pmm, block, 100);
    assert_ok(pmm_reserve_range(pmm, block, block + 100 * FRAME_SIZE));
    assert_int_equal(calls, 3);
}

static void injected_failures_come_when_asked_for(void **state)
{
    paddr_t frame, many[4];

    (void)state;
    pmm_set_up_cached(MM_MIB(64), 64);
    pmm_free_frame(pmm, alloc_one());
    pmm_fault_inject(pmm, 3, 0);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    (void)alloc_one();
    (void)alloc_one();
    assert_status(pmm_alloc_frame(pmm, &frame), MM_OUT_OF_MEMORY);
    (void)alloc_one();
    pmm_fault_inject(pmm, 1, 1);
    assert_status(pmm_alloc_frame(pmm, &frame), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_frames(pmm, 4, 0, many), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_table(pmm, &frame), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_large(pmm, 0, &frame), MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_contiguous(pmm, 2, FRAME_SIZE, PMM_NO_LIMIT, &frame), MM_OUT_OF_MEMORY);
    pmm_fault_inject(pmm, 0, 0);
    pmm_free_frame(pmm, alloc_one());
    assert_true(pmm_stats(pmm).cached_frames > 0);
    assert_pmm_sound(pmm);
}

static void trace_tells_every_call_and_ends(void **state)
{
    paddr_t frame;

    (void)state;
    pmm_set_up_cached(MM_MIB(64), 64);
    pmm_free_frame(pmm, alloc_one());
    mm_log_level = MM_LOG_DEBUG;
    pmm_set_trace(pmm, true);
    log_clear();
    frame = alloc_one();
    pmm_free_frame(pmm, frame);
    log_expect_count("pmm: allocated used frame", 1);
    log_expect_count("pmm: freed used frame", 1);
    assert_int_equal(pmm_stats(pmm).cached_frames, 0);
    pmm_set_trace(pmm, false);
    mm_log_level = MM_LOG_INFO;
    pmm_free_frame(pmm, alloc_one());
    assert_true(pmm_stats(pmm).cached_frames > 0);
    assert_pmm_sound(pmm);
}

static void report_agrees_with_the_counters(void **state)
{
    uint64_t free_frames = 0;
    struct pmm_stats stats;

    (void)state;
    pmm_set_up_cached(MM_MIB(64), 64);
    (void)alloc_one();
    stats = pmm_stats(pmm);
    for (size_t i = 0; i < stats.range_count; i++)
        free_frames += pmm_range_stats(pmm, i).free_frames;
    assert_int_equal(free_frames, stats.free_frames);
    assert_true(pmm_largest_free(pmm) > 12000 && pmm_largest_free(pmm) < stats.free_frames);
    log_clear();
    pmm_report(pmm);
    assert_int_equal(log_lines(), 2 + stats.range_count);
    log_expect("largest free block");
}

/* Pages of metadata that a start on much memory writes: by ranges, not by frames. */
static void init_writes_little_of_the_metadata(void **state)
{
    struct mm_range range = { .base = 0, .end = MM_GIB(64), .type = BOOT_USABLE };
    struct memmap map = { .ranges = &range, .count = 1, .capacity = 1 };
    static struct pmm other;
    uint64_t bytes = pmm_metadata_bytes(&map), written = 0;

    (void)state;
    machine_set_up_simple(&pmm_machine, MM_MIB(4));
    assert_true(bytes <= 34 * 64 * MM_KIB(1));
    unsigned char *metadata = test_malloc(bytes + 64);
    unsigned char *aligned = (unsigned char *)mm_round_up((uintptr_t)metadata, 64);
    memset(aligned, 0xa5, bytes);
    pmm_init(&other, &map, aligned, NULL);
    for (uint64_t i = 0; i < bytes; i++)
        written += aligned[i] != 0xa5;
    assert_true(written < MM_KIB(64));
    assert_int_equal(pmm_stats(&other).free_frames, MM_GIB(64) / FRAME_SIZE - 256);
    assert_true(pmm_verify(&other));
    test_free(metadata);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(low_water_calls_once_for_each_fall),
        TEST(low_water_sees_memory_rise_by_frees_alone),
        TEST(injected_failures_come_when_asked_for),
        TEST(trace_tells_every_call_and_ends),
        TEST(report_agrees_with_the_counters),
        TEST(init_writes_little_of_the_metadata),
    };

    return RUN_TESTS(tests);
}
