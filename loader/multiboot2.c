/* SPDX-License-Identifier: MIT */
/* Multiboot2: GRUB on BIOS and on UEFI.
 *
 *   multiboot2 /boot/loader.elf loader.baserev=2      the loader's keys
 *   module2 /boot/kernel.elf mm.log=debug             first: the kernel and its command line
 *   module2 /boot/odd.map odd.map more text           then: a module's name and its own line
 *
 *   block  | total size | 0 | tag | tag | ... | end tag |      (Multiboot2 specification 2.0, 3.6)
 *   tag    | type | size | fields ... | padding to 8 |
 *
 * GRUB hands on what stands behind a file's name, not the name, so a module is called what its line
 * begins with. The block stays where it is and becomes loader memory: the strings, the copy of the
 * RSDP and the EFI memory map are used in place. Every tag is bounded by the block before it is
 * read, and every field by its tag. */
#include "loader/multiboot2.h"

#include "loader/memory.h"
#include "loader/print.h"
#include "loader/source.h"
#include "loader/text.h"

enum multiboot2_tag_type {
    TAG_END = 0,
    TAG_COMMAND_LINE = 1,
    TAG_MODULE = 3,
    TAG_MEMORY_MAP = 6,
    TAG_FRAMEBUFFER = 8,
    TAG_EFI32_SYSTEM_TABLE = 11,
    TAG_EFI64_SYSTEM_TABLE = 12,
    TAG_OLD_RSDP = 14,
    TAG_NEW_RSDP = 15,
    TAG_EFI_MEMORY_MAP = 17,
};

#define FRAMEBUFFER_RGB  1
#define FRAMEBUFFER_TEXT 2

struct multiboot2_tag {
    uint32_t type;
    uint32_t bytes; /* this header included, the padding not */
};

struct multiboot2_module {
    struct multiboot2_tag tag;
    uint32_t base;
    uint32_t end;
    char line[];
};

struct multiboot2_memory_map {
    struct multiboot2_tag tag;
    uint32_t row_bytes;
    uint32_t version;
};

struct multiboot2_memory_row {
    uint64_t base;
    uint64_t bytes;
    uint32_t type; /* E820 numbering; EFI types without one have numbers above */
    uint32_t reserved;
};

struct multiboot2_framebuffer {
    struct multiboot2_tag tag;
    uint64_t base;
    uint32_t pitch;
    uint32_t width;
    uint32_t height;
    uint8_t bits;
    uint8_t kind;
    uint16_t reserved;
    uint8_t red_shift, red_bits; /* these six only with FRAMEBUFFER_RGB */
    uint8_t green_shift, green_bits;
    uint8_t blue_shift, blue_bits;
} __attribute__((packed));

struct multiboot2_efi_map {
    struct multiboot2_tag tag;
    uint32_t row_bytes;
    uint32_t version;
    uint8_t rows[];
};

_Static_assert(offsetof(struct multiboot2_framebuffer, red_shift) == 32, "Multiboot2: tag 8");
_Static_assert(sizeof(struct multiboot2_memory_row) == 24, "Multiboot2: tag 6");

/* Fails by name where a tag is too short for what is read from it. */
static void multiboot2_require(const struct multiboot2_tag *tag, size_t bytes)
{
    if (tag->bytes < bytes) {
        print_fail("Multiboot2: tag %u of %u bytes is too short", tag->type, tag->bytes);
    }
}

/* A string that begins `offset` bytes into its tag. */
static const char *multiboot2_text(const struct multiboot2_tag *tag, size_t offset)
{
    const char *text = (const char *)tag + offset;

    for (size_t i = offset; i < tag->bytes; i++) {
        if (((const char *)tag)[i] == '\0') {
            return text;
        }
    }
    print_fail("Multiboot2: the text of tag %u does not end", tag->type);
}

/* The first file is the kernel, and the whole line is its own; a module's line begins with its
 * name. */
static void multiboot2_add_file(struct boot_source *source, const struct multiboot2_tag *tag)
{
    const struct multiboot2_module *module = (const struct multiboot2_module *)tag;

    multiboot2_require(tag, sizeof *module);
    const char *line = multiboot2_text(tag, offsetof(struct multiboot2_module, line));

    if (module->end < module->base) {
        print_fail("Multiboot2: module [%#x, %#x) ends before it begins", module->base,
                   module->end);
    }
    if (source->file_count == 0) {
        source_set_kernel_line(source, line);
        source_add_file(source, module->base, module->end - module->base, "/kernel.elf");
    } else {
        source_add_named_file(source, module->base, module->end - module->base, line);
    }
}

static void multiboot2_add_memory(const struct multiboot2_tag *tag)
{
    const struct multiboot2_memory_map *map = (const struct multiboot2_memory_map *)tag;

    multiboot2_require(tag, sizeof *map);
    if (map->row_bytes < sizeof(struct multiboot2_memory_row)) {
        print_fail("Multiboot2: memory map rows of %u bytes", map->row_bytes);
    }
    for (uint32_t at = sizeof *map; tag->bytes - at >= map->row_bytes; at += map->row_bytes) {
        struct multiboot2_memory_row row;

        memcpy(&row, (const char *)tag + at, sizeof row);
        memory_add_e820(row.base, row.bytes, row.type);
    }
}

static void multiboot2_take_framebuffer(struct boot_source *source,
                                        const struct multiboot2_tag *tag)
{
    const struct multiboot2_framebuffer *from = (const struct multiboot2_framebuffer *)tag;

    multiboot2_require(tag, offsetof(struct multiboot2_framebuffer, red_shift));
    if (from->kind == FRAMEBUFFER_TEXT) {
        source->text_screen = (struct text_screen){
            .base = from->base, .pitch = from->pitch, .columns = from->width, .rows = from->height
        };
        return;
    }
    if (from->kind != FRAMEBUFFER_RGB) {
        print_line("framebuffer: colours from a palette; left out");
        return;
    }
    multiboot2_require(tag, sizeof *from);
    source->framebuffer = (struct framebuffer){
        .base = from->base,
        .bytes = (uint64_t)from->pitch * from->height,
        .width = from->width,
        .height = from->height,
        .pitch = from->pitch,
        .bits = from->bits,
        .red_bits = from->red_bits,
        .red_shift = from->red_shift,
        .green_bits = from->green_bits,
        .green_shift = from->green_shift,
        .blue_bits = from->blue_bits,
        .blue_shift = from->blue_shift,
    };
    if (!framebuffer_is_sound(&source->framebuffer)) {
        print_line("framebuffer: %u x %u x %u with a pitch of %u at %#lx makes no sense; left out",
                   from->width, from->height, from->bits, from->pitch, from->base);
        source->framebuffer = (struct framebuffer){ 0 };
    }
}

static void multiboot2_take_efi(struct boot_source *source, const struct multiboot2_tag *tag)
{
    const char *field = (const char *)(tag + 1);

    if (tag->type == TAG_EFI64_SYSTEM_TABLE) {
        multiboot2_require(tag, sizeof *tag + sizeof(uint64_t));
        memcpy(&source->efi_system_table, field, sizeof(uint64_t));
        source->firmware = SOURCE_FIRMWARE_EFI64;
    } else {
        source->firmware = SOURCE_FIRMWARE_EFI32; /* its table has another layout */
    }
}

static void multiboot2_take_efi_map(struct boot_source *source, const struct multiboot2_tag *tag)
{
    const struct multiboot2_efi_map *map = (const struct multiboot2_efi_map *)tag;

    multiboot2_require(tag, sizeof *map);
    source->efi_map = (struct efi_map){ .base = pointer_phys(map->rows),
                                        .bytes = tag->bytes - sizeof *map,
                                        .row_bytes = map->row_bytes,
                                        .version = map->version };
}

static void multiboot2_read_tag(struct boot_source *source, const struct multiboot2_tag *tag)
{
    switch (tag->type) {
    case TAG_COMMAND_LINE:
        source_set_command_line(source, multiboot2_text(tag, sizeof *tag));
        break;
    case TAG_MODULE:
        multiboot2_add_file(source, tag);
        break;
    case TAG_MEMORY_MAP:
        multiboot2_add_memory(tag);
        break;
    case TAG_FRAMEBUFFER:
        multiboot2_take_framebuffer(source, tag);
        break;
    case TAG_EFI32_SYSTEM_TABLE:
    case TAG_EFI64_SYSTEM_TABLE:
        multiboot2_take_efi(source, tag);
        break;
    case TAG_OLD_RSDP:
        if (source->rsdp == 0) {
            source->rsdp = pointer_phys(tag + 1);
        }
        break;
    case TAG_NEW_RSDP:
        source->rsdp = pointer_phys(tag + 1); /* it has the XSDT, so it wins */
        break;
    case TAG_EFI_MEMORY_MAP:
        multiboot2_take_efi_map(source, tag);
        break;
    default:
        break; /* of no use here: load address, APM, VBE, network ... */
    }
}

/* A bad block would be a bad screen and a bad memory map at once, so the screen is looked for in a
 * walk of its own: whatever the second walk has to say can be seen. */
static void multiboot2_walk(struct boot_source *source, uint64_t block, uint32_t total,
                            bool only_screen)
{
    for (uint64_t at = 8; at + sizeof(struct multiboot2_tag) <= total;) {
        const struct multiboot2_tag *tag = phys_pointer(block + at);

        if (tag->type == TAG_END) {
            return;
        }
        if (tag->bytes < sizeof *tag || tag->bytes > total - at) {
            print_fail("Multiboot2: tag %u at %#lx has %u bytes", tag->type, block + at,
                       tag->bytes);
        }
        if ((tag->type == TAG_FRAMEBUFFER) == only_screen) {
            multiboot2_read_tag(source, tag);
        }
        at = align_up(at + tag->bytes, 8);
    }
    print_fail("Multiboot2: the information block at %#lx has no end tag", block);
}

void multiboot2_read(uint64_t block, struct boot_source *source)
{
    uint32_t total = *(const uint32_t *)phys_pointer(block);

    source->name = "Multiboot2";
    source->how_to_pass_files = "with module2";
    source->firmware = SOURCE_FIRMWARE_BIOS;
    source->kept_base = block;
    source->kept_bytes = total;
    multiboot2_walk(source, block, total, true);
    source_start_screen(source);
    multiboot2_walk(source, block, total, false);
}
