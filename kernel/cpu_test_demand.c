/* SPDX-License-Identifier: MIT */
/* Owns the test of page faults that are answered: a window whose pages come when they are touched.
 *
 *   every CPU: for each page of the window, beginning at a page of its own: add 1 to its counter
 *              page not there -> #PF -> paging_fault() -> demand_fill(): a frame, a mapping
 *   then:      each page counts every CPU once, each page took one frame, and a fault outside of the
 *              window is still nobody's (demand_outside: paging_fault says no)
 *
 * Invariants: CPUs that fault on one page at the same time map it once; the other's frame goes back. */
#include "kernel/cpu_test_parts.h"
#include "kernel/smp.h"
#include <mm/mm.h>

#define DEMAND_BASE  ((vaddr_t)0x420000000000) /* in the lower half, which is empty */
#define DEMAND_PAGES 64u

static uint32_t demand_filled; /* pages; atomic */

static bool demand_fill(void *context, struct address_space *space, vaddr_t address, uint64_t error)
{
    paddr_t frame;
    mm_status_t status;

    (void)context;
    (void)error;
    if (pmm_alloc_frame(&mm_kernel()->pmm, &frame) != MM_OK)
        return false;
    status = paging_map_page(space, mm_round_down(address, PAGE_SIZE), frame, PAGING_WRITE);
    if (status == MM_OK)
        __atomic_fetch_add(&demand_filled, 1, __ATOMIC_RELAXED);
    else
        pmm_free_frame(&mm_kernel()->pmm, frame);
    return status == MM_OK || status == MM_ALREADY_MAPPED;
}

static void demand_touch(void *unused)
{
    unsigned first = smp_cpu_number() * (DEMAND_PAGES / smp_cpu_count());

    (void)unused;
    if (!cpu_test_meet(1))
        return;
    for (unsigned i = 0; i < DEMAND_PAGES; i++) {
        uint64_t *counter = (uint64_t *)(DEMAND_BASE + (first + i) % DEMAND_PAGES * PAGE_SIZE);

        __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    }
}

static void demand_check(struct address_space *space)
{
    for (unsigned i = 0; i < DEMAND_PAGES; i++) {
        vaddr_t page = DEMAND_BASE + i * PAGE_SIZE;
        uint64_t count = *(const volatile uint64_t *)page;
        paddr_t frame;

        if (count != smp_cpu_count())
            cpu_test_fail("page %u was counted %lu times, not %u", i, count, smp_cpu_count());
        if (paging_unmap_page(space, page, &frame) == MM_OK)
            pmm_free_frame(&mm_kernel()->pmm, frame);
        else
            cpu_test_fail("page %u cannot be unmapped", i);
    }
    if (demand_filled != DEMAND_PAGES)
        cpu_test_fail("%u pages were filled, not %u", demand_filled, DEMAND_PAGES);
}

void cpu_test_demand(void)
{
    struct address_space *space = &mm_kernel()->kernel_space;
    struct paging_window window = { .base = DEMAND_BASE,
                                    .bytes = DEMAND_PAGES * PAGE_SIZE,
                                    .fill = demand_fill };
    uint64_t used = pmm_stats(&mm_kernel()->pmm).used_frames;

    if (paging_watch(space, &window) != MM_OK) {
        cpu_test_fail("the window cannot be registered");
        return;
    }
    smp_call_all(demand_touch, NULL);
    demand_check(space);
    if (paging_fault(space, DEMAND_BASE + DEMAND_PAGES * PAGE_SIZE, 0))
        cpu_test_fail("a fault behind the window was answered");
    paging_unwatch(space, &window);
    if (pmm_stats(&mm_kernel()->pmm).used_frames != used)
        cpu_test_fail("frames are lost");
}
