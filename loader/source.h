/* SPDX-License-Identifier: MIT */
/* What a boot path hands to the rest of the loader: the seam between "who started us" and the work.
 *
 * A boot path (pvh.c) copies everything it was given out of the firmware's memory: text and the
 * file list into a struct boot_source, the rows of the memory map into memory.c. Afterwards its
 * information block is not needed, and only the files themselves still lie where they were put. */
#ifndef LOADER_SOURCE_H
#define LOADER_SOURCE_H

#include "loader/base.h"

#define SOURCE_TEXT_BYTES 4096
#define SOURCE_FILES_MAX  16

enum source_firmware {
    SOURCE_FIRMWARE_BIOS = 0, /* the numbers are those of the protocol's firmware-type response */
    SOURCE_FIRMWARE_EFI64 = 2,
};

/* A file in memory, [base, base + bytes); the first is the kernel, the others are modules. */
struct source_file {
    uint64_t base;
    uint64_t bytes;
    char path[64];
};

struct boot_source {
    const char *name; /* of the boot path, for messages */
    enum source_firmware firmware;
    uint64_t rsdp; /* physical; 0: none was given */
    size_t file_count;
    struct source_file files[SOURCE_FILES_MAX];
    char command_line[SOURCE_TEXT_BYTES];
};

/* Copies the command line, or fails by name when it is too long. From here on a failure also ends
 * QEMU when the line asks for it (mello.exit=qemu). */
void source_set_command_line(struct boot_source *source, const char *text);

/* Appends a file, or fails by name when there are too many. */
void source_add_file(struct boot_source *source, uint64_t base, uint64_t bytes, const char *path);

/* The module of that name, or NULL. The kernel file is not a module. */
const struct source_file *source_find_module(const struct boot_source *source, const char *path);

/* Reads a PVH start_info block (pvh.c). */
void pvh_read(uint64_t start_info, struct boot_source *source);

#endif
