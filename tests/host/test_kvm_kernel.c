/* SPDX-License-Identifier: MIT */
/* What is mapped for the kernel: its sections, the HHDM and the framebuffer, and what changes after boot.
 * Nothing here touches a kernel address: the hosted MMU tells what the CPU would see there. */
#include "kvm_fixture.h"

#include <string.h>

/* ---- The kernel's own mappings ---- */

static struct mm_cpu_features features;

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
