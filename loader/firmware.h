/* SPDX-License-Identifier: MIT */
/* Tables that the firmware left in memory, found without its help. */
#ifndef LOADER_FIRMWARE_H
#define LOADER_FIRMWARE_H

#include "loader/base.h"
#include "loader/source.h"

struct firmware_tables {
    uint64_t rsdp; /* physical addresses; 0: not found */
    uint64_t smbios32;
    uint64_t smbios64;
};

/* Looks for them where this kind of firmware puts them: BIOS in low memory, EFI in its system table.
 * The RSDP that the boot path was given stays, unless it is only a copy and the real one is found.
 * The loader's memory must be claimed already: reaching far tables may take pages. */
void firmware_find_tables(const struct boot_source *source, struct firmware_tables *out);

#endif
