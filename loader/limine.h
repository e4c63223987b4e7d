/* SPDX-License-Identifier: MIT */
/* The Limine boot protocol as bytes in memory: what the kernel file holds and what we answer.
 *
 *   request   | id[4] | revision | response* | extras ...      in the kernel's image
 *   response  | revision | fields ...                          in bootloader-reclaimable memory
 *   base tag  | tag[2] | revision asked                        in the kernel's image
 *
 * Every field that holds an address for the kernel is a uint64_t here: those addresses are the
 * kernel's (HHDM), not ours, and the compiler shall not let us follow one. */
#ifndef LOADER_LIMINE_H
#define LOADER_LIMINE_H

#include "loader/base.h"

#define LIMINE_COMMON_0 0xc7b1dd30df4c8b88ul
#define LIMINE_COMMON_1 0x0a82e883a194f07bul

#define LIMINE_START_0 0xf6b8f4b39de7d1aeul
#define LIMINE_START_1 0xfab91a6940fcb9cful
#define LIMINE_START_2 0x785c6ed015d3e316ul
#define LIMINE_START_3 0x181e920a7852b9d9ul
#define LIMINE_END_0   0xadc0e0531bb10d03ul
#define LIMINE_END_1   0x9572709f31764c62ul

#define LIMINE_BASE_TAG_0 0xf9562b2d5c95a6c8ul
#define LIMINE_BASE_TAG_1 0x6a7b384944536bdcul

#define LIMINE_HIGHEST_HALF 0xffffffff80000000ul /* a kernel is linked at or above it */

#define LIMINE_MP_X2APIC 1 /* flag: asked for in the request, on in the response */

#define LIMINE_PAGING_4_LEVEL 0
#define LIMINE_PAGING_5_LEVEL 1

struct limine_request {
    uint64_t id[4];
    uint64_t revision;
    uint64_t response;
    uint64_t extra[];
};

struct limine_base_tag {
    uint64_t tag0;
    uint64_t tag1_or_used; /* a loader that knows revision 3 writes the one it really gives */
    uint64_t asked;        /* becomes 0 when that revision is given */
};

struct limine_memmap_entry {
    uint64_t base;
    uint64_t length;
    uint64_t type;
};

/* Responses with one, two or more plain fields behind the revision. */
struct limine_value_response {
    uint64_t revision;
    uint64_t value;
};

struct limine_pair_response {
    uint64_t revision;
    uint64_t first;
    uint64_t second;
};

struct limine_file {
    uint64_t revision;
    uint64_t address;
    uint64_t bytes;
    uint64_t path;
    uint64_t string;
    uint32_t media;
    uint32_t unused;
    uint32_t tftp_ip;
    uint32_t tftp_port;
    uint32_t partition;
    uint32_t mbr_disk_id;
    uint8_t disk_uuid[16];
    uint8_t partition_uuid[16];
    uint8_t filesystem_uuid[16];
};

/* The bit layout of a pixel, common to a framebuffer and a mode. */
struct limine_pixel {
    uint16_t bits;
    uint8_t model; /* 1: RGB */
    uint8_t red_bits, red_shift;
    uint8_t green_bits, green_shift;
    uint8_t blue_bits, blue_shift;
} __attribute__((packed));

struct limine_mode {
    uint64_t pitch;
    uint64_t width;
    uint64_t height;
    struct limine_pixel pixel;
    uint8_t pad[7];
};

struct limine_framebuffer {
    uint64_t address;
    uint64_t width;
    uint64_t height;
    uint64_t pitch;
    struct limine_pixel pixel;
    uint8_t pad[7];
    uint64_t edid_bytes;
    uint64_t edid;
    uint64_t mode_count;
    uint64_t modes;
};

struct limine_mp_response {
    uint64_t revision;
    uint32_t flags;
    uint32_t bsp_lapic_id;
    uint64_t cpu_count;
    uint64_t cpus; /* pointers to struct limine_mp_info, the boot processor's among them */
};

struct limine_mp_info {
    uint32_t acpi_uid;
    uint32_t lapic_id;
    uint64_t reserved;
    uint64_t goto_address; /* the kernel writes it, and the processor jumps there */
    uint64_t extra_argument;
};

_Static_assert(sizeof(struct limine_mp_response) == 32, "protocol: MP response");
_Static_assert(sizeof(struct limine_mp_info) == 32, "protocol: MP info");
_Static_assert(offsetof(struct limine_mp_info, goto_address) == 16, "protocol: MP info");
_Static_assert(sizeof(struct limine_file) == 112, "protocol: file");
_Static_assert(offsetof(struct limine_file, media) == 40, "protocol: file");
_Static_assert(sizeof(struct limine_mode) == 40, "protocol: mode");
_Static_assert(sizeof(struct limine_framebuffer) == 80, "protocol: framebuffer, revision 1");
_Static_assert(offsetof(struct limine_framebuffer, edid_bytes) == 48, "protocol: framebuffer");

#endif
