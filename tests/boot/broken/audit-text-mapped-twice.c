/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests */
/* Kernel text has a second mapping, writable, far from image and HHDM.
 *
 * seen by: audit: no frame is writable and executable, in any two mappings
 * seen by: audit: no writable mapping of a constant */
#define BROKEN_BEGIN audit_text_mapped_twice
#include "tests/boot/broken/broken.h"

static void audit_text_mapped_twice(struct mm *mm)
{
    broken_map_spare(mm, mm->boot.kernel_phys + (mm->boot.text.begin - mm->boot.kernel_virt),
                     PAGING_WRITE);
}
