/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* The text of the kernel can be written through the direct map.
 *
 * seen by: paging: text is R-X, rodata R--, data and heap RW-, their aliases never executable */
#define BROKEN_BEGIN broken_begin
#include "tests/boot/broken/broken.h"

static void broken_begin(struct mm *mm)
{
    const struct boot_info *boot = &mm->boot;
    vaddr_t alias = hhdm_offset() + boot->kernel_phys + (boot->text.begin - boot->kernel_virt);

    broken_remap(mm, alias, PAGING_WRITE | PAGING_GLOBAL);
}
