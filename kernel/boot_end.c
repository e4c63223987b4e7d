/* SPDX-License-Identifier: MIT */
/* Owns the end of the boot: what was needed only until here is given back.
 *
 *   the loader's answers  --forgotten-->  the loader's memory  --mm_release_loader_memory()--> frames
 *   .init, .init.data     --unmapped, alias RW- again, kvm_release_init()-------------------> frames
 *   .data.ro_after_init   --read-only in both aliases, kvm_seal()
 *
 * Invariant: no CPU runs on the loader's stack, page tables or descriptor tables by then: those of
 * the boot CPU were left by entry.S, trap_init() and mm; those of the others by ap_switch() or
 * ap_park(). It cannot be known in which page a CPU stands that was let go and never came, so for
 * the sake of one such CPU all of the loader's memory is kept. */
#include "kernel/boot_end.h"
#include "kernel/boot.h"
#include "kernel/console.h"
#include "kernel/power.h"
#include "kernel/smp.h"
#include <mm/audit.h>

#define BOOT_END_PATTERN 0xd5 /* as code: an instruction that does not exist in long mode */

static uint64_t boot_end_loader_bytes(const struct memmap *map)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < map->count; i++) {
        if (map->ranges[i].type == BOOT_LOADER_RECLAIMABLE)
            bytes += map->ranges[i].end - map->ranges[i].base;
    }
    return bytes;
}

static void boot_end_release_loader(bool fill)
{
    struct mm *mm = mm_kernel();
    const struct mm_release release = { .fill = fill, .pattern = BOOT_END_PATTERN };
    uint64_t users = smp_loader_users();

    limine_forget();
    if (users > 0) {
        console_print("WARNING: loader memory: %llu KB stay kept, %llu CPU%s may still run there",
                      (unsigned long long)(boot_end_loader_bytes(&mm->map) >> 10),
                      (unsigned long long)users, users == 1 ? "" : "s");
        return;
    }
    (void)mm_release_loader_memory(mm, &release);
}

/* A machine too small for the page tables that a split takes keeps its sections as they are. */
static void boot_end_sections(struct mm *mm)
{
    uint64_t init_bytes = 0;
    mm_status_t released = kvm_release_init(&mm->kvm, &mm->boot, &init_bytes);
    mm_status_t sealed = kvm_seal(&mm->kvm, &mm->boot);

    if (released != MM_OK)
        console_print("WARNING: .init stays: %s", mm_status_name(released));
    if (sealed != MM_OK)
        console_print("WARNING: .data.ro_after_init stays writable: %s", mm_status_name(sealed));
    if (released == MM_OK && sealed == MM_OK)
        mm_info("kernel image: %lu KB of .init given back, %lu KB read-only from here on",
                init_bytes >> 10,
                (mm->boot.ro_after_init.end - mm->boot.ro_after_init.begin) >> 10);
}

void boot_end(bool fill)
{
    struct audit_result audit;

    boot_end_release_loader(fill);
    boot_end_sections(mm_kernel());
    if (!mm_audit_again(mm_kernel(), &audit)) /* of what stays */
        power_end(POWER_TEST_FAILED);
}
