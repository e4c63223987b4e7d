/* SPDX-License-Identifier: MIT */
/* See paging_model.h.
 *
 *   regions: low   2 MiB x 3 + ends of the lower half           unit 4 KiB     of both spaces
 *            big   3 GiB                                        unit 2 MiB     of the kernel space
 *            high  both ends of the upper half                  unit 4 KiB     of the kernel space
 *
 * Calls on a region begin and end at multiples of its unit, so that one model entry speaks for it.
 *
 * Frames are numbers here; nobody touches them. All frames of the pmm but a few are hoarded, and now
 * and then nearly all of those too: a call that then fails must leave both spaces bit for bit as they
 * were. */
#include "paging_model.h"

#include <string.h>

#define SPACES       2u
#define REGION_UNITS 1536u
#define REGIONS      6u
#define POOL         48u /* frames left for tables in plenty */

struct page {
    paddr_t frame;
    paging_rights_t rights;
    bool mapped;
};

struct region {
    vaddr_t base;
    uint64_t unit;
    size_t units, space;
    struct page page[REGION_UNITS];
};

static struct machine machine;
static struct address_space spaces[SPACES];
static struct mm_cpu_features features;
static struct region regions[REGIONS];
static uint64_t mapped_bytes[SPACES]; /* in the model */
static uint64_t step_number;
static paging_model_choose choose;
static struct pmm_stats at_first;

/* ---- The walk of SDM vol. 3, 4.5 ---- */

struct leaf {
    paddr_t frame;
    uint64_t bytes;
    bool write, user, execute, global;
    unsigned type; /* of the PAT's entry */
};

#define BIT_P   0x1u
#define BIT_RW  0x2u
#define BIT_US  0x4u
#define BIT_PWT 0x8u
#define BIT_PCD 0x10u
#define BIT_PS  0x80u
#define BIT_G   0x100u

static uint64_t bits(unsigned from, unsigned to) /* [from, to) */
{
    return to <= from ? 0 : (((uint64_t)1 << (to - from)) - 1) << from;
}

/* Tables 4-14 to 4-20: bits that must be 0. */
static uint64_t reserved_bits(unsigned level, bool leaf)
{
    uint64_t reserved = bits(features.physical_bits, 52);

    if (level >= 4)
        reserved |= BIT_PS;
    if (level == 3 && !features.huge_pages)
        reserved |= BIT_PS;
    if (leaf && level > 1)
        reserved |= bits(13, 12 + 9 * (level - 1));
    return reserved;
}

static unsigned pat_type(uint64_t entry, unsigned level)
{
    uint64_t pat = entry >> (level == 1 ? 7 : 12) & 1;
    uint64_t index = (entry & (BIT_PWT | BIT_PCD)) >> 3 | pat << 2;

    return (unsigned)(hosted_cpu()->pat >> (8 * index) & 7);
}

static bool walk(const struct address_space *space, vaddr_t address, struct leaf *leaf)
{
    paddr_t table = space->root;

    *leaf = (struct leaf){ .write = true, .user = true, .execute = true };
    for (unsigned level = space->levels;; level--) {
        const uint64_t *entries = hosted_ram_at(table);
        uint64_t entry = entries[address >> (12 + 9 * (level - 1)) & 511];
        bool is_leaf = level == 1 || (level <= 3 && (entry & BIT_PS) != 0);

        if ((entry & BIT_P) == 0) {
            if (entry != 0)
                fail_msg("step %lu: 0x%lx: an entry that is not present holds 0x%lx", step_number,
                         address, entry);
            return false;
        }
        if ((entry & reserved_bits(level, is_leaf)) != 0)
            fail_msg("step %lu: 0x%lx: reserved bits of level %u: 0x%lx", step_number, address,
                     level, entry);
        leaf->write &= (entry & BIT_RW) != 0;
        leaf->user &= (entry & BIT_US) != 0;
        leaf->execute &= entry >> 63 == 0;
        table = entry & bits(12, 52);
        if (!is_leaf)
            continue;
        leaf->bytes = (uint64_t)1 << (12 + 9 * (level - 1));
        leaf->frame = entry & bits(12 + 9 * (level - 1), 52);
        leaf->global = (entry & BIT_G) != 0;
        leaf->type = pat_type(entry, level);
        return true;
    }
}

/* ---- Comparing ---- */

static unsigned type_of(paging_rights_t rights)
{
    if ((rights & PAGING_WRITE_COMBINING) != 0)
        return 1;
    if ((rights & PAGING_WRITE_THROUGH) != 0)
        return 4;
    return (rights & PAGING_UNCACHED) != 0 ? 0 : 6;
}

static void check_in(const struct address_space *space, vaddr_t address, const struct page *page,
                     uint64_t unit)
{
    struct leaf leaf;
    paging_rights_t rights = page->rights;

    if (walk(space, address, &leaf) != page->mapped)
        fail_msg("step %lu: 0x%lx is %smapped", step_number, address, page->mapped ? "not " : "");
    if (!page->mapped)
        return;
    if (leaf.frame + (address & (leaf.bytes - 1)) != page->frame)
        fail_msg("step %lu: 0x%lx leads to 0x%lx, in the model to 0x%lx", step_number, address,
                 leaf.frame + (address & (leaf.bytes - 1)), page->frame);
    if (leaf.bytes < unit && unit != LARGE_PAGE_SIZE)
        fail_msg("step %lu: 0x%lx has a leaf of 0x%lx bytes", step_number, address, leaf.bytes);
    if (leaf.write != ((rights & PAGING_WRITE) != 0) ||
        leaf.user != ((rights & PAGING_USER) != 0) ||
        leaf.execute != ((rights & PAGING_EXECUTE) != 0) ||
        leaf.global != ((rights & PAGING_GLOBAL) != 0) || leaf.type != type_of(rights))
        fail_msg("step %lu: 0x%lx has write %d user %d execute %d global %d type %u, model 0x%x",
                 step_number, address, leaf.write, leaf.user, leaf.execute, leaf.global, leaf.type,
                 rights);
}

static void check_page(const struct region *region, size_t index)
{
    vaddr_t address = region->base + index * region->unit;

    check_in(&spaces[region->space], address, &region->page[index], region->unit);
    if (region->base >> 63 != 0) /* the upper half is everybody's */
        check_in(&spaces[1 - region->space], address, &region->page[index], region->unit);
}

static void check_query(const struct region *region, size_t index)
{
    vaddr_t address = region->base + index * region->unit + choose(region->unit);
    const struct page *page = &region->page[index];
    size_t which = region->base >> 63 != 0 ? choose(SPACES) : region->space;
    struct paging_mapping mapping;
    paddr_t out = 0x1234;
    mm_status_t expected = page->mapped ? MM_OK : MM_NOT_MAPPED;

    assert_status(paging_translate(&spaces[which], address, &out), expected);
    assert_status(paging_query(&spaces[which], address, &mapping), expected);
    if (!page->mapped) {
        assert_int_equal(out, 0x1234);
        return;
    }
    assert_int_equal(out, page->frame + address % region->unit);
    assert_int_equal(mapping.rights, page->rights);
    assert_int_equal(mapping.frame + address % mapping.leaf_bytes, out);
}

/* A translation that the CPU has kept is compared with the tables by the fake CPU itself. */
static void use(const struct region *region, size_t index)
{
    vaddr_t address = region->base + index * region->unit;
    const struct page *page = &region->page[index];
    bool user = (page->rights & PAGING_USER) != 0;
    struct hosted_translation seen;
    enum hosted_outcome outcome;

    if (hosted_cpu()->cr3 != spaces[region->space].root && region->base >> 63 == 0)
        return;
    outcome = hosted_cpu_access(address, user ? HOSTED_USER : HOSTED_READ, &seen);
    assert_int_equal(outcome, page->mapped ? HOSTED_OK : HOSTED_NOT_PRESENT);
    if (page->mapped)
        assert_int_equal(seen.address, page->frame);
}

/* What paging_next_run() should say, from the model. */
static bool run_goes_on(const struct region *region, size_t index)
{
    const struct page *one = &region->page[index], *next = one + 1;

    return index + 1 < region->units && next->mapped && next->rights == one->rights &&
           next->frame == one->frame + region->unit;
}

static void check_runs(const struct region *region)
{
    vaddr_t end = region->base + region->units * region->unit;
    vaddr_t from = region->base;

    for (size_t i = 0; i < region->units; i++) {
        size_t first = i;
        struct paging_run run;

        if (!region->page[i].mapped)
            continue;
        while (run_goes_on(region, i))
            i++;
        assert_true(paging_next_run(&spaces[region->space], from, &run));
        from = region->base + (i + 1) * region->unit;
        if (run.begin != region->base + first * region->unit || run.last != from - 1 ||
            run.frame != region->page[first].frame || run.rights != region->page[first].rights)
            if (run.begin != region->base + first * region->unit || from != end)
                fail_msg("step %lu: run 0x%lx-0x%lx, in the model 0x%lx-0x%lx", step_number,
                         run.begin, run.last, region->base + first * region->unit, from - 1);
    }
}

void paging_model_check(void)
{
    for (size_t r = 0; r < REGIONS; r++) {
        for (size_t i = 0; i < regions[r].units; i++)
            check_page(&regions[r], i);
        check_runs(&regions[r]);
    }
    assert_space_sound(&spaces[0]);
}

/* ---- Memory that is short ---- */

static paddr_t squeezed[POOL * 2];
static size_t squeezed_count;

static void squeeze(void)
{
    uint64_t left = choose(4);

    squeezed_count = 0;
    while (squeezed_count < COUNT_OF(squeezed) && pmm_stats(&machine.pmm).free_frames > left) {
        if (pmm_alloc_frame_flags(&machine.pmm, PMM_NOZERO, &squeezed[squeezed_count]) != MM_OK)
            break;
        squeezed_count++;
    }
}

static void release_squeezed(void)
{
    while (squeezed_count > 0)
        pmm_free_frame(&machine.pmm, squeezed[--squeezed_count]);
}

/* ---- Calls ---- */

static struct walker_snapshot before[SPACES];
static bool is_short;

static void begin_call(void)
{
    is_short = choose(64) == 0;
    if (!is_short)
        return;
    squeeze();
    for (size_t i = 0; i < SPACES; i++)
        before[i] = walker_snapshot(&spaces[i]);
}

/* True if the call has done its work. */
static bool end_call(mm_status_t status, mm_status_t expected)
{
    bool failed_for_memory = status == MM_OUT_OF_MEMORY && expected == MM_OK && is_short;

    if (!failed_for_memory)
        assert_status(status, expected);
    if (is_short && status != MM_OK)
        for (size_t i = 0; i < SPACES; i++)
            assert_snapshot_equal(&spaces[i], &before[i]);
    if (is_short)
        release_squeezed();
    is_short = false;
    return status == MM_OK;
}

struct range {
    struct region *region;
    size_t first, count;
    vaddr_t page;
    uint64_t bytes;
};

static struct range choose_range(void)
{
    struct range range = { .region = &regions[choose(REGIONS)] };
    size_t units = range.region->units, unit = 1;

    if (units >= 512 && choose(3) == 0)
        unit = 512;
    range.first = choose(units / unit) * unit;
    range.count = (1 + choose(choose(3) == 0 ? 3 : 40)) * unit;
    if (choose(3) == 0)
        range.count = 1;
    if (range.count > units - range.first)
        range.count = units - range.first;
    range.page = range.region->base + range.first * range.region->unit;
    range.bytes = range.count * range.region->unit;
    return range;
}

static bool all_mapped(const struct range *range, bool mapped)
{
    for (size_t i = 0; i < range->count; i++)
        if (range->region->page[range->first + i].mapped != mapped)
            return false;
    return true;
}

static paging_rights_t choose_rights(const struct range *range)
{
    static const paging_rights_t types[] = {
        0, 0, 0, PAGING_WRITE_COMBINING, PAGING_UNCACHED, PAGING_WRITE_THROUGH
    };
    static const paging_rights_t accesses[] = { PAGING_READ, PAGING_WRITE, PAGING_EXECUTE };
    paging_rights_t rights = types[choose(COUNT_OF(types))] | accesses[choose(3)];

    if (choose(4) == 0)
        rights |= PAGING_USER;
    if (choose(4) == 0 && range->region->space == 0)
        rights |= PAGING_GLOBAL;
    return rights;
}

/* Often where large leaves fit. */
static paddr_t choose_frame(const struct range *range)
{
    uint64_t all = (uint64_t)1 << (features.physical_bits - 1);
    paddr_t frame = mm_round_down(choose(all), range->region->unit);

    if (choose(2) == 0)
        frame = mm_round_down(frame, HUGE_PAGE_SIZE) + range->page % HUGE_PAGE_SIZE;
    return frame;
}

static void set_page(struct region *region, size_t index, struct page page)
{
    uint64_t *bytes = &mapped_bytes[region->space];

    *bytes += (page.mapped ? region->unit : 0) - (region->page[index].mapped ? region->unit : 0);
    region->page[index] = page;
}

static void set(const struct range *range, bool mapped, paddr_t frame, paging_rights_t rights)
{
    for (size_t i = 0; i < range->count; i++)
        set_page(range->region, range->first + i,
                 (struct page){ frame + i * range->region->unit, rights, mapped });
}

static struct address_space *space_of(const struct range *range)
{
    return &spaces[range->region->space];
}

/* Leaves that a range takes at least: the largest that alignment and CPU allow. */
static void check_largest_leaves(const struct range *range, paddr_t frame)
{
    uint64_t limit = features.huge_pages ? HUGE_PAGE_SIZE : LARGE_PAGE_SIZE;

    for (uint64_t done = 0; done < range->bytes;) {
        uint64_t bytes = limit;
        struct leaf leaf;

        while (!mm_is_aligned(range->page + done, bytes) || !mm_is_aligned(frame + done, bytes) ||
               bytes > range->bytes - done)
            bytes >>= 9;
        assert_true(walk(space_of(range), range->page + done, &leaf));
        if (leaf.bytes != bytes)
            fail_msg("step %lu: 0x%lx has a leaf of 0x%lx bytes, 0x%lx would do", step_number,
                     range->page + done, leaf.bytes, bytes);
        done += bytes;
    }
}

static void do_map(struct range *range)
{
    paging_rights_t rights = choose_rights(range);
    paddr_t frame = choose_frame(range);
    bool page_call = range->bytes == PAGE_SIZE && choose(2) == 0;
    mm_status_t status;

    begin_call();
    status = page_call
                 ? paging_map_page(space_of(range), range->page, frame, rights)
                 : paging_map_range(space_of(range), range->page, frame, range->bytes, rights);
    if (!end_call(status, all_mapped(range, false) ? MM_OK : MM_ALREADY_MAPPED))
        return;
    set(range, true, frame, rights);
    check_largest_leaves(range, frame);
}

static void do_unmap(struct range *range)
{
    paddr_t frame = 0x1234, expected = range->region->page[range->first].frame;
    bool page_call = range->bytes == PAGE_SIZE && choose(2) == 0;
    mm_status_t status;

    begin_call();
    status = page_call ? paging_unmap_page(space_of(range), range->page, &frame)
                       : paging_unmap_range(space_of(range), range->page, range->bytes);
    if (!end_call(status, all_mapped(range, true) ? MM_OK : MM_NOT_MAPPED))
        return;
    if (page_call)
        assert_int_equal(frame, expected);
    set(range, false, 0, 0);
}

static void do_protect(struct range *range)
{
    paging_rights_t rights = choose_rights(range);
    bool page_call = range->bytes == PAGE_SIZE && choose(2) == 0;
    mm_status_t status;

    begin_call();
    status = page_call ? paging_protect_page(space_of(range), range->page, rights)
                       : paging_protect_range(space_of(range), range->page, range->bytes, rights);
    if (!end_call(status, all_mapped(range, true) ? MM_OK : MM_NOT_MAPPED))
        return;
    for (size_t i = 0; i < range->count; i++)
        range->region->page[range->first + i].rights = rights;
}

static void do_remap(struct range *range)
{
    paging_rights_t rights = choose_rights(range);
    paddr_t frame = choose_frame(range);
    mm_status_t status;

    begin_call();
    status = paging_remap_range(space_of(range), range->page, frame, range->bytes, rights);
    if (end_call(status, all_mapped(range, true) ? MM_OK : MM_NOT_MAPPED))
        set(range, true, frame, rights);
}

#define SCATTERED 48u

static void do_map_frames(struct range *range)
{
    paging_rights_t rights = choose_rights(range);
    paddr_t list[SCATTERED];
    mm_status_t status;

    if (range->region->unit != PAGE_SIZE || range->count > SCATTERED)
        return;
    for (size_t i = 0; i < range->count; i++)
        list[i] = choose(4) == 0 && i > 0 ? list[i - 1] + PAGE_SIZE : choose_frame(range);
    begin_call();
    status = paging_map_frames(space_of(range), range->page, list, range->count, rights);
    if (!end_call(status, all_mapped(range, false) ? MM_OK : MM_ALREADY_MAPPED))
        return;
    for (size_t i = 0; i < range->count; i++)
        set_page(range->region, range->first + i, (struct page){ list[i], rights, true });
}

static void do_unmap_frames(struct range *range)
{
    paddr_t list[SCATTERED];
    mm_status_t status;

    if (range->region->unit != PAGE_SIZE || range->count > SCATTERED)
        return;
    begin_call();
    status = paging_unmap_frames(space_of(range), range->page, list, range->count);
    if (!end_call(status, all_mapped(range, true) ? MM_OK : MM_NOT_MAPPED))
        return;
    for (size_t i = 0; i < range->count; i++)
        assert_int_equal(list[i], range->region->page[range->first + i].frame);
    set(range, false, 0, 0);
}

/* What is refused whatever is mapped there; before and after are the same. */
static void do_wrong(struct range *range)
{
    struct address_space *space = space_of(range);
    vaddr_t page = range->page, odd = page + 1 + choose(PAGE_SIZE - 1);
    paddr_t beyond = (paddr_t)1 << features.physical_bits;
    vaddr_t hole = (vaddr_t)1 << (9 * features.levels + 11);
    vaddr_t last = hole - PAGE_SIZE;

    for (size_t i = 0; i < SPACES; i++)
        before[i] = walker_snapshot(&spaces[i]);
    assert_status(paging_map_page(space, odd, 0, 0), MM_NOT_ALIGNED);
    assert_status(paging_map_page(space, page, odd & 0xfff, 0), MM_NOT_ALIGNED);
    assert_status(paging_unmap_range(space, page, range->bytes - 1), MM_NOT_ALIGNED);
    assert_status(paging_map_page(space, hole, 0, 0), MM_INVALID_ADDRESS);
    assert_status(paging_map_range(space, last, 0, 2 * PAGE_SIZE, 0), MM_INVALID_ADDRESS);
    assert_status(paging_map_range(space, ~(vaddr_t)0xfff, 0, 2 * PAGE_SIZE, 0),
                  MM_INVALID_ADDRESS);
    assert_status(paging_map_page(space, page, beyond, 0), MM_INVALID_ADDRESS);
    assert_status(paging_map_range(space, page, beyond - range->bytes + PAGE_SIZE, range->bytes, 0),
                  MM_INVALID_ADDRESS);
    assert_status(paging_map_range(space, page, 0, 0, 0), MM_INVALID_ARGUMENT);
    assert_status(paging_map_page(space, page, 0, PAGING_WRITE | PAGING_EXECUTE),
                  MM_INVALID_ARGUMENT);
    assert_status(paging_protect_page(space, page, PAGING_WRITE | PAGING_EXECUTE),
                  MM_INVALID_ARGUMENT);
    assert_status(paging_remap_range(space, page, 0, PAGE_SIZE, PAGING_WRITE | PAGING_EXECUTE),
                  MM_INVALID_ARGUMENT);
    assert_status(paging_map_page(space, page, 0, PAGING_RIGHTS_ALL + 1), MM_INVALID_ARGUMENT);
    assert_status(paging_map_page(space, page, 0, PAGING_UNCACHED | PAGING_WRITE_COMBINING),
                  MM_INVALID_ARGUMENT);
    assert_status(paging_map_page(&spaces[1], ~(vaddr_t)0xfff, 0, 0), MM_INVALID_ADDRESS);
    assert_status(paging_map_page(&spaces[1], 0, 0, PAGING_GLOBAL), MM_INVALID_ARGUMENT);
    for (size_t i = 0; i < SPACES; i++)
        assert_snapshot_equal(&spaces[i], &before[i]);
}

static void do_switch(struct range *range)
{
    paging_switch(space_of(range));
}

/* All of both spaces in one number each: the bytes that their leaves map. */
static void check_totals(void)
{
    for (size_t i = 0; i < SPACES; i++) {
        const uint64_t *leaves = spaces[i].stats.leaves;
        uint64_t bytes =
            leaves[0] * PAGE_SIZE + leaves[1] * LARGE_PAGE_SIZE + leaves[2] * HUGE_PAGE_SIZE;

        if (bytes != mapped_bytes[i])
            fail_msg("step %lu: space %lu maps 0x%lx bytes, in the model 0x%lx", step_number, i,
                     bytes, mapped_bytes[i]);
    }
}

void paging_model_step(void)
{
    static void (*const calls[])(struct range *) = {
        do_map,     do_map,   do_map,        do_unmap,        do_unmap,  do_protect,
        do_protect, do_remap, do_map_frames, do_unmap_frames, do_switch, do_map,
    };
    struct range range = choose_range();
    size_t last = range.first + range.count - 1;

    step_number++;
    if (choose(1000) == 0)
        do_wrong(&range);
    else
        calls[choose(COUNT_OF(calls))](&range);
    for (size_t i = range.first; i <= last; i += 1 + (last - range.first) / 8) {
        check_page(range.region, i);
        use(range.region, i);
    }
    check_page(range.region, last);
    if (range.first > 0)
        check_page(range.region, range.first - 1);
    if (last + 1 < range.region->units)
        check_page(range.region, last + 1);
    check_query(range.region, choose(range.region->units));
    range.region = &regions[choose(REGIONS)]; /* anywhere else */
    check_page(range.region, choose(range.region->units));
    check_totals();
}

/* ---- Beginning and end ---- */

static void add_region(size_t index, vaddr_t base, uint64_t unit, size_t units, size_t space)
{
    memset(&regions[index], 0, sizeof regions[index]);
    regions[index].base = base;
    regions[index].unit = unit;
    regions[index].units = units;
    regions[index].space = space;
}

void paging_model_set_up(paging_model_choose chooser)
{
    unsigned levels = 4 + (unsigned)chooser(2);
    unsigned physical_bits = 40 + (unsigned)chooser(13);
    bool huge_pages = chooser(4) != 0;
    vaddr_t half = (vaddr_t)1 << (9 * levels + 11);

    choose = chooser;
    step_number = 0;
    memset(mapped_bytes, 0, sizeof mapped_bytes);
    features = features_of(levels, physical_bits, huge_pages);
    hosted_cpu_reset(levels);
    hosted_cpu()->leaf_8000_0008.eax = physical_bits;
    if (!huge_pages)
        hosted_cpu()->leaf_8000_0001.edx &= ~((uint32_t)1 << 26);
    hosted_cpu()->pat = 0x0000010500070406u; /* the order of the Limine protocol */
    machine_set_up_simple(&machine, MM_MIB(1));
    at_first = pmm_stats(&machine.pmm);
    assert_ok(paging_init(&spaces[0], &machine.pmm, &features));
    assert_ok(paging_create_user(&spaces[1], &spaces[0]));
    add_region(0, MM_GIB(1) - MM_MIB(2), PAGE_SIZE, 1536, 0);
    add_region(1, half - 700 * PAGE_SIZE, PAGE_SIZE, 700, 1);
    add_region(2, MM_GIB(2), PAGE_SIZE, 600, 1);
    add_region(3, MM_GIB(512) - MM_GIB(1), LARGE_PAGE_SIZE, 1536, 0);
    add_region(4, -half, PAGE_SIZE, 600, 0);
    add_region(5, -(vaddr_t)700 * PAGE_SIZE, PAGE_SIZE, 700, 0);
    paging_activate(&spaces[0], &features);
}

static void unmap_all(const struct region *region)
{
    for (size_t i = 0; i < region->units; i++) {
        size_t first = i;

        while (i < region->units && region->page[i].mapped)
            i++;
        if (i > first)
            assert_ok(paging_unmap_range(&spaces[region->space],
                                         region->base + first * region->unit,
                                         (i - first) * region->unit));
    }
}

void paging_model_finish(void)
{
    paging_model_check();
    paging_activate(&spaces[0], &features);
    for (size_t r = 0; r < REGIONS; r++)
        unmap_all(&regions[r]);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(spaces[0].stats.leaves[i] + spaces[1].stats.leaves[i], 0);
    paging_destroy(&spaces[1]);
    hosted_cpu()->cr3 = 0;
    hosted_cpu_forget();
    paging_destroy(&spaces[0]);
    assert_int_equal(pmm_stats(&machine.pmm).used_frames, at_first.used_frames);
    assert_true(pmm_verify(&machine.pmm));
}
