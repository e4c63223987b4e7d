/* SPDX-License-Identifier: MIT */
/* The answers to the kernel's requests. */
#ifndef LOADER_RESPONSE_H
#define LOADER_RESPONSE_H

#include "loader/base.h"
#include "loader/cmdline.h"
#include "loader/elf.h"
#include "loader/firmware.h"
#include "loader/framebuffer.h"
#include "loader/hhdm.h"
#include "loader/request.h"
#include "loader/source.h"

/* All that the answers are made of. */
struct response_facts {
    const struct boot_source *source;
    const struct loader_options *options;
    const struct kernel_image *image;
    const struct framebuffer *framebuffer;
    const struct firmware_tables *tables;
    const struct hhdm *hhdm;
};

/* Fills in every response but the memory map; a request that cannot be satisfied stays as it is. */
void response_fill(const struct response_facts *facts, const struct requests *requests);

/* Answers the memory map request. Nothing may be allocated afterwards. */
void response_fill_memmap(const struct response_facts *facts, const struct requests *requests);

/* Answers with what the boot path and the firmware passed on: modules, ACPI, SMBIOS, EFI (passed.c);
 * called by response_fill(). */
void response_fill_passed(const struct response_facts *facts, const struct requests *requests);

/* For the files that answer: a zeroed, 16-byte aligned piece of loader memory; a copy of a text there
 * by its HHDM address; the same for responses of one and of two fields, where the kernel asked. */
void *response_alloc(uint64_t bytes);
uint64_t response_copy_text(const struct hhdm *hhdm, const char *text);
void response_answer_value(const struct response_facts *facts, struct limine_request *request,
                           uint64_t value);
void response_answer_pair(const struct response_facts *facts, struct limine_request *request,
                          uint64_t first, uint64_t second);

/* A file (protocol: struct limine_file) with its strings, by its HHDM address. */
uint64_t response_copy_file(const struct response_facts *facts, const struct source_file *from,
                            const char *string);

#endif
