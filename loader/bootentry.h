/* SPDX-License-Identifier: MIT */
/* The numbers that entry.S passes to loader_main(), one for each way in. Read by the assembler too:
 * nothing but macros. A new boot path gets a number here, an entry symbol in entry.S, and a file
 * that turns its information block into a struct boot_source. */
#ifndef LOADER_BOOTENTRY_H
#define LOADER_BOOTENTRY_H

#define BOOT_ENTRY_UNKNOWN    0
#define BOOT_ENTRY_PVH        1
#define BOOT_ENTRY_MULTIBOOT2 2

#endif
