/* SPDX-License-Identifier: MIT */
/* The kernel file: checked completely before the first byte of it is used, then placed.
 *
 *   file    | header | program headers | .text bytes | .data bytes |
 *   image   | .text page(s) | gap | .data page(s) | bss |      one contiguous block, zeroed first
 *           virt_base                                   + bytes
 *
 * The file is data of a stranger: every offset is bounded with overflow in mind, headers are copied
 * out because they need not be aligned, and each defect has its own sentence. Positions and sizes
 * are those of the System V ABI's ELF-64. Only a static ET_EXEC is loaded: nothing is relocated. */
#include "loader/elf.h"

#include "loader/limine.h"
#include "loader/print.h"
#include "loader/text.h"

#define ELF_CLASS_64       2
#define ELF_DATA_LITTLE    1
#define ELF_VERSION        1
#define ELF_TYPE_EXEC      2
#define ELF_TYPE_DYN       3
#define ELF_MACHINE_X86_64 62
#define ELF_PHNUM_ESCAPE   0xffff

#define ELF_SEGMENT_LOAD    1
#define ELF_SEGMENT_INTERP  3
#define ELF_FLAG_EXECUTABLE 1
#define ELF_FLAG_WRITABLE   2

/* The last page of the address space stays out, so that the end of an image never wraps to 0. */
#define ELF_ADDRESS_END 0xfffffffffffff000ul

struct elf_header {
    uint8_t magic[4];
    uint8_t class;
    uint8_t data;
    uint8_t ident_version;
    uint8_t ident_rest[9];
    uint16_t type;
    uint16_t machine;
    uint32_t version;
    uint64_t entry;
    uint64_t program_offset;
    uint64_t section_offset;
    uint32_t flags;
    uint16_t header_bytes;
    uint16_t program_entry_bytes;
    uint16_t program_count;
    uint16_t section_entry_bytes;
    uint16_t section_count;
    uint16_t section_names;
};

struct elf_segment {
    uint32_t type;
    uint32_t flags;
    uint64_t offset;
    uint64_t vaddr;
    uint64_t paddr;
    uint64_t file_bytes;
    uint64_t memory_bytes;
    uint64_t align;
};

_Static_assert(sizeof(struct elf_header) == 64, "ELF-64 header");
_Static_assert(sizeof(struct elf_segment) == 56, "ELF-64 program header");

static void elf_check_identity(const struct source_file *file, struct elf_header *header)
{
    uint64_t present = file->bytes < sizeof *header ? file->bytes : sizeof *header;

    memset(header, 0, sizeof *header);
    memcpy(header, phys_pointer(file->base), present);
    if (present < 4 || memcmp(header->magic, "\177ELF", 4) != 0) {
        print_fail("kernel file: not an ELF");
    }
    if (present < sizeof *header) {
        print_fail("kernel file: truncated: %lu bytes, shorter than an ELF header", file->bytes);
    }
    if (header->class != ELF_CLASS_64) {
        print_fail("kernel file: not a 64-bit ELF (class %u)", header->class);
    }
    if (header->data != ELF_DATA_LITTLE) {
        print_fail("kernel file: not little-endian");
    }
    if (header->machine != ELF_MACHINE_X86_64) {
        print_fail("kernel file: not for x86-64 (machine %u)", header->machine);
    }
    if (header->ident_version != ELF_VERSION || header->version != ELF_VERSION) {
        print_fail("kernel file: unknown ELF version (%u, %u)", header->ident_version,
                   header->version);
    }
}

static void elf_check_header(const struct source_file *file, const struct elf_header *header)
{
    uint64_t end;

    if (header->type == ELF_TYPE_DYN) {
        print_fail("kernel file: position independent (ET_DYN); only a static ET_EXEC is loaded");
    }
    if (header->type != ELF_TYPE_EXEC) {
        print_fail("kernel file: not an executable (ELF type %u)", header->type);
    }
    if (header->program_count == 0) {
        print_fail("kernel file: no program headers, so no loadable segment");
    }
    if (header->program_entry_bytes != sizeof(struct elf_segment) ||
        header->program_count == ELF_PHNUM_ESCAPE) {
        print_fail("kernel file: bad program headers (%u of %u bytes)", header->program_count,
                   header->program_entry_bytes);
    }
    if (__builtin_add_overflow(header->program_offset,
                               header->program_count * sizeof(struct elf_segment), &end) ||
        end > file->bytes) {
        print_fail("kernel file: truncated: program headers at %#lx lie beyond its %lu bytes",
                   header->program_offset, file->bytes);
    }
}

/* Checks one load segment by itself. */
static void elf_check_segment(const struct source_file *file, const struct elf_segment *segment,
                              unsigned number)
{
    uint64_t end;

    if (segment->memory_bytes < segment->file_bytes) {
        print_fail("kernel file: segment %u: memory size %#lx is less than file size %#lx", number,
                   segment->memory_bytes, segment->file_bytes);
    }
    if (__builtin_add_overflow(segment->offset, segment->file_bytes, &end) || end > file->bytes) {
        print_fail("kernel file: truncated: segment %u (%#lx + %#lx) lies beyond its %lu bytes",
                   number, segment->offset, segment->file_bytes, file->bytes);
    }
    if (segment->vaddr < LIMINE_HIGHEST_HALF) {
        print_fail("kernel file: segment %u: address %#lx is below %#lx", number, segment->vaddr,
                   LIMINE_HIGHEST_HALF);
    }
    if (segment->memory_bytes > ELF_ADDRESS_END ||
        segment->vaddr > ELF_ADDRESS_END - segment->memory_bytes) {
        print_fail("kernel file: segment %u: %#lx + %#lx leaves the address space", number,
                   segment->vaddr, segment->memory_bytes);
    }
    if (segment->align > 1 && !is_power_of_two(segment->align)) {
        print_fail("kernel file: segment %u: alignment %#lx is not a power of two", number,
                   segment->align);
    }
}

/* Puts the segment where it belongs in ascending order. */
static void elf_keep_segment(struct kernel_image *image, const struct elf_segment *segment)
{
    size_t at = image->segment_count;

    if (at == KERNEL_SEGMENTS_MAX) {
        print_fail("kernel file: more than %u loadable segments", KERNEL_SEGMENTS_MAX);
    }
    for (; at > 0 && image->segments[at - 1].base > segment->vaddr; at--) {
        image->segments[at] = image->segments[at - 1];
    }
    image->segments[at] = (struct kernel_segment){
        .base = segment->vaddr,
        .end = segment->vaddr + segment->memory_bytes,
        .file_offset = segment->offset,
        .file_bytes = segment->file_bytes,
        .writable = (segment->flags & ELF_FLAG_WRITABLE) != 0,
        .executable = (segment->flags & ELF_FLAG_EXECUTABLE) != 0,
    };
    image->segment_count++;
    if (segment->align > image->align) {
        image->align = segment->align;
    }
}

static void elf_read_segments(const struct source_file *file, const struct elf_header *header,
                              struct kernel_image *image)
{
    for (unsigned i = 0; i < header->program_count; i++) {
        struct elf_segment segment;

        memcpy(&segment, phys_pointer(file->base + header->program_offset + i * sizeof segment),
               sizeof segment);
        if (segment.type == ELF_SEGMENT_INTERP) {
            print_fail("kernel file: dynamically linked; only a static ET_EXEC is loaded");
        }
        if (segment.type == ELF_SEGMENT_LOAD && (segment.memory_bytes | segment.file_bytes) != 0) {
            elf_check_segment(file, &segment, i);
            elf_keep_segment(image, &segment);
        }
    }
    if (image->segment_count == 0) {
        print_fail("kernel file: no loadable segment");
    }
}

/* Two segments: in ascending order already, so only neighbours can meet. */
static void elf_check_neighbours(const struct kernel_segment *low,
                                 const struct kernel_segment *high)
{
    bool same_rights = low->writable == high->writable && low->executable == high->executable;

    if (low->end > high->base) {
        print_fail("kernel file: segments overlap at %#lx", high->base);
    }
    if (align_up(low->end, PAGE_BYTES) > align_down(high->base, PAGE_BYTES) && !same_rights) {
        print_fail("kernel file: segments with different rights share the 4 KiB page %#lx",
                   align_down(high->base, PAGE_BYTES));
    }
}

void elf_check(const struct source_file *file, struct kernel_image *out)
{
    struct elf_header header;

    elf_check_identity(file, &header);
    elf_check_header(file, &header);
    out->file = file;
    out->align = PAGE_BYTES;
    out->entry = header.entry;
    elf_read_segments(file, &header, out);

    const struct kernel_segment *first = &out->segments[0];
    const struct kernel_segment *last = &out->segments[out->segment_count - 1];
    for (const struct kernel_segment *low = first; low < last; low++) {
        elf_check_neighbours(low, low + 1);
    }
    out->virt_base = align_down(first->base, PAGE_BYTES);
    out->bytes = align_up(last->end, PAGE_BYTES) - out->virt_base;
    out->initialised_bytes = last->base + last->file_bytes - out->virt_base;
}

void elf_place(const struct kernel_image *image)
{
    memset(phys_pointer(image->phys_base), 0, image->bytes);
    for (size_t i = 0; i < image->segment_count; i++) {
        const struct kernel_segment *segment = &image->segments[i];

        memcpy(phys_pointer(image->phys_base + (segment->base - image->virt_base)),
               phys_pointer(image->file->base + segment->file_offset), segment->file_bytes);
    }
}

bool elf_is_code(const struct kernel_image *image, uint64_t address)
{
    for (size_t i = 0; i < image->segment_count; i++) {
        const struct kernel_segment *segment = &image->segments[i];

        if (segment->executable && address >= segment->base && address < segment->end) {
            return true;
        }
    }
    return false;
}
