/* SPDX-License-Identifier: MIT */
/* Kernel virtual memory at its borders: what stands right beside something else, the last of anything,
 * and what is being made or freed at this moment. */
#include "walker.h"

#include "mm/vrange.h"

#include <string.h>

#define KERNEL_VIRT ((vaddr_t)0xffffffff80000000)
#define HHDM_BASE   ((vaddr_t)0xffff800000000000)

static struct machine machine;
static struct address_space space;

/* What lies behind the last slot of the stacks is no slot. */
static struct {
    struct kvm kvm;
    uint8_t behind[64];
} memory;
static struct kvm *const kvm = &memory.kvm;

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
    assert_ok(kvm_init(kvm, &space, taken, COUNT_OF(taken)));
    memset(memory.behind, 1, sizeof memory.behind);
    paging_activate(&space, &features);
}

static struct kvm_window runs[32];
static size_t run_count;

static void note_run(void *context, vaddr_t base, uint64_t bytes)
{
    (void)context;
    assert_true(run_count < COUNT_OF(runs));
    runs[run_count++] = (struct kvm_window){ base, base + bytes };
}

static void note_runs(void)
{
    run_count = 0;
    kvm_for_each_guard(kvm, note_run, NULL);
}

/* The run that holds the address, or one of no bytes. */
static struct kvm_window run_of(vaddr_t address)
{
    for (size_t i = 0; i < run_count; i++)
        if (address >= runs[i].base && address < runs[i].end)
            return runs[i];
    return (struct kvm_window){ 0, 0 };
}

static void assert_run(vaddr_t address, vaddr_t base, vaddr_t end)
{
    struct kvm_window run = run_of(address);

    if (run.base != base || run.end != end)
        fail_msg("0x%lx is in the run 0x%lx-0x%lx, not 0x%lx-0x%lx", address, run.base, run.end,
                 base, end);
}

/* ---- Heap and blocks ---- */

static void kvm_guards_of_the_heap_reach_to_its_window(void **state)
{
    struct kvm_window window;

    (void)state;
    kvm_set_up(MM_MIB(8));
    window = kvm_heap_window(kvm);
    note_runs();
    assert_run(window.base - 1, kvm->heap.base, window.base);
    assert_run(window.end, window.end, kvm->heap.end);
    assert_int_equal(window.base - kvm->heap.base, MM_MIB(2));
    assert_int_equal(kvm->heap.end - window.end, MM_MIB(2));
}

/* Two blocks of 2 MiB take all memory but the tables'; what one gives back is enough for another one. */
static void kvm_block_takes_the_last_free_frame(void **state)
{
    vaddr_t block[2];
    paddr_t frame;

    (void)state;
    kvm_set_up(MM_MIB(16));
    assert_ok(kvm_alloc(kvm, MM_MIB(2), 0, &block[0]));
    assert_ok(kvm_alloc(kvm, MM_MIB(2), 0, &block[1]));
    pmm_drain_to(&machine.pmm, 0, NULL, 0);
    kvm_free(kvm, block[1]);
    assert_int_equal(pmm_stats(&machine.pmm).free_frames, 512);
    assert_status(kvm_alloc(kvm, MM_MIB(2) + 1, 0, &block[1]), MM_OUT_OF_MEMORY);
    assert_ok(kvm_alloc(kvm, MM_MIB(2), 0, &block[1]));
    assert_int_equal(pmm_stats(&machine.pmm).free_frames, 0);
    assert_status(pmm_alloc_frame(&machine.pmm, &frame), MM_OUT_OF_MEMORY);
    assert_int_equal(hosted_cpu_access(block[1] + MM_MIB(2) - 8, HOSTED_WRITE, NULL), HOSTED_OK);
    assert_space_sound(&space);
}

static void kvm_stats_count_the_nodes_of_blocks_and_of_devices(void **state)
{
    vaddr_t block, device;

    (void)state;
    kvm_set_up(MM_MIB(8));
    assert_int_equal(kvm_stats(kvm).node_frames, 0);
    assert_ok(kvm_alloc(kvm, 1, 0, &block));
    assert_int_equal(kvm_stats(kvm).node_frames, 1);
    assert_ok(kvm_map_device(kvm, MM_GIB(3), 8, 0, &device));
    assert_int_equal(kvm_stats(kvm).node_frames, 2);
    assert_int_equal(kvm_stats(kvm).devices, 1);
    kvm_free(kvm, block);
    assert_int_equal(kvm_stats(kvm).node_frames, 1);
    kvm_unmap_device(kvm, device);
    assert_int_equal(kvm_stats(kvm).node_frames, 0);
}

/* ---- Devices ---- */

/*   | device | RAM, 1 MiB to 9 MiB | device |    nothing between them */
static void kvm_device_right_beside_ram_is_mapped(void **state)
{
    struct hosted_translation seen;
    vaddr_t below, above;

    (void)state;
    kvm_set_up(MM_MIB(8));
    uint64_t last = pmm_stats(&machine.pmm).range_count - 1;
    struct mm_extent ram = pmm_range_extent(&machine.pmm, last);
    assert_int_equal(ram.base, MM_MIB(1));
    assert_int_equal(ram.end, MM_MIB(9));
    assert_ok(kvm_map_device(kvm, ram.base - PAGE_SIZE, PAGE_SIZE, PAGING_UNCACHED, &below));
    assert_ok(kvm_map_device(kvm, ram.end, PAGE_SIZE, PAGING_UNCACHED, &above));
    assert_int_equal(hosted_cpu_access(below, HOSTED_WRITE, &seen), HOSTED_OK);
    assert_int_equal(seen.address, ram.base - PAGE_SIZE);
    assert_int_equal(hosted_cpu_access(above, HOSTED_WRITE, &seen), HOSTED_OK);
    assert_int_equal(seen.address, ram.end);
    assert_true(seen.global);
    assert_false(seen.user);
    assert_false(seen.execute);
    assert_status(kvm_map_device(kvm, ram.base - PAGE_SIZE, PAGE_SIZE + 1, 0, &below),
                  MM_INVALID_ADDRESS);
    assert_status(kvm_map_device(kvm, ram.end - 1, 1, 0, &above), MM_INVALID_ADDRESS);
}

static void kvm_device_whose_end_wraps_is_refused(void **state)
{
    struct walker_snapshot before;
    vaddr_t device = 0x1234;

    (void)state;
    kvm_set_up(MM_MIB(8));
    before = walker_snapshot(&space);
    for (uint64_t bytes = 0 - MM_GIB(3) - PAGE_SIZE; bytes != 0 - MM_GIB(3) + 2 * PAGE_SIZE;
         bytes += PAGE_SIZE / 2)
        assert_status(kvm_map_device(kvm, MM_GIB(3), bytes, 0, &device), MM_INVALID_ADDRESS);
    assert_status(kvm_map_device(kvm, MM_GIB(3) + 8, UINT64_MAX, 0, &device), MM_INVALID_ADDRESS);
    assert_int_equal(device, 0x1234);
    assert_snapshot_equal(&space, &before);
}

/* ---- Stacks ---- */

static void kvm_stack_behind_the_last_slot_is_none(void **state)
{
    vaddr_t end;

    (void)state;
    kvm_set_up(MM_MIB(8));
    end = kvm->stacks.base + KVM_STACK_SLOTS * KVM_STACK_SLOT_BYTES;
    for (uint64_t i = 1; i <= sizeof memory.behind; i++)
        EXPECT_BUG("no allocated stack",
                   kvm_free_stack(kvm, end + i * KVM_STACK_SLOT_BYTES - PAGE_SIZE));
    EXPECT_BUG("no allocated stack",
               kvm_free_stack(kvm, end - PAGE_SIZE)); /* the last slot: empty */
    assert_int_equal(kvm_peek(kvm, end).place, KVM_STACK_GUARD);
    assert_int_equal(kvm_peek(kvm, end + KVM_STACK_SLOT_BYTES - PAGE_SIZE - 1).place,
                     KVM_STACK_GUARD);
    for (size_t i = 0; i < sizeof memory.behind; i++)
        assert_int_equal(memory.behind[i], 1);
}

/* ---- What is being made or freed ---- */

/* Of a busy block nothing is promised: it is neither mapped nor unmapped, so no guard and no block. */
static void kvm_block_that_is_busy_is_neither_block_nor_guard(void **state)
{
    struct vrange_node *node;
    vaddr_t block, device;

    (void)state;
    kvm_set_up(MM_MIB(8));
    assert_ok(kvm_alloc(kvm, 3 * PAGE_SIZE, 0, &block));
    assert_ok(kvm_map_device(kvm, MM_GIB(3), 8, 0, &device));
    note_runs();
    assert_run(block - 1, kvm->blocks.base, block);
    assert_run(device - 1, kvm->devices.base, device);
    node = vrange_find(&kvm->block_ranges, block);
    node->state = VRANGE_BUSY;
    note_runs();
    assert_run(block - 1, 0, 0);
    assert_run(block, 0, 0);
    assert_run(block + 3 * PAGE_SIZE, 0, 0);
    assert_run(block + 4 * PAGE_SIZE, block + 4 * PAGE_SIZE, kvm->blocks.end);
    assert_int_equal(kvm_peek(kvm, block).place, KVM_UNUSED);
    assert_int_equal(kvm_peek(kvm, block - 1).place, KVM_UNUSED);
    EXPECT_BUG("another CPU is making or freeing", kvm_free(kvm, block));
    node->state = VRANGE_USED;
    node = vrange_find(&kvm->device_ranges, device);
    node->state = VRANGE_BUSY;
    note_runs();
    assert_run(device - 1, 0, 0);
    assert_int_equal(kvm_peek(kvm, device).place, KVM_UNUSED);
    EXPECT_BUG("another CPU is making or freeing", kvm_unmap_device(kvm, device));
    node->state = VRANGE_USED;
    kvm_unmap_device(kvm, device);
    kvm_free(kvm, block);
}

static void kvm_stack_that_is_busy_may_be_of_any_size(void **state)
{
    vaddr_t top;

    (void)state;
    kvm_set_up(MM_MIB(8));
    assert_ok(kvm_alloc_stack(kvm, MM_KIB(16), &top));
    note_runs();
    assert_run(top - MM_KIB(16) - 1, kvm->stacks.base, top - MM_KIB(16));
    kvm->stack_pages[0] = KVM_STACK_BUSY;
    note_runs();
    assert_run(top - KVM_STACK_MAX_BYTES - 1, kvm->stacks.base, top - KVM_STACK_MAX_BYTES);
    assert_run(top - 1, 0, 0);
    assert_run(top, top, kvm->stacks.end);
    assert_int_equal(kvm_peek(kvm, top - 8).place, KVM_STACK_GUARD);
    assert_int_equal(kvm_peek(kvm, top - 8).end, 0);
    kvm->stack_pages[0] = MM_KIB(16) / PAGE_SIZE;
    kvm_free_stack(kvm, top);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_guards_of_the_heap_reach_to_its_window),
        TEST(kvm_block_takes_the_last_free_frame),
        TEST(kvm_stats_count_the_nodes_of_blocks_and_of_devices),
        TEST(kvm_device_right_beside_ram_is_mapped),
        TEST(kvm_device_whose_end_wraps_is_refused),
        TEST(kvm_stack_behind_the_last_slot_is_none),
        TEST(kvm_block_that_is_busy_is_neither_block_nor_guard),
        TEST(kvm_stack_that_is_busy_may_be_of_any_size),
    };

    return RUN_TESTS(tests);
}
