/* SPDX-License-Identifier: MIT */
/* Kernel virtual memory: where windows may lie, what an address is, what must not be mapped. Stacks, the
 * heap's window, blocks, devices and the kernel's own mappings have a test_kvm_*.c each. */
#include "kvm_fixture.h"

#include <string.h>

/* ---- Windows ---- */

static bool meet(struct kvm_window a, struct kvm_window b)
{
    return a.base < b.end && b.base < a.end;
}

static void check_window(struct kvm_window window, const struct kvm_window *taken, size_t count)
{
    uint64_t slot_bytes = (uint64_t)1 << (12 + 9 * (space.levels - 1));

    assert_true(window.base < window.end);
    assert_int_equal(window.base % slot_bytes, 0);
    assert_int_equal(window.end % slot_bytes, 0);
    assert_true(window.base >> 63 == 1);
    assert_true(paging_is_canonical(window.base, space.levels));
    assert_true(paging_is_canonical(window.end - 1, space.levels));
    for (size_t i = 0; i < count; i++)
        if (meet(window, taken[i]))
            fail_msg("window 0x%lx-0x%lx meets 0x%lx-0x%lx", window.base, window.end, taken[i].base,
                     taken[i].end);
}

static void check_windows(const struct kvm_window *taken, size_t count)
{
    assert_ok(kvm_init(&kvm, &space, taken, count));
    const struct kvm_window windows[] = { kvm.heap, kvm.stacks, kvm.devices, kvm.blocks };
    for (size_t i = 0; i < COUNT_OF(windows); i++) {
        check_window(windows[i], taken, count);
        for (size_t j = 0; j < i; j++)
            assert_false(meet(windows[i], windows[j]));
    }
    assert_true(kvm.heap.end - kvm.heap.base == kvm.blocks.end - kvm.blocks.base);
    assert_ptr_equal(kvm.space, &space);
}

static void kvm_windows_never_meet_hhdm_or_kernel(void **state)
{
    static const uint64_t ram[] = { MM_MIB(64), MM_GIB(4), MM_GIB(1024), MM_GIB(16384) };

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        vaddr_t lowest = levels == 4 ? HHDM_4 : HHDM_5;
        uint64_t half = 0 - lowest;

        kvm_space_set_up(levels, MM_MIB(4));
        for (unsigned i = 0; i < 4000; i++) {
            uint64_t bytes = ram[random_below(COUNT_OF(ram))];
            vaddr_t hhdm = lowest, image = KERNEL_VIRT;

            if (i != 0)
                hhdm += mm_round_down(random_below(half - bytes - MM_GIB(4)), MM_GIB(1));
            if (i % 2 == 1)
                hhdm = mm_round_down(hhdm, MM_GIB(512));
            if (i % 3 == 1) /* anywhere in the last 2 GiB, up to the last byte */
                image =
                    0 - MM_MIB(9) - mm_round_down(random_below(MM_GIB(2) - MM_MIB(9)), PAGE_SIZE);
            if (i % 3 == 2) /* anywhere in the half */
                image = lowest + mm_round_down(random_below(half - MM_MIB(9)), PAGE_SIZE);
            check_windows((const struct kvm_window[]){ { hhdm, hhdm + bytes },
                                                       { image, image + MM_MIB(9) } },
                          2);
        }
    }
}

/* Heap and blocks can hold all of RAM each where the half has room, else as much as it has. */
static void kvm_windows_hold_all_of_ram(void **state)
{
    static const uint64_t ram[] = { MM_MIB(64), MM_GIB(511), MM_GIB(512) - MM_MIB(3),
                                    MM_GIB(2048) };
    const struct kvm_window all_but_eight[] = { { HHDM_4, HHDM_4 + MM_GIB(512) * 100 },
                                                { HHDM_4 + MM_GIB(512) * 108, ~(vaddr_t)0 } };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(ram); i++) {
        if (support_is_sanitized() && ram[i] > MM_GIB(1))
            continue;
        for (unsigned levels = 4; levels <= 5; levels++) {
            const vaddr_t hhdm = levels == 4 ? HHDM_4 : HHDM_5;
            const struct kvm_window taken[] = { { hhdm, hhdm + ram[i] + MM_MIB(1) },
                                                { KERNEL_VIRT, KERNEL_VIRT + MM_MIB(9) } };

            kvm_space_set_up(levels, ram[i]);
            check_windows(taken, COUNT_OF(taken));
            struct kvm_window heap = kvm_heap_window(&kvm);
            assert_true(heap.base == kvm.heap.base + MM_MIB(2));
            assert_true(heap.end == kvm.heap.end - MM_MIB(2));
            assert_true(heap.end - heap.base >= ram[i]);
        }
        kvm_space_set_up(4, ram[i]);
        check_windows(all_but_eight, COUNT_OF(all_but_eight));
        assert_true(kvm.heap.end - kvm.heap.base >= MM_GIB(1536) ||
                    kvm.heap.end - kvm.heap.base >= ram[i]);
    }
}

static void kvm_windows_avoid_many_ranges(void **state)
{
    struct kvm_window taken[127];

    (void)state;
    for (unsigned large = 0; large < (support_is_sanitized() ? 1 : 2); large++) {
        kvm_space_set_up(4,
                         large != 0 ? MM_GIB(2048) : MM_MIB(4)); /* windows of five slots, or one */
        for (unsigned round = 0; round < 200; round++) {
            const size_t count = large != 0 ? 60 : COUNT_OF(taken);

            for (size_t i = 0; i < count; i++) {
                taken[i].base = HHDM_4 + mm_round_down(random_below(MM_GIB(512) * 255), PAGE_SIZE);
                taken[i].end = taken[i].base + PAGE_SIZE * (1 + random_below(1 << 20));
            }
            check_windows(taken, count);
        }
    }
}

static void kvm_without_free_slots_is_out_of_memory(void **state)
{
    const struct kvm_window all = { HHDM_4, ~(vaddr_t)0 };
    const struct kvm_window all_but_three[] = { { HHDM_4, HHDM_4 + MM_GIB(512) * 100 },
                                                { HHDM_4 + MM_GIB(512) * 103, ~(vaddr_t)0 } };
    const struct kvm_window all_but_four[] = { { HHDM_4, HHDM_4 + MM_GIB(512) * 100 },
                                               { HHDM_4 + MM_GIB(512) * 104, ~(vaddr_t)0 } };
    struct kvm before;

    (void)state;
    kvm_space_set_up(4, MM_MIB(4));
    memset(&kvm, 0x77, sizeof kvm);
    before = kvm;
    assert_status(kvm_init(&kvm, &space, &all, 1), MM_OUT_OF_MEMORY);
    assert_status(kvm_init(&kvm, &space, all_but_three, 2), MM_OUT_OF_MEMORY);
    assert_memory_equal(&kvm, &before, sizeof kvm);
    check_windows(all_but_four, 2);
}

/* ---- What an address is ---- */

static void assert_place(vaddr_t address, enum kvm_place expected)
{
    if (kvm_place_of(&kvm, address) != expected)
        fail_msg("0x%lx is place %d, expected %d", address, (int)kvm_place_of(&kvm, address),
                 (int)expected);
}

static void kvm_place_tells_what_an_address_is(void **state)
{
    vaddr_t heap, top, second;

    (void)state;
    kvm_set_up(4, MM_MIB(16));
    assert_ok(kvm_map_heap(&kvm, MM_MIB(1), &heap));
    assert_ok(kvm_alloc_stack(&kvm, MM_KIB(16), &top));
    assert_ok(kvm_alloc_stack(&kvm, PAGE_SIZE, &second));
    assert_place(heap, KVM_HEAP);
    assert_place(heap + MM_MIB(1) - 1, KVM_HEAP);
    assert_place(heap - 1, KVM_HEAP_GUARD);
    assert_place(heap + MM_MIB(1), KVM_HEAP_GUARD);
    assert_place(top - 1, KVM_STACK);
    assert_place(top - MM_KIB(16), KVM_STACK);
    assert_place(top - MM_KIB(16) - 1, KVM_STACK_GUARD);
    assert_place(top, KVM_STACK_GUARD);
    assert_place(second - PAGE_SIZE, KVM_STACK);
    assert_place(second - PAGE_SIZE - 1, KVM_STACK_GUARD);
    assert_place(0, KVM_NOWHERE);
    assert_place(KERNEL_VIRT, KVM_NOWHERE);
    assert_place(HHDM_4, KVM_NOWHERE);
    assert_place(kvm.heap.base - 1 < kvm.stacks.end && kvm.heap.base > kvm.stacks.base
                     ? kvm.heap.end
                     : kvm.heap.base - 1,
                 KVM_NOWHERE);
    assert_place(UINT64_MAX, KVM_NOWHERE);
}

/* ---- What an address is ---- */

static void assert_peek(vaddr_t address, enum kvm_place place, vaddr_t base, vaddr_t end)
{
    struct kvm_peek peek = kvm_peek(&kvm, address);

    assert_int_equal(peek.place, place);
    assert_int_equal(peek.base, base);
    assert_int_equal(peek.end, end);
}

static void kvm_peek_knows_blocks_and_devices(void **state)
{
    vaddr_t block, device, heap;

    (void)state;
    kvm_set_up(4, MM_MIB(8));
    heap = kvm_heap_window(&kvm).base;
    assert_ok(kvm_alloc(&kvm, MM_KIB(8) + 1, 0, &block));
    assert_ok(kvm_map_device(&kvm, MM_GIB(3) + 8, 16, 0, &device));
    assert_ok(kvm_heap_commit(&kvm, heap, MM_KIB(64)));
    assert_peek(block, KVM_BLOCK, block, block + MM_KIB(12));
    assert_peek(block + MM_KIB(12) - 1, KVM_BLOCK, block, block + MM_KIB(12));
    assert_peek(block + MM_KIB(12), KVM_BLOCK_GUARD, block, block + MM_KIB(12));
    assert_peek(block - 1, KVM_BLOCK_GUARD, block, block + MM_KIB(12));
    assert_peek(block + MM_KIB(16), KVM_UNUSED, 0, 0);
    assert_peek(device, KVM_DEVICE, device - 8, device - 8 + PAGE_SIZE);
    assert_peek(device - 9, KVM_DEVICE_GUARD, device - 8, device - 8 + PAGE_SIZE);
    assert_peek(heap + MM_KIB(64) - 1, KVM_HEAP, 0, 0);
    assert_peek(heap + MM_KIB(64), KVM_HEAP_GUARD, 0, 0);
    assert_peek(0, KVM_NOWHERE, 0, 0);
    uint64_t saved[2] = { mm_port_lock(&kvm.lock), mm_port_lock(&space.lock) };
    assert_peek(block, KVM_BLOCK, block, block + MM_KIB(12));
    assert_peek(heap, KVM_HEAP, 0, 0);
    mm_port_unlock(&space.lock, saved[1]);
    mm_port_unlock(&kvm.lock, saved[0]);
    kvm_free(&kvm, block);
    assert_peek(block, KVM_UNUSED, 0, 0);
}

/* ---- What must be unmapped ---- */

static struct kvm_window runs[64];
static size_t run_count;

static void note_run(void *context, vaddr_t base, uint64_t bytes)
{
    assert_ptr_equal(context, &kvm);
    assert_true(run_count < COUNT_OF(runs) && bytes > 0);
    runs[run_count++] = (struct kvm_window){ base, base + bytes };
}

static bool is_in_a_run(vaddr_t page)
{
    size_t hits = 0;

    for (size_t i = 0; i < run_count; i++)
        hits += page >= runs[i].base && page < runs[i].end;
    assert_true(hits <= 1);
    return hits == 1;
}

/* Each page near something that stands in a window is mapped, or in a run; never both. */
static void kvm_guards_are_all_that_is_not_mapped(void **state)
{
    vaddr_t block[3], top[3], device[2], heap;

    (void)state;
    kvm_set_up(4, MM_MIB(16));
    run_count = 0;
    kvm_for_each_guard(&kvm, note_run, &kvm);
    assert_int_equal(run_count, 5); /* two of the heap, three empty windows */
    for (size_t i = 0; i < 3; i++) {
        assert_ok(kvm_alloc(&kvm, PAGE_SIZE * (i + 1), 0, &block[i]));
        assert_ok(kvm_alloc_stack(&kvm, PAGE_SIZE * (i * 30 + 1), &top[i]));
    }
    assert_ok(kvm_map_device(&kvm, MM_GIB(3) + MM_KIB(4), MM_MIB(2), 0, &device[0]));
    assert_ok(kvm_map_device(&kvm, MM_GIB(3) + 8, 8, 0, &device[1]));
    kvm_free(&kvm, block[1]);
    kvm_free_stack(&kvm, top[1]);
    heap = kvm_heap_window(&kvm).base;
    run_count = 0;
    kvm_for_each_guard(&kvm, note_run, &kvm);
    assert_int_equal(run_count, 2 + 3 + 3 + 3);
    const struct kvm_window looked_at[] = {
        { kvm.blocks.base, block[2] + 20 * PAGE_SIZE },
        { kvm.stacks.base, top[2] + 2 * KVM_STACK_SLOT_BYTES },
        { kvm.devices.base, device[0] + MM_MIB(3) },
        { device[1] - 8 - 3 * PAGE_SIZE, device[1] - 8 + 4 * PAGE_SIZE },
    };
    for (size_t i = 0; i < COUNT_OF(looked_at); i++)
        for (vaddr_t page = looked_at[i].base; page < looked_at[i].end; page += PAGE_SIZE) {
            bool mapped = hosted_cpu_access(page, HOSTED_READ, NULL) == HOSTED_OK;
            if (mapped == is_in_a_run(page))
                fail_msg("0x%lx is %smapped", page, mapped ? "" : "not ");
        }
    assert_true(is_in_a_run(heap - 1) && is_in_a_run(kvm_heap_window(&kvm).end));
    assert_false(is_in_a_run(heap));
    assert_true(is_in_a_run(kvm.blocks.end - 1) && is_in_a_run(kvm.stacks.end - 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_windows_never_meet_hhdm_or_kernel), TEST(kvm_windows_hold_all_of_ram),
        TEST(kvm_windows_avoid_many_ranges),         TEST(kvm_without_free_slots_is_out_of_memory),
        TEST(kvm_place_tells_what_an_address_is),    TEST(kvm_peek_knows_blocks_and_devices),
        TEST(kvm_guards_are_all_that_is_not_mapped),
    };

    return RUN_TESTS(tests);
}
