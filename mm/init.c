/* SPDX-License-Identifier: MIT */
/* The order of things: from a boot memory map to a working kmalloc.
 *
 *      log -> HHDM offset -> memory map -> frames -> CPU protection -> own page tables -> windows ->
 *      heap; then, for the kernel, the self-tests, the audit of its page tables and the READY line.
 *
 * Each step either succeeds or ends the boot with one `[MM] ERROR:` line. */
#include <mm/audit.h>

#define HEAP_FIRST_BYTES MM_MIB(16)
#define LEFT_BESIDE_HEAP MM_KIB(512) /* frames for everybody else, on the smallest machine */
#define HEAP_LEAST_BYTES MM_KIB(256)
#define LOW_WATER_PART   64 /* of all frames: fewer are free, and the heap gives back what it can */
#define CR3_ADDRESS      0x000ffffffffff000u

static struct mm kernel_mm;

/* ---- memory map and frames ---- */

/* The page tables that are live while mm starts; no map is trusted to keep them. Nor does it know of
 * bad RAM: both are kept out of the way of the map's normal form and of the metadata. */
struct live_tables {
    bool known;
    const struct mm_options *options;
    struct paging_root root;
    struct pmm *pmm;
    uint64_t kept;
};

static struct live_tables find_live_tables(struct mm *mm)
{
    struct live_tables live = { .pmm = &mm->pmm, .options = &mm->options };

    if (!mm->boot.paging_is_foreign) {
        live.root.root = mm_port_read_cr(3) & CR3_ADDRESS;
        live.root.levels = mm->cpu.levels;
        live.known = live.root.root != 0;
    }
    return live;
}

static paddr_t live_tables_obstacle(void *context, paddr_t base, paddr_t end)
{
    struct live_tables *live = context;
    paddr_t behind = live->known ? paging_tables_obstacle(&live->root, base, end) : base;

    for (uint32_t i = 0; i < live->options->bad_ram_count; i++) {
        const struct mm_extent *bad = &live->options->bad_ram[i];
        if (bad->base < end && bad->end > base && bad->end > behind)
            behind = bad->end;
    }
    return behind;
}

static void check_part(const struct boot_info *boot, struct boot_section part, const char *what)
{
    if (part.begin < boot->data.begin || part.end > boot->data.end || part.begin > part.end)
        mm_fatal("boot information: the %s 0x%lx-0x%lx does not lie in .data", what, part.begin,
                 part.end);
}

static void check_boot(const struct boot_info *boot, const struct mm_cpu_features *cpu)
{
    if (boot->map == NULL || boot->map_count == 0)
        mm_fatal("the memory map is empty");
    if (boot->keep_count > BOOT_KEEP_MAX)
        mm_fatal("boot information: %u kept ranges, at most %u fit", boot->keep_count,
                 BOOT_KEEP_MAX);
    if (boot->guard_count > BOOT_GUARD_MAX)
        mm_fatal("boot information: %u guards, at most %u fit", boot->guard_count, BOOT_GUARD_MAX);
    for (uint32_t i = 0; i < boot->guard_count; i++)
        check_part(boot, boot->guard[i], "guard");
    if (boot->init_data.begin != boot->init_data.end)
        check_part(boot, boot->init_data, "part for boot");
    if (boot->ro_after_init.begin != boot->ro_after_init.end)
        check_part(boot, boot->ro_after_init, "constant part");
    if (!mm_is_aligned(boot->hhdm_offset, PAGE_SIZE) ||
        (!boot->paging_is_foreign && !paging_is_canonical(boot->hhdm_offset, cpu->levels)))
        mm_fatal("the HHDM offset 0x%lx is not a canonical, page-aligned address",
                 boot->hhdm_offset);
}

static void start_map(struct mm *mm, struct live_tables *live)
{
    paddr_t limit = (paddr_t)1 << mm->cpu.physical_bits;

    init_hhdm(mm->boot.hhdm_offset, limit);
    mm_info("HHDM offset: 0x%lx", hhdm_offset());
    uint64_t start = mm_port_time_ns();
    mm_status_t status = memmap_build(&mm->map, &mm->boot, limit, live_tables_obstacle, live);
    mm->pmm_ns = mm_port_time_ns() - start;
    if (status != MM_OK)
        mm_fatal("memory map with %lu rows: %s above 1 MB", mm->boot.map_count,
                 mm_status_name(status));
    mm_info("Memory map: %lu ranges from %lu rows", mm->map.count, mm->boot.map_count);
    memmap_log(&mm->map);
    mm_info("Total memory: %lu MB", mm->map.total_bytes >> 20);
    mm_info("Usable memory: %lu MB", mm->map.usable_bytes >> 20);
}

static void keep_table(void *context, paddr_t table)
{
    struct live_tables *live = context;

    if (pmm_frame_state(live->pmm, table) == PMM_FRAME_FREE &&
        pmm_reserve_range(live->pmm, table, table + FRAME_SIZE) == MM_OK)
        live->kept++;
}

/* Before anything is handed out. */
static void retire_bad_ram(struct mm *mm)
{
    for (uint32_t i = 0; i < mm->options.bad_ram_count; i++) {
        struct mm_extent bad = mm->options.bad_ram[i];
        uint64_t before = pmm_stats(&mm->pmm).retired_frames;

        if (pmm_retire_range(&mm->pmm, bad.base, bad.end, NULL) != MM_OK)
            mm_fatal("bad RAM 0x%lx-0x%lx could not be taken out of service", bad.base, bad.end);
        mm_info("bad RAM 0x%lx-0x%lx: %lu KB taken out of service", bad.base, bad.end,
                (pmm_stats(&mm->pmm).retired_frames - before) * FRAME_SIZE >> 10);
    }
}

static void start_frames(struct mm *mm, struct live_tables *live)
{
    paddr_t metadata = 0;
    uint64_t start = mm_port_time_ns();
    uint64_t bytes = pmm_metadata_bytes(&mm->map);
    mm_status_t status = memmap_take(&mm->map, bytes, live_tables_obstacle, live, &metadata);

    if (status != MM_OK)
        mm_fatal("no room for %lu KB of frame bitmaps: %s", bytes >> 10, mm_status_name(status));
    struct pmm_config config = { .low_memory = mm->options.low_memory,
                                 .full_harden = mm->options.full_harden,
                                 .trace = mm_log_level >= MM_LOG_DEBUG };
    pmm_init(&mm->pmm, &mm->map, phys_to_virt(metadata), &config);
    if (live->known)
        paging_for_each_table(live->root, keep_table, live);
    retire_bad_ram(mm);
    mm->pmm_ns += mm_port_time_ns() - start;
    if (live->kept > 0)
        mm_info("memory map: %lu page tables of the loader lie in usable memory: kept back",
                live->kept);
    struct pmm_stats stats = pmm_stats(&mm->pmm);
    mm_info("Frames: %lu free, %lu reserved, in %lu ranges; %lu KB of bitmaps at 0x%lx",
            stats.free_frames, stats.reserved_frames, stats.range_count,
            mm_round_up(bytes, FRAME_SIZE) >> 10, metadata);
}

/* ---- protection and page tables ---- */

static void start_protection(struct mm *mm)
{
    if (enable_cpu_protection(&mm->cpu) != MM_OK)
        mm_port_halt("CPU protection could not be enabled");
}

static void start_page_tables(struct mm *mm)
{
    struct address_space *space = &mm->kernel_space;
    mm_status_t status = paging_init(space, &mm->pmm, &mm->cpu);

    if (status != MM_OK)
        mm_fatal("no frame for the kernel's page tables: %s", mm_status_name(status));
    if (kvm_map_kernel(space, &mm->map, &mm->boot) != MM_OK)
        mm_port_halt("the kernel's address space could not be mapped");
    paging_activate(space, &mm->cpu);
    mm_info("Page tables: %u levels, %lu KB, %lu + %lu + %lu leaves of 4 KB, 2 MB, 1 GB",
            space->levels, space->stats.table_frames * FRAME_SIZE >> 10, space->stats.leaves[0],
            space->stats.leaves[1], space->stats.leaves[2]);
}

/* The end of what the HHDM holds. */
static paddr_t last_mapped(const struct mm *mm)
{
    paddr_t framebuffer_end = mm->boot.framebuffer_base + mm->boot.framebuffer_bytes;

    return mm_round_up(mm->map.end < framebuffer_end ? framebuffer_end : mm->map.end, FRAME_SIZE);
}

/* The end of the image's last section. */
static vaddr_t image_end(const struct boot_info *boot)
{
    const struct boot_section sections[] = { boot->text, boot->rodata, boot->init };
    vaddr_t end = boot->data.end;

    for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++)
        if (sections[i].begin != sections[i].end && sections[i].end > end)
            end = sections[i].end;
    return end;
}

static void start_windows(struct mm *mm)
{
    const struct boot_info *boot = &mm->boot;
    const struct kvm_window taken[] = {
        { boot->hhdm_offset, boot->hhdm_offset + last_mapped(mm) },
        { boot->kernel_virt, image_end(boot) },
    };
    mm_status_t status = kvm_init(&mm->kvm, &mm->kernel_space, taken, 2);

    if (status != MM_OK)
        mm_fatal("no place for heap and stacks beside the HHDM and the kernel: %s",
                 mm_status_name(status));
    mm_info("Windows: heap at 0x%lx, stacks at 0x%lx, devices at 0x%lx, blocks at 0x%lx",
            mm->kvm.heap.base, mm->kvm.stacks.base, mm->kvm.devices.base, mm->kvm.blocks.base);
}

/* ---- heap ---- */

/* 16 MB, or a quarter of what is free on a small machine, in whole MB, at least one; on the smallest
 * 256 KB. */
static uint64_t first_heap_bytes(struct mm *mm)
{
    uint64_t free_bytes = pmm_stats(&mm->pmm).free_frames * FRAME_SIZE;
    uint64_t quarter = mm_round_down(free_bytes / 4, MAX_BLOCK_SIZE);

    uint64_t least = mm->boot.paging_is_foreign ? MAX_BLOCK_SIZE : HEAP_LEAST_BYTES;

    if (free_bytes < least + LEFT_BESIDE_HEAP)
        mm_fatal("too little memory: %lu KB free, the heap and what it leaves take %lu KB",
                 free_bytes >> 10, (least + LEFT_BESIDE_HEAP) >> 10);
    if (quarter > HEAP_FIRST_BYTES)
        return HEAP_FIRST_BYTES;
    if (quarter == 0)
        return free_bytes < MAX_BLOCK_SIZE + LEFT_BESIDE_HEAP ? least : MAX_BLOCK_SIZE;
    return quarter;
}

/* Contiguous frames whose HHDM address is aligned to the largest block, also where the HHDM offset is
 * not: one block more is taken, and what lies outside is given back. */
static mm_status_t heap_in_hhdm(struct mm *mm, struct kheap_config *config)
{
    paddr_t first = 0;
    uint64_t bytes = config->first_bytes, taken = bytes + MAX_BLOCK_SIZE;
    mm_status_t status = pmm_alloc_contiguous_flags(&mm->pmm, taken / FRAME_SIZE, FRAME_SIZE,
                                                    PMM_NO_LIMIT, PMM_NOZERO, &first);

    if (status != MM_OK)
        return status;
    uint64_t start = hhdm_offset() + first;
    uint64_t before = mm_round_up(start, MAX_BLOCK_SIZE) - start;
    uint64_t behind = MAX_BLOCK_SIZE - before;
    if (before > 0)
        pmm_free_contiguous(&mm->pmm, first, before / FRAME_SIZE);
    if (behind > 0)
        pmm_free_contiguous(&mm->pmm, first + before + bytes, behind / FRAME_SIZE);
    config->first = phys_to_virt(first + before);
    config->lender = mm->boot.lender;
    config->first_is_zero =
        config->lender != NULL && config->lender->take(config->first, config->first_bytes);
    config->base = hhdm_offset();
    config->bytes = mm_round_up(mm->map.end, LARGE_PAGE_SIZE);
    return MM_OK;
}

/* Addresses for four times the RAM, or for 64 GiB more than it has: large blocks leave room between them. */
static uint64_t heap_address_bytes(const struct mm *mm, uint64_t window_bytes)
{
    uint64_t ram = mm_round_up(mm->map.total_bytes, LARGE_PAGE_SIZE);
    uint64_t more = 3 * ram < MM_GIB(64) ? 3 * ram : MM_GIB(64);

    return ram + more < window_bytes ? ram + more : window_bytes;
}

static mm_status_t heap_in_window(struct mm *mm, struct kheap_config *config)
{
    struct kvm_window window = kvm_heap_window(&mm->kvm);
    vaddr_t base = 0;
    mm_status_t status = kvm_map_heap(&mm->kvm, config->first_bytes, &base);

    config->first = (void *)(uintptr_t)base;
    config->first_is_zero = true;
    config->base = window.base;
    config->bytes = heap_address_bytes(mm, window.end - window.base);
    config->space = &mm->kernel_space;
    config->kvm = &mm->kvm;
    return status;
}

/* Failures begin when what may not fail has been done. */
static void start_faults(struct mm *mm)
{
    const struct mm_options *options = &mm->options;
    struct kheap_faults faults;

    if (options->fail_bytes == 0)
        return;
    if (kheap_faults_read(options->fail, options->fail_bytes, &faults))
        kheap_inject(mm->heap, &faults);
    else
        mm_info("warning: mm.fail takes conditions like every:100,size:64-128, not '%.*s': ignored",
                (int)options->fail_bytes, options->fail);
}

/* Frames run short: what the heap only holds for later goes back, from an interrupt handler with the
 * heap's next slow call elsewhere. */
static void heap_gives_back(void *heap)
{
    kheap_drain(heap, KHEAP_ALL_SLOTS);
}

static void start_heap(struct mm *mm)
{
    struct kheap_config config = { .first_bytes = first_heap_bytes(mm),
                                   .pmm = &mm->pmm,
                                   .find_symbol = mm->boot.find_symbol };
    mm_status_t status =
        mm->boot.paging_is_foreign ? heap_in_hhdm(mm, &config) : heap_in_window(mm, &config);

    if (status == MM_OK)
        status = kheap_create(&config, &mm->heap);
    if (status != MM_OK)
        mm_fatal("no heap of %lu KB: %s", config.first_bytes >> 10, mm_status_name(status));
    bool in_mb = mm_is_aligned(config.first_bytes, MM_MIB(1));
    mm_info("Heap: %lu %s at 0x%lx, %lu KB of state beside it",
            config.first_bytes >> (in_mb ? 20 : 10), in_mb ? "MB" : "KB", (uintptr_t)config.first,
            kheap_stats(mm->heap).frames * FRAME_SIZE >> 10);
    kheap_log_level_changed(mm->heap);
    kheap_record_sites(mm->heap, mm->options.record_sites);
    kheap_set_level(mm->heap, mm->options.full_harden ? KHEAP_FULL : KHEAP_DEFAULT);
    pmm_set_low_water(&mm->pmm, pmm_stats(&mm->pmm).total_frames / LOW_WATER_PART, heap_gives_back,
                      mm->heap);
    if (mm->boot.paging_is_foreign)
        start_faults(mm);
}

/* ---- all of it ---- */

void mm_init(struct mm *mm, const struct boot_info *boot)
{
    uint64_t start = mm_port_time_ns();

    memset(mm, 0, sizeof(*mm));
    mm->boot = *boot;
    mm->options = mm_options_read(boot->command_line);
    mm_log_level = (enum mm_log_level)mm->options.log_level;
    mm_info("MelloOS memory manager " MM_VERSION);
    mm->cpu = mm_cpu_features();
    check_boot(boot, &mm->cpu);

    struct live_tables live = find_live_tables(mm);
    start_map(mm, &live);
    start_frames(mm, &live);
    if (live.known) {
        mm->loader_tables = live.root;
        mm->loader_tables_kept = live.kept;
    }
    if (!boot->paging_is_foreign) {
        start_protection(mm);
        start_page_tables(mm);
        start_windows(mm);
    }
    /* The loader's tables are not read any more. */
    init_hhdm(mm->boot.hhdm_offset, last_mapped(mm));
    start_heap(mm);
    mm->total_ns = mm_port_time_ns() - start;
}

void mm_log_ready(struct mm *mm)
{
    struct pmm_stats stats = pmm_stats(&mm->pmm);

    mm_info("READY total_kb=%lu usable_kb=%lu free_kb=%lu ranges=%lu pmm_us=%lu total_us=%lu",
            mm->map.total_bytes >> 10, mm->map.usable_bytes >> 10,
            stats.free_frames * FRAME_SIZE >> 10, stats.range_count, mm->pmm_ns / 1000,
            mm->total_ns / 1000);
}

struct mm *mm_kernel(void)
{
    return &kernel_mm;
}

bool init_memory(const struct boot_info *boot)
{
    struct audit_result audit;

    mm_init(&kernel_mm, boot);
    kheap_set_default(kernel_mm.heap);
    kernel_mm.tests = run_memory_tests(&kernel_mm);
    if (kernel_mm.tests.failed > 0 || !mm_audit(&kernel_mm, &audit))
        return false;
    if (kernel_mm.options.dump && !boot->paging_is_foreign)
        paging_dump(&kernel_mm.kernel_space);
    if (!boot->paging_is_foreign)
        start_faults(&kernel_mm);
    mm_log_ready(&kernel_mm);
    return true;
}
