/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* A page of rodata leads to a copy: right content, right rights, another frame.
 *
 * seen by: audit: pages of the kernel image are as linked */
#define BROKEN_BEGIN audit_image_moved
#include "tests/boot/broken/broken.h"

static void audit_image_moved(struct mm *mm)
{
    paddr_t frame = 0;

    broken_require(pmm_alloc_frame(&mm->pmm, &frame));
    memcpy(phys_to_virt(frame), (const void *)mm->boot.rodata.begin, FRAME_SIZE);
    broken_require(paging_remap_range(&mm->kernel_space, mm->boot.rodata.begin, frame, PAGE_SIZE,
                                      PAGING_READ | PAGING_GLOBAL));
}
