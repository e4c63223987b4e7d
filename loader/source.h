/* SPDX-License-Identifier: MIT */
/* What a boot path hands to the rest of the loader: the seam between "who started us" and the work.
 *
 * A boot path (pvh.c, multiboot2.c) brings what it was given to safety before anything is allocated:
 * the file list goes into a struct boot_source, the rows of the memory map into memory.c; text and
 * the rest are copied too, or stay in the information block, which is then named as `kept` and
 * becomes loader memory. The files themselves stay where they were put. */
#ifndef LOADER_SOURCE_H
#define LOADER_SOURCE_H

#include "loader/base.h"
#include "loader/framebuffer.h"
#include "loader/screen.h"

#define SOURCE_TEXT_BYTES 4096
#define SOURCE_FILES_MAX  16

enum source_firmware {
    SOURCE_FIRMWARE_BIOS = 0, /* the numbers are those of the protocol's firmware-type response */
    SOURCE_FIRMWARE_EFI32 = 1,
    SOURCE_FIRMWARE_EFI64 = 2,
};

/* A file in memory, [base, base + bytes); the first is the kernel, the others are modules. */
struct source_file {
    uint64_t base;
    uint64_t bytes;
    char path[64];
    const char *string; /* a module's own line; the kernel's is in struct loader_options */
};

/* The memory map that EFI returned last; bytes is 0 when there is none. */
struct efi_map {
    uint64_t base; /* physical */
    uint64_t bytes;
    uint32_t row_bytes;
    uint32_t version;
};

struct boot_source {
    const char *name;              /* of the boot path, for messages */
    const char *how_to_pass_files; /* "pass it ..." */
    enum source_firmware firmware;
    bool display_is_free; /* no firmware or boot loader has set it up: bochs.c may */
    uint64_t rsdp;        /* physical; 0: none was given */
    uint64_t efi_system_table;
    struct efi_map efi_map;
    struct framebuffer framebuffer;
    struct text_screen text_screen;
    uint64_t kept_base; /* the information block, where parts of it stay in use */
    uint64_t kept_bytes;
    size_t file_count;
    struct source_file files[SOURCE_FILES_MAX];
    const char *kernel_line; /* NULL: it is part of command_line */
    char command_line[SOURCE_TEXT_BYTES];
};

/* Copies the command line, or fails by name when it is too long. From here on a failure also ends
 * QEMU when the line asks for it (mello.exit=qemu). */
void source_set_command_line(struct boot_source *source, const char *text);

/* The same for a kernel's command line that does not stand on one line with the loader's keys; the
 * text is kept where it is. */
void source_set_kernel_line(struct boot_source *source, const char *text);

/* Lets messages of failure appear on the screen that the source has, if it is below 4 GiB; one
 * further up comes within reach in loader_claim_memory(). */
void source_start_screen(const struct boot_source *source);

/* Appends a file, or fails by name when there are too many. */
void source_add_file(struct boot_source *source, uint64_t base, uint64_t bytes, const char *path);

/* Appends a module whose name is the first word of `line`, and whose string is the rest. */
void source_add_named_file(struct boot_source *source, uint64_t base, uint64_t bytes,
                           const char *line);

/* The module of that name, or NULL. The kernel file is not a module. */
const struct source_file *source_find_module(const struct boot_source *source, const char *path);

/* Reads a PVH start_info block (pvh.c). */
void pvh_read(uint64_t start_info, struct boot_source *source);

/* Reads a Multiboot2 information block (multiboot2.c). */
void multiboot2_read(uint64_t block, struct boot_source *source);

#endif
