/* SPDX-License-Identifier: MIT */
/* Random programs of calls on one space, compared with a model that keeps one entry for each page of a few
 * regions, at both ends of each canonical half; 4 and 5 levels. */
#include "space.h"

#include <string.h>

#define REGIONS      4
#define REGION_PAGES 4096u

struct model_page {
    paddr_t frame;       /* of this page */
    uint64_t leaf_bytes; /* 0: not mapped */
    paging_rights_t rights;
};

static struct model_page pages[REGIONS][REGION_PAGES];
static vaddr_t regions[REGIONS];

static void model_map(struct model_page *page, vaddr_t address, paddr_t frame, uint64_t count,
                      paging_rights_t rights)
{
    while (count > 0) {
        uint64_t leaf = 1;

        if ((address | frame) % MM_MIB(2) == 0 && count >= 512)
            leaf = 512;
        for (uint64_t i = 0; i < leaf; i++)
            page[i] = (struct model_page){ frame + i * PAGE_SIZE, leaf * PAGE_SIZE, rights };
        page += leaf;
        address += leaf * PAGE_SIZE;
        frame += leaf * PAGE_SIZE;
        count -= leaf;
    }
}

static paging_rights_t random_rights(void)
{
    paging_rights_t rights = (paging_rights_t)random_below(PAGING_RIGHTS_ALL + 1u);

    if ((rights & PAGING_EXECUTE) != 0)
        rights &= ~PAGING_WRITE;
    while (__builtin_popcount(rights & PAGING_MEMORY_TYPES) > 1)
        rights &= ~(PAGING_WRITE_COMBINING << random_below(3));
    return rights;
}

static uint64_t random_count(uint64_t first)
{
    uint64_t count = 1 + random_below(random_chance(30) ? 1500 : random_chance(50) ? 20 : 1);

    return first + count > REGION_PAGES ? REGION_PAGES - first : count;
}

static void step_map(unsigned region)
{
    uint64_t first = random_below(REGION_PAGES), count;
    paddr_t frame = mm_round_down(random_below((paddr_t)1 << 45), FRAME_SIZE);
    paging_rights_t rights = random_rights();
    vaddr_t page;
    mm_status_t status;
    bool is_free = true;

    if (random_chance(40)) { /* room for large leaves */
        first = mm_round_down(first, 512);
        frame = mm_round_down(frame, MM_MIB(2));
    }
    count = random_count(first);
    page = regions[region] + first * PAGE_SIZE;
    for (uint64_t i = first; i < first + count; i++)
        is_free &= pages[region][i].leaf_bytes == 0;
    status = count == 1 && random_chance(50)
                 ? paging_map_page(&space, page, frame, rights)
                 : paging_map_range(&space, page, frame, count * PAGE_SIZE, rights);
    assert_status(status, is_free ? MM_OK : MM_ALREADY_MAPPED);
    if (is_free)
        model_map(&pages[region][first], page, frame, count, rights);
}

/* A large leaf of which only a part changes becomes 4 KiB leaves. */
static void model_split(unsigned region, uint64_t page)
{
    uint64_t first = mm_round_down(page, 512);

    if (page % 512 == 0 || page >= REGION_PAGES || pages[region][page].leaf_bytes <= PAGE_SIZE)
        return;
    for (uint64_t i = first; i < first + 512; i++)
        pages[region][i].leaf_bytes = PAGE_SIZE;
}

static void model_cut(unsigned region, uint64_t first, uint64_t count)
{
    model_split(region, first);
    model_split(region, first + count);
}

/* Some pages, most often all mapped; *missing says if they are not. */
static uint64_t random_mapped(unsigned region, uint64_t *first, bool *missing)
{
    uint64_t count;

    *first = random_below(REGION_PAGES);
    if (random_chance(40))
        *first = mm_round_down(*first, 512);
    count = random_count(*first);
    if (random_chance(80)) /* shorten it to what is mapped */
        for (uint64_t i = 0; i < count; i++)
            if (pages[region][*first + i].leaf_bytes == 0)
                count = i == 0 ? 1 : i;
    *missing = false;
    for (uint64_t i = *first; i < *first + count; i++)
        *missing |= pages[region][i].leaf_bytes == 0;
    return count;
}

static void step_unmap(unsigned region)
{
    static paddr_t frames[REGION_PAGES];
    uint64_t first, count;
    bool missing;
    vaddr_t page;
    mm_status_t status;

    count = random_mapped(region, &first, &missing);
    page = regions[region] + first * PAGE_SIZE;
    frames[0] = 0x1234;
    if (count == 1)
        status = paging_unmap_page(&space, page, frames);
    else if (random_chance(50))
        status = paging_unmap_frames(&space, page, frames, count);
    else
        status = paging_unmap_range(&space, page, count * PAGE_SIZE);
    assert_status(status, missing ? MM_NOT_MAPPED : MM_OK);
    if (missing) {
        assert_true(count > 1 || frames[0] == 0x1234);
        return;
    }
    for (uint64_t i = 0; i < count && frames[0] != 0x1234; i++)
        assert_int_equal(frames[i], pages[region][first + i].frame);
    model_cut(region, first, count);
    memset(&pages[region][first], 0, count * sizeof pages[0][0]);
}

/* What the model says of a leaf, without what does not differ. */
static bool is_as(unsigned region, uint64_t page, paging_rights_t rights)
{
    return page % 512 == 0 || page >= REGION_PAGES || pages[region][page].rights == rights;
}

static void step_protect(unsigned region)
{
    uint64_t first, count;
    bool missing;
    paging_rights_t rights = random_rights();

    count = random_mapped(region, &first, &missing);
    assert_status(paging_protect_range(&space, regions[region] + first * PAGE_SIZE,
                                       count * PAGE_SIZE, rights),
                  missing ? MM_NOT_MAPPED : MM_OK);
    if (missing)
        return;
    if (!is_as(region, first, rights))
        model_split(region, first);
    if (!is_as(region, first + count, rights))
        model_split(region, first + count);
    for (uint64_t i = first; i < first + count; i++)
        pages[region][i].rights = rights;
}

/* A large leaf stays one where it is filled and the new frame is aligned. */
static void step_remap(unsigned region)
{
    uint64_t first, count;
    bool missing;
    paging_rights_t rights = random_rights();
    paddr_t frame = mm_round_down(random_below((paddr_t)1 << 45), FRAME_SIZE);

    count = random_mapped(region, &first, &missing);
    if (random_chance(50))
        frame = mm_round_down(frame, MM_MIB(2)) + first % 512 * FRAME_SIZE;
    assert_status(paging_remap_range(&space, regions[region] + first * PAGE_SIZE, frame,
                                     count * PAGE_SIZE, rights),
                  missing ? MM_NOT_MAPPED : MM_OK);
    if (missing)
        return;
    model_cut(region, first, count);
    for (uint64_t i = first; i < first + count; i++) {
        struct model_page *page = &pages[region][i];

        page->frame = frame + (i - first) * FRAME_SIZE;
        page->rights = rights;
        if ((page->frame / FRAME_SIZE - i) % 512 != 0)
            page->leaf_bytes = PAGE_SIZE;
    }
}

static void check_page(unsigned region, uint64_t index)
{
    const struct model_page *page = &pages[region][index];
    vaddr_t address = regions[region] + index * PAGE_SIZE + random_below(PAGE_SIZE);

    if (page->leaf_bytes == 0)
        assert_unmapped(address);
    else
        assert_mapped(address, page->frame + address % PAGE_SIZE, page->leaf_bytes, page->rights);
}

static void check_all_pages(void)
{
    for (unsigned region = 0; region < REGIONS; region++)
        for (uint64_t i = 0; i < REGION_PAGES; i++)
            check_page(region, i);
    assert_space_sound(&space);
    assert_pmm_sound(&machine.pmm);
    assert_int_equal(pmm_stats(&machine.pmm).table_frames, space.stats.table_frames);
}

static void random_program(unsigned levels)
{
    vaddr_t hole = levels == 4 ? 0x0000800000000000 : 0x0100000000000000;

    regions[0] = MM_GIB(1) - MM_MIB(8);
    regions[1] = hole - MM_MIB(16);
    regions[2] = 0 - hole;
    regions[3] = 0 - MM_MIB(16);
    memset(pages, 0, sizeof pages);
    space_set_up(levels, 46, true);
    for (unsigned i = 0; i < 1500; i++) {
        unsigned region = (unsigned)random_below(REGIONS);

        if (random_chance(50))
            step_map(region);
        else if (random_chance(60))
            step_unmap(region);
        else if (random_chance(50))
            step_protect(region);
        else
            step_remap(region);
        for (unsigned j = 0; j < 4; j++)
            check_page((unsigned)random_below(REGIONS), random_below(REGION_PAGES));
        if (i % 500 == 499)
            check_all_pages();
    }
    paging_destroy(&space);
    assert_int_equal(pmm_stats(&machine.pmm).table_frames, 0);
}

static void paging_random_program_agrees_with_the_model(void **state)
{
    (void)state;
    for (seeds_begin(6); seeds_next();)
        random_program(4 + (unsigned)random_below(2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(paging_random_program_agrees_with_the_model),
    };

    return RUN_TESTS(tests);
}
