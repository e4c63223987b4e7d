/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests mm_port_invlpg */
/* invlpg is left out: the CPU goes on with the translation that it has kept.
 *
 * seen by: paging: an unmapped page leaves no translation
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

BROKEN_WRAPS(void, mm_port_invlpg, vaddr_t address);

void __wrap_mm_port_invlpg(vaddr_t address)
{
    if (!broken_now)
        __real_mm_port_invlpg(address);
}
