/* SPDX-License-Identifier: MIT */
/* Answers with what the boot path and the firmware passed on: modules, ACPI, SMBIOS, EFI.
 *
 * Nothing of it is copied but names: modules lie in memory of their own type, tables where the
 * firmware put them, the EFI memory map in the boot path's information block. Addresses of firmware
 * tables are physical from base revision 3 on (in 3, of those known here) and HHDM pointers before;
 * what is not there leaves its request unanswered. */
#include "loader/limine.h"
#include "loader/print.h"
#include "loader/response.h"

#define MODULES_REVISION         2 /* of the response */
#define INTERNAL_MODULE_REQUIRED 1ul

/* An internal module: the kernel names a file that the loader shall fetch beside the kernel's. */
struct passed_internal_module {
    uint64_t path;
    uint64_t string;
    uint64_t flags;
};

struct passed_efi_map_response {
    uint64_t revision;
    uint64_t map;
    uint64_t bytes;
    uint64_t row_bytes;
    uint64_t version;
};

/* What a pointer in the kernel's image points at, if all of it is in the image. */
static const void *passed_in_image(const struct kernel_image *image, uint64_t address,
                                   uint64_t bytes)
{
    uint64_t offset = address - image->virt_base;

    if (offset > image->bytes || image->bytes - offset < bytes) {
        print_fail("kernel: the modules request points out of the image, at %#lx", address);
    }
    return phys_pointer(image->phys_base + offset);
}

/* No path that starts us can fetch a file by itself; one that the kernel cannot do without ends the
 * boot, as the protocol has it. */
static void passed_refuse_internal(const struct response_facts *facts,
                                   const struct limine_request *request)
{
    const struct kernel_image *image = facts->image;

    if (request->revision < 1 || request->extra[0] == 0) {
        return;
    }
    uint64_t count = request->extra[0] < image->bytes ? request->extra[0] : image->bytes;
    const uint64_t *modules = passed_in_image(image, request->extra[1], count * sizeof *modules);

    for (uint64_t i = 0; i < count; i++) {
        const struct passed_internal_module *module =
            passed_in_image(image, modules[i], sizeof *module);

        if ((module->flags & INTERNAL_MODULE_REQUIRED) != 0) {
            print_fail("kernel: requires an internal module; this loader fetches no files");
        }
    }
}

static void passed_fill_modules(const struct response_facts *facts, struct limine_request *request)
{
    size_t count = facts->source->file_count - 1; /* the first is the kernel */

    if (request == NULL) {
        return;
    }
    passed_refuse_internal(facts, request);
    if (count == 0) {
        return;
    }
    struct limine_pair_response *response = response_alloc(sizeof *response);
    uint64_t *files = response_alloc(count * sizeof *files);

    for (size_t i = 0; i < count; i++) {
        const struct source_file *file = &facts->source->files[i + 1];

        files[i] = response_copy_file(facts, file, file->string);
    }
    response->revision = MODULES_REVISION;
    response->first = count;
    response->second = hhdm_address(facts->hhdm, files);
    request->response = hhdm_address(facts->hhdm, response);
}

/* The kernel's address of a firmware table; 0 stays 0. */
static uint64_t passed_table(const struct response_facts *facts, uint64_t phys)
{
    return phys == 0 || facts->options->base_revision >= 3 ? phys : phys + facts->hhdm->offset;
}

static void passed_fill_tables(const struct response_facts *facts, const struct requests *requests)
{
    const struct firmware_tables *tables = facts->tables;

    if (tables->rsdp != 0) {
        response_answer_value(facts, requests->of[REQUEST_RSDP], passed_table(facts, tables->rsdp));
    }
    if (tables->smbios32 != 0 || tables->smbios64 != 0) {
        response_answer_pair(facts, requests->of[REQUEST_SMBIOS],
                             passed_table(facts, tables->smbios32),
                             passed_table(facts, tables->smbios64));
    }
    if (facts->source->efi_system_table != 0) {
        response_answer_value(facts, requests->of[REQUEST_EFI_SYSTEM_TABLE],
                              passed_table(facts, facts->source->efi_system_table));
    }
}

static void passed_fill_efi_map(const struct response_facts *facts, struct limine_request *request)
{
    const struct efi_map *map = &facts->source->efi_map;

    if (request == NULL || map->bytes == 0) {
        return;
    }
    struct passed_efi_map_response *response = response_alloc(sizeof *response);

    response->map = facts->hhdm->offset + map->base;
    response->bytes = map->bytes;
    response->row_bytes = map->row_bytes;
    response->version = map->version;
    request->response = hhdm_address(facts->hhdm, response);
}

void response_fill_passed(const struct response_facts *facts, const struct requests *requests)
{
    passed_fill_modules(facts, requests->of[REQUEST_MODULES]);
    passed_fill_tables(facts, requests);
    passed_fill_efi_map(facts, requests->of[REQUEST_EFI_MEMMAP]);
}
