/* SPDX-License-Identifier: MIT */
/* Owns the window of the stress test in the kernel's address space: in the lower half, which is
 * empty otherwise.
 *
 *   STRESS_WINDOW        | CPU 0: 8 pages | CPU 1: 8 pages | ...   own pages: tables are shared,
 *                                                                  and come and go with them
 *   STRESS_WINDOW + 1 GB | page | page | ... | page |              common pages, some neighbours,
 *                                                                  some 2 MB apart
 *
 * A common page always leads to a frame that begins with `value`. Who changes it closes it, waits
 * until its readers have left, maps another frame and opens it with another value. A reader that
 * finds it open and does not read `value` has used a translation that the unmapping should have
 * taken from every CPU.
 *
 * Invariants: `value` and the mapping change only while the page is closed without readers; a
 * reader does not wait for anybody, so it may be a handler. A frame is freed after its page was
 * unmapped. */
#include "kernel/smp.h"
#include "kernel/stress_parts.h"

#define STRESS_WINDOW       ((vaddr_t)0x400000000000)
#define STRESS_OWN_PAGES    8u
#define STRESS_COMMON       (STRESS_WINDOW + MM_GIB(1))
#define STRESS_COMMON_PAGES 8u
#define STRESS_NEAR_PAGES   4u /* of these: neighbours */

struct stress_page {
    vaddr_t address;
    paddr_t frame;
    uint64_t value;
    uint32_t writer;  /* 1: somebody changes it; atomic */
    uint32_t open;    /* 1: it may be read; atomic */
    uint32_t readers; /* who looks at it; atomic */
};

static struct stress_page stress_common[STRESS_COMMON_PAGES];
static unsigned stress_common_mapped;

static volatile uint64_t *stress_word(vaddr_t address)
{
    return (volatile uint64_t *)address;
}

static bool stress_expect(mm_status_t status, mm_status_t expected, const char *what, vaddr_t page)
{
    if (status == expected)
        return true;
    stress_fail("CPU %u: %s of page 0x%lx: %s, not %s", smp_cpu_number(), what, page,
                mm_status_name(status), mm_status_name(expected));
    return false;
}

/* ---- Common pages ---- */

static bool stress_common_map(struct stress_page *page, paging_rights_t rights)
{
    struct mm *mm = mm_kernel();

    if (!stress_expect(pmm_alloc_frame(&mm->pmm, &page->frame), MM_OK, "a frame", page->address))
        return false;
    page->value = stress_mix(page->value + page->address) | 1;
    *(volatile uint64_t *)phys_to_virt(page->frame) = page->value;
    return stress_expect(paging_map_page(&mm->kernel_space, page->address, page->frame, rights),
                         MM_OK, "mapping", page->address);
}

/* The frame's content is changed before the frame is given away: a stale translation must not find
 * the right value by chance. */
static bool stress_common_unmap(struct stress_page *page)
{
    struct mm *mm = mm_kernel();
    paddr_t frame = 0;

    if (!stress_expect(paging_unmap_page(&mm->kernel_space, page->address, &frame), MM_OK,
                       "unmapping", page->address))
        return false;
    if (frame != page->frame) {
        stress_fail("CPU %u: page 0x%lx led to frame 0x%lx, not 0x%lx", smp_cpu_number(),
                    page->address, frame, page->frame);
        return false;
    }
    *(volatile uint64_t *)phys_to_virt(frame) = ~page->value;
    pmm_free_frame(&mm->pmm, frame);
    return true;
}

bool stress_pages_start(void)
{
    stress_common_mapped = 0;
    for (unsigned i = 0; i < STRESS_COMMON_PAGES; i++) {
        struct stress_page *page = &stress_common[i];
        uint64_t distance = i < STRESS_NEAR_PAGES ? i * PAGE_SIZE : i * LARGE_PAGE_SIZE;

        *page = (struct stress_page){ .address = STRESS_COMMON + distance };
        if (!stress_common_map(page, PAGING_READ))
            return false;
        stress_common_mapped++;
        page->open = 1;
    }
    return true;
}

void stress_pages_stop(void)
{
    while (stress_common_mapped > 0 &&
           stress_common_unmap(&stress_common[stress_common_mapped - 1]))
        stress_common_mapped--;
}

uint64_t stress_pages_frames(void)
{
    return stress_common_mapped;
}

/* A reader raises `readers` before it looks at `open`, and we close before we look at `readers`,
 * all in one order: who is not seen inside has seen the page closed. */
static void stress_common_close(struct stress_page *page)
{
    __atomic_store_n(&page->open, 0, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&page->readers, __ATOMIC_SEQ_CST) != 0)
        __builtin_ia32_pause();
}

void stress_pages_change(struct stress_cpu *cpu)
{
    struct stress_set *set = &cpu->sets[STRESS_THREAD];
    struct stress_page *page = &stress_common[stress_random(&set->random, STRESS_COMMON_PAGES)];
    paging_rights_t rights = stress_random(&set->random, 2) == 0 ? PAGING_GLOBAL : PAGING_READ;

    if (__atomic_exchange_n(&page->writer, 1, __ATOMIC_ACQUIRE) != 0)
        return;
    stress_common_close(page);
    if (stress_common_unmap(page) && stress_common_map(page, rights)) {
        __atomic_store_n(&page->open, 1, __ATOMIC_SEQ_CST);
        cpu->mappings++;
    }
    __atomic_store_n(&page->writer, 0, __ATOMIC_RELEASE);
}

void stress_pages_read(struct stress_set *set)
{
    struct stress_page *page = &stress_common[stress_random(&set->random, STRESS_COMMON_PAGES)];
    uint64_t got;

    __atomic_fetch_add(&page->readers, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&page->open, __ATOMIC_SEQ_CST) != 0) {
        got = *stress_word(page->address);
        if (got != page->value)
            stress_fail("CPU %u reads 0x%lx through page 0x%lx, not 0x%lx: a stale translation",
                        set->cpu, got, page->address, page->value);
    }
    __atomic_fetch_sub(&page->readers, 1, __ATOMIC_SEQ_CST);
}

/* ---- Blocks of kvm_alloc() ---- */

/* Zeroes at first; every page keeps what is written. */
static bool stress_block_look(vaddr_t block, uint64_t pages, uint64_t value)
{
    for (uint64_t i = 0; i < pages; i++) {
        if (*stress_word(block + i * PAGE_SIZE) != 0) {
            stress_fail("CPU %u: page %lu of block 0x%lx is not zero", smp_cpu_number(), i, block);
            return false;
        }
        *stress_word(block + i * PAGE_SIZE) = value + i;
    }
    for (uint64_t i = 0; i < pages; i++) {
        if (*stress_word(block + i * PAGE_SIZE) != value + i) {
            stress_fail("CPU %u: page %lu of block 0x%lx is overwritten", smp_cpu_number(), i,
                        block);
            return false;
        }
    }
    return true;
}

void stress_pages_block(struct stress_cpu *cpu)
{
    struct stress_set *set = &cpu->sets[STRESS_THREAD];
    uint64_t pages = 1 + stress_random(&set->random, STRESS_OWN_PAGES);
    uint64_t value = stress_mix(set->random) | 1;
    vaddr_t block = 0;

    if (!stress_expect(kvm_alloc(&mm_kernel()->kvm, pages * PAGE_SIZE, 0, &block), MM_OK, "a block",
                       0) ||
        !stress_block_look(block, pages, value))
        return;
    kvm_free(&mm_kernel()->kvm, block);
    cpu->mappings++;
}

/* ---- A CPU's own pages ---- */

/* Writes through the pages and looks from the other side, page by page. */
static bool stress_own_look(vaddr_t pages, paddr_t frames, unsigned count, uint64_t value)
{
    paddr_t found = 0;

    for (unsigned i = 0; i < count; i++) {
        vaddr_t page = pages + i * PAGE_SIZE;
        paddr_t frame = frames + i * FRAME_SIZE;

        *stress_word(page) = value + i;
        if (*(volatile uint64_t *)phys_to_virt(frame) != value + i) {
            stress_fail("CPU %u: page 0x%lx does not lead to frame 0x%lx", smp_cpu_number(), page,
                        frame);
            return false;
        }
        if (!stress_expect(paging_translate(&mm_kernel()->kernel_space, page + 8, &found), MM_OK,
                           "translation", page))
            return false;
        if (found != frame + 8) {
            stress_fail("CPU %u: page 0x%lx translates to 0x%lx, not 0x%lx", smp_cpu_number(), page,
                        found - 8, frame);
            return false;
        }
    }
    return true;
}

/* Maps `count` pages to frames that lie side by side, looks, refuses to map them again, unmaps. */
static bool stress_own_use(vaddr_t pages, unsigned count, uint64_t value)
{
    struct mm *mm = mm_kernel();
    uint64_t bytes = count * PAGE_SIZE;
    paddr_t frames;
    bool good;

    if (pmm_alloc_contiguous(&mm->pmm, count, FRAME_SIZE, PMM_NO_LIMIT, &frames) != MM_OK)
        return true; /* what is free may lie apart */
    good = stress_expect(paging_map_range(&mm->kernel_space, pages, frames, bytes, PAGING_WRITE),
                         MM_OK, "mapping", pages) &&
           stress_own_look(pages, frames, count, value) &&
           stress_expect(paging_map_page(&mm->kernel_space, pages, frames, PAGING_READ),
                         MM_ALREADY_MAPPED, "a second mapping", pages) &&
           stress_expect(paging_unmap_range(&mm->kernel_space, pages, bytes), MM_OK, "unmapping",
                         pages) &&
           stress_expect(paging_unmap_page(&mm->kernel_space, pages, NULL), MM_NOT_MAPPED,
                         "a second unmapping", pages);
    if (good)
        pmm_free_contiguous(&mm->pmm, frames, count);
    return good;
}

/* Twice at the same place: the second time through other frames, or the same with another value. */
void stress_pages_own(struct stress_cpu *cpu)
{
    struct stress_set *set = &cpu->sets[STRESS_THREAD];
    vaddr_t pages = STRESS_WINDOW + set->cpu * STRESS_OWN_PAGES * PAGE_SIZE;
    unsigned count = 1 + (unsigned)stress_random(&set->random, STRESS_OWN_PAGES);
    uint64_t value = stress_mix(set->random);

    if (stress_own_use(pages, count, value) && stress_own_use(pages, 1, ~value))
        cpu->mappings += 2;
}
