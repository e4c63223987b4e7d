/* SPDX-License-Identifier: MIT */
/* Kernel stacks: guard pages, zeroes, slots, lack of memory, wrong frees. */
#include "kvm_fixture.h"

#include <string.h>

/* ---- Stacks ---- */

static void kvm_stack_lies_between_guard_pages(void **state)
{
    static const uint64_t sizes[] = { 1,
                                      100,
                                      PAGE_SIZE,
                                      PAGE_SIZE + 1,
                                      MM_KIB(16),
                                      MM_KIB(64),
                                      KVM_STACK_MAX_BYTES - 1,
                                      KVM_STACK_MAX_BYTES };
    struct walker_snapshot before;

    (void)state;
    kvm_set_up(4, MM_MIB(16));
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        uint64_t bytes = mm_round_up(sizes[i], PAGE_SIZE);
        vaddr_t top;

        before = walker_snapshot(&space);
        assert_ok(kvm_alloc_stack(&kvm, sizes[i], &top));
        assert_int_equal(top % PAGE_SIZE, 0);
        assert_true(top - bytes >= kvm.stacks.base + PAGE_SIZE && top < kvm.stacks.end);
        for (uint64_t at = PAGE_SIZE; at <= bytes; at += PAGE_SIZE)
            assert_backed(top - at);
        assert_guard(top);
        assert_guard(top - bytes - PAGE_SIZE);
        kvm_free_stack(&kvm, top);
        assert_guard(top - PAGE_SIZE); /* gone from the TLB too */
        assert_guard(top - bytes);
        assert_snapshot_equal(&space, &before);
    }
}

static void kvm_stacks_never_touch_each_other(void **state)
{
    vaddr_t tops[64];

    (void)state;
    kvm_set_up(5, MM_MIB(32));
    for (size_t i = 0; i < COUNT_OF(tops); i++) {
        assert_ok(kvm_alloc_stack(&kvm, KVM_STACK_MAX_BYTES, &tops[i]));
        for (size_t j = 0; j < i; j++) {
            uint64_t distance = tops[i] > tops[j] ? tops[i] - tops[j] : tops[j] - tops[i];

            assert_true(distance >= KVM_STACK_MAX_BYTES + PAGE_SIZE);
        }
    }
    for (size_t i = 0; i < COUNT_OF(tops); i++) {
        assert_guard(tops[i]);
        assert_guard(tops[i] - KVM_STACK_MAX_BYTES - PAGE_SIZE);
        assert_backed(tops[i] - PAGE_SIZE);
    }
}

static void kvm_stack_memory_is_zero_when_used_again(void **state)
{
    (void)state;
    kvm_set_up(4, MM_MIB(4));
    for (unsigned i = 0; i < 50; i++) {
        struct hosted_translation seen;
        vaddr_t top;

        assert_ok(kvm_alloc_stack(&kvm, MM_KIB(64), &top));
        for (uint64_t at = PAGE_SIZE; at <= MM_KIB(64); at += PAGE_SIZE) {
            assert_backed(top - at);
            assert_int_equal(hosted_cpu_access(top - at, HOSTED_WRITE, &seen), HOSTED_OK);
            memset(phys_to_virt(seen.address), 0xdd, PAGE_SIZE);
        }
        kvm_free_stack(&kvm, top);
    }
}

static void kvm_stack_bad_sizes_are_refused(void **state)
{
    struct walker_snapshot before;
    vaddr_t top = 0x1234;

    (void)state;
    kvm_set_up(4, MM_MIB(4));
    before = walker_snapshot(&space);
    assert_status(kvm_alloc_stack(&kvm, 0, &top), MM_INVALID_ARGUMENT);
    assert_status(kvm_alloc_stack(&kvm, KVM_STACK_MAX_BYTES + 1, &top), MM_INVALID_ARGUMENT);
    assert_status(kvm_alloc_stack(&kvm, UINT64_MAX, &top), MM_INVALID_ARGUMENT);
    assert_status(kvm_alloc_stack(&kvm, UINT64_MAX - 4094, &top), MM_INVALID_ARGUMENT);
    assert_int_equal(top, 0x1234);
    assert_snapshot_equal(&space, &before);
}

static void kvm_all_stack_slots_can_be_used_and_no_more(void **state)
{
    static vaddr_t tops[KVM_STACK_SLOTS];
    struct walker_snapshot empty;
    vaddr_t more = 0x1234;

    (void)state;
    kvm_set_up(4, MM_MIB(48));
    empty = walker_snapshot(&space);
    for (size_t i = 0; i < KVM_STACK_SLOTS; i++)
        assert_ok(kvm_alloc_stack(&kvm, PAGE_SIZE, &tops[i]));
    assert_status(kvm_alloc_stack(&kvm, PAGE_SIZE, &more), MM_OUT_OF_MEMORY);
    assert_int_equal(more, 0x1234);
    kvm_free_stack(&kvm, tops[500]);
    assert_ok(kvm_alloc_stack(&kvm, PAGE_SIZE, &tops[500]));
    for (size_t i = 0; i < KVM_STACK_SLOTS; i++)
        kvm_free_stack(&kvm, tops[i]);
    assert_snapshot_equal(&space, &empty);
    assert_pmm_sound(&machine.pmm);
}

static void kvm_stack_without_memory_leaves_nothing_behind(void **state)
{
    (void)state;
    for (uint64_t left = 0; left < 64 + 3; left++) {
        struct walker_snapshot before;
        struct kvm kvm_before;
        vaddr_t top = 0x1234;
        mm_status_t status;

        kvm_set_up(4, MM_MIB(4));
        pmm_drain_to(&machine.pmm, left, NULL, 0);
        before = walker_snapshot(&space);
        kvm_before = kvm;
        status = kvm_alloc_stack(&kvm, KVM_STACK_MAX_BYTES, &top);
        if (left >= KVM_STACK_MAX_BYTES / PAGE_SIZE + 3) {
            assert_status(status, MM_OK);
            continue;
        }
        assert_status(status, MM_OUT_OF_MEMORY);
        assert_int_equal(top, 0x1234);
        assert_snapshot_equal(&space, &before);
        assert_memory_equal(&kvm, &kvm_before, sizeof kvm);
        assert_pmm_sound(&machine.pmm);
    }
}

static void expect_bad_stack(vaddr_t top)
{
    struct walker_snapshot before = walker_snapshot(&space);
    char words[32];

    mm_format(words, sizeof words, "stack|0x%lx", top);
    EXPECT_BUG(words, kvm_free_stack(&kvm, top));
    assert_snapshot_equal(&space, &before);
}

static void kvm_free_of_what_is_no_stack_is_reported(void **state)
{
    vaddr_t top, other, heap;

    (void)state;
    kvm_set_up(4, MM_MIB(16));
    assert_ok(kvm_map_heap(&kvm, MM_MIB(1), &heap));
    assert_ok(kvm_alloc_stack(&kvm, MM_KIB(16), &top));
    assert_ok(kvm_alloc_stack(&kvm, MM_KIB(16), &other));
    expect_bad_stack(0);
    expect_bad_stack(1);
    expect_bad_stack(top - 8);
    expect_bad_stack(top + 8);
    expect_bad_stack(top - PAGE_SIZE);
    expect_bad_stack(top - MM_KIB(16));
    expect_bad_stack(heap);
    expect_bad_stack(kvm.stacks.base);
    expect_bad_stack(kvm.stacks.end);
    expect_bad_stack(kvm.stacks.end - PAGE_SIZE);
    expect_bad_stack(top + 10 * KVM_STACK_SLOT_BYTES); /* a slot without a stack */
    expect_bad_stack(0x8000000000000000);
    expect_bad_stack(UINT64_MAX);
    kvm_free_stack(&kvm, top);
    expect_bad_stack(top); /* twice */
    kvm_free_stack(&kvm, other);
    expect_bad_stack(top);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_stack_lies_between_guard_pages),
        TEST(kvm_stacks_never_touch_each_other),
        TEST(kvm_stack_memory_is_zero_when_used_again),
        TEST(kvm_stack_bad_sizes_are_refused),
        TEST(kvm_all_stack_slots_can_be_used_and_no_more),
        TEST(kvm_stack_without_memory_leaves_nothing_behind),
        TEST(kvm_free_of_what_is_no_stack_is_reported),
    };

    return RUN_TESTS(tests);
}
