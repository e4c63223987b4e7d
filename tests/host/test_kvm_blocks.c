/* SPDX-License-Identifier: MIT */
/* Blocks of kvm_alloc, devices, and the heap's window in steps: what is mapped and what is not, that
 * every frame comes back, that the n-th lack of memory leaves everything as it was, what is reported. */
#include "walker.h"

#include <string.h>

#define KERNEL_VIRT ((vaddr_t)0xffffffff80000000)
#define HHDM_BASE   ((vaddr_t)0xffff800000000000)

static struct machine machine;
static struct address_space space;
static struct kvm kvm;

static void kvm_set_up(uint64_t ram_bytes)
{
    const struct kvm_window taken[] = { { HHDM_BASE, HHDM_BASE + MM_GIB(64) },
                                        { KERNEL_VIRT, KERNEL_VIRT + MM_MIB(4) } };
    struct mm_cpu_features features = features_of(4, 46, true);

    hosted_cpu_reset(4);
    hosted_cpu()->leaf_8000_0008.eax = 46;
    hosted_cpu()->pat = 0x0000010500070406u;
    machine_set_up_simple(&machine, ram_bytes);
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_ok(kvm_init(&kvm, &space, taken, COUNT_OF(taken)));
    paging_activate(&space, &features);
}

/* No 2 MiB in one piece anywhere: every second frame is out of service. */
static void fragment(uint64_t ram_bytes)
{
    for (paddr_t frame = MM_MIB(1); frame < MM_MIB(1) + ram_bytes; frame += 2 * FRAME_SIZE)
        if (pmm_frame_state(&machine.pmm, frame) == PMM_FRAME_FREE)
            assert_ok(pmm_reserve_range(&machine.pmm, frame, frame + FRAME_SIZE));
}

static void assert_unmapped(vaddr_t page)
{
    assert_int_equal(hosted_cpu_access(page, HOSTED_READ, NULL), HOSTED_NOT_PRESENT);
    assert_int_equal(hosted_cpu_access(page + PAGE_SIZE - 1, HOSTED_READ, NULL),
                     HOSTED_NOT_PRESENT);
}

/* Writable, global, never executable, never the user's; and the frame is nobody else's. */
static void *assert_memory(vaddr_t page)
{
    struct hosted_translation seen;

    assert_int_equal(hosted_cpu_access(page, HOSTED_WRITE, &seen), HOSTED_OK);
    assert_int_equal(hosted_cpu_access(page, HOSTED_EXECUTE, NULL), HOSTED_FORBIDDEN);
    assert_int_equal(hosted_cpu_access(page, HOSTED_USER, NULL), HOSTED_FORBIDDEN);
    assert_true(seen.global);
    assert_int_equal(seen.memory_type, 6);
    assert_int_equal(pmm_frame_state(&machine.pmm, seen.address), PMM_FRAME_USED);
    return phys_to_virt(mm_round_down(seen.address, PAGE_SIZE));
}

static void check_block(vaddr_t base, uint64_t bytes)
{
    bytes = mm_round_up(bytes, PAGE_SIZE);
    assert_true(base >= kvm.blocks.base + PAGE_SIZE && base + bytes + PAGE_SIZE <= kvm.blocks.end);
    assert_unmapped(base - PAGE_SIZE);
    assert_unmapped(base + bytes);
    for (uint64_t at = 0; at < bytes; at += PAGE_SIZE) {
        void *page = assert_memory(base + at);
        assert_true(is_zero(page, PAGE_SIZE));
        memset(page, 0xdd, PAGE_SIZE);
    }
}

/* ---- Blocks ---- */

static void kvm_block_of_any_size_is_zero_between_guards(void **state)
{
    static const uint64_t sizes[] = {
        1,         PAGE_SIZE,     PAGE_SIZE + 1,        MM_KIB(68), MM_MIB(2) - 1,
        MM_MIB(2), MM_MIB(2) + 1, MM_MIB(5) + PAGE_SIZE
    };

    (void)state;
    for (unsigned fragmented = 0; fragmented < 2; fragmented++) {
        kvm_set_up(MM_MIB(32));
        if (fragmented != 0)
            fragment(MM_MIB(32));
        struct walker_snapshot before = walker_snapshot(&space);
        for (size_t i = 0; i < COUNT_OF(sizes); i++) {
            vaddr_t block;

            assert_ok(kvm_alloc(&kvm, sizes[i], 0, &block));
            check_block(block, sizes[i]);
            if (fragmented == 0)
                assert_int_equal(space.stats.leaves[1],
                                 mm_round_up(sizes[i], PAGE_SIZE) / MM_MIB(2));
            else
                assert_int_equal(space.stats.leaves[1], 0);
            assert_int_equal(kvm_stats(&kvm).block_bytes, mm_round_up(sizes[i], PAGE_SIZE));
            kvm_free(&kvm, block);
            assert_unmapped(block); /* gone from the TLB too */
            assert_unmapped(block + mm_round_down(sizes[i] - 1, PAGE_SIZE));
            assert_snapshot_equal(&space, &before);
        }
        assert_pmm_sound(&machine.pmm);
    }
}

static void kvm_block_has_the_alignment_asked_for(void **state)
{
    struct walker_snapshot before;

    (void)state;
    kvm_set_up(MM_MIB(32));
    before = walker_snapshot(&space);
    for (uint64_t align = 1; align <= KVM_MAX_ALIGN; align *= 2) {
        vaddr_t block, other;

        assert_ok(kvm_alloc(&kvm, PAGE_SIZE, 0, &other));
        assert_ok(kvm_alloc_aligned(&kvm, 3 * PAGE_SIZE, align, 0, &block));
        assert_int_equal(block % align, 0);
        check_block(block, 3 * PAGE_SIZE);
        kvm_free(&kvm, block);
        kvm_free(&kvm, other);
    }
    assert_snapshot_equal(&space, &before);
}

static void kvm_block_bad_arguments_are_refused(void **state)
{
    struct walker_snapshot before;
    vaddr_t block = 0x1234;

    (void)state;
    kvm_set_up(MM_MIB(8));
    before = walker_snapshot(&space);
    assert_status(kvm_alloc(&kvm, 0, 0, &block), MM_INVALID_ARGUMENT);
    assert_status(kvm_alloc(&kvm, PAGE_SIZE, 2, &block), MM_INVALID_ARGUMENT);
    assert_status(kvm_alloc(&kvm, PAGE_SIZE, UINT32_MAX, &block), MM_INVALID_ARGUMENT);
    assert_status(kvm_alloc_aligned(&kvm, PAGE_SIZE, 0, 0, &block), MM_INVALID_ARGUMENT);
    assert_status(kvm_alloc_aligned(&kvm, PAGE_SIZE, 3, 0, &block), MM_INVALID_ARGUMENT);
    assert_status(kvm_alloc_aligned(&kvm, PAGE_SIZE, MM_GIB(2), 0, &block), MM_INVALID_ARGUMENT);
    assert_status(kvm_alloc(&kvm, MM_MIB(9), 0, &block), MM_OUT_OF_MEMORY);
    assert_status(kvm_alloc(&kvm, MM_GIB(600), 0, &block), MM_OUT_OF_MEMORY);
    assert_status(kvm_alloc(&kvm, UINT64_MAX, 0, &block), MM_OUT_OF_MEMORY);
    assert_status(kvm_alloc(&kvm, UINT64_MAX - PAGE_SIZE, 0, &block), MM_OUT_OF_MEMORY);
    assert_int_equal(block, 0x1234);
    assert_snapshot_equal(&space, &before);
}

/* The content of the frames is taken as it is: nothing is cleared. */
static void kvm_block_without_zeroing_is_not_cleared(void **state)
{
    vaddr_t block;
    unsigned dirty = 0;

    (void)state;
    kvm_set_up(MM_MIB(4));
    assert_ok(kvm_alloc(&kvm, MM_MIB(1), 0, &block));
    check_block(block, MM_MIB(1)); /* leaves 0xdd */
    kvm_free(&kvm, block);
    for (unsigned round = 0; round < 3; round++) {
        assert_ok(kvm_alloc(&kvm, MM_MIB(1), KVM_NO_ZERO, &block));
        for (uint64_t at = 0; at < MM_MIB(1); at += PAGE_SIZE)
            dirty += !is_zero(assert_memory(block + at), PAGE_SIZE);
        kvm_free(&kvm, block);
        assert_ok(kvm_alloc(&kvm, MM_MIB(2), 0, &block)); /* zeroes again, whatever it was */
        check_block(block, MM_MIB(2));
        kvm_free(&kvm, block);
    }
#if !MM_MEMORY_HOOKS
    assert_true(dirty > 0);
#endif
}

/* Every number of frames that is one too few: frames, tables, frames for nodes. */
static void kvm_block_without_memory_leaves_nothing_behind(void **state)
{
    static const uint64_t sizes[] = { PAGE_SIZE, MM_KIB(40), MM_MIB(2), MM_MIB(4) + MM_KIB(12) };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        const uint64_t needed = mm_round_up(sizes[i], PAGE_SIZE) / PAGE_SIZE;
        bool fitted = false;

        for (uint64_t left = 0; left < needed + 12; left += left + 20 < needed ? 7 : 1) {
            struct walker_snapshot before;
            vaddr_t block = 0x1234;

            kvm_set_up(MM_MIB(8));
            pmm_drain_to(&machine.pmm, left, NULL, 0);
            before = walker_snapshot(&space);
            mm_status_t status = kvm_alloc(&kvm, sizes[i], 0, &block);
            if (status == MM_OK) {
                fitted = true;
                check_block(block, sizes[i]);
                kvm_free(&kvm, block);
            } else {
                assert_false(fitted);
                assert_int_equal(status, MM_OUT_OF_MEMORY);
                assert_int_equal(block, 0x1234);
            }
            assert_snapshot_equal(&space, &before);
            assert_int_equal(kvm_stats(&kvm).node_frames, 0);
            assert_int_equal(kvm_stats(&kvm).blocks, 0);
            assert_pmm_sound(&machine.pmm);
        }
        assert_true(fitted);
    }
}

/* ---- The n-th call that allocates fails ---- */

/* Each makes one thing, and takes it apart again if that was possible. */
static mm_status_t make_block(void)
{
    vaddr_t block;
    mm_status_t status = kvm_alloc(&kvm, MM_MIB(2) + MM_KIB(24), 0, &block);

    if (status == MM_OK)
        kvm_free(&kvm, block);
    return status;
}

static mm_status_t make_stack(void)
{
    vaddr_t top;
    mm_status_t status = kvm_alloc_stack(&kvm, MM_KIB(32), &top);

    if (status == MM_OK)
        kvm_free_stack(&kvm, top);
    return status;
}

static mm_status_t make_device(void)
{
    vaddr_t device;
    mm_status_t status = kvm_map_device(&kvm, MM_GIB(3) + MM_MIB(1), MM_MIB(6), 0, &device);

    if (status == MM_OK)
        kvm_unmap_device(&kvm, device);
    return status;
}

static mm_status_t make_heap(void)
{
    vaddr_t base = kvm_heap_window(&kvm).base;
    mm_status_t status = kvm_heap_commit(&kvm, base + MM_MIB(2), MM_MIB(4) + MM_KIB(64));

    if (status == MM_OK)
        status = kvm_heap_decommit(&kvm, base + MM_MIB(2), MM_MIB(4) + MM_KIB(64));
    return status;
}

/* Two failures at once (2 MiB frame, then single ones) and all from the n-th on. */
static void kvm_nth_failing_allocation_changes_nothing(void **state)
{
    static mm_status_t (*const make[])(void) = { make_block, make_stack, make_device, make_heap };
    unsigned failed = 0;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(make); i++)
        for (uint64_t every = 0; every < 2; every++) {
            mm_status_t status = MM_OUT_OF_MEMORY;

            kvm_set_up(MM_MIB(16));
            struct walker_snapshot before = walker_snapshot(&space);
            for (uint64_t nth = 1; nth < 700 && (nth < 100 || status != MM_OK); nth++) {
                pmm_fault_inject(&machine.pmm, nth, every);
                status = make[i]();
                pmm_fault_inject(&machine.pmm, 0, 0);
                assert_true(status == MM_OK || status == MM_OUT_OF_MEMORY);
                failed += status != MM_OK;
                assert_snapshot_equal(&space, &before);
                assert_int_equal(kvm_stats(&kvm).node_frames, 0);
            }
            assert_ok(status);
            assert_ok(make[i]());
            assert_snapshot_equal(&space, &before);
            assert_pmm_sound(&machine.pmm);
        }
    assert_true(failed > 20);
}

static void kvm_calls_from_an_nmi_handler_are_refused(void **state)
{
    struct walker_snapshot before;
    vaddr_t block, top, device, out = 0x1234;
    const vaddr_t heap = (kvm_set_up(MM_MIB(8)), kvm_heap_window(&kvm).base);

    (void)state;
    assert_ok(kvm_alloc(&kvm, PAGE_SIZE, 0, &block));
    assert_ok(kvm_alloc_stack(&kvm, PAGE_SIZE, &top));
    assert_ok(kvm_map_device(&kvm, MM_GIB(3), 8, 0, &device));
    before = walker_snapshot(&space);
    hosted_nmi_enter();
    EXPECT_BUG("kvm_alloc|NMI", assert_status(kvm_alloc(&kvm, 1, 0, &out), MM_UNSUPPORTED));
    EXPECT_BUG("kvm_free|NMI", kvm_free(&kvm, block));
    EXPECT_BUG("kvm_alloc_stack|NMI",
               assert_status(kvm_alloc_stack(&kvm, 1, &out), MM_UNSUPPORTED));
    EXPECT_BUG("kvm_free_stack|NMI", kvm_free_stack(&kvm, top));
    EXPECT_BUG("kvm_map_device|NMI",
               assert_status(kvm_map_device(&kvm, MM_GIB(3), 8, 0, &out), MM_UNSUPPORTED));
    EXPECT_BUG("kvm_unmap_device|NMI", kvm_unmap_device(&kvm, device));
    EXPECT_BUG("heap's window|NMI",
               assert_status(kvm_heap_commit(&kvm, heap, MM_KIB(64)), MM_UNSUPPORTED));
    EXPECT_BUG("heap's window|NMI",
               assert_status(kvm_heap_decommit(&kvm, heap, MM_KIB(64)), MM_UNSUPPORTED));
    hosted_nmi_leave();
    assert_int_equal(out, 0x1234);
    assert_snapshot_equal(&space, &before);
}

/* The last frames are in blocks; freeing them needs none. */
static void kvm_free_works_without_a_free_frame(void **state)
{
    struct walker_snapshot before;
    vaddr_t block;

    (void)state;
    kvm_set_up(MM_MIB(8));
    fragment(MM_MIB(9));
    before = walker_snapshot(&space);
    assert_ok(kvm_alloc(&kvm, MM_MIB(2) + MM_KIB(200), 0, &block));
    static paddr_t taken[4096];
    size_t count = pmm_drain_to(&machine.pmm, 0, taken, COUNT_OF(taken));
    kvm_free(&kvm, block);
    assert_unmapped(block);
    for (size_t i = 0; i < count; i++)
        pmm_free_frame(&machine.pmm, taken[i]);
    assert_snapshot_equal(&space, &before);
}

/* One frame, one page table or one node less at every moment of a long program. */
static void kvm_blocks_in_a_random_program_stay_apart(void **state)
{
    (void)state;
    for (seeds_begin(6); seeds_next();) {
        struct {
            vaddr_t base;
            uint64_t bytes;
        } block[40];
        size_t count = 0;

        kvm_set_up(MM_MIB(16));
        struct walker_snapshot before = walker_snapshot(&space);
        for (unsigned step = 0; step < 300; step++) {
            uint64_t bytes = 1 + random_below(random_chance(80) ? MM_KIB(64) : MM_MIB(5));

            if (count < COUNT_OF(block) && random_chance(60)) {
                uint64_t align = (uint64_t)1 << random_below(25);
                block[count].bytes = bytes;
                mm_status_t status = kvm_alloc_aligned(&kvm, bytes, align, 0, &block[count].base);
                if (status == MM_OUT_OF_MEMORY)
                    continue;
                assert_ok(status);
                assert_int_equal(block[count].base % align, 0);
                check_block(block[count].base, bytes);
                count++;
            } else if (count > 0) {
                size_t victim = random_below(count);
                kvm_free(&kvm, block[victim].base);
                assert_unmapped(block[victim].base);
                block[victim] = block[--count];
            }
            if (step % 50 == 0)
                assert_space_sound(&space);
        }
        while (count > 0)
            kvm_free(&kvm, block[--count].base);
        assert_snapshot_equal(&space, &before);
        assert_pmm_sound(&machine.pmm);
    }
}

static void expect_bad_free(const char *words, vaddr_t address)
{
    struct walker_snapshot before = walker_snapshot(&space);

    EXPECT_BUG(words, kvm_free(&kvm, address));
    assert_snapshot_equal(&space, &before);
}

static void kvm_free_of_what_is_no_block_is_reported(void **state)
{
    vaddr_t block, other, top, device;

    (void)state;
    kvm_set_up(MM_MIB(16));
    kvm_free(&kvm, 0);
    expect_bad_free("kvm_free|no block", kvm.blocks.base + PAGE_SIZE); /* an empty window */
    assert_ok(kvm_alloc(&kvm, MM_KIB(16), 0, &block));
    assert_ok(kvm_alloc(&kvm, MM_KIB(16), 0, &other));
    assert_ok(kvm_alloc_stack(&kvm, MM_KIB(16), &top));
    assert_ok(kvm_map_device(&kvm, MM_GIB(3), 8, PAGING_UNCACHED, &device));
    expect_bad_free("kvm_free|byte 16 of the block|16384 bytes", block + 16);
    expect_bad_free("kvm_free|byte 4096 of the block|16384 bytes", block + PAGE_SIZE);
    expect_bad_free("kvm_free|byte 16384 of the block", block + MM_KIB(16)); /* its guard */
    expect_bad_free("kvm_free|1 bytes below the block", block - 1);
    expect_bad_free("kvm_free|no block", kvm.blocks.end - PAGE_SIZE);
    expect_bad_free("kvm_free|no block", top - PAGE_SIZE);
    expect_bad_free("kvm_free|no block", device);
    expect_bad_free("kvm_free|no block", 1);
    expect_bad_free("kvm_free|no block", 0x0123456789abcdef);
    expect_bad_free("kvm_free|no block", UINT64_MAX);
    kvm_free(&kvm, block);
    expect_bad_free("kvm_free|no block", block); /* twice */
    kvm_free(&kvm, other);
    expect_bad_free("kvm_free|no block", other);
}

/* The pmm calls back in the middle of a free, when its list of frames has been taken: there the same is
 * freed again, as another CPU would do it. */
static vaddr_t block_again, top_again;
static unsigned freed_again;

static void free_again(void *context)
{
    (void)context;
    freed_again++;
    if (block_again != 0)
        kvm_free(&kvm, block_again);
    else
        kvm_free_stack(&kvm, top_again);
}

static void kvm_free_while_it_is_being_freed_is_reported(void **state)
{
    struct walker_snapshot before;
    vaddr_t block, top;

    (void)state;
    kvm_set_up(MM_MIB(8));
    before = walker_snapshot(&space);
    assert_ok(kvm_alloc(&kvm, MM_KIB(200), 0, &block));
    assert_ok(kvm_alloc_stack(&kvm, KVM_STACK_MAX_BYTES, &top));
    freed_again = 0;
    block_again = block;
    pmm_set_low_water(&machine.pmm, pmm_stats(&machine.pmm).free_frames, free_again, NULL);
    EXPECT_BUG("kvm_free|another CPU is making or freeing the block", kvm_free(&kvm, block));
    assert_int_equal(freed_again, 1);
    block_again = 0;
    top_again = top;
    pmm_set_low_water(&machine.pmm, pmm_stats(&machine.pmm).free_frames, free_again, NULL);
    EXPECT_BUG("kernel stack|no allocated stack", kvm_free_stack(&kvm, top));
    assert_int_equal(freed_again, 2);
    pmm_set_low_water(&machine.pmm, 0, NULL, NULL);
    assert_snapshot_equal(&space, &before);
}

static void kvm_free_finds_a_guard_that_somebody_mapped(void **state)
{
    vaddr_t block;
    paddr_t frame;

    (void)state;
    kvm_set_up(MM_MIB(8));
    assert_ok(kvm_alloc(&kvm, MM_KIB(16), 0, &block));
    assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
    for (unsigned above = 0; above < 2; above++) {
        vaddr_t guard = above != 0 ? block + MM_KIB(16) : block - PAGE_SIZE;

        assert_ok(paging_map_page(&space, guard, frame, PAGING_READ));
        expect_bad_free("guard page|is mapped", block);
        assert_ok(paging_unmap_page(&space, guard, NULL));
    }
    (void)assert_memory(block); /* still there */
    kvm_free(&kvm, block);
    vaddr_t top;
    assert_ok(kvm_alloc_stack(&kvm, MM_KIB(16), &top));
    for (unsigned above = 0; above < 2; above++) {
        vaddr_t guard = above != 0 ? top : top - MM_KIB(16) - PAGE_SIZE;

        assert_ok(paging_map_page(&space, guard, frame, PAGING_READ));
        EXPECT_BUG("kernel stack|guard page|is mapped", kvm_free_stack(&kvm, top));
        assert_ok(paging_unmap_page(&space, guard, NULL));
    }
    (void)assert_memory(top - PAGE_SIZE);
    kvm_free_stack(&kvm, top);
    assert_int_equal(kvm_stats(&kvm).stack_bytes, 0);
}

/* ---- Devices ---- */

static void assert_device(vaddr_t address, paddr_t phys, unsigned type)
{
    struct hosted_translation seen;

    assert_int_equal(hosted_cpu_access(address, HOSTED_WRITE, &seen), HOSTED_OK);
    assert_int_equal(seen.address, phys);
    assert_int_equal(seen.memory_type, type);
    assert_int_equal(hosted_cpu_access(address, HOSTED_EXECUTE, NULL), HOSTED_FORBIDDEN);
}

static void kvm_device_is_mapped_with_its_type_and_goes(void **state)
{
    static const struct {
        paddr_t phys;
        uint64_t bytes;
        paging_rights_t type;
        unsigned seen;
    } list[] = {
        { MM_GIB(3) + 0x10, 4, PAGING_UNCACHED, 0 },
        { MM_GIB(3) + 0xffe, 4, PAGING_UNCACHED, 0 },
        { 0xfd000000, 0x3e8000, PAGING_WRITE_COMBINING, 1 },
        { 0xfd0ff000, MM_MIB(8) + 7, PAGING_UNCACHED, 0 },
        { MM_GIB(64), MM_GIB(2), 0, 6 },
        { ((paddr_t)1 << 46) - 8, 8, PAGING_UNCACHED, 0 },
    };
    struct walker_snapshot before;
    vaddr_t device[COUNT_OF(list)];

    (void)state;
    kvm_set_up(MM_MIB(8));
    before = walker_snapshot(&space);
    for (size_t i = 0; i < COUNT_OF(list); i++) {
        assert_ok(kvm_map_device(&kvm, list[i].phys, list[i].bytes, list[i].type, &device[i]));
        vaddr_t first = mm_round_down(device[i], PAGE_SIZE), last = device[i] + list[i].bytes - 1;
        assert_device(device[i], list[i].phys, list[i].seen);
        assert_device(last, list[i].phys + list[i].bytes - 1, list[i].seen);
        assert_unmapped(first - PAGE_SIZE);
        assert_unmapped(mm_round_down(last, PAGE_SIZE) + PAGE_SIZE);
        assert_true(first > kvm.devices.base && last < kvm.devices.end);
    }
    assert_true(space.stats.leaves[1] + space.stats.leaves[2] * 512 >= 1024 + 3); /* large leaves */
    for (size_t i = 0; i < COUNT_OF(list); i++) {
        kvm_unmap_device(&kvm, device[i]);
        assert_unmapped(mm_round_down(device[i], PAGE_SIZE));
    }
    assert_snapshot_equal(&space, &before);
}

static void kvm_device_bad_ranges_are_refused(void **state)
{
    struct walker_snapshot before;
    vaddr_t device = 0x1234;

    (void)state;
    kvm_set_up(MM_MIB(8));
    before = walker_snapshot(&space);
    assert_status(kvm_map_device(&kvm, MM_GIB(3), 0, 0, &device), MM_INVALID_ARGUMENT);
    assert_status(kvm_map_device(&kvm, MM_GIB(3), 8, PAGING_EXECUTE, &device), MM_INVALID_ARGUMENT);
    assert_status(kvm_map_device(&kvm, MM_GIB(3), 8, PAGING_USER, &device), MM_INVALID_ARGUMENT);
    assert_status(kvm_map_device(&kvm, (paddr_t)1 << 46, 8, 0, &device), MM_INVALID_ADDRESS);
    assert_status(kvm_map_device(&kvm, ((paddr_t)1 << 46) - 8, 9, 0, &device), MM_INVALID_ADDRESS);
    assert_status(kvm_map_device(&kvm, UINT64_MAX, 2, 0, &device), MM_INVALID_ADDRESS);
    assert_status(kvm_map_device(&kvm, MM_MIB(2), 8, PAGING_UNCACHED, &device), MM_INVALID_ADDRESS);
    assert_status(kvm_map_device(&kvm, MM_MIB(9) - 1, 2, PAGING_UNCACHED, &device),
                  MM_INVALID_ADDRESS);
    assert_int_equal(device, 0x1234);
    assert_snapshot_equal(&space, &before);
    /* No place for it: the frame for nodes goes back. */
    uint64_t window = kvm.devices.end - kvm.devices.base;
    assert_status(kvm_map_device(&kvm, MM_GIB(4), window - PAGE_SIZE, 0, &device),
                  MM_OUT_OF_MEMORY);
    assert_int_equal(device, 0x1234);
    assert_snapshot_equal(&space, &before);
    for (uint64_t left = 0; left < 4; left++) {
        kvm_set_up(MM_MIB(8));
        pmm_drain_to(&machine.pmm, left, NULL, 0);
        before = walker_snapshot(&space);
        assert_status(kvm_map_device(&kvm, MM_GIB(3), 8, 0, &device),
                      left < 4 ? MM_OUT_OF_MEMORY : MM_OK);
        assert_snapshot_equal(&space, &before);
    }
}

static void kvm_unmap_of_what_is_no_device_is_reported(void **state)
{
    vaddr_t device;

    (void)state;
    kvm_set_up(MM_MIB(8));
    assert_ok(kvm_map_device(&kvm, MM_GIB(3) + 0x40, MM_KIB(8), 0, &device));
    EXPECT_BUG("kvm_unmap_device|64 bytes below the device", kvm_unmap_device(&kvm, device - 0x40));
    EXPECT_BUG("kvm_unmap_device|byte 8 of the device", kvm_unmap_device(&kvm, device + 8));
    EXPECT_BUG("kvm_unmap_device|no device", kvm_unmap_device(&kvm, 0));
    EXPECT_BUG("kvm_unmap_device|no device", kvm_unmap_device(&kvm, kvm.blocks.base));
    kvm_unmap_device(&kvm, device);
    EXPECT_BUG("kvm_unmap_device|no device", kvm_unmap_device(&kvm, device));
}

/* ---- The heap's window ---- */

static void kvm_heap_steps_come_and_go(void **state)
{
    struct walker_snapshot before;
    struct kvm_window window;

    (void)state;
    kvm_set_up(MM_MIB(16));
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
    assert_unmapped(window.base - PAGE_SIZE);
    assert_unmapped(window.base + MM_MIB(2));
    assert_unmapped(window.base + MM_MIB(4) + MM_KIB(64));
    assert_unmapped(window.end);
    assert_ok(kvm_heap_decommit(&kvm, window.end - MM_MIB(4), MM_MIB(4)));
    assert_ok(kvm_heap_decommit(&kvm, window.base, MM_MIB(2)));
    assert_ok(kvm_heap_decommit(&kvm, window.base + MM_MIB(4), MM_KIB(64)));
    assert_unmapped(window.base);
    assert_int_equal(kvm_stats(&kvm).heap_bytes, 0);
    assert_snapshot_equal(&space, &before);
}

static void kvm_heap_on_scattered_frames_is_decommitted_in_parts(void **state)
{
    struct walker_snapshot before;
    struct kvm_window window;

    (void)state;
    kvm_set_up(MM_MIB(16));
    fragment(MM_MIB(17));
    window = kvm_heap_window(&kvm);
    before = walker_snapshot(&space);
    assert_ok(kvm_heap_commit(&kvm, window.base, MM_MIB(4)));
    assert_int_equal(space.stats.leaves[0], 1024);
    for (uint64_t at = MM_MIB(4); at > 0; at -= KVM_HEAP_STEP_BYTES) {
        assert_ok(
            kvm_heap_decommit(&kvm, window.base + at - KVM_HEAP_STEP_BYTES, KVM_HEAP_STEP_BYTES));
        assert_unmapped(window.base + at - PAGE_SIZE);
    }
    assert_snapshot_equal(&space, &before);
}

static void kvm_heap_bad_ranges_are_refused(void **state)
{
    struct walker_snapshot before;
    struct kvm_window window;

    (void)state;
    kvm_set_up(MM_MIB(16));
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

            kvm_set_up(MM_MIB(8));
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
    kvm_set_up(MM_MIB(8));
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
    kvm_set_up(MM_MIB(16));
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
        TEST(kvm_block_of_any_size_is_zero_between_guards),
        TEST(kvm_block_has_the_alignment_asked_for),
        TEST(kvm_block_bad_arguments_are_refused),
        TEST(kvm_block_without_zeroing_is_not_cleared),
        TEST(kvm_block_without_memory_leaves_nothing_behind),
        TEST(kvm_nth_failing_allocation_changes_nothing),
        TEST(kvm_calls_from_an_nmi_handler_are_refused),
        TEST(kvm_free_works_without_a_free_frame),
        TEST(kvm_blocks_in_a_random_program_stay_apart),
        TEST(kvm_free_of_what_is_no_block_is_reported),
        TEST(kvm_free_while_it_is_being_freed_is_reported),
        TEST(kvm_free_finds_a_guard_that_somebody_mapped),
        TEST(kvm_device_is_mapped_with_its_type_and_goes),
        TEST(kvm_device_bad_ranges_are_refused),
        TEST(kvm_unmap_of_what_is_no_device_is_reported),
        TEST(kvm_heap_steps_come_and_go),
        TEST(kvm_heap_on_scattered_frames_is_decommitted_in_parts),
        TEST(kvm_heap_bad_ranges_are_refused),
        TEST(kvm_heap_commit_without_memory_leaves_nothing_behind),
        TEST(kvm_peek_knows_blocks_and_devices),
        TEST(kvm_guards_are_all_that_is_not_mapped),
    };

    return RUN_TESTS(tests);
}
