/* SPDX-License-Identifier: MIT */
/* The requests that stand in the kernel's image, and which of them this loader knows. */
#ifndef LOADER_REQUEST_H
#define LOADER_REQUEST_H

#include "loader/base.h"
#include "loader/limine.h"

enum request_kind {
    REQUEST_HHDM,
    REQUEST_MEMMAP,
    REQUEST_EXECUTABLE_ADDRESS,
    REQUEST_EXECUTABLE_FILE,
    REQUEST_EXECUTABLE_CMDLINE,
    REQUEST_RSDP,
    REQUEST_STACK_SIZE,
    REQUEST_PAGING_MODE,
    REQUEST_BOOTLOADER_INFO,
    REQUEST_FIRMWARE_TYPE,
    REQUEST_ENTRY_POINT,
    REQUEST_FRAMEBUFFER,
    REQUEST_MP,
    REQUEST_MODULES,
    REQUEST_SMBIOS,
    REQUEST_EFI_SYSTEM_TABLE,
    REQUEST_EFI_MEMMAP,
    REQUEST_KINDS,
};

/* The found requests by kind; NULL: not asked for, or left out on purpose (loader.omit). */
struct requests {
    struct limine_request *of[REQUEST_KINDS];
    struct limine_base_tag *base_tag;
};

struct kernel_image;

/* Finds the requests and the base revision tag in the placed image; fails by name on a request that
 * stands there twice. `omit` has a bit for every kind to leave out. */
void requests_find(const struct kernel_image *image, uint32_t omit, struct requests *out);

/* The name of a kind, as loader.omit= takes it. */
const char *request_name(enum request_kind kind);

#endif
