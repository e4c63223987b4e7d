/* SPDX-License-Identifier: MIT */
/* Blocks of kvm_alloc: what is mapped and what is not, that every frame comes back, that the n-th lack of
 * memory leaves everything as it was (of all that kvm makes), what is reported. */
#include "kvm_fixture.h"

#include <string.h>

/* ---- Blocks ---- */

static void check_block(vaddr_t base, uint64_t bytes)
{
    bytes = mm_round_up(bytes, PAGE_SIZE);
    assert_true(base >= kvm.blocks.base + PAGE_SIZE && base + bytes + PAGE_SIZE <= kvm.blocks.end);
    assert_guard(base - PAGE_SIZE);
    assert_guard(base + bytes);
    for (uint64_t at = 0; at < bytes; at += PAGE_SIZE) {
        void *page = assert_memory(base + at);
        assert_true(is_zero(page, PAGE_SIZE));
        memset(page, 0xdd, PAGE_SIZE);
    }
}

static void kvm_block_of_any_size_is_zero_between_guards(void **state)
{
    static const uint64_t sizes[] = {
        1,         PAGE_SIZE,     PAGE_SIZE + 1,        MM_KIB(68), MM_MIB(2) - 1,
        MM_MIB(2), MM_MIB(2) + 1, MM_MIB(5) + PAGE_SIZE
    };

    (void)state;
    for (unsigned fragmented = 0; fragmented < 2; fragmented++) {
        kvm_set_up(4, MM_MIB(32));
        if (fragmented != 0)
            kvm_fragment(MM_MIB(32));
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
            assert_guard(block); /* gone from the TLB too */
            assert_guard(block + mm_round_down(sizes[i] - 1, PAGE_SIZE));
            assert_snapshot_equal(&space, &before);
        }
        assert_pmm_sound(&machine.pmm);
    }
}

static void kvm_block_has_the_alignment_asked_for(void **state)
{
    struct walker_snapshot before;

    (void)state;
    kvm_set_up(4, MM_MIB(32));
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
    kvm_set_up(4, MM_MIB(8));
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
    kvm_set_up(4, MM_MIB(4));
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

            kvm_set_up(4, MM_MIB(8));
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

            kvm_set_up(4, MM_MIB(16));
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
    const vaddr_t heap = (kvm_set_up(4, MM_MIB(8)), kvm_heap_window(&kvm).base);

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
    kvm_set_up(4, MM_MIB(8));
    kvm_fragment(MM_MIB(9));
    before = walker_snapshot(&space);
    assert_ok(kvm_alloc(&kvm, MM_MIB(2) + MM_KIB(200), 0, &block));
    static paddr_t taken[4096];
    size_t count = pmm_drain_to(&machine.pmm, 0, taken, COUNT_OF(taken));
    kvm_free(&kvm, block);
    assert_guard(block);
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

        kvm_set_up(4, MM_MIB(16));
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
                assert_guard(block[victim].base);
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
    kvm_set_up(4, MM_MIB(16));
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
    kvm_set_up(4, MM_MIB(8));
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
    kvm_set_up(4, MM_MIB(8));
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
    };

    return RUN_TESTS(tests);
}
