/* SPDX-License-Identifier: MIT */
/* The whole of mm, started: with foreign paging as in a Linux process, and with its own page tables
 * under the fake CPU, from a loader's tables. There the heap's window lies in the kernel half,
 * which no process can touch: __wrap_kheap_create() stands before kheap_create() (ld --wrap), asks the
 * fake MMU where the window leads, and hands on the same frames at their place in the fake RAM. All
 * else is as at boot. */
#include "walker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERNEL_VIRT ((vaddr_t)0xffffffff80000000)
#define KERNEL_PHYS MM_MIB(64)
#define LOADER_ROOT MM_MIB(16) /* where mm would put its map, did it not look */
#define CR4_PGE     ((uint64_t)1 << 7)

static struct rows rows;
static struct mm mm;
static vaddr_t window_heap; /* what kheap_create was asked for */

mm_status_t __real_kheap_create(const struct kheap_config *config, struct kheap **out);
mm_status_t __wrap_kheap_create(const struct kheap_config *config, struct kheap **out);

mm_status_t __wrap_kheap_create(const struct kheap_config *config, struct kheap **out)
{
    struct kheap_config alias = *config;
    struct hosted_translation first, page;

    window_heap = (uintptr_t)config->first;
    if (window_heap >> 63 == 0)
        return __real_kheap_create(config, out);
    assert_int_equal(hosted_cpu_access(window_heap, HOSTED_WRITE, &first), HOSTED_OK);
    for (uint64_t at = 0; at < config->first_bytes; at += PAGE_SIZE) {
        assert_int_equal(hosted_cpu_access(window_heap + at, HOSTED_WRITE, &page), HOSTED_OK);
        assert_int_equal(page.address, first.address + at); /* else there is no one alias */
    }
    alias.first = phys_to_virt(first.address);
    alias.base = hhdm_offset();
    alias.bytes = hhdm_end();
    alias.space = NULL;
    alias.kvm = NULL;
    return __real_kheap_create(&alias, out);
}

/* ---- Foreign paging ---- */

static const struct boot_range small_pc[] = {
    ROW(0, 0x9fc00, BOOT_USABLE),
    ROW(0x9fc00, 0xa0000, BOOT_RESERVED),
    ROW(0xf0000, 0x100000, BOOT_RESERVED),
    ROW(MM_MIB(1), MM_MIB(63), BOOT_USABLE),
    ROW(MM_MIB(63), MM_MIB(64), BOOT_ACPI_RECLAIMABLE),
    ROW(0xfd000000, 0xfd3e8000, BOOT_FRAMEBUFFER),
};

static void foreign_set_up(const char *command_line)
{
    hosted_ram_destroy();
    ram_set_up(MM_MIB(64));
    rows_set(&rows, small_pc, COUNT_OF(small_pc));
    rows.boot.hhdm_offset = hhdm_offset();
    rows.boot.command_line = command_line;
    log_clear();
}

static void init_foreign_brings_everything_up(void **state)
{
    (void)state;
    foreign_set_up("");
    mm_init(&mm, &rows.boot);
    log_expect_count("[MM] Total memory: 63 MB", 1);
    log_expect_count("[MM] Usable memory: 62 MB", 1);
    assert_int_equal(log_count("[MM] ERROR"), 0);
    assert_non_null(mm.heap);
    assert_int_equal(kheap_stats(mm.heap).region_bytes, MM_MIB(15)); /* a quarter of what is free */
    assert_pmm_sound(&mm.pmm);
    assert_true(kheap_verify(mm.heap));
    assert_int_equal(hosted_cpu()->cr3_loads, 0); /* somebody else's registers are left alone */
    assert_int_equal(hosted_cpu()->cr4, (uint64_t)1 << 5);
    assert_int_equal(hhdm_end(), 0xfd3e8000); /* the framebuffer is the last that it holds */
    assert_true(mm.total_ns >= mm.pmm_ns);
}

static void init_heap_is_16mib_where_memory_allows(void **state)
{
    const struct boot_range list[] = { ROW(MM_MIB(1), MM_MIB(256), BOOT_USABLE) };

    (void)state;
    ram_set_up(MM_MIB(256));
    rows_set(&rows, list, COUNT_OF(list));
    mm_init(&mm, &rows.boot);
    assert_int_equal(kheap_stats(mm.heap).region_bytes, MM_MIB(16));
}

/* Each "✓" line of the three parts; nothing else is left behind. */
static void init_self_tests_pass_and_leave_no_trace(void **state)
{
    struct mm_test_result result;
    struct pmm_stats before;
    struct kheap_stats heap_before;

    (void)state;
    foreign_set_up("");
    mm_init(&mm, &rows.boot);
    before = pmm_stats(&mm.pmm);
    heap_before = kheap_stats(mm.heap);
    log_clear();
    result = run_memory_tests(&mm);
    assert_int_equal(result.failed, 0);
    assert_true(result.passed >= 12);
    assert_int_equal(log_count("[MM] ✓ "), result.passed);
    assert_int_equal(log_count("✗"), 0);
    assert_true(log_count("[MM] ✓ pmm: ") >= 3);
    assert_true(log_count("[MM] ✓ paging: ") >= 2);
    assert_true(log_count("[MM] ✓ heap: ") >= 4);
    log_expect_count("[MM] ========== Memory Tests ==========", 1);
    log_expect_count("[MM] All tests passed! ✨", 1);
    assert_string_equal(log_line(0), "[MM] ========== Memory Tests ==========");
    assert_string_equal(log_line(log_lines() - 1), "[MM] ==========");
    assert_pmm_stats_equal(pmm_stats(&mm.pmm), before);
    assert_int_equal(kheap_stats(mm.heap).used_blocks, heap_before.used_blocks);
    assert_pmm_sound(&mm.pmm);
    assert_true(kheap_verify(mm.heap));
}

static void init_memory_ends_with_the_ready_line(void **state)
{
    unsigned long total, usable, free_kb, ranges, pmm_us, total_us;
    struct pmm_stats stats;
    void *block;
    int end = 0;

    (void)state;
    foreign_set_up("mello.exit=qemu");
    assert_true(init_memory(&rows.boot));
    sscanf(log_line(log_lines() - 1),
           "[MM] READY total_kb=%lu usable_kb=%lu free_kb=%lu ranges=%lu pmm_us=%lu total_us=%lu%n",
           &total, &usable, &free_kb, &ranges, &pmm_us, &total_us, &end);
    assert_int_equal(end, strlen(log_line(log_lines() - 1)));
    stats = pmm_stats(&mm_kernel()->pmm);
    assert_int_equal(total, (0x9f000 + MM_MIB(63)) >> 10);
    assert_int_equal(usable, (0x9f000 + MM_MIB(62)) >> 10);
    assert_int_equal(free_kb, stats.free_frames * 4);
    assert_int_equal(ranges, stats.range_count);
    assert_true(total_us >= pmm_us);
    block = kmalloc(1024);
    assert_non_null(block);
    kfree(block);
    assert_ptr_equal(kheap_default(), mm_kernel()->heap);
    kheap_set_default(NULL);
}

/* What the heap has grown by and holds for later goes back to the frames when these run short, in the
 * allocation that crosses the mark; earlier only by what lies in a cache. */
static void give_back_when_frames_run_short(const char *command_line, uint64_t cache_frames)
{
    void *blocks[24];
    uint64_t first, held, mark, before, taken = 0;
    struct pmm_stats stats;
    paddr_t frame;

    foreign_set_up(command_line);
    mm_init(&mm, &rows.boot);
    first = kheap_stats(mm.heap).region_bytes;
    mark = pmm_stats(&mm.pmm).total_frames / 64;
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        assert_non_null(blocks[i] = kheap_alloc(mm.heap, MAX_BLOCK_SIZE));
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        kheap_free(mm.heap, blocks[i]);
    held = kheap_stats(mm.heap).region_bytes;
    assert_true(held > first);
    stats = pmm_stats(&mm.pmm);
    do {
        before = pmm_stats(&mm.pmm).free_frames;
        assert_ok(pmm_alloc_frame(&mm.pmm, &frame)); /* there is still memory */
        taken++;
    } while (kheap_stats(mm.heap).region_bytes == held);
    assert_true(before >= mark && before <= mark + cache_frames);
    assert_int_equal(kheap_stats(mm.heap).region_bytes, first);
    assert_int_equal(pmm_stats(&mm.pmm).free_frames + pmm_stats(&mm.pmm).reserved_frames,
                     stats.free_frames + stats.reserved_frames + (held - first) / FRAME_SIZE -
                         taken);
    assert_true(pmm_stats(&mm.pmm).free_frames > mark);
    assert_pmm_sound(&mm.pmm);
    assert_true(kheap_verify(mm.heap));
}

static void init_heap_gives_back_when_frames_run_short(void **state)
{
    (void)state;
    give_back_when_frames_run_short("", 256);
    give_back_when_frames_run_short("mm.harden=full", 0); /* no caches, and a quarantine */
}

/* A clock that stands still, as a kernel without one has. */
static uint64_t no_clock(void)
{
    return 0;
}

static void init_works_without_a_clock(void **state)
{
    struct hosted_hooks hooks = *support_hooks();

    (void)state;
    hooks.time_ns = no_clock;
    hosted_set_hooks(&hooks);
    foreign_set_up("");
    assert_true(init_memory(&rows.boot));
    log_expect("READY|pmm_us=0 total_us=0");
}

static void init_obeys_the_command_line(void **state)
{
    size_t at_info;

    (void)state;
    foreign_set_up("mm.log=error");
    mm_init(&mm, &rows.boot);
    assert_int_equal(log_lines(), 0);
    foreign_set_up("");
    mm_init(&mm, &rows.boot);
    at_info = log_lines();
    assert_int_equal(pmm_frame_state(&mm.pmm, FRAME_SIZE), PMM_FRAME_RESERVED);
    foreign_set_up("mm.log=debug mm.lowmem=on");
    mm_init(&mm, &rows.boot);
    assert_true(log_lines() > at_info);
    assert_int_not_equal(pmm_frame_state(&mm.pmm, FRAME_SIZE), PMM_FRAME_RESERVED);
}

/* ---- What cannot work: one error line, then a halt ---- */

static void init_bad_boot_information_halts(void **state)
{
    (void)state;
    foreign_set_up("");
    rows.boot.map_count = 0;
    EXPECT_HALT("memory map", mm_init(&mm, &rows.boot));
    foreign_set_up("");
    rows.boot.map = NULL;
    EXPECT_HALT("memory map", mm_init(&mm, &rows.boot));
    foreign_set_up("");
    rows.boot.keep_count = BOOT_KEEP_MAX + 1;
    EXPECT_HALT("17", mm_init(&mm, &rows.boot));
    foreign_set_up("");
    rows.boot.hhdm_offset += 8;
    EXPECT_HALT("HHDM offset", mm_init(&mm, &rows.boot));
    foreign_set_up("");
    for (size_t i = 0; i < COUNT_OF(small_pc); i++)
        rows.row[i].type = BOOT_RESERVED;
    EXPECT_HALT("no usable memory", mm_init(&mm, &rows.boot));
}

/* From one usable frame on, in single frames: either everything works or one line says why not. */
static void init_on_any_little_memory_works_or_says_why(void **state)
{
    static uint64_t frames;
    static bool worked;

    (void)state;
    worked = false;
    for (frames = 1; frames < 1200; frames += frames < 40 ? 1 : 37) {
        const struct boot_range list[] = {
            ROW(0, 0x9f000, BOOT_USABLE),
            ROW(MM_MIB(1), MM_MIB(1) + frames * FRAME_SIZE, BOOT_USABLE),
        };

        hosted_ram_destroy();
        ram_set_up(MM_MIB(1) + frames * FRAME_SIZE);
        rows_set(&rows, list, COUNT_OF(list));
        rows.boot.hhdm_offset = hhdm_offset();
        halt_begin();
        if (setjmp(halt_escape) != 0) {
            halt_end("", __FILE__, __LINE__);
            assert_false(worked); /* more memory never works worse */
            continue;
        }
        mm_init(&mm, &rows.boot);
        worked = true;
        assert_int_equal(run_memory_tests(&mm).failed, 0);
        halt_cancel();
    }
    assert_true(worked);
}

/* ---- Own page tables ---- */

static uint64_t *loader_table(paddr_t frame)
{
    uint64_t *table = hosted_ram_at(frame);

    memset(table, 0, FRAME_SIZE);
    return table;
}

/* The tables of a loader: 4 GiB of HHDM in 1 GiB leaves, writable and executable, and the kernel's
 * image, in four (or five) tables from LOADER_ROOT on, which the map calls usable. */
static void loader_set_up(unsigned levels)
{
    paddr_t next = LOADER_ROOT;
    uint64_t *table = loader_table(next), *pdpt;
    uint64_t offset = hhdm_offset();

    hosted_cpu_reset(levels);
    hosted_cpu()->cr0 &= ~((uint64_t)1 << 16);
    if (levels == 5) {
        uint64_t *root = table;

        table = loader_table(next += FRAME_SIZE);
        root[offset >> 48 & 511] = next | 3;
        root[511] = next | 3;
    }
    pdpt = loader_table(next += FRAME_SIZE);
    table[offset >> 39 & 511] = next | 3;
    for (uint64_t i = 0; i < 4 && (offset >> 30 & 511) + i < 512; i++)
        pdpt[(offset >> 30 & 511) + i] = i << 30 | 0x83;
    pdpt = loader_table(next += FRAME_SIZE);
    table[511] = next | 3;
    pdpt[510] = (next += FRAME_SIZE) | 3;
    loader_table(next)[0] = KERNEL_PHYS | 0x83; /* 2 MiB */
    hosted_cpu()->cr3 = LOADER_ROOT;
}

#define KERNEL_BYTES (64 * PAGE_SIZE)

static void kernel_set_up(unsigned levels)
{
    const struct boot_range list[] = {
        ROW(0, 0x9fc00, BOOT_USABLE),
        ROW(0xf0000, 0x100000, BOOT_RESERVED),
        ROW(MM_MIB(1), MM_KIB(1536), BOOT_USABLE),
        ROW(MM_MIB(16), MM_MIB(128), BOOT_USABLE), /* kernel and tables in it, and not told */
        ROW(0xfd000000, 0xfd3e8000, BOOT_FRAMEBUFFER),
    };
    struct boot_info *boot = &rows.boot;

    hosted_ram_destroy();
    ram_set_up(MM_MIB(128));
    rows_set(&rows, list, COUNT_OF(list));
    loader_set_up(levels);
    boot->paging_is_foreign = false;
    boot->keep[0] = (struct boot_range){ KERNEL_PHYS, KERNEL_BYTES, BOOT_EXECUTABLE };
    boot->keep_count = 1;
    boot->kernel_phys = KERNEL_PHYS;
    boot->kernel_virt = KERNEL_VIRT;
    boot->text = (struct boot_section){ KERNEL_VIRT, KERNEL_VIRT + 16 * PAGE_SIZE };
    boot->rodata = (struct boot_section){ boot->text.end, boot->text.end + 8 * PAGE_SIZE };
    boot->data = (struct boot_section){ boot->rodata.end, KERNEL_VIRT + KERNEL_BYTES };
    boot->guard[0] =
        (struct boot_section){ boot->data.begin + PAGE_SIZE, boot->data.begin + 2 * PAGE_SIZE };
    boot->guard_count = 1;
    boot->framebuffer_base = 0xfd000000;
    boot->framebuffer_bytes = 0x3e8000;
    log_clear();
}

static void assert_page(vaddr_t address, unsigned access, enum hosted_outcome expected)
{
    enum hosted_outcome got = hosted_cpu_access(address, access, NULL);

    if (got != expected)
        fail_msg("access %u to 0x%lx: outcome %d, expected %d", access, address, (int)got,
                 (int)expected);
}

static void check_kernel_space(unsigned levels)
{
    vaddr_t alias = hhdm_offset() + KERNEL_PHYS;

    assert_int_equal(hosted_cpu()->cr3, mm.kernel_space.root);
    assert_true((hosted_cpu()->cr4 & CR4_PGE) != 0);
    assert_true((hosted_cpu()->cr0 & (uint64_t)1 << 16) != 0);
    assert_int_equal(mm.kernel_space.levels, levels);
    assert_page(KERNEL_VIRT, HOSTED_EXECUTE, HOSTED_OK);
    assert_page(KERNEL_VIRT, HOSTED_WRITE, HOSTED_FORBIDDEN);
    assert_page(rows.boot.rodata.begin, HOSTED_EXECUTE, HOSTED_FORBIDDEN);
    assert_page(rows.boot.rodata.begin, HOSTED_WRITE, HOSTED_FORBIDDEN);
    assert_page(rows.boot.data.begin, HOSTED_WRITE, HOSTED_OK);
    assert_page(rows.boot.data.begin, HOSTED_EXECUTE, HOSTED_FORBIDDEN);
    assert_page(rows.boot.guard[0].begin, HOSTED_READ, HOSTED_NOT_PRESENT);
    assert_page(alias, HOSTED_WRITE, HOSTED_FORBIDDEN);
    assert_page(alias, HOSTED_EXECUTE, HOSTED_FORBIDDEN);
    assert_page(alias + KERNEL_BYTES, HOSTED_WRITE, HOSTED_OK);
    assert_page(hhdm_offset() + 0xf0000, HOSTED_READ, HOSTED_NOT_PRESENT);
    assert_page(hhdm_offset() + MM_MIB(128), HOSTED_READ, HOSTED_NOT_PRESENT);
    assert_page(hhdm_offset() + 0xfd000000, HOSTED_WRITE, HOSTED_OK);
    assert_page(0, HOSTED_READ, HOSTED_NOT_PRESENT);
    assert_page(window_heap, HOSTED_WRITE, HOSTED_OK);
    assert_page(window_heap - 1, HOSTED_READ, HOSTED_NOT_PRESENT);
    assert_page(window_heap + kheap_stats(mm.heap).region_bytes, HOSTED_READ, HOSTED_NOT_PRESENT);
}

static void init_with_own_page_tables(void **state)
{
    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        vaddr_t top;

        kernel_set_up(levels);
        /* The loader's world is in the TLB: after the switch nothing of it may answer. */
        assert_page(KERNEL_VIRT, HOSTED_WRITE, HOSTED_OK);
        assert_page(hhdm_offset() + KERNEL_PHYS, HOSTED_WRITE, HOSTED_OK);
        assert_page(hhdm_offset() + 0xf0000, HOSTED_WRITE, HOSTED_OK);
        mm_init(&mm, &rows.boot);
        assert_int_equal(log_count("[MM] ERROR"), 0);
        check_kernel_space(levels);
        assert_int_equal(hhdm_end(), 0xfd3e8000);
        assert_true(window_heap >> 63 == 1);
        assert_int_equal(kvm_place_of(&mm.kvm, window_heap), KVM_HEAP);
        assert_space_sound(&mm.kernel_space);
        assert_pmm_sound(&mm.pmm);
        assert_ok(kvm_alloc_stack(&mm.kvm, MM_KIB(16), &top));
        assert_page(top - 8, HOSTED_WRITE, HOSTED_OK);
        kvm_free_stack(&mm.kvm, top);
        assert_page(top - 8, HOSTED_WRITE, HOSTED_NOT_PRESENT);
        assert_int_equal(hosted_cpu()->stale_uses, 0);
    }
}

static void init_never_gives_the_loaders_tables_away(void **state)
{
    static unsigned char before[6 * FRAME_SIZE];

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        kernel_set_up(levels);
        memcpy(before, hosted_ram_at(LOADER_ROOT), sizeof before);
        mm_init(&mm, &rows.boot);
        for (unsigned i = 0; i < levels; i++) {
            paddr_t table = LOADER_ROOT + i * FRAME_SIZE;

            assert_int_equal(pmm_frame_state(&mm.pmm, table), PMM_FRAME_RESERVED);
            for (unsigned j = 0; j < 512; j++) /* but for accessed bits, as they were */
                assert_int_equal(((uint64_t *)hosted_ram_at(table))[j] & ~(uint64_t)0x60,
                                 ((uint64_t *)before)[i * 512 + j] & ~(uint64_t)0x60);
        }
        assert_int_equal(pmm_frame_state(&mm.pmm, KERNEL_PHYS), PMM_FRAME_RESERVED);
        pmm_drain_to(&mm.pmm, 0, NULL, 0);
    }
}

/* ---- The loader's memory ---- */

/*   1 MiB    1.5   16 MiB   100       103      127      128 MiB
 *   | usable |     | usable | loader  | usable | loader |    and below 1 MiB */
static void loader_memory_set_up(void)
{
    const struct boot_range list[] = {
        ROW(0, 0x80000, BOOT_USABLE),
        ROW(0x80000, 0x9f000, BOOT_LOADER_RECLAIMABLE),
        ROW(MM_MIB(1), MM_KIB(1536), BOOT_USABLE),
        ROW(MM_MIB(16), MM_MIB(100), BOOT_USABLE),
        ROW(MM_MIB(100), MM_MIB(103), BOOT_LOADER_RECLAIMABLE),
        ROW(MM_MIB(103), MM_MIB(127), BOOT_USABLE),
        ROW(MM_MIB(127), MM_MIB(128), BOOT_LOADER_RECLAIMABLE),
    };
    struct boot_info *boot = &rows.boot;

    kernel_set_up(4);
    rows_set(&rows, list, COUNT_OF(list));
    boot->paging_is_foreign = false;
    boot->keep[0] = (struct boot_range){ KERNEL_PHYS, KERNEL_BYTES, BOOT_EXECUTABLE };
    boot->keep_count = 1;
    boot->kernel_phys = KERNEL_PHYS;
    boot->kernel_virt = KERNEL_VIRT;
    boot->text = (struct boot_section){ KERNEL_VIRT, KERNEL_VIRT + 16 * PAGE_SIZE };
    boot->rodata = (struct boot_section){ boot->text.end, boot->text.end + 8 * PAGE_SIZE };
    boot->data = (struct boot_section){ boot->rodata.end, KERNEL_VIRT + KERNEL_BYTES };
    mm_init(&mm, boot);
    log_clear();
}

static bool is_filled(paddr_t base, paddr_t end, uint8_t pattern)
{
    const uint8_t *bytes = hosted_ram_at(base);

    for (uint64_t i = 0; i < end - base; i++)
        if (bytes[i] != pattern)
            return false;
    return true;
}

static void assert_range_type(paddr_t address, uint64_t type)
{
    assert_int_equal(memmap_find(&mm.map, address)->type, type);
}

/* All but what lies below 1 MiB; the tables that lay in usable memory too. */
static void loader_memory_comes_back(void **state)
{
    const struct mm_release how = { .keep = NULL };
    const uint64_t tables = 4;
    struct pmm_stats before, after;
    uint64_t usable;

    (void)state;
    loader_memory_set_up();
    before = pmm_stats(&mm.pmm);
    usable = mm.map.usable_bytes;
    assert_int_equal(mm.loader_tables_kept, tables);
    assert_int_equal(mm_release_loader_memory(&mm, &how), MM_MIB(4) + tables * FRAME_SIZE);
    after = pmm_stats(&mm.pmm);
    assert_int_equal(after.free_frames, before.free_frames + MM_MIB(4) / FRAME_SIZE + tables);
    assert_int_equal(after.reserved_frames,
                     before.reserved_frames - MM_MIB(4) / FRAME_SIZE - tables);
    assert_int_equal(after.used_frames, before.used_frames);
    assert_int_equal(mm.loader_bytes, MM_MIB(4) + tables * FRAME_SIZE);
    assert_int_equal(mm.loader_tables_kept, 0);
    assert_int_equal(pmm_frame_state(&mm.pmm, LOADER_ROOT), PMM_FRAME_FREE);
    assert_int_equal(pmm_frame_state(&mm.pmm, 0x80000), PMM_FRAME_RESERVED);
    assert_int_equal(pmm_frame_state(&mm.pmm, KERNEL_PHYS), PMM_FRAME_RESERVED);
    assert_range_type(0x80000, BOOT_LOADER_RECLAIMABLE);
    assert_range_type(MM_MIB(100), BOOT_USABLE);
    assert_range_type(MM_MIB(128) - 1, BOOT_USABLE);
    assert_int_equal(mm.map.usable_bytes, usable + MM_MIB(4));
    assert_int_equal(memmap_find(&mm.map, MM_MIB(100))->end, MM_MIB(128)); /* merged */
    assert_null(mm.boot.map);
    log_expect_count("[MM] loader memory: 4112 KB given back", 1);
    assert_int_equal(log_count("ERROR"), 0);
    assert_pmm_sound(&mm.pmm);
    assert_true(kheap_verify(mm.heap));
}

/* With mm.lowmem=on below 1 MiB too. */
static void loader_memory_comes_back_below_1mib(void **state)
{
    const struct mm_release how = { .keep = NULL };

    (void)state;
    loader_memory_set_up();
    mm.options.low_memory = true;
    (void)mm_release_loader_memory(&mm, &how);
    assert_int_equal(pmm_frame_state(&mm.pmm, 0x80000), PMM_FRAME_FREE);
    assert_range_type(0x80000, BOOT_USABLE);
    assert_pmm_sound(&mm.pmm);
}

/* Kept extents in any order, not aligned, overlapping, beyond the ranges: their frames stay. */
static void loader_memory_that_is_kept_stays(void **state)
{
    const struct mm_extent keep[] = {
        { MM_MIB(102) + 0x800, MM_MIB(102) + 0x1001 },
        { MM_MIB(101), MM_MIB(102) },
        { MM_MIB(101) + 5, MM_MIB(101) + 6 },
        { MM_MIB(128) - 1, MM_MIB(300) },
        { MM_MIB(100), MM_MIB(100) },
    };
    const struct mm_release how = {
        .keep = keep, .keep_count = COUNT_OF(keep), .fill = true, .pattern = 0xd5
    };
    uint64_t kept = MM_MIB(1) + 2 * FRAME_SIZE + FRAME_SIZE;

    (void)state;
    loader_memory_set_up();
    memset(hosted_ram_at(MM_MIB(100)), 0x11, MM_MIB(3));
    memset(hosted_ram_at(MM_MIB(127)), 0x11, MM_MIB(1));
    assert_int_equal(mm_release_loader_memory(&mm, &how), MM_MIB(4) - kept + 4 * FRAME_SIZE);
    assert_int_equal(pmm_frame_state(&mm.pmm, MM_MIB(101) - 1), PMM_FRAME_FREE);
    assert_int_equal(pmm_frame_state(&mm.pmm, MM_MIB(101)), PMM_FRAME_RESERVED);
    assert_int_equal(pmm_frame_state(&mm.pmm, MM_MIB(102) + 0x1000), PMM_FRAME_RESERVED);
    assert_int_equal(pmm_frame_state(&mm.pmm, MM_MIB(102) + 0x2000), PMM_FRAME_FREE);
    assert_int_equal(pmm_frame_state(&mm.pmm, MM_MIB(128) - 1), PMM_FRAME_RESERVED);
    assert_true(is_filled(MM_MIB(101), MM_MIB(102) + 0x2000, 0x11));
    assert_range_type(MM_MIB(100), BOOT_LOADER_RECLAIMABLE);
    assert_pmm_sound(&mm.pmm);
}

/* Everything is overwritten before it is free, so that a frame that is handed out is zeroed anew. */
static void loader_memory_is_filled_first(void **state)
{
    const struct mm_release how = { .fill = true, .pattern = 0xd5 };
    paddr_t frame;

    (void)state;
    loader_memory_set_up();
    (void)mm_release_loader_memory(&mm, &how);
#if !MM_MEMORY_HOOKS /* else free memory cannot be looked at */
    assert_true(is_filled(MM_MIB(100), MM_MIB(103), 0xd5));
    assert_true(is_filled(LOADER_ROOT, LOADER_ROOT + 4 * FRAME_SIZE, 0xd5));
#endif
    while (pmm_alloc_frame(&mm.pmm, &frame) == MM_OK)
        assert_true(is_zero(hosted_ram_at(frame), FRAME_SIZE));
}

/* A frame that is bad, or in use, splits the range; the rest comes back. */
static void loader_memory_with_a_hole_comes_back_around_it(void **state)
{
    const struct mm_release how = { .keep = NULL };

    (void)state;
    loader_memory_set_up();
    assert_ok(pmm_release_range(&mm.pmm, MM_MIB(102), MM_MIB(102) + FRAME_SIZE));
    assert_int_equal(mm_release_loader_memory(&mm, &how), MM_MIB(4) + 3 * FRAME_SIZE);
    assert_int_equal(pmm_frame_state(&mm.pmm, MM_MIB(103) - 1), PMM_FRAME_FREE);
    assert_range_type(MM_MIB(100), BOOT_LOADER_RECLAIMABLE);
    assert_pmm_sound(&mm.pmm);
}

static void init_on_a_cpu_without_protection_halts(void **state)
{
    (void)state;
    kernel_set_up(4);
    hosted_cpu()->leaf_8000_0001.edx &= ~((uint32_t)1 << 20);
    EXPECT_HALT("NX", mm_init(&mm, &rows.boot));
    kernel_set_up(4);
    hosted_cpu()->stuck_cr0 = (uint64_t)1 << 16;
    EXPECT_HALT("WP", mm_init(&mm, &rows.boot));
}

/* -cpu qemu64: no SMEP, SMAP, UMIP, 1 GiB pages; and not even PGE and PAT. */
static void init_on_a_poor_cpu_works(void **state)
{
    (void)state;
    kernel_set_up(4);
    hosted_cpu()->leaf_7 = (struct mm_port_cpuid){ 0 };
    hosted_cpu()->leaf_8000_0008.eax = 48 << 8 | 40;
    mm_init(&mm, &rows.boot);
    check_kernel_space(4);
    kernel_set_up(4);
    hosted_cpu()->leaf_7 = (struct mm_port_cpuid){ 0 };
    hosted_cpu()->leaf_1.edx = 0;
    mm_init(&mm, &rows.boot);
    assert_int_equal(hosted_cpu()->cr3, mm.kernel_space.root);
    assert_int_equal(hosted_cpu()->cr4, (uint64_t)1 << 5);
    assert_page(KERNEL_VIRT, HOSTED_EXECUTE, HOSTED_OK);
    assert_page(KERNEL_VIRT, HOSTED_WRITE, HOSTED_FORBIDDEN);
}

/* With 38 physical bits nothing above 256 GiB exists, whatever the map says. */
static void init_clips_the_map_to_maxphyaddr(void **state)
{
    (void)state;
    kernel_set_up(4);
    rows.row[4] = (struct boot_range)ROW(MM_GIB(256), MM_GIB(300), BOOT_USABLE);
    rows.boot.framebuffer_bytes = 0;
    hosted_cpu()->leaf_8000_0008.eax = 48 << 8 | 38;
    mm_init(&mm, &rows.boot);
    assert_int_equal(mm.map.ram_end, MM_MIB(128));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(init_foreign_brings_everything_up),
        TEST(init_heap_is_16mib_where_memory_allows),
        TEST(init_self_tests_pass_and_leave_no_trace),
        TEST(init_memory_ends_with_the_ready_line),
        TEST(init_heap_gives_back_when_frames_run_short),
        TEST(init_works_without_a_clock),
        TEST(init_obeys_the_command_line),
        TEST(init_bad_boot_information_halts),
        TEST(init_on_any_little_memory_works_or_says_why),
        TEST(init_with_own_page_tables),
        TEST(init_never_gives_the_loaders_tables_away),
        TEST(loader_memory_comes_back),
        TEST(loader_memory_comes_back_below_1mib),
        TEST(loader_memory_that_is_kept_stays),
        TEST(loader_memory_is_filled_first),
        TEST(loader_memory_with_a_hole_comes_back_around_it),
        TEST(init_on_a_cpu_without_protection_halts),
        TEST(init_on_a_poor_cpu_works),
        TEST(init_clips_the_map_to_maxphyaddr),
    };

    return RUN_TESTS(tests);
}
