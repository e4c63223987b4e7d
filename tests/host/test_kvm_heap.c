/* SPDX-License-Identifier: MIT */
/* The heap's window: whole, and in steps that come and go; what is mapped and what is not, lack of
 * memory, wrong ranges. */
#include "kvm_fixture.h"

/* ---- The heap's window ---- */

static void kvm_heap_lies_between_guard_pages(void **state)
{
    static const uint64_t sizes[] = { PAGE_SIZE, MM_MIB(1), MM_MIB(2), MM_MIB(5) + PAGE_SIZE,
                                      MM_MIB(16) };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        uint64_t bytes = sizes[i];
        vaddr_t base;

        kvm_set_up(4 + i % 2, MM_MIB(48));
        assert_ok(kvm_map_heap(&kvm, bytes, &base));
        assert_int_equal(base % MM_MIB(2), 0);
        assert_true(base >= kvm.heap.base + PAGE_SIZE && base + bytes + PAGE_SIZE <= kvm.heap.end);
        assert_guard(base - PAGE_SIZE);
        assert_guard(base + bytes);
        for (uint64_t at = 0; at < bytes; at += PAGE_SIZE)
            assert_backed(base + at);
        assert_true(space.stats.leaves[1] <= bytes / MM_MIB(2));
        assert_true(space.stats.leaves[1] >= bytes / MM_MIB(2));
        assert_pmm_sound(&machine.pmm);
    }
}

/* Every second frame is taken: no 2 MiB in one piece anywhere. */
static void kvm_heap_on_fragmented_memory_uses_single_frames(void **state)
{
    vaddr_t base;

    (void)state;
    kvm_set_up(4, MM_MIB(16));
    for (paddr_t frame = MM_MIB(2); frame < MM_MIB(17); frame += 2 * FRAME_SIZE)
        if (pmm_frame_state(&machine.pmm, frame) == PMM_FRAME_FREE)
            assert_ok(pmm_reserve_range(&machine.pmm, frame, frame + FRAME_SIZE));
    assert_ok(kvm_map_heap(&kvm, MM_MIB(4), &base));
    for (uint64_t at = 0; at < MM_MIB(4); at += PAGE_SIZE)
        assert_backed(base + at);
    assert_int_equal(space.stats.leaves[0], 1024);
    assert_guard(base - PAGE_SIZE);
    assert_guard(base + MM_MIB(4));
}

static void kvm_heap_without_memory_leaves_nothing_behind(void **state)
{
    static const uint64_t left[] = { 0, 1, 2, 3, 4, 5, 100, 511, 515, 600, 1030, 1536 };
    vaddr_t base = 0x1234;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(left); i++) {
        struct walker_snapshot before;
        struct kvm kvm_before;

        kvm_set_up(4, MM_MIB(16));
        pmm_drain_to(&machine.pmm, left[i], NULL, 0);
        before = walker_snapshot(&space);
        kvm_before = kvm;
        assert_status(kvm_map_heap(&kvm, MM_MIB(6), &base), MM_OUT_OF_MEMORY);
        assert_snapshot_equal(&space, &before);
        assert_pmm_sound(&machine.pmm);
        assert_memory_equal(&kvm, &kvm_before, sizeof kvm);
        assert_int_equal(base, 0x1234);
    }
}

static void kvm_heap_bad_sizes_are_refused(void **state)
{
    struct walker_snapshot before;
    vaddr_t base = 0x1234;

    (void)state;
    kvm_set_up(4, MM_MIB(16));
    before = walker_snapshot(&space);
    assert_status(kvm_map_heap(&kvm, 0, &base), MM_INVALID_ARGUMENT);
    assert_status(kvm_map_heap(&kvm, 100, &base), MM_INVALID_ARGUMENT);
    assert_status(kvm_map_heap(&kvm, PAGE_SIZE + 1, &base), MM_INVALID_ARGUMENT);
    assert_status(kvm_map_heap(&kvm, MM_GIB(512), &base), MM_INVALID_ARGUMENT);
    assert_status(kvm_map_heap(&kvm, 0 - PAGE_SIZE, &base), MM_INVALID_ARGUMENT);
    assert_int_equal(base, 0x1234);
    assert_snapshot_equal(&space, &before);
    assert_ok(kvm_map_heap(&kvm, MM_MIB(2), &base));
    before = walker_snapshot(&space);
    assert_status(kvm_map_heap(&kvm, MM_MIB(2), &base), MM_ALREADY_MAPPED);
    assert_snapshot_equal(&space, &before);
}

/* ---- The heap's window ---- */

static void kvm_heap_steps_come_and_go(void **state)
{
    struct walker_snapshot before;
    struct kvm_window window;

    (void)state;
    kvm_set_up(4, MM_MIB(16));
    window = kvm_heap_window(&kvm);
    before = walker_snapshot(&space);
    assert_int_equal((window.base | window.end) % MM_MIB(2), 0);
    assert_ok(kvm_heap_commit(&kvm, window.base, MM_MIB(2)));
    assert_ok(kvm_heap_commit(&kvm, window.base + MM_MIB(4), MM_KIB(64)));
    assert_ok(kvm_heap_commit(&kvm, window.end - MM_MIB(4), MM_MIB(4)));
    assert_int_equal(space.stats.leaves[1], 3);
    assert_int_equal(kvm_stats(&kvm).heap_bytes, MM_MIB(6) + MM_KIB(64));
    for (uint64_t at = 0; at < MM_MIB(2); at += PAGE_SIZE)
        assert_true(is_zero(assert_memory(window.base + at), PAGE_SIZE));
    assert_guard(window.base - PAGE_SIZE);
    assert_guard(window.base + MM_MIB(2));
    assert_guard(window.base + MM_MIB(4) + MM_KIB(64));
    assert_guard(window.end);
    assert_ok(kvm_heap_decommit(&kvm, window.end - MM_MIB(4), MM_MIB(4)));
    assert_ok(kvm_heap_decommit(&kvm, window.base, MM_MIB(2)));
    assert_ok(kvm_heap_decommit(&kvm, window.base + MM_MIB(4), MM_KIB(64)));
    assert_guard(window.base);
    assert_int_equal(kvm_stats(&kvm).heap_bytes, 0);
    assert_snapshot_equal(&space, &before);
}

static void kvm_heap_on_scattered_frames_is_decommitted_in_parts(void **state)
{
    struct walker_snapshot before;
    struct kvm_window window;

    (void)state;
    kvm_set_up(4, MM_MIB(16));
    kvm_fragment(MM_MIB(17));
    window = kvm_heap_window(&kvm);
    before = walker_snapshot(&space);
    assert_ok(kvm_heap_commit(&kvm, window.base, MM_MIB(4)));
    assert_int_equal(space.stats.leaves[0], 1024);
    for (uint64_t at = MM_MIB(4); at > 0; at -= KVM_HEAP_STEP_BYTES) {
        assert_ok(
            kvm_heap_decommit(&kvm, window.base + at - KVM_HEAP_STEP_BYTES, KVM_HEAP_STEP_BYTES));
        assert_guard(window.base + at - PAGE_SIZE);
    }
    assert_snapshot_equal(&space, &before);
}

static void kvm_heap_bad_ranges_are_refused(void **state)
{
    struct walker_snapshot before;
    struct kvm_window window;

    (void)state;
    kvm_set_up(4, MM_MIB(16));
    window = kvm_heap_window(&kvm);
    assert_ok(kvm_heap_commit(&kvm, window.base + MM_MIB(2), MM_MIB(2)));
    assert_ok(kvm_heap_commit(&kvm, window.base + MM_MIB(6), MM_MIB(6)));
    before = walker_snapshot(&space);
    assert_status(kvm_heap_commit(&kvm, window.base, 0), MM_INVALID_ARGUMENT);
    assert_status(kvm_heap_commit(&kvm, window.base, PAGE_SIZE), MM_NOT_ALIGNED);
    assert_status(kvm_heap_commit(&kvm, window.base + PAGE_SIZE, MM_KIB(64)), MM_NOT_ALIGNED);
    assert_status(kvm_heap_commit(&kvm, window.base - MM_KIB(64), MM_KIB(64)), MM_INVALID_ADDRESS);
    assert_status(kvm_heap_commit(&kvm, window.end, MM_KIB(64)), MM_INVALID_ADDRESS);
    assert_status(kvm_heap_commit(&kvm, window.end - MM_KIB(64), MM_KIB(128)), MM_INVALID_ADDRESS);
    assert_status(kvm_heap_commit(&kvm, window.base, 0 - MM_KIB(64)), MM_INVALID_ADDRESS);
    assert_status(kvm_heap_commit(&kvm, 0, MM_KIB(64)), MM_INVALID_ADDRESS);
    assert_status(kvm_heap_commit(&kvm, window.base + MM_MIB(2), MM_KIB(64)), MM_ALREADY_MAPPED);
    assert_status(kvm_heap_commit(&kvm, window.base, MM_MIB(4)), MM_ALREADY_MAPPED);
    assert_status(kvm_heap_commit(&kvm, window.base, MM_MIB(32)), MM_ALREADY_MAPPED);
    /* That is told before a frame is taken: there need not be any. */
    pmm_fault_inject(&machine.pmm, 1, 1);
    assert_status(kvm_heap_commit(&kvm, window.base, MM_MIB(4)), MM_ALREADY_MAPPED);
    pmm_fault_inject(&machine.pmm, 0, 0);
    assert_status(kvm_heap_decommit(&kvm, window.base, MM_MIB(2)), MM_NOT_MAPPED);
    assert_status(kvm_heap_decommit(&kvm, window.base + MM_MIB(2), MM_MIB(4)), MM_NOT_MAPPED);
    assert_status(kvm_heap_decommit(&kvm, window.base + MM_MIB(2), MM_KIB(64)), MM_LARGE_PAGE);
    assert_status(kvm_heap_decommit(&kvm, window.base + MM_MIB(3), MM_MIB(1)), MM_LARGE_PAGE);
    assert_status(kvm_heap_decommit(&kvm, window.base + MM_MIB(7), MM_MIB(4)), MM_LARGE_PAGE);
    assert_snapshot_equal(&space, &before);
}

static void kvm_heap_commit_without_memory_leaves_nothing_behind(void **state)
{
    static const uint64_t sizes[] = { MM_KIB(64), MM_MIB(2), MM_MIB(4) + MM_KIB(64) };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        uint64_t needed = sizes[i] / PAGE_SIZE;

        for (uint64_t left = 0; left < needed + 3; left += left + 20 < needed ? 13 : 1) {
            struct walker_snapshot before;

            kvm_set_up(4, MM_MIB(8));
            pmm_drain_to(&machine.pmm, left, NULL, 0);
            before = walker_snapshot(&space);
            mm_status_t status =
                kvm_heap_commit(&kvm, kvm_heap_window(&kvm).base + MM_MIB(2), sizes[i]);
            if (status == MM_OK)
                assert_ok(
                    kvm_heap_decommit(&kvm, kvm_heap_window(&kvm).base + MM_MIB(2), sizes[i]));
            else
                assert_int_equal(status, MM_OUT_OF_MEMORY);
            assert_snapshot_equal(&space, &before);
            assert_pmm_sound(&machine.pmm);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_heap_lies_between_guard_pages),
        TEST(kvm_heap_on_fragmented_memory_uses_single_frames),
        TEST(kvm_heap_without_memory_leaves_nothing_behind),
        TEST(kvm_heap_bad_sizes_are_refused),
        TEST(kvm_heap_steps_come_and_go),
        TEST(kvm_heap_on_scattered_frames_is_decommitted_in_parts),
        TEST(kvm_heap_bad_ranges_are_refused),
        TEST(kvm_heap_commit_without_memory_leaves_nothing_behind),
    };

    return RUN_TESTS(tests);
}
