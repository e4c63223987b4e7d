/* SPDX-License-Identifier: MIT */
/* Finds the requests in the kernel's image.
 *
 *   image  | text ... | start marker | tag, requests | end marker | ... data | bss |
 *                                    ^ window        ^                       ^ scan stops here
 *
 * The initialised part of the loaded image is read at every 8-byte step. The window reaches from
 * the last start marker to the first end marker; a kernel without markers has the whole part as its
 * window. A request twice, known to us or not, refuses the boot: the protocol forbids it, and to
 * answer one of the two would leave the other silently empty. */
#include "loader/request.h"

#include "loader/elf.h"
#include "loader/print.h"

#define REQUESTS_MAX 128

struct request_known {
    const char *name;
    uint64_t id2, id3;
    unsigned extras; /* 64-bit words behind the response pointer in revision 0 */
};

static const struct request_known known[REQUEST_KINDS] = {
    [REQUEST_HHDM] = { "hhdm", 0x48dcf1cb8ad2b852, 0x63984e959a98244b, 0 },
    [REQUEST_MEMMAP] = { "memmap", 0x67cf3d9d378a806f, 0xe304acdfc50c3c62, 0 },
    [REQUEST_EXECUTABLE_ADDRESS] = { "executable-address", 0x71ba76863cc55f63, 0xb2644a48c516a487,
                                     0 },
    [REQUEST_EXECUTABLE_FILE] = { "executable-file", 0xad97e90e83f1ed67, 0x31eb5d1c5ff23b69, 0 },
    [REQUEST_EXECUTABLE_CMDLINE] = { "executable-cmdline", 0x4b161536e598651e, 0xb390ad4a2f1f303a,
                                     0 },
    [REQUEST_RSDP] = { "rsdp", 0xc5e77b6b397e7b43, 0x27637845accdcf3c, 0 },
    [REQUEST_STACK_SIZE] = { "stack-size", 0x224ef0460a8e8926, 0xe1cb0fc25f46ea3d, 1 },
    [REQUEST_PAGING_MODE] = { "paging-mode", 0x95c1a0edab0944cb, 0xa4e5cb3842f7488a, 1 },
    [REQUEST_BOOTLOADER_INFO] = { "bootloader-info", 0xf55038d8e2a1202f, 0x279426fcf5f59740, 0 },
    [REQUEST_FIRMWARE_TYPE] = { "firmware-type", 0x8c2f75d90bef28a8, 0x7045a4688eac00c3, 0 },
    [REQUEST_ENTRY_POINT] = { "entry-point", 0x13d86c035a1cd3e1, 0x2b0caa89d8f3026a, 1 },
    [REQUEST_MP] = { "mp", 0x95a67b819a1b857e, 0xa0b61b723b6a73e0, 1 },
    [REQUEST_FRAMEBUFFER] = { "framebuffer", 0x9d5827dcd881dd75, 0xa3148604f6fab11b, 0 },
    [REQUEST_MODULES] = { "modules", 0x3e7e279702be32af, 0xca1c4f3bd1280cee, 0 },
    [REQUEST_SMBIOS] = { "smbios", 0x9e9046f11e095391, 0xaa4a520fefbde5ee, 0 },
    [REQUEST_EFI_SYSTEM_TABLE] = { "efi-system-table", 0x5ceba5163eaaf6d6, 0x0a6981610cf65fcc, 0 },
    [REQUEST_EFI_MEMMAP] = { "efi-memmap", 0x7df62a431d6872d5, 0xa4fcdfb3e57306c8, 0 },
};

/* The part of the image that is searched, in 64-bit words: [first, end). */
struct request_window {
    uint64_t *first;
    uint64_t *end;
    uint64_t *image_end; /* a request may reach past the window, not past the image */
};

const char *request_name(enum request_kind kind)
{
    return known[kind].name;
}

static struct request_window request_find_window(const struct kernel_image *image)
{
    uint64_t *word = phys_pointer(image->phys_base);
    struct request_window window = { word, word + image->initialised_bytes / 8,
                                     word + image->bytes / 8 };

    for (; word + 2 <= window.end; word++) {
        if (word + 4 <= window.end && word[0] == LIMINE_START_0 && word[1] == LIMINE_START_1 &&
            word[2] == LIMINE_START_2 && word[3] == LIMINE_START_3) {
            window.first = word + 4;
        } else if (word[0] == LIMINE_END_0 && word[1] == LIMINE_END_1) {
            window.end = word;
        }
    }
    return window;
}

/* Where in the kernel's own addresses a word of the placed image is; for messages. */
static uint64_t request_address(const struct kernel_image *image, const void *place)
{
    return pointer_phys(place) - image->phys_base + image->virt_base;
}

static enum request_kind request_kind_of(const struct limine_request *request)
{
    unsigned kind = 0;

    while (kind < REQUEST_KINDS &&
           (known[kind].id2 != request->id[2] || known[kind].id3 != request->id[3])) {
        kind++;
    }
    return (enum request_kind)kind;
}

static void request_refuse_twice(const struct kernel_image *image,
                                 struct limine_request *const *seen, size_t count,
                                 const struct limine_request *request)
{
    for (size_t i = 0; i < count; i++) {
        if (seen[i]->id[2] == request->id[2] && seen[i]->id[3] == request->id[3]) {
            enum request_kind kind = request_kind_of(request);

            print_fail("kernel: request %s (%#lx %#lx) appears twice, at %#lx and %#lx",
                       kind < REQUEST_KINDS ? request_name(kind) : "unknown to this loader",
                       request->id[2], request->id[3], request_address(image, seen[i]),
                       request_address(image, request));
        }
    }
}

/* Files a request under its kind, if this loader knows it and may answer. */
static void request_keep(const struct kernel_image *image, struct limine_request *request,
                         const uint64_t *image_end, uint32_t omit, struct requests *out)
{
    enum request_kind kind = request_kind_of(request);

    if (kind == REQUEST_KINDS || (omit >> kind & 1) != 0) {
        return;
    }
    unsigned extras = known[kind].extras;
    if (kind == REQUEST_PAGING_MODE && request->revision >= 1) {
        extras = 3;
    }
    if (kind == REQUEST_MODULES && request->revision >= 1) {
        extras = 2;
    }
    if (&request->extra[extras] > image_end) {
        print_fail("kernel: request %s at %#lx reaches past the end of the image",
                   request_name(kind), request_address(image, request));
    }
    out->of[kind] = request;
}

static void request_keep_base_tag(const struct kernel_image *image, struct limine_base_tag *tag,
                                  struct requests *out)
{
    if (out->base_tag != NULL) {
        print_fail("kernel: the base revision tag appears twice, at %#lx and %#lx",
                   request_address(image, out->base_tag), request_address(image, tag));
    }
    out->base_tag = tag;
}

void requests_find(const struct kernel_image *image, uint32_t omit, struct requests *out)
{
    static struct limine_request *seen[REQUESTS_MAX];
    struct request_window window = request_find_window(image);
    size_t count = 0;

    for (uint64_t *word = window.first; word + 3 <= window.end; word++) {
        if (word[0] == LIMINE_BASE_TAG_0 && word[1] == LIMINE_BASE_TAG_1) {
            request_keep_base_tag(image, (struct limine_base_tag *)word, out);
        }
        if (word[0] != LIMINE_COMMON_0 || word[1] != LIMINE_COMMON_1 ||
            word + 6 > window.image_end) {
            continue;
        }
        struct limine_request *request = (struct limine_request *)word;

        if (count == REQUESTS_MAX) {
            print_fail("kernel: more than %u requests", REQUESTS_MAX);
        }
        request_refuse_twice(image, seen, count, request);
        seen[count++] = request;
        request_keep(image, request, window.image_end, omit, out);
    }
}
