/* SPDX-License-Identifier: MIT */
/* The last step: from the loader's world to the kernel's first instruction.
 *
 * The kernel's tables have an empty lower half, where the loader runs. So a bridge is built: a copy
 * of the kernel's top-level table whose entry 0 is the loader's identity map. On it the code that
 * loads CR3 runs first at its physical address, then at its HHDM alias, and only there switches to
 * the kernel's own table. With 5 levels, entry 0 of the bridge is the loader's whole PML4. */
#include "loader/handover.h"

#include "loader/machine.h"
#include "loader/text.h"

#define TABLE_ENTRIES 512
#define ENTRY_TABLE   0x003ul /* present, writable */

extern uint64_t boot_pml4[TABLE_ENTRIES];

static uint64_t bridge[TABLE_ENTRIES] __attribute__((aligned(4096)));

_Static_assert(offsetof(struct handover, five_levels) == 40, "handover.S reads by offset");

uint64_t handover_build_bridge(const struct hhdm *hhdm, uint64_t root)
{
    memcpy(bridge, phys_pointer(root), sizeof bridge);
    bridge[0] = hhdm->levels == 5 ? pointer_phys(boot_pml4) | ENTRY_TABLE : boot_pml4[0];
    return pointer_phys(bridge);
}

_Noreturn void handover(const struct hhdm *hhdm, uint64_t root, uint64_t stack_top, uint64_t entry)
{
    const struct handover handover = {
        .bridge_root = handover_build_bridge(hhdm, root),
        .kernel_root = root,
        .hhdm_offset = hhdm->offset,
        .stack_top = hhdm->offset + stack_top,
        .entry = entry,
        .five_levels = hhdm->levels == 5,
    };

    machine_prepare();
    handover_jump(&handover);
}
