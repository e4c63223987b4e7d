/* SPDX-License-Identifier: MIT */
/* The audit of a whole mm: its rules follow what has become of the image since boot, it knows every
 * guard, and the log says what it found. */
#include "walker.h"

#include <mm/audit.h>

#define IMAGE      ((vaddr_t)0xffffffff80000000)
#define IMAGE_PHYS MM_MIB(8)
#define PAGES(n)   ((n)*PAGE_SIZE)

static struct machine machine;
static struct mm mm;
static struct audit_result result;

static struct boot_section part(uint64_t first, uint64_t count)
{
    return (struct boot_section){ IMAGE + PAGES(first), IMAGE + PAGES(first + count) };
}

/* RAM of 16 MiB; text 4 | rodata 4 | data 16, with a guard, .init data and constants in it | .init 4. */
static void mm_set_up(void)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), IMAGE_PHYS, BOOT_USABLE),
        ROW(IMAGE_PHYS, IMAGE_PHYS + PAGES(28), BOOT_EXECUTABLE),
        ROW(IMAGE_PHYS + PAGES(28), MM_MIB(17), BOOT_USABLE),
        ROW(0xfd000000, 0xfd200000, BOOT_FRAMEBUFFER),
    };

    hosted_cpu_reset(4);
    machine_set_up(&machine, list, COUNT_OF(list), false);
    mm = (struct mm){ .map = machine.map, .pmm = machine.pmm, .cpu = features_of(4, 46, true) };
    mm.boot = machine.rows.boot;
    mm.boot.paging_is_foreign = false;
    mm.boot.kernel_virt = IMAGE;
    mm.boot.kernel_phys = IMAGE_PHYS;
    mm.boot.text = part(0, 4);
    mm.boot.rodata = part(4, 4);
    mm.boot.data = part(8, 16);
    mm.boot.guard[0] = part(10, 1);
    mm.boot.guard_count = 1;
    mm.boot.init_data = part(14, 2);
    mm.boot.ro_after_init = part(18, 3);
    mm.boot.init = part(24, 4);
    mm.boot.framebuffer_base = 0xfd000000;
    mm.boot.framebuffer_bytes = MM_MIB(2);
    assert_ok(paging_init(&mm.kernel_space, &mm.pmm, &mm.cpu));
    assert_ok(kvm_map_kernel(&mm.kernel_space, &mm.map, &mm.boot));
    const struct kvm_window taken[] = { { hhdm_offset(), hhdm_offset() + MM_GIB(64) },
                                        { IMAGE, IMAGE + MM_MIB(2) } };
    assert_ok(kvm_init(&mm.kvm, &mm.kernel_space, taken, COUNT_OF(taken)));
    log_clear();
}

/* The audit finds violations of the classes in this mask, and of no other. */
static void expect_classes(unsigned mask)
{
    assert_true(mm_audit(&mm, &result) == (mask == 0));
    for (unsigned i = 0; i < AUDIT_CLASSES; i++)
        if ((result.found[i].violations != 0) != (mask >> i & 1))
            fail_msg("%s: %lu violations, first at 0x%lx", audit_class_key((enum audit_class)i),
                     result.found[i].violations, result.found[i].page);
}

#define CLASS(class_) (1u << (class_))

static paddr_t a_frame(void)
{
    paddr_t frame;

    assert_ok(pmm_alloc_frame(&mm.pmm, &frame));
    return frame;
}

static void audit_of_a_kernel_says_a_line_for_each_class(void **state)
{
    (void)state;
    mm_set_up();
    expect_classes(0);
    assert_int_equal(log_lines(), AUDIT_CLASSES + 1);
    log_expect_count("✓ audit:", AUDIT_CLASSES);
    log_expect_count("[MM] AUDIT ok=1 violations=0|exclusive=0|hhdm=0", 1);
    assert_int_equal(result.found[AUDIT_IMAGE].checked, 27);
    assert_int_equal(result.found[AUDIT_GUARDS].checked, 2 + 2 + 3); /* 0, one, heap, windows */
    log_clear();
    assert_true(mm_audit_again(&mm, &result));
    assert_int_equal(log_lines(), 1);
    log_expect_count("[MM] AUDIT AGAIN ok=1", 1);
}

static void audit_follows_what_boot_has_given_back(void **state)
{
    uint64_t bytes;

    (void)state;
    mm_set_up();
    assert_ok(kvm_release_init(&mm.kvm, &mm.boot, &bytes));
    expect_classes(0);
    assert_int_equal(result.found[AUDIT_IMAGE].checked, 27 - 4 - 2);
    mm.kvm.init_released = false; /* as if .init had vanished in another way */
    expect_classes(CLASS(AUDIT_IMAGE) | CLASS(AUDIT_ALIASES));
    mm.kvm.init_released = true;
    /* The image's address is still the image's. */
    assert_ok(paging_map_page(&mm.kernel_space, mm.boot.init.begin, a_frame(), PAGING_WRITE));
    expect_classes(CLASS(AUDIT_IMAGE));
}

static void audit_follows_what_is_sealed(void **state)
{
    (void)state;
    mm_set_up();
    mm.kvm.constants_sealed = true; /* said, and not done */
    expect_classes(CLASS(AUDIT_IMAGE) | CLASS(AUDIT_ALIASES));
    assert_int_equal(result.found[AUDIT_IMAGE].page, mm.boot.ro_after_init.begin);
    assert_int_equal(result.found[AUDIT_IMAGE].violations, 3);
    mm.kvm.constants_sealed = false;
    assert_ok(kvm_seal(&mm.kvm, &mm.boot));
    expect_classes(0);
    mm.kvm.constants_sealed = false;
    expect_classes(CLASS(AUDIT_IMAGE));
}

static void audit_knows_every_guard_of_a_kernel(void **state)
{
    vaddr_t block, top;
    size_t count = 0;

    (void)state;
    mm_set_up();
    assert_ok(kvm_alloc(&mm.kvm, PAGE_SIZE, 0, &block));
    assert_ok(kvm_alloc_stack(&mm.kvm, PAGE_SIZE, &top));
    expect_classes(0);
    const vaddr_t guards[] = { 0,
                               mm.boot.guard[0].begin,
                               block - PAGE_SIZE,
                               block + PAGE_SIZE,
                               top,
                               top - PAGES(2),
                               mm.kvm.heap.base,
                               mm.kvm.heap.end - PAGE_SIZE,
                               mm.kvm.devices.base };
    for (size_t i = 0; i < COUNT_OF(guards); i++) {
        paddr_t frame = a_frame();
        bool in_image = guards[i] == mm.boot.guard[0].begin;

        assert_ok(paging_map_page(&mm.kernel_space, guards[i], frame, PAGING_READ));
        log_clear();
        expect_classes(CLASS(AUDIT_GUARDS) | (in_image ? CLASS(AUDIT_IMAGE) : 0));
        assert_int_equal(result.found[AUDIT_GUARDS].violations, 1);
        assert_int_equal(result.found[AUDIT_GUARDS].page, guards[i]);
        log_expect_count("✗ audit: guard pages are not mapped: 1 of", 1);
        log_expect_count("[MM] AUDIT ok=0|guards=1", 1);
        assert_ok(paging_unmap_page(&mm.kernel_space, guards[i], NULL));
        count++;
    }
    assert_int_equal(count, COUNT_OF(guards));
    expect_classes(0);
}

/* Registers of a device that look like memory, in the HHDM behind the end of RAM. */
static void audit_judges_the_hhdm_behind_the_end_of_ram(void **state)
{
    const vaddr_t behind = hhdm_offset() + hhdm_end() + MM_GIB(1);

    (void)state;
    mm_set_up();
    assert_ok(paging_map_page(&mm.kernel_space, behind, behind - hhdm_offset(), PAGING_WRITE));
    expect_classes(CLASS(AUDIT_HHDM));
    assert_int_equal(result.found[AUDIT_HHDM].page, behind);
    assert_ok(paging_unmap_page(&mm.kernel_space, behind, NULL));
    expect_classes(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(audit_of_a_kernel_says_a_line_for_each_class),
        TEST(audit_follows_what_boot_has_given_back),
        TEST(audit_follows_what_is_sealed),
        TEST(audit_knows_every_guard_of_a_kernel),
        TEST(audit_judges_the_hhdm_behind_the_end_of_ram),
    };

    return RUN_TESTS(tests);
}
