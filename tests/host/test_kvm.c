/* SPDX-License-Identifier: MIT */
/* Kernel virtual memory: where windows may lie, guard pages, stacks, what is mapped for the kernel.
 * Nothing here touches a kernel address: the hosted MMU tells what the CPU would see there, and the
 * fake RAM what stands in the frames. */
#include "walker.h"

#include <string.h>

static struct machine machine;
static struct address_space space;
static struct kvm kvm;
static struct mm_cpu_features features;

#define KERNEL_VIRT ((vaddr_t)0xffffffff80000000)
#define HHDM_4      ((vaddr_t)0xffff800000000000)
#define HHDM_5      ((vaddr_t)0xff00000000000000)

static void space_set_up(unsigned levels, uint64_t ram_bytes)
{
    features = features_of(levels, 46, true);
    hosted_cpu_reset(levels);
    hosted_cpu()->leaf_8000_0008.eax = 46;
    machine_set_up_simple(&machine, ram_bytes);
    assert_ok(paging_init(&space, &machine.pmm, &features));
}

static void kvm_set_up(unsigned levels, uint64_t ram_bytes)
{
    const struct kvm_window taken[] = {
        { levels == 4 ? HHDM_4 : HHDM_5, (levels == 4 ? HHDM_4 : HHDM_5) + MM_GIB(64) },
        { KERNEL_VIRT, KERNEL_VIRT + MM_MIB(4) },
    };

    space_set_up(levels, ram_bytes);
    assert_ok(kvm_init(&kvm, &space, taken, COUNT_OF(taken)));
    paging_activate(&space, &features);
}

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

        space_set_up(levels, MM_MIB(4));
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

            space_set_up(levels, ram[i]);
            check_windows(taken, COUNT_OF(taken));
            struct kvm_window heap = kvm_heap_window(&kvm);
            assert_true(heap.base == kvm.heap.base + MM_MIB(2));
            assert_true(heap.end == kvm.heap.end - MM_MIB(2));
            assert_true(heap.end - heap.base >= ram[i]);
        }
        space_set_up(4, ram[i]);
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
        space_set_up(4, large != 0 ? MM_GIB(2048) : MM_MIB(4)); /* windows of five slots, or one */
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
    space_set_up(4, MM_MIB(4));
    memset(&kvm, 0x77, sizeof kvm);
    before = kvm;
    assert_status(kvm_init(&kvm, &space, &all, 1), MM_OUT_OF_MEMORY);
    assert_status(kvm_init(&kvm, &space, all_but_three, 2), MM_OUT_OF_MEMORY);
    assert_memory_equal(&kvm, &before, sizeof kvm);
    check_windows(all_but_four, 2);
}

/* ---- The heap's window ---- */

/* The MMU finds a writable, global, never executable leaf of zeroes at the page. */
static void assert_backed(vaddr_t page)
{
    struct hosted_translation seen;

    assert_int_equal(hosted_cpu_access(page, HOSTED_WRITE, &seen), HOSTED_OK);
    assert_int_equal(hosted_cpu_access(page, HOSTED_EXECUTE, NULL), HOSTED_FORBIDDEN);
    assert_int_equal(hosted_cpu_access(page, HOSTED_USER, NULL), HOSTED_FORBIDDEN);
    assert_true(seen.global);
    assert_int_equal(seen.memory_type, 6);
    assert_int_equal(pmm_frame_state(&machine.pmm, seen.address), PMM_FRAME_USED);
    assert_true(is_zero(phys_to_virt(mm_round_down(seen.address, PAGE_SIZE)), PAGE_SIZE));
}

static void assert_guard(vaddr_t page)
{
    assert_int_equal(hosted_cpu_access(page, HOSTED_READ, NULL), HOSTED_NOT_PRESENT);
    assert_int_equal(hosted_cpu_access(page + PAGE_SIZE - 1, HOSTED_READ, NULL),
                     HOSTED_NOT_PRESENT);
}

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

/* ---- The kernel's own mappings ---- */

#define KERNEL_PHYS   MM_MIB(8)
#define KERNEL_FRAMES 64u
#define RAM_FRAMES    (MM_MIB(32) / FRAME_SIZE)

static void boot_set_up(struct boot_info *boot)
{
    *boot = machine.rows.boot;
    boot->hhdm_offset = hhdm_offset();
    boot->kernel_phys = KERNEL_PHYS;
    boot->kernel_virt = KERNEL_VIRT;
    boot->text = (struct boot_section){ KERNEL_VIRT, KERNEL_VIRT + 16 * PAGE_SIZE };
    boot->rodata = (struct boot_section){ boot->text.end, boot->text.end + 8 * PAGE_SIZE };
    boot->data = (struct boot_section){ boot->rodata.end, KERNEL_VIRT + KERNEL_FRAMES * PAGE_SIZE };
    boot->guard[0] =
        (struct boot_section){ boot->data.begin + 4 * PAGE_SIZE, boot->data.begin + 5 * PAGE_SIZE };
    boot->guard[1] = (struct boot_section){ boot->data.begin + 9 * PAGE_SIZE,
                                            boot->data.begin + 10 * PAGE_SIZE };
    boot->guard[2] = (struct boot_section){ boot->data.begin + 5 * PAGE_SIZE,
                                            boot->data.begin + 5 * PAGE_SIZE }; /* none */
    boot->guard_count = 3;
    boot->framebuffer_base = 0xfd000000;
    boot->framebuffer_bytes = 0x3e8000;
}

/* RAM with the image in it, a hole at 16 MiB, reserved memory, a framebuffer. */
static void kernel_set_up(struct boot_info *boot)
{
    const struct boot_range list[] = {
        ROW(0x1000, 0x9f000, BOOT_USABLE),
        ROW(0xf0000, 0x100000, BOOT_RESERVED),
        ROW(MM_MIB(1), KERNEL_PHYS, BOOT_USABLE),
        ROW(KERNEL_PHYS, KERNEL_PHYS + KERNEL_FRAMES * FRAME_SIZE, BOOT_EXECUTABLE),
        ROW(KERNEL_PHYS + KERNEL_FRAMES * FRAME_SIZE, MM_MIB(16), BOOT_USABLE),
        ROW(MM_MIB(17), MM_MIB(18), BOOT_ACPI_RECLAIMABLE),
        ROW(MM_MIB(18), MM_MIB(20), BOOT_LOADER_RECLAIMABLE),
        ROW(MM_MIB(20), MM_MIB(32), BOOT_USABLE),
        ROW(0xfd000000, 0xfd3e8000, BOOT_FRAMEBUFFER),
    };

    features = features_of(4, 46, true);
    hosted_cpu_reset(4);
    hosted_cpu()->leaf_8000_0008.eax = 46;
    hosted_cpu()->pat = 0x0000010500070406u;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    assert_ok(paging_init(&space, &machine.pmm, &features));
    boot_set_up(boot);
    assert_ok(kvm_map_kernel(&space, &machine.map, boot));
    walker_use(&space);
}

struct alias_check {
    bool write[RAM_FRAMES], execute[RAM_FRAMES];
    uint64_t outside_frames; /* of RAM and framebuffer */
    const struct memmap *map;
};

static void note_leaf(void *context, const struct walker_leaf *leaf)
{
    struct alias_check *check = context;

    assert_true(leaf->global && !leaf->user);
    for (paddr_t frame = leaf->frame; frame < leaf->frame + leaf->bytes; frame += FRAME_SIZE) {
        const struct mm_range *range = memmap_find(check->map, frame);

        check->outside_frames +=
            range == NULL || (!memmap_type_is_ram(range->type) && range->type != BOOT_FRAMEBUFFER);
        if (frame / FRAME_SIZE >= RAM_FRAMES)
            continue;
        check->write[frame / FRAME_SIZE] |= leaf->write;
        check->execute[frame / FRAME_SIZE] |= leaf->execute;
    }
}

static void kvm_kernel_maps_no_frame_writable_and_executable(void **state)
{
    static struct alias_check check;
    struct boot_info boot;
    uint64_t executable = 0;

    (void)state;
    kernel_set_up(&boot);
    memset(&check, 0, sizeof check);
    check.map = &machine.map;
    walker_for_each_leaf(&space, note_leaf, &check);
    for (size_t i = 0; i < RAM_FRAMES; i++) {
        if (check.write[i] && check.execute[i])
            fail_msg("frame 0x%lx is writable and executable", i * FRAME_SIZE);
        executable += check.execute[i];
    }
    assert_int_equal(executable, 16);
    assert_int_equal(check.outside_frames, 0);
    assert_space_sound(&space);
}

static void assert_rights(vaddr_t address, paddr_t expected, bool write, bool execute)
{
    struct hosted_translation seen;

    if (hosted_cpu_walk(address, 0, &seen) != HOSTED_OK)
        fail_msg("0x%lx is not mapped", address);
    assert_int_equal(seen.address, expected);
    assert_int_equal(seen.write, write);
    assert_int_equal(seen.execute, execute);
    assert_true(seen.global);
    assert_false(seen.user);
    assert_int_equal(seen.memory_type, 6);
}

static void kvm_kernel_sections_have_their_rights(void **state)
{
    struct boot_info boot;

    (void)state;
    kernel_set_up(&boot);
    for (vaddr_t at = KERNEL_VIRT; at < boot.data.end; at += PAGE_SIZE) {
        paddr_t frame = KERNEL_PHYS + (at - KERNEL_VIRT);
        bool is_guard = (at >= boot.guard[0].begin && at < boot.guard[0].end) ||
                        (at >= boot.guard[1].begin && at < boot.guard[1].end);
        bool is_data = at >= boot.data.begin;

        if (is_guard)
            assert_int_equal(hosted_cpu_walk(at, 0, NULL), HOSTED_NOT_PRESENT);
        else
            assert_rights(at, frame, is_data, at < boot.text.end);
        assert_rights(hhdm_offset() + frame, frame, is_data, false);
    }
    assert_int_equal(hosted_cpu_walk(KERNEL_VIRT - 1, 0, NULL), HOSTED_NOT_PRESENT);
    assert_int_equal(hosted_cpu_walk(boot.data.end, 0, NULL), HOSTED_NOT_PRESENT);
}

static void kvm_kernel_hhdm_holds_ram_and_framebuffer_only(void **state)
{
    struct hosted_translation seen;
    struct boot_info boot;

    (void)state;
    kernel_set_up(&boot);
    for (paddr_t frame = 0; frame < MM_MIB(33); frame += FRAME_SIZE) {
        const struct mm_range *range = memmap_find(&machine.map, frame);
        bool is_ram = range != NULL && memmap_type_is_ram(range->type);

        if (!is_ram) {
            assert_int_equal(hosted_cpu_walk(hhdm_offset() + frame, 0, NULL), HOSTED_NOT_PRESENT);
        } else if (frame < KERNEL_PHYS || frame >= KERNEL_PHYS + 24 * FRAME_SIZE) {
            assert_rights(hhdm_offset() + frame, frame, true, false);
        }
    }
    for (paddr_t at = 0xfd000000; at < 0xfd3e8000; at += PAGE_SIZE) {
        assert_int_equal(hosted_cpu_walk(hhdm_offset() + at, HOSTED_WRITE, &seen), HOSTED_OK);
        assert_int_equal(seen.memory_type, 1); /* write-combining */
        assert_false(seen.execute);
    }
    assert_int_equal(hosted_cpu_walk(hhdm_offset() + 0xfd3e8000, 0, NULL), HOSTED_NOT_PRESENT);
    assert_int_equal(hosted_cpu_walk(hhdm_offset() + 0xfcfff000, 0, NULL), HOSTED_NOT_PRESENT);
}

static void kvm_kernel_framebuffer_in_reserved_memory_is_mapped(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), KERNEL_PHYS, BOOT_USABLE),
        ROW(KERNEL_PHYS, MM_MIB(9), BOOT_EXECUTABLE),
        ROW(MM_MIB(9), MM_MIB(16), BOOT_USABLE),
        ROW(0xfd000000, 0xfe000000, BOOT_RESERVED),
    };
    struct hosted_translation seen;
    struct boot_info boot;

    (void)state;
    features = features_of(4, 46, true);
    machine_set_up(&machine, list, COUNT_OF(list), false);
    hosted_cpu()->pat = 0x0000010500070406u;
    assert_ok(paging_init(&space, &machine.pmm, &features));
    boot_set_up(&boot);
    assert_ok(kvm_map_kernel(&space, &machine.map, &boot));
    walker_use(&space);
    assert_int_equal(hosted_cpu_walk(hhdm_offset() + 0xfd000000, HOSTED_WRITE, &seen), HOSTED_OK);
    assert_int_equal(seen.memory_type, 1);
}

/* A framebuffer whose place in the HHDM is no address: nothing is mapped in silence. */
static void kvm_kernel_framebuffer_out_of_reach_is_refused(void **state)
{
    struct boot_info boot;

    (void)state;
    kernel_set_up(&boot);
    paging_destroy(&space);
    assert_ok(paging_init(&space, &machine.pmm, &features));
    boot.framebuffer_base = (paddr_t)1 << 47;
    log_clear();
    assert_status(kvm_map_kernel(&space, &machine.map, &boot), MM_INVALID_ADDRESS);
    log_expect_count("[MM] ERROR:|framebuffer", 1);
}

static void kvm_kernel_without_frames_is_a_status_with_a_line(void **state)
{
    struct boot_info boot;

    (void)state;
    kernel_set_up(&boot);
    paging_destroy(&space);
    assert_ok(paging_init(&space, &machine.pmm, &features));
    pmm_drain_to(&machine.pmm, 3, NULL, 0);
    log_clear();
    assert_status(kvm_map_kernel(&space, &machine.map, &boot), MM_OUT_OF_MEMORY);
    log_expect_count("[MM] ERROR:", 1);
}

/* ---- After boot ---- */

static void assert_alias(vaddr_t address, bool write)
{
    paddr_t frame = KERNEL_PHYS + (address - KERNEL_VIRT);

    assert_rights(hhdm_offset() + frame, frame, write, false);
}

/* text 16 | rodata 8 | data ... with a guard, init data and constants in it ... | init 8 pages */
static void parts_set_up(struct boot_info *boot)
{
    kernel_set_up(boot);
    boot->data.end -= 8 * PAGE_SIZE;
    boot->init = (struct boot_section){ boot->data.end, boot->data.end + 8 * PAGE_SIZE };
    boot->init_data = (struct boot_section){ boot->data.begin + 10 * PAGE_SIZE,
                                             boot->data.begin + 12 * PAGE_SIZE };
    boot->ro_after_init = (struct boot_section){ boot->data.begin + 20 * PAGE_SIZE,
                                                 boot->data.begin + 23 * PAGE_SIZE };
    paging_destroy(&space);
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_ok(kvm_map_kernel(&space, &machine.map, boot));
    const struct kvm_window taken[] = { { hhdm_offset(), hhdm_offset() + MM_GIB(4) },
                                        { KERNEL_VIRT, boot->init.end } };
    assert_ok(kvm_init(&kvm, &space, taken, COUNT_OF(taken)));
    walker_use(&space);
}

static void check_part(struct boot_section part, bool mapped, bool write, bool execute,
                       bool alias_write)
{
    for (vaddr_t at = part.begin; at < part.end; at += PAGE_SIZE) {
        if (mapped)
            assert_rights(at, KERNEL_PHYS + (at - KERNEL_VIRT), write, execute);
        else
            assert_int_equal(hosted_cpu_walk(at, 0, NULL), HOSTED_NOT_PRESENT);
        assert_alias(at, alias_write);
    }
}

static void kvm_init_parts_are_given_back(void **state)
{
    struct boot_info boot;
    uint64_t bytes = 1, free_frames;

    (void)state;
    parts_set_up(&boot);
    free_frames = pmm_stats(&machine.pmm).free_frames;
    check_part(boot.init, true, false, true, false);
    check_part(boot.init_data, true, true, false, true);
    assert_ok(kvm_release_init(&kvm, &boot, &bytes));
    assert_int_equal(bytes, 10 * PAGE_SIZE);
    check_part(boot.init, false, false, false, true);
    check_part(boot.init_data, false, false, false, true);
    check_part(boot.text, true, false, true, false);
    check_part(boot.rodata, true, false, false, false);
    check_part(boot.ro_after_init, true, true, false, true);
    assert_true(pmm_stats(&machine.pmm).free_frames >= free_frames + 10);
    for (vaddr_t at = boot.init.begin; at < boot.init.end; at += PAGE_SIZE)
        assert_int_equal(pmm_frame_state(&machine.pmm, KERNEL_PHYS + (at - KERNEL_VIRT)),
                         PMM_FRAME_FREE);
    assert_int_equal(hosted_cpu_walk(boot.init_data.end, 0, NULL), HOSTED_OK);
    assert_int_equal(hosted_cpu_walk(boot.init_data.begin - PAGE_SIZE - 1, 0, NULL), HOSTED_OK);
    assert_ok(kvm_release_init(&kvm, &boot, &bytes)); /* the second time: nothing */
    assert_int_equal(bytes, 0);
    assert_space_sound(&space);
    assert_pmm_sound(&machine.pmm);
}

static void kvm_constants_are_sealed_in_both_aliases(void **state)
{
    struct boot_info boot;

    (void)state;
    parts_set_up(&boot);
    check_part(boot.ro_after_init, true, true, false, true);
    assert_ok(kvm_seal(&kvm, &boot));
    check_part(boot.ro_after_init, true, false, false, false);
    assert_rights(boot.ro_after_init.begin - 1,
                  KERNEL_PHYS + (boot.ro_after_init.begin - 1 - KERNEL_VIRT), true, false);
    assert_rights(boot.ro_after_init.end, KERNEL_PHYS + (boot.ro_after_init.end - KERNEL_VIRT),
                  true, false);
    assert_alias(boot.ro_after_init.begin - PAGE_SIZE, true);
    assert_alias(boot.ro_after_init.end, true);
    check_part(boot.init, true, false, true, false);
    assert_ok(kvm_seal(&kvm, &boot));
    assert_space_sound(&space);
}

/* The constants fill a part of a 2 MiB leaf of the HHDM here, so sealing must split it. */
static void kvm_seal_without_memory_changes_nothing(void **state)
{
    struct walker_snapshot before;
    struct boot_info boot;
    unsigned refused = 0;
    mm_status_t status = MM_OUT_OF_MEMORY;

    (void)state;
    kernel_set_up(&boot);
    boot.kernel_virt = KERNEL_VIRT;
    boot.data.end = KERNEL_VIRT + MM_MIB(6);
    boot.guard_count = 0;
    boot.ro_after_init =
        (struct boot_section){ KERNEL_VIRT + MM_MIB(4), KERNEL_VIRT + MM_MIB(4) + PAGE_SIZE };
    paging_destroy(&space);
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_ok(kvm_map_kernel(&space, &machine.map, &boot));
    const struct kvm_window taken[] = { { hhdm_offset(), hhdm_offset() + MM_GIB(4) },
                                        { KERNEL_VIRT, boot.data.end } };
    assert_ok(kvm_init(&kvm, &space, taken, COUNT_OF(taken)));
    walker_use(&space);
    before = walker_snapshot(&space);
    for (uint64_t nth = 1; status != MM_OK; nth++) {
        assert_true(nth < 10);
        pmm_fault_inject(&machine.pmm, nth, 0);
        status = kvm_seal(&kvm, &boot);
        pmm_fault_inject(&machine.pmm, 0, 0);
        if (status == MM_OK)
            break;
        assert_int_equal(status, MM_OUT_OF_MEMORY);
        assert_snapshot_equal(&space, &before);
        refused++;
    }
    assert_true(refused > 0);
    check_part(boot.ro_after_init, true, false, false, false);
    assert_alias(boot.ro_after_init.end, true);
    assert_space_sound(&space);
}

static void kvm_after_boot_bad_parts_are_refused(void **state)
{
    struct walker_snapshot before;
    struct boot_info boot, bad;
    uint64_t bytes = 77;

    (void)state;
    parts_set_up(&boot);
    before = walker_snapshot(&space);
    bad = boot;
    bad.init.end -= 8;
    assert_status(kvm_release_init(&kvm, &bad, &bytes), MM_NOT_ALIGNED);
    bad = boot;
    bad.kernel_phys -= MM_MIB(1); /* frames that are free, not reserved */
    assert_status(kvm_release_init(&kvm, &bad, &bytes), MM_INVALID_ADDRESS);
    bad = boot;
    bad.ro_after_init.begin += 1;
    assert_status(kvm_seal(&kvm, &bad), MM_NOT_ALIGNED);
    assert_int_equal(bytes, 77);
    assert_snapshot_equal(&space, &before);
    boot.init = boot.init_data = boot.ro_after_init = (struct boot_section){ 0, 0 };
    assert_ok(kvm_seal(&kvm, &boot));
    assert_ok(kvm_release_init(&kvm, &boot, &bytes));
    assert_int_equal(bytes, 0);
    assert_snapshot_equal(&space, &before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_windows_never_meet_hhdm_or_kernel),
        TEST(kvm_windows_hold_all_of_ram),
        TEST(kvm_windows_avoid_many_ranges),
        TEST(kvm_without_free_slots_is_out_of_memory),
        TEST(kvm_heap_lies_between_guard_pages),
        TEST(kvm_heap_on_fragmented_memory_uses_single_frames),
        TEST(kvm_heap_without_memory_leaves_nothing_behind),
        TEST(kvm_heap_bad_sizes_are_refused),
        TEST(kvm_stack_lies_between_guard_pages),
        TEST(kvm_stacks_never_touch_each_other),
        TEST(kvm_stack_memory_is_zero_when_used_again),
        TEST(kvm_stack_bad_sizes_are_refused),
        TEST(kvm_all_stack_slots_can_be_used_and_no_more),
        TEST(kvm_stack_without_memory_leaves_nothing_behind),
        TEST(kvm_free_of_what_is_no_stack_is_reported),
        TEST(kvm_place_tells_what_an_address_is),
        TEST(kvm_kernel_maps_no_frame_writable_and_executable),
        TEST(kvm_kernel_sections_have_their_rights),
        TEST(kvm_kernel_hhdm_holds_ram_and_framebuffer_only),
        TEST(kvm_kernel_framebuffer_in_reserved_memory_is_mapped),
        TEST(kvm_kernel_framebuffer_out_of_reach_is_refused),
        TEST(kvm_kernel_without_frames_is_a_status_with_a_line),
        TEST(kvm_init_parts_are_given_back),
        TEST(kvm_constants_are_sealed_in_both_aliases),
        TEST(kvm_seal_without_memory_changes_nothing),
        TEST(kvm_after_boot_bad_parts_are_refused),
    };

    return RUN_TESTS(tests);
}
