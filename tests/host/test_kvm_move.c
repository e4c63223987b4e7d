/* SPDX-License-Identifier: MIT */
/* What the heap has committed moves to other addresses with its frames.
 *
 *   window.base                                        window.base + DISTANCE
 *   | 2 MiB leaf | 2 MiB leaf | 4 KiB leaves |   -->   | 2 MiB leaf | 2 MiB leaf | 4 KiB leaves | */
#include "kvm_fixture.h"

#define DISTANCE   (MM_GIB(1) + MM_MIB(6)) /* so that it takes tables of two levels */
#define LARGE_PART MM_MIB(4)
#define SMALL_PART (3 * KVM_HEAP_STEP_BYTES)
#define BYTES      (LARGE_PART + SMALL_PART)
#define TRIES_MAX  40u

static vaddr_t from, to;
static paddr_t frames[BYTES / PAGE_SIZE];

/* Marks each page with its number, by which every translation comes into the TLB. */
static void commit(unsigned levels, bool fragmented)
{
    kvm_set_up(levels, MM_MIB(24));
    if (fragmented)
        kvm_fragment(MM_MIB(25));
    from = kvm_heap_window(&kvm).base;
    to = from + DISTANCE;
    assert_ok(kvm_heap_commit(&kvm, from, LARGE_PART));
    assert_ok(kvm_heap_commit(&kvm, from + LARGE_PART, SMALL_PART));
    assert_int_equal(space.stats.leaves[1], fragmented ? 0 : LARGE_PART / MM_MIB(2));
    for (uint64_t i = 0; i < BYTES / PAGE_SIZE; i++) {
        uint64_t *page = assert_memory(from + i * PAGE_SIZE);
        *page = i + 1;
        frames[i] = virt_to_phys(page);
    }
}

static void assert_at(vaddr_t base)
{
    for (uint64_t i = 0; i < BYTES / PAGE_SIZE; i++) {
        uint64_t *page = assert_memory(base + i * PAGE_SIZE);
        assert_int_equal(*page, i + 1);
        assert_int_equal(virt_to_phys(page), frames[i]);
    }
    assert_guard(base - PAGE_SIZE);
    assert_guard(base + BYTES);
}

static void assert_nothing_at(vaddr_t base)
{
    for (uint64_t at = 0; at < BYTES; at += PAGE_SIZE)
        assert_guard(base + at);
}

static void assert_moved(uint64_t large_leaves)
{
    assert_at(to);
    assert_nothing_at(from);
    assert_int_equal(space.stats.leaves[1], large_leaves);
    assert_int_equal(kvm_stats(&kvm).heap_bytes, BYTES);
    assert_space_sound(&space);
    assert_pmm_sound(&machine.pmm);
}

static void kvm_heap_moves_with_its_frames(void **state)
{
    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        for (unsigned fragmented = 0; fragmented < 2; fragmented++) {
            struct walker_snapshot before;

            commit(levels, fragmented);
            before = walker_snapshot(&space);
            assert_ok(kvm_heap_move(&kvm, from, to, BYTES));
            assert_moved(before.stats.leaves[1]);
            /* And back: everything is as it was, but for which frames are tables. */
            assert_ok(kvm_heap_move(&kvm, to, from, BYTES));
            assert_at(from);
            assert_nothing_at(to);
            assert_memory_equal(&space.stats, &before.stats, sizeof space.stats);
            assert_int_equal(pmm_stats(&machine.pmm).free_frames, before.pmm.free_frames);
            assert_ok(kvm_heap_decommit(&kvm, from, BYTES));
            assert_int_equal(kvm_stats(&kvm).heap_bytes, 0);
        }
    }
}

/* A part of what is committed, beside a part that stays. */
static void kvm_heap_moves_in_steps(void **state)
{
    (void)state;
    commit(4, true);
    assert_ok(kvm_heap_move(&kvm, from + KVM_HEAP_STEP_BYTES, to + KVM_HEAP_STEP_BYTES,
                            BYTES - 2 * KVM_HEAP_STEP_BYTES));
    assert_guard(from + KVM_HEAP_STEP_BYTES);
    assert_guard(to + KVM_HEAP_STEP_BYTES - PAGE_SIZE);
    assert_guard(to + BYTES - KVM_HEAP_STEP_BYTES);
    assert_ok(kvm_heap_move(&kvm, from, to, KVM_HEAP_STEP_BYTES));
    assert_ok(kvm_heap_move(&kvm, from + BYTES - KVM_HEAP_STEP_BYTES,
                            to + BYTES - KVM_HEAP_STEP_BYTES, KVM_HEAP_STEP_BYTES));
    assert_moved(0);
}

/* Returns: the failures until it succeeds, each of which has changed nothing. */
static unsigned fail_at_each_frame(bool fragmented, unsigned every)
{
    mm_status_t status = MM_OUT_OF_MEMORY;
    unsigned failures = 0;

    for (unsigned n = 1; status != MM_OK; n++) {
        struct walker_snapshot before;

        assert_true(n < TRIES_MAX);
        commit(4, fragmented);
        before = walker_snapshot(&space);
        pmm_fault_inject(&machine.pmm, n, every);
        status = kvm_heap_move(&kvm, from, to, BYTES);
        pmm_fault_inject(&machine.pmm, 0, 0);
        if (status != MM_OK) {
            assert_status(status, MM_OUT_OF_MEMORY);
            assert_at(from);
            assert_nothing_at(to);
            assert_snapshot_equal(&space, &before);
            assert_ok(kvm_heap_move(&kvm, from, to, BYTES));
            failures++;
        }
        assert_moved(before.stats.leaves[1]);
    }
    return failures;
}

/* It takes a frame for notes and a table of level 2, and one of level 1 for each piece of 4 KiB leaves. */
static void kvm_heap_move_without_memory_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(fail_at_each_frame(false, 1), 3);
    assert_int_equal(fail_at_each_frame(true, 1), 5);
    /* Without the frame for notes alone it goes on in shorter rounds. */
    assert_int_equal(fail_at_each_frame(true, 0), 0);
}

static void kvm_heap_move_of_bad_ranges_is_refused(void **state)
{
    const uint64_t step = KVM_HEAP_STEP_BYTES;
    struct walker_snapshot before;
    vaddr_t end;

    (void)state;
    commit(4, false);
    end = kvm_heap_window(&kvm).end;
    assert_ok(kvm_heap_commit(&kvm, to + MM_MIB(2), step));
    before = walker_snapshot(&space);
    assert_status(kvm_heap_move(&kvm, from, to, 0), MM_INVALID_ARGUMENT);
    assert_status(kvm_heap_move(&kvm, from + PAGE_SIZE, to + PAGE_SIZE, step), MM_NOT_ALIGNED);
    assert_status(kvm_heap_move(&kvm, from, to, BYTES - PAGE_SIZE), MM_NOT_ALIGNED);
    assert_status(kvm_heap_move(&kvm, from, to + step, LARGE_PART), MM_NOT_ALIGNED);
    assert_status(kvm_heap_move(&kvm, from - MM_MIB(2), to, LARGE_PART), MM_INVALID_ADDRESS);
    assert_status(kvm_heap_move(&kvm, from, end, LARGE_PART), MM_INVALID_ADDRESS);
    assert_status(kvm_heap_move(&kvm, from, end - MM_MIB(2), LARGE_PART), MM_INVALID_ADDRESS);
    assert_status(kvm_heap_move(&kvm, to + MM_MIB(4), to + MM_MIB(8), step), MM_NOT_MAPPED);
    assert_status(kvm_heap_move(&kvm, from, to + MM_MIB(8), BYTES + step), MM_NOT_MAPPED);
    assert_status(kvm_heap_move(&kvm, from, to + MM_MIB(8), MM_MIB(3)), MM_LARGE_PAGE);
    assert_status(kvm_heap_move(&kvm, from + step, to + step, MM_MIB(2)), MM_LARGE_PAGE);
    assert_status(kvm_heap_move(&kvm, from, to, LARGE_PART), MM_ALREADY_MAPPED);
    assert_status(kvm_heap_move(&kvm, from, from, BYTES), MM_ALREADY_MAPPED);
    assert_status(kvm_heap_move(&kvm, from, from + MM_MIB(2), BYTES), MM_ALREADY_MAPPED);
    assert_status(kvm_heap_move(&kvm, from + MM_MIB(2), from, MM_MIB(2)), MM_ALREADY_MAPPED);
    assert_at(from);
    assert_snapshot_equal(&space, &before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_heap_moves_with_its_frames),
        TEST(kvm_heap_moves_in_steps),
        TEST(kvm_heap_move_without_memory_changes_nothing),
        TEST(kvm_heap_move_of_bad_ranges_is_refused),
    };

    return RUN_TESTS(tests);
}
