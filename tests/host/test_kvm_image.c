/* SPDX-License-Identifier: MIT */
/* The kernel's own mappings where the memory map and the image are not laid out as usual: constants in
 * any order, ranges of RAM that touch and that do not, a framebuffer that is mapped in part. */
#include "walker.h"

#define IMAGE      ((vaddr_t)0xffffffff80000000)
#define IMAGE_PHYS MM_MIB(12)
#define PART       (4 * PAGE_SIZE)
#define SCREEN     ((paddr_t)0xfd000000)

static struct machine machine;
static struct address_space space;
static struct boot_info boot;
static struct kvm kvm;

static struct boot_section part(unsigned index)
{
    return (struct boot_section){ IMAGE + index * PART, IMAGE + (index + 1) * PART };
}

/* text | rodata | init | data of PART bytes each, unless a test says otherwise before map_kernel(). */
static void set_up(const struct boot_range *list, size_t count)
{
    struct mm_cpu_features features = features_of(4, 46, true);

    hosted_cpu_reset(4);
    hosted_cpu()->pat = 0x0000010500070406u;
    machine_set_up(&machine, list, count, false);
    assert_ok(paging_init(&space, &machine.pmm, &features));
    boot = machine.rows.boot;
    boot.hhdm_offset = hhdm_offset();
    boot.kernel_virt = IMAGE;
    boot.kernel_phys = IMAGE_PHYS;
    boot.text = part(0);
    boot.rodata = part(1);
    boot.init = part(2);
    boot.data = part(3);
}

static void map_kernel(void)
{
    assert_ok(kvm_map_kernel(&space, &machine.map, &boot));
    walker_use(&space);
}

static paddr_t frame_of(vaddr_t address)
{
    return IMAGE_PHYS + (address - IMAGE);
}

static void assert_alias(struct boot_section section, bool write)
{
    for (vaddr_t at = section.begin; at < section.end; at += PAGE_SIZE) {
        struct hosted_translation seen;

        assert_int_equal(hosted_cpu_walk(hhdm_offset() + frame_of(at), 0, &seen), HOSTED_OK);
        assert_int_equal(seen.address, frame_of(at));
        assert_int_equal(seen.write, write);
        assert_false(seen.execute);
    }
}

static const struct boot_range usual[] = {
    ROW(MM_MIB(1), IMAGE_PHYS, BOOT_USABLE),
    ROW(IMAGE_PHYS, IMAGE_PHYS + 4 * PART, BOOT_EXECUTABLE),
    ROW(IMAGE_PHYS + 4 * PART, MM_MIB(17), BOOT_USABLE),
};

static void kvm_constants_in_any_order_are_read_only_in_the_hhdm(void **state)
{
    static const unsigned orders[][4] = { { 0, 1, 2, 3 }, { 2, 0, 1, 3 }, { 1, 2, 0, 3 },
                                          { 3, 2, 1, 0 }, { 1, 0, 3, 2 }, { 2, 1, 3, 0 } };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(orders); i++) {
        set_up(usual, COUNT_OF(usual));
        boot.text = part(orders[i][0]);
        boot.rodata = part(orders[i][1]);
        boot.init = part(orders[i][2]);
        boot.data = part(orders[i][3]);
        map_kernel();
        assert_alias(boot.text, false);
        assert_alias(boot.rodata, false);
        assert_alias(boot.init, false);
        assert_alias(boot.data, true);
        assert_alias(part(4), true);
        assert_space_sound(&space);
    }
}

/*   8 MiB | usable | 9 MiB | the loader's | 10 MiB:    one leaf for both                       */
static void kvm_leaf_of_the_hhdm_spans_ranges_that_touch(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(9), BOOT_USABLE),
        ROW(MM_MIB(9), MM_MIB(11), BOOT_LOADER_RECLAIMABLE),
        ROW(MM_MIB(11), IMAGE_PHYS, BOOT_USABLE),
        ROW(IMAGE_PHYS, IMAGE_PHYS + 4 * PART, BOOT_EXECUTABLE),
    };
    struct paging_mapping leaf;

    (void)state;
    set_up(list, COUNT_OF(list));
    map_kernel();
    for (paddr_t at = MM_MIB(2); at < IMAGE_PHYS; at += MM_MIB(1)) {
        assert_ok(paging_query(&space, hhdm_offset() + at, &leaf));
        assert_int_equal(leaf.leaf_bytes, MM_MIB(2));
    }
    assert_ok(paging_query(&space, hhdm_offset() + IMAGE_PHYS, &leaf));
    assert_int_equal(leaf.leaf_bytes, PAGE_SIZE);
}

static void kvm_hole_between_ranges_of_ram_is_not_mapped(void **state)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), MM_MIB(9), BOOT_USABLE),
        ROW(MM_MIB(10), IMAGE_PHYS, BOOT_USABLE),
        ROW(IMAGE_PHYS, IMAGE_PHYS + 4 * PART, BOOT_EXECUTABLE),
    };

    (void)state;
    set_up(list, COUNT_OF(list));
    map_kernel();
    for (paddr_t at = MM_MIB(1); at < MM_MIB(11); at += PAGE_SIZE)
        assert_int_equal(hosted_cpu_walk(hhdm_offset() + at, 0, NULL),
                         at >= MM_MIB(9) && at < MM_MIB(10) ? HOSTED_NOT_PRESENT : HOSTED_OK);
}

/* Six pages, neither end at a page; the map knows the third and the fourth. */
static void kvm_framebuffer_is_mapped_around_what_the_map_knows_of_it(void **state)
{
    const struct boot_range list[] = {
        usual[0],
        usual[1],
        usual[2],
        ROW(SCREEN + 2 * PAGE_SIZE, SCREEN + 4 * PAGE_SIZE, BOOT_FRAMEBUFFER),
    };
    struct hosted_translation seen;

    (void)state;
    set_up(list, COUNT_OF(list));
    boot.framebuffer_base = SCREEN + 0x800;
    boot.framebuffer_bytes = 5 * PAGE_SIZE;
    map_kernel();
    for (paddr_t at = SCREEN; at < SCREEN + 6 * PAGE_SIZE; at += PAGE_SIZE) {
        assert_int_equal(hosted_cpu_walk(hhdm_offset() + at, HOSTED_WRITE, &seen), HOSTED_OK);
        assert_int_equal(seen.address, at);
        assert_int_equal(seen.memory_type, 1);
        assert_false(seen.execute);
    }
    assert_int_equal(hosted_cpu_walk(hhdm_offset() + SCREEN - 1, 0, NULL), HOSTED_NOT_PRESENT);
    assert_int_equal(hosted_cpu_walk(hhdm_offset() + SCREEN + 6 * PAGE_SIZE, 0, NULL),
                     HOSTED_NOT_PRESENT);
}

/* Frames of .init are right, those of its data are free: nothing of either is given back. */
static void kvm_release_of_init_data_that_is_free_is_refused(void **state)
{
    const struct kvm_window taken[] = { { hhdm_offset(), hhdm_offset() + MM_GIB(4) },
                                        { IMAGE, IMAGE + MM_MIB(8) } };
    struct walker_snapshot before;
    uint64_t bytes = 77;

    (void)state;
    set_up(usual, COUNT_OF(usual));
    map_kernel();
    assert_ok(kvm_init(&kvm, &space, taken, COUNT_OF(taken)));
    boot.init_data = (struct boot_section){ IMAGE + MM_MIB(3), IMAGE + MM_MIB(3) + PAGE_SIZE };
    assert_frame_state(&machine.pmm, frame_of(boot.init_data.begin), PMM_FRAME_FREE);
    before = walker_snapshot(&space);
    assert_status(kvm_release_init(&kvm, &boot, &bytes), MM_INVALID_ADDRESS);
    assert_int_equal(bytes, 77);
    assert_false(kvm.init_released);
    assert_snapshot_equal(&space, &before);
    boot.init_data = (struct boot_section){ 0, 0 };
    assert_ok(kvm_release_init(&kvm, &boot, &bytes));
    assert_int_equal(bytes, PART);
    assert_alias(boot.init, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_constants_in_any_order_are_read_only_in_the_hhdm),
        TEST(kvm_leaf_of_the_hhdm_spans_ranges_that_touch),
        TEST(kvm_hole_between_ranges_of_ram_is_not_mapped),
        TEST(kvm_framebuffer_is_mapped_around_what_the_map_knows_of_it),
        TEST(kvm_release_of_init_data_that_is_free_is_refused),
    };

    return RUN_TESTS(tests);
}
