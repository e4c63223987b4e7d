/* SPDX-License-Identifier: MIT */
/* The answers to the kernel's requests.
 *
 * Responses and all they point at are cut from pages of loader (bootloader reclaimable) memory and
 * named by their HHDM addresses; only then does the request's response pointer change. A request
 * that cannot be satisfied (no framebuffer, no RSDP) stays unanswered, as the protocol wants it.
 * The memory map is answered last of all: its entries are the record of every allocation, their own
 * included. Rows that loader.map adds stand behind the true ones, as they were given. */
#include "loader/response.h"

#include "loader/maprows.h"
#include "loader/memory.h"
#include "loader/text.h"
#include "mm/config.h"

#define LOADER_NAME "MelloOS loader"

/* What taking the map's own pages can add to it: one range becomes three. */
#define MEMMAP_SPARE 2

/* Cuts zeroed, 16-byte aligned pieces from pages taken when the last one is used up. */
void *response_alloc(uint64_t bytes)
{
    static uint64_t next, left;

    bytes = align_up(bytes, 16);
    if (bytes > left) {
        left = align_up(bytes, PAGE_BYTES);
        next = memory_alloc_zeroed(left, "responses");
    }
    void *piece = phys_pointer(next);

    next += bytes;
    left -= bytes;
    return piece;
}

uint64_t response_copy_text(const struct hhdm *hhdm, const char *text)
{
    size_t bytes = text_length(text) + 1;

    return hhdm_address(hhdm, memcpy(response_alloc(bytes), text, bytes));
}

static void response_answer(const struct response_facts *facts, struct limine_request *request,
                            const void *response)
{
    request->response = hhdm_address(facts->hhdm, response);
}

/* A response of one field; nothing happens where the kernel did not ask. */
void response_answer_value(const struct response_facts *facts, struct limine_request *request,
                           uint64_t value)
{
    if (request != NULL) {
        struct limine_value_response *response = response_alloc(sizeof *response);

        response->value = value;
        response_answer(facts, request, response);
    }
}

void response_answer_pair(const struct response_facts *facts, struct limine_request *request,
                          uint64_t first, uint64_t second)
{
    if (request != NULL) {
        struct limine_pair_response *response = response_alloc(sizeof *response);

        response->first = first;
        response->second = second;
        response_answer(facts, request, response);
    }
}

uint64_t response_copy_file(const struct response_facts *facts, const struct source_file *from,
                            const char *string)
{
    struct limine_file *file = response_alloc(sizeof *file);

    file->address = facts->hhdm->offset + from->base;
    file->bytes = from->bytes;
    file->path = response_copy_text(facts->hhdm, from->path);
    file->string = response_copy_text(facts->hhdm, string);
    return hhdm_address(facts->hhdm, file);
}

static struct limine_pixel response_pixel(const struct framebuffer *framebuffer)
{
    return (struct limine_pixel){
        .bits = framebuffer->bits,
        .model = 1,
        .red_bits = framebuffer->red_bits,
        .red_shift = framebuffer->red_shift,
        .green_bits = framebuffer->green_bits,
        .green_shift = framebuffer->green_shift,
        .blue_bits = framebuffer->blue_bits,
        .blue_shift = framebuffer->blue_shift,
    };
}

/* One framebuffer with one mode, the one that is set; response revision 1. */
static void response_fill_framebuffer(const struct response_facts *facts,
                                      struct limine_request *request)
{
    const struct framebuffer *from = facts->framebuffer;

    if (request == NULL || from->bytes == 0) {
        return;
    }
    struct limine_pair_response *response = response_alloc(sizeof *response);
    struct limine_framebuffer *to = response_alloc(sizeof *to);
    struct limine_mode *mode = response_alloc(sizeof *mode);
    uint64_t *pointers = response_alloc(2 * sizeof *pointers);

    to->address = facts->hhdm->offset + from->base;
    to->width = mode->width = from->width;
    to->height = mode->height = from->height;
    to->pitch = mode->pitch = from->pitch;
    to->pixel = mode->pixel = response_pixel(from);
    to->mode_count = 1;
    to->modes = hhdm_address(facts->hhdm, &pointers[1]);
    pointers[0] = hhdm_address(facts->hhdm, to);
    pointers[1] = hhdm_address(facts->hhdm, mode);
    response->revision = 1;
    response->first = 1;
    response->second = hhdm_address(facts->hhdm, pointers);
    response_answer(facts, request, response);
}

void response_fill(const struct response_facts *facts, const struct requests *requests)
{
    struct limine_request *const *of = requests->of;
    const struct hhdm *hhdm = facts->hhdm;

    response_answer_value(facts, of[REQUEST_HHDM], hhdm->offset);
    response_answer_pair(facts, of[REQUEST_EXECUTABLE_ADDRESS], facts->image->phys_base,
                         facts->image->virt_base);
    response_answer_value(facts, of[REQUEST_EXECUTABLE_FILE],
                          response_copy_file(facts, facts->image->file,
                                             facts->options->kernel_line));
    response_answer_value(facts, of[REQUEST_EXECUTABLE_CMDLINE],
                          response_copy_text(hhdm, facts->options->kernel_line));
    response_answer_value(facts, of[REQUEST_STACK_SIZE], 0); /* has no field; the spare is 0 */
    response_answer_value(facts, of[REQUEST_PAGING_MODE],
                          hhdm->levels == 5 ? LIMINE_PAGING_5_LEVEL : LIMINE_PAGING_4_LEVEL);
    response_answer_pair(facts, of[REQUEST_BOOTLOADER_INFO], response_copy_text(hhdm, LOADER_NAME),
                         response_copy_text(hhdm, MM_VERSION));
    response_answer_value(facts, of[REQUEST_FIRMWARE_TYPE], facts->source->firmware);
    response_answer_value(facts, of[REQUEST_ENTRY_POINT], 0); /* has no field either */
    response_fill_framebuffer(facts, of[REQUEST_FRAMEBUFFER]);
    response_fill_passed(facts, requests);
}

/* Writes the true ranges; returns how many. */
static size_t response_copy_ranges(struct limine_memmap_entry *out)
{
    for (size_t i = 0; i < memory_count(); i++) {
        const struct memory_range *range = memory_get(i);

        out[i] = (struct limine_memmap_entry){ range->base, range->end - range->base, range->type };
    }
    return memory_count();
}

void response_fill_memmap(const struct response_facts *facts, const struct requests *requests)
{
    struct limine_request *request = requests->of[REQUEST_MEMMAP];
    size_t extra = maprows_count(facts->options, facts->source);

    if (request == NULL) {
        return;
    }
    struct limine_pair_response *response = response_alloc(sizeof *response);
    size_t room = memory_count() + MEMMAP_SPARE + extra;
    struct limine_memmap_entry *entries = phys_pointer(
        memory_alloc_zeroed(room * (sizeof *entries + sizeof(uint64_t)), "the memory map"));
    uint64_t *pointers = (uint64_t *)&entries[room];
    size_t count = response_copy_ranges(entries);

    maprows_copy(facts->options, facts->source, &entries[count]);
    count += extra;
    for (size_t i = 0; i < count; i++) {
        pointers[i] = hhdm_address(facts->hhdm, &entries[i]);
    }
    response->first = count;
    response->second = hhdm_address(facts->hhdm, pointers);
    response_answer(facts, request, response);
}
