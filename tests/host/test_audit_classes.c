/* SPDX-License-Identifier: MIT */
/* The classes of the audit in a kernel (mm_audit): each one is broken alone, in the many ways that there
 * are, and told by its line and in the verdict; at each stage of the boot nothing is.
 *
 *      a right kernel -> mm_audit: nine times ✓, ok=1
 *          one thing wrong -> mm_audit: one ✗ and eight times ✓, ok=0 <key>=<count>, other keys 0
 *                          -> mm_audit_again: that ✗ alone, and the verdict
 *
 * test_audit.c has paging_audit() under rules of its own, test_audit_kernel.c what makes the rules. */
#include "walker.h"

#include <mm/audit.h>

#include <stdio.h>
#include <string.h>

#define KERNEL_VIRT  ((vaddr_t)0xffffffff80000000)
#define KERNEL_PHYS  MM_MIB(8)
#define KERNEL_PAGES 72u
#define AREA         ((vaddr_t)0xffff900000000000) /* upper half, where no window is */
#define RW           (PAGING_READ | PAGING_WRITE)

static struct machine machine;
static struct mm mm;
static struct audit_result result;
static vaddr_t block, device, stack_top;
static paddr_t frame; /* a used one, mapped in the HHDM alone */
static const char *broken_by = "";

/* ---- A right kernel ---- */

static struct boot_section section(uint64_t begin_page, uint64_t end_page)
{
    return (struct boot_section){ KERNEL_VIRT + begin_page * PAGE_SIZE,
                                  KERNEL_VIRT + end_page * PAGE_SIZE };
}

/* text 16 | rodata 8 | data, in it: guard 1, init data 2, guard 1, constants 3 | init 8 */
static void boot_set_up(struct boot_info *boot)
{
    *boot = machine.rows.boot;
    boot->hhdm_offset = hhdm_offset();
    boot->kernel_phys = KERNEL_PHYS;
    boot->kernel_virt = KERNEL_VIRT;
    boot->text = section(0, 16);
    boot->rodata = section(16, 24);
    boot->data = section(24, KERNEL_PAGES - 8);
    boot->init = section(KERNEL_PAGES - 8, KERNEL_PAGES);
    boot->guard[0] = section(30, 31);
    boot->init_data = section(40, 42);
    boot->guard[1] = section(42, 43);
    boot->ro_after_init = section(50, 53);
    boot->paging_is_foreign = false;
    boot->guard_count = 2;
    boot->framebuffer_base = MM_MIB(40);
    boot->framebuffer_bytes = MM_MIB(1) - 100;
}

static void set_up(unsigned levels)
{
    const struct boot_range list[] = {
        ROW(0xf0000, 0x100000, BOOT_RESERVED),
        ROW(MM_MIB(1), KERNEL_PHYS, BOOT_USABLE),
        ROW(KERNEL_PHYS, KERNEL_PHYS + KERNEL_PAGES * FRAME_SIZE, BOOT_EXECUTABLE),
        ROW(KERNEL_PHYS + KERNEL_PAGES * FRAME_SIZE, MM_MIB(32), BOOT_USABLE),
        ROW(MM_MIB(36), MM_MIB(37), BOOT_RESERVED),
        ROW(MM_MIB(40), MM_MIB(41), BOOT_FRAMEBUFFER),
    };
    const struct kvm_window taken[] = {
        { AREA, AREA + MM_GIB(512) },
        { KERNEL_VIRT, KERNEL_VIRT + KERNEL_PAGES * PAGE_SIZE },
    };

    hosted_cpu_reset(levels);
    hosted_cpu()->leaf_8000_0008.eax = 46;
    hosted_cpu()->pat = 0x0000010500070406u;
    machine_set_up(&machine, list, COUNT_OF(list), false);
    mm =
        (struct mm){ .map = machine.map, .pmm = machine.pmm, .cpu = features_of(levels, 46, true) };
    boot_set_up(&mm.boot);
    assert_ok(paging_init(&mm.kernel_space, &mm.pmm, &mm.cpu));
    assert_ok(kvm_map_kernel(&mm.kernel_space, &mm.map, &mm.boot));
    assert_ok(kvm_init(&mm.kvm, &mm.kernel_space, taken, COUNT_OF(taken)));
    paging_activate(&mm.kernel_space, &mm.cpu);
    assert_ok(kvm_alloc(&mm.kvm, MM_MIB(2) + PAGE_SIZE, 0, &block));
    assert_ok(kvm_map_device(&mm.kvm, MM_GIB(3), PAGE_SIZE, PAGING_UNCACHED, &device));
    assert_ok(kvm_alloc_stack(&mm.kvm, 4 * PAGE_SIZE, &stack_top));
    assert_ok(kvm_heap_commit(&mm.kvm, kvm_heap_window(&mm.kvm).base, MM_MIB(2)));
    assert_ok(pmm_alloc_frame(&mm.pmm, &frame));
    log_clear();
}

/* ---- What the log says ---- */

static void expect_verdict(const char *which, bool ok)
{
    char line[MM_LOG_LINE_MAX];
    size_t used = (size_t)snprintf(line, sizeof line,
                                   "[MM] %s ok=%d violations=%lu leaves=%lu tables=%lu us=|", which,
                                   ok, result.violations, result.leaves, result.tables);

    for (unsigned i = 0; i < AUDIT_CLASSES; i++)
        used += (size_t)snprintf(line + used, sizeof line - used, " %s=%lu",
                                 audit_class_key((enum audit_class)i), result.found[i].violations);
    log_expect_count(line, 1);
}

/* A line of each class that is judged, of the broken ones alone if not `all`. */
static void expect_lines(bool all)
{
    size_t wrong = 0;

    for (unsigned i = 0; i < AUDIT_CLASSES; i++) {
        const struct audit_finding *found = &result.found[i];
        const char *name = audit_class_name((enum audit_class)i);
        char line[MM_LOG_LINE_MAX];

        if (found->violations != 0)
            snprintf(line, sizeof line, "✗ audit: %s: %lu of %lu, first: 0x%lx", name,
                     found->violations, found->checked, found->page);
        else
            snprintf(line, sizeof line, "[MM] ✓ audit: %s: %lu", name, found->checked);
        log_expect_count(line, found->violations != 0 || all ? 1 : 0);
        wrong += found->violations != 0;
    }
    assert_int_equal(log_count("✗ audit:"), wrong);
    assert_int_equal(log_count("✓ audit:"), all ? AUDIT_CLASSES - wrong : 0);
}

static void expect_right(bool again)
{
    log_clear();
    assert_true(again ? mm_audit_again(&mm, &result) : mm_audit(&mm, &result));
    assert_int_equal(result.violations, 0);
    expect_lines(!again);
    expect_verdict(again ? "AUDIT AGAIN" : "AUDIT", true);
}

/* Exactly these: violations[class], in each of both audits. */
static void expect_wrong(const uint64_t violations[AUDIT_CLASSES])
{
    for (unsigned again = 0; again < 2; again++) {
        log_clear();
        assert_false(again != 0 ? mm_audit_again(&mm, &result) : mm_audit(&mm, &result));
        for (unsigned i = 0; i < AUDIT_CLASSES; i++)
            if (result.found[i].violations != violations[i])
                fail_msg("%s: %s: %lu violations, not %lu", broken_by,
                         audit_class_key((enum audit_class)i), result.found[i].violations,
                         violations[i]);
        expect_lines(again == 0);
        expect_verdict(again != 0 ? "AUDIT AGAIN" : "AUDIT", false);
    }
}

/* ---- The stages of the boot ---- */

static void kernel_audit_is_right_at_each_stage(void **state)
{
    uint64_t bytes, image = KERNEL_PAGES - 2; /* without guards */

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        set_up(levels);
        expect_right(false);
        assert_int_equal(result.found[AUDIT_IMAGE].checked, image);
        assert_true(result.found[AUDIT_GUARDS].checked > 2 + 2 + 4); /* null, image, windows */
        assert_int_equal(result.leaves, mm.kernel_space.stats.leaves[0] +
                                            mm.kernel_space.stats.leaves[1] +
                                            mm.kernel_space.stats.leaves[2]);
        assert_ok(kvm_release_init(&mm.kvm, &mm.boot, &bytes));
        expect_right(true);
        assert_int_equal(result.found[AUDIT_IMAGE].checked, image - 10);
        assert_ok(kvm_seal(&mm.kvm, &mm.boot));
        expect_right(true);
        assert_int_equal(result.found[AUDIT_IMAGE].checked, image - 10);
        expect_right(false);
    }
}

/* What a stage should have changed and has not. */
static void kernel_audit_sees_a_stage_left_out(void **state)
{
    (void)state;
    set_up(4);
    mm.kvm.init_released = true;
    /* 8 pages of .init, 2 of its data; no section is theirs any more, so nothing says "constant". The
     * writable alias of the code is not there yet, so none is both. */
    expect_wrong((uint64_t[AUDIT_CLASSES]){ [AUDIT_IMAGE] = 10 });
    set_up(4);
    mm.kvm.constants_sealed = true;
    expect_wrong((uint64_t[AUDIT_CLASSES]){ [AUDIT_IMAGE] = 3, [AUDIT_ALIASES] = 6 });
    set_up(4);
    assert_ok(kvm_seal(&mm.kvm, &mm.boot));
    mm.kvm.constants_sealed = false;
    expect_wrong((uint64_t[AUDIT_CLASSES]){ [AUDIT_IMAGE] = 3 });
}

/* ---- Each class, broken alone ---- */

static void map(vaddr_t page, paddr_t to, paging_rights_t rights)
{
    assert_ok(paging_map_page(&mm.kernel_space, page, to, rights));
}

static void protect(vaddr_t page, paging_rights_t rights)
{
    assert_ok(paging_protect_page(&mm.kernel_space, page, rights));
}

static uint64_t *leaf_of(vaddr_t page)
{
    struct paging_level way[PAGING_LEVELS_MAX];
    size_t count = paging_peek(&mm.kernel_space, page, way);
    const struct paging_level *last = &way[count - 1];

    assert_true(count > 0 && last->present && last->leaf);
    return (uint64_t *)phys_to_virt(last->table) + (page >> (12 + 9 * (last->level - 1)) & 511);
}

static void execute_a_writable_frame(void)
{
    map(AREA, frame, PAGING_EXECUTE);
}

static void execute_a_block(void)
{
    *leaf_of(block) &= ~((uint64_t)1 << 63); /* 2 MiB, which the HHDM writes, too */
}

static void let_users_into_a_leaf(void)
{
    *leaf_of(block + MM_MIB(2)) |= 4;
}

static void let_users_in(void)
{
    map(AREA, frame, PAGING_READ | PAGING_USER);
}

static void map_a_free_frame(void)
{
    map(AREA, frame, RW);
    pmm_free_frame(&mm.pmm, frame);
}

static void free_half_of_a_block(void)
{
    paddr_t first;

    assert_ok(paging_translate(&mm.kernel_space, block + MM_MIB(2), &first));
    pmm_free_frame(&mm.pmm, first);
}

static void map_a_table(void)
{
    map(AREA, mm.kernel_space.root, PAGING_READ);
}

static void set_a_reserved_bit(void)
{
    map(AREA, frame, RW);
    *leaf_of(AREA) |= (uint64_t)1 << 50;
}

static void map_null(void)
{
    map(0, frame, RW);
}

static void map_below_the_block(void)
{
    map(block - PAGE_SIZE, frame, RW);
}

static void map_above_the_block(void)
{
    map(block + MM_MIB(2) + PAGE_SIZE, frame, RW);
}

static void map_below_the_stack(void)
{
    map(stack_top - 5 * PAGE_SIZE, frame, RW);
}

static void map_above_the_stack(void)
{
    map(stack_top, frame, RW);
}

static void map_behind_the_device(void)
{
    map(mm_round_down(device, PAGE_SIZE) + PAGE_SIZE, frame, PAGING_READ);
}

static void map_below_the_heap(void)
{
    map(kvm_heap_window(&mm.kvm).base - PAGE_SIZE, frame, RW);
}

static void map_above_the_heap(void)
{
    map(kvm_heap_window(&mm.kvm).end, frame, RW);
}

static void map_an_image_guard(void)
{
    map(mm.boot.guard[1].begin, frame, RW);
}

static void lose_a_right_of_text(void)
{
    protect(mm.boot.text.begin + PAGE_SIZE, PAGING_READ);
}

static void lose_a_page_of_data(void)
{
    assert_ok(paging_unmap_page(&mm.kernel_space, mm.boot.data.begin, NULL));
}

static void uncache_rodata(void)
{
    protect(mm.boot.rodata.begin, PAGING_READ | PAGING_UNCACHED);
}

static void write_to_rodata_by_its_alias(void)
{
    protect(hhdm_offset() + KERNEL_PHYS + 16 * FRAME_SIZE, RW);
}

static void write_to_rodata_from_elsewhere(void)
{
    map(AREA, KERNEL_PHYS + 17 * FRAME_SIZE, RW);
}

static void move_a_page_of_the_hhdm(void)
{
    assert_ok(paging_remap_range(&mm.kernel_space, hhdm_offset() + frame, frame ^ FRAME_SIZE,
                                 PAGE_SIZE, RW));
}

static void show_reserved_memory(void)
{
    map(hhdm_offset() + MM_MIB(36), MM_MIB(36), PAGING_READ);
}

static void show_what_is_beyond_the_map(void)
{
    map(hhdm_offset() + MM_MIB(64), MM_MIB(64), PAGING_READ);
}

#define BROKEN(function, ...)                                                                      \
    {                                                                                              \
        .name = #function, .break_it = function, __VA_ARGS__                                       \
    }

static const struct broken {
    const char *name;
    void (*break_it)(void);
    uint64_t violations[AUDIT_CLASSES]; /* user: of a leaf, the tables on the way are added */
} broken[] = {
    BROKEN(execute_a_writable_frame, .violations[AUDIT_EXCLUSIVE] = 1),
    BROKEN(execute_a_block, .violations[AUDIT_EXCLUSIVE] = 2),
    BROKEN(let_users_into_a_leaf, .violations[AUDIT_USER] = 1),
    BROKEN(let_users_in, .violations[AUDIT_USER] = 1),
    BROKEN(map_a_free_frame, .violations[AUDIT_FREE] = 1),
    BROKEN(free_half_of_a_block, .violations[AUDIT_FREE] = 1),
    BROKEN(map_a_table, .violations[AUDIT_TABLES] = 1),
    BROKEN(set_a_reserved_bit, .violations[AUDIT_RESERVED] = 1),
    BROKEN(map_null, .violations[AUDIT_GUARDS] = 1),
    BROKEN(map_below_the_block, .violations[AUDIT_GUARDS] = 1),
    BROKEN(map_above_the_block, .violations[AUDIT_GUARDS] = 1),
    BROKEN(map_below_the_stack, .violations[AUDIT_GUARDS] = 1),
    BROKEN(map_above_the_stack, .violations[AUDIT_GUARDS] = 1),
    BROKEN(map_behind_the_device, .violations[AUDIT_GUARDS] = 1),
    BROKEN(map_below_the_heap, .violations[AUDIT_GUARDS] = 1),
    BROKEN(map_above_the_heap, .violations[AUDIT_GUARDS] = 1),
    BROKEN(map_an_image_guard, .violations[AUDIT_GUARDS] = 1, .violations[AUDIT_IMAGE] = 1),
    BROKEN(lose_a_right_of_text, .violations[AUDIT_IMAGE] = 1),
    BROKEN(lose_a_page_of_data, .violations[AUDIT_IMAGE] = 1),
    BROKEN(uncache_rodata, .violations[AUDIT_IMAGE] = 1),
    BROKEN(write_to_rodata_by_its_alias, .violations[AUDIT_ALIASES] = 1),
    BROKEN(write_to_rodata_from_elsewhere, .violations[AUDIT_ALIASES] = 1),
    BROKEN(move_a_page_of_the_hhdm, .violations[AUDIT_HHDM] = 1),
    BROKEN(show_reserved_memory, .violations[AUDIT_HHDM] = 1),
    BROKEN(show_what_is_beyond_the_map, .violations[AUDIT_HHDM] = 1),
};

static void kernel_audit_tells_each_class_alone(void **state)
{
    bool alone[AUDIT_CLASSES] = { false };

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++)
        for (size_t i = 0; i < COUNT_OF(broken); i++) {
            struct broken row = broken[i];
            unsigned classes = 0, last = 0;

            set_up(levels);
            broken_by = row.name;
            row.break_it();
            if (row.break_it == let_users_in)
                row.violations[AUDIT_USER] = levels;
            expect_wrong(row.violations);
            for (unsigned j = 0; j < AUDIT_CLASSES; j++)
                if (row.violations[j] != 0) {
                    classes++;
                    last = j;
                }
            alone[last] |= classes == 1;
        }
    for (unsigned i = 0; i < AUDIT_CLASSES; i++)
        if (!alone[i])
            fail_msg("no row breaks %s alone", audit_class_key((enum audit_class)i));
}

/* ---- No audit ---- */

static void kernel_audit_without_memory_is_no_verdict(void **state)
{
    (void)state;
    set_up(4);
    for (uint64_t i = 0; i < 64; i++) /* more runs than it can hold without memory */
        map(AREA + i * PAGE_SIZE, MM_GIB(8) + 2 * i * FRAME_SIZE, PAGING_EXECUTE);
    expect_right(false);
    pmm_drain_to(&mm.pmm, 0, NULL, 0);
    log_clear();
    assert_false(mm_audit(&mm, &result));
    log_expect_count("[MM] ERROR:|no audit of the page tables", 1);
    assert_int_equal(log_count("AUDIT"), 0);
}

static void kernel_audit_leaves_foreign_paging_alone(void **state)
{
    (void)state;
    set_up(4);
    map_null();
    mm.boot.paging_is_foreign = true;
    assert_true(mm_audit(&mm, &result));
    assert_true(mm_audit_again(&mm, &result));
    assert_int_equal(log_lines(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kernel_audit_is_right_at_each_stage),
        TEST(kernel_audit_sees_a_stage_left_out),
        TEST(kernel_audit_tells_each_class_alone),
        TEST(kernel_audit_without_memory_is_no_verdict),
        TEST(kernel_audit_leaves_foreign_paging_alone),
    };

    return RUN_TESTS(tests);
}
