/* SPDX-License-Identifier: MIT */
/* Devices: their memory types, wrong ranges, what is no device. */
#include "kvm_fixture.h"

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
    kvm_set_up(4, MM_MIB(8));
    before = walker_snapshot(&space);
    for (size_t i = 0; i < COUNT_OF(list); i++) {
        assert_ok(kvm_map_device(&kvm, list[i].phys, list[i].bytes, list[i].type, &device[i]));
        vaddr_t first = mm_round_down(device[i], PAGE_SIZE), last = device[i] + list[i].bytes - 1;
        assert_device(device[i], list[i].phys, list[i].seen);
        assert_device(last, list[i].phys + list[i].bytes - 1, list[i].seen);
        assert_guard(first - PAGE_SIZE);
        assert_guard(mm_round_down(last, PAGE_SIZE) + PAGE_SIZE);
        assert_true(first > kvm.devices.base && last < kvm.devices.end);
    }
    assert_true(space.stats.leaves[1] + space.stats.leaves[2] * 512 >= 1024 + 3); /* large leaves */
    for (size_t i = 0; i < COUNT_OF(list); i++) {
        kvm_unmap_device(&kvm, device[i]);
        assert_guard(mm_round_down(device[i], PAGE_SIZE));
    }
    assert_snapshot_equal(&space, &before);
}

static void kvm_device_bad_ranges_are_refused(void **state)
{
    struct walker_snapshot before;
    vaddr_t device = 0x1234;

    (void)state;
    kvm_set_up(4, MM_MIB(8));
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
        kvm_set_up(4, MM_MIB(8));
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
    kvm_set_up(4, MM_MIB(8));
    assert_ok(kvm_map_device(&kvm, MM_GIB(3) + 0x40, MM_KIB(8), 0, &device));
    EXPECT_BUG("kvm_unmap_device|64 bytes below the device", kvm_unmap_device(&kvm, device - 0x40));
    EXPECT_BUG("kvm_unmap_device|byte 8 of the device", kvm_unmap_device(&kvm, device + 8));
    EXPECT_BUG("kvm_unmap_device|no device", kvm_unmap_device(&kvm, 0));
    EXPECT_BUG("kvm_unmap_device|no device", kvm_unmap_device(&kvm, kvm.blocks.base));
    kvm_unmap_device(&kvm, device);
    EXPECT_BUG("kvm_unmap_device|no device", kvm_unmap_device(&kvm, device));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kvm_device_is_mapped_with_its_type_and_goes),
        TEST(kvm_device_bad_ranges_are_refused),
        TEST(kvm_unmap_of_what_is_no_device_is_reported),
    };

    return RUN_TESTS(tests);
}
