/* SPDX-License-Identifier: MIT */
/* PVH: QEMU -kernel loader.elf -initrd kernel.elf -append "...".
 *
 * The information block is the start_info of Xen's PVH boot ABI, version 1. It, the module list,
 * the memory map and the command line lie in low memory that the map itself calls usable, so all of
 * it is copied here, before the first allocation. The kernel file stays where it is (just under the
 * top of RAM below 4 GiB); QEMU passes one file at most and no name for it. */
#include "loader/memory.h"
#include "loader/print.h"
#include "loader/source.h"

#define PVH_MAGIC 0x336ec578

struct pvh_start_info {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t module_count;
    uint64_t modules;
    uint64_t command_line;
    uint64_t rsdp;
    uint64_t memory_map;
    uint32_t memory_map_count;
    uint32_t reserved;
};

struct pvh_module {
    uint64_t base;
    uint64_t bytes;
    uint64_t command_line; /* always 0 from QEMU */
    uint64_t reserved;     /* may hold garbage */
};

struct pvh_memory_row {
    uint64_t base;
    uint64_t bytes;
    uint32_t type; /* E820 numbering */
    uint32_t reserved;
};

void pvh_read(uint64_t start_info, struct boot_source *source)
{
    const struct pvh_start_info *info = phys_pointer(start_info);

    source->name = "PVH";
    source->how_to_pass_files = "with -initrd";
    source->display_is_free = true;
    source->firmware = SOURCE_FIRMWARE_BIOS;
    if (info->magic != PVH_MAGIC) {
        print_fail("PVH: no start_info at %#lx (magic %#x)", start_info, info->magic);
    }
    if (info->version < 1) {
        print_fail("PVH: start_info version 0 carries no memory map");
    }
    source->rsdp = info->rsdp;
    source_set_command_line(source,
                            info->command_line != 0 ? phys_pointer(info->command_line) : "");

    const struct pvh_module *modules = phys_pointer(info->modules);
    for (uint32_t i = 0; i < info->module_count; i++) {
        source_add_file(source, modules[i].base, modules[i].bytes, i == 0 ? "/kernel.elf" : "");
    }

    const struct pvh_memory_row *rows = phys_pointer(info->memory_map);
    for (uint32_t i = 0; i < info->memory_map_count; i++) {
        memory_add_e820(rows[i].base, rows[i].bytes, rows[i].type);
    }
}
