/* SPDX-License-Identifier: MIT */
/* The Limine boot protocol as it lies in memory: requests in the kernel, responses by the loader.
 *
 *   request:   id[4] @0 | revision @32 | response @40 | extras from @48
 *   response:  revision @0 | fields from @8
 *
 * Only kernel/limine.c includes this file. The layouts of all structures are asserted. */
#ifndef KERNEL_LIMINE_H
#define KERNEL_LIMINE_H

#include <stddef.h>
#include <stdint.h>

/* The last two words tell the requests apart; the first two are common. */
#define LIMINE_ID(third, fourth)                                                                   \
    {                                                                                              \
        0xc7b1dd30df4c8b88, 0x0a82e883a194f07b, third, fourth                                      \
    }
#define LIMINE_BOOTLOADER_INFO    LIMINE_ID(0xf55038d8e2a1202f, 0x279426fcf5f59740)
#define LIMINE_EXECUTABLE_CMDLINE LIMINE_ID(0x4b161536e598651e, 0xb390ad4a2f1f303a)
#define LIMINE_FIRMWARE_TYPE      LIMINE_ID(0x8c2f75d90bef28a8, 0x7045a4688eac00c3)
#define LIMINE_STACK_SIZE         LIMINE_ID(0x224ef0460a8e8926, 0xe1cb0fc25f46ea3d)
#define LIMINE_HHDM               LIMINE_ID(0x48dcf1cb8ad2b852, 0x63984e959a98244b)
#define LIMINE_FRAMEBUFFER        LIMINE_ID(0x9d5827dcd881dd75, 0xa3148604f6fab11b)
#define LIMINE_PAGING_MODE        LIMINE_ID(0x95c1a0edab0944cb, 0xa4e5cb3842f7488a)
#define LIMINE_MEMORY_MAP         LIMINE_ID(0x67cf3d9d378a806f, 0xe304acdfc50c3c62)
#define LIMINE_ENTRY_POINT        LIMINE_ID(0x13d86c035a1cd3e1, 0x2b0caa89d8f3026a)
#define LIMINE_EXECUTABLE_FILE    LIMINE_ID(0xad97e90e83f1ed67, 0x31eb5d1c5ff23b69)
#define LIMINE_RSDP               LIMINE_ID(0xc5e77b6b397e7b43, 0x27637845accdcf3c)
#define LIMINE_EXECUTABLE_ADDRESS LIMINE_ID(0x71ba76863cc55f63, 0xb2644a48c516a487)
#define LIMINE_MP                 LIMINE_ID(0x95a67b819a1b857e, 0xa0b61b723b6a73e0)

/* The loader looks for requests between these two. */
#define LIMINE_START_MARKER                                                                        \
    {                                                                                              \
        0xf6b8f4b39de7d1ae, 0xfab91a6940fcb9cf, 0x785c6ed015d3e316, 0x181e920a7852b9d9             \
    }
#define LIMINE_END_MARKER                                                                          \
    {                                                                                              \
        0xadc0e0531bb10d03, 0x9572709f31764c62                                                     \
    }

/* Base revision tag: the loader sets word 2 to 0 if it supports the revision asked for, and word 1
 * to the revision in use if it knows revision 3 or later; an older one leaves word 1 as it is. */
#define LIMINE_REVISION_MAGIC 0x6a7b384944536bdc
#define LIMINE_BASE_REVISION(revision)                                                             \
    {                                                                                              \
        0xf9562b2d5c95a6c8, LIMINE_REVISION_MAGIC, revision                                        \
    }

struct limine_request {
    uint64_t id[4];
    uint64_t revision;
    void *response; /* NULL until the loader answers */
};
_Static_assert(offsetof(struct limine_request, response) == 40, "Limine protocol");

struct limine_stack_size_request {
    struct limine_request head;
    uint64_t stack_bytes;
};

struct limine_paging_mode_request {
    struct limine_request head;
    uint64_t mode, max_mode, min_mode; /* 0: 4 levels, 1: 5 levels */
};

struct limine_entry_point_request {
    struct limine_request head;
    const void *entry;
};

#define LIMINE_MP_X2APIC 0x1u /* in the request: wanted; in the response: in use */

struct limine_mp_request {
    struct limine_request head;
    uint64_t flags;
};

/* One for each CPU. A CPU waits until `enter` is not NULL, then jumps there with its own struct in
 * RDI, on a fresh stack of the loader. */
struct limine_cpu {
    uint32_t acpi_uid;
    uint32_t lapic_id;
    uint64_t reserved; /* the loader's: not to be written */
    void (*enter)(struct limine_cpu *cpu);
    uint64_t extra; /* the kernel's */
};
_Static_assert(sizeof(struct limine_cpu) == 32, "Limine protocol");

struct limine_mp {
    uint64_t revision;
    uint32_t flags;
    uint32_t boot_lapic_id;
    uint64_t count;
    struct limine_cpu **cpus;
};
_Static_assert(offsetof(struct limine_mp, cpus) == 24, "Limine protocol");

struct limine_bootloader_info {
    uint64_t revision;
    const char *name;
    const char *version;
};

struct limine_executable_cmdline {
    uint64_t revision;
    const char *cmdline;
};

enum limine_firmware {
    LIMINE_FIRMWARE_BIOS = 0,
    LIMINE_FIRMWARE_EFI32 = 1,
    LIMINE_FIRMWARE_EFI64 = 2,
    LIMINE_FIRMWARE_SBI = 3,
};

struct limine_firmware_type {
    uint64_t revision;
    uint64_t type;
};

struct limine_hhdm {
    uint64_t revision;
    uint64_t offset;
};

#define LIMINE_FRAMEBUFFER_RGB 1 /* the only memory model that the protocol knows */

struct limine_framebuffer {
    uint64_t address; /* hhdm offset + physical */
    uint64_t width, height, pitch;
    uint16_t bits_per_pixel;
    uint8_t model;
    uint8_t red_bits, red_shift, green_bits, green_shift, blue_bits, blue_shift;
    uint8_t unused[7];
    uint64_t edid_bytes;
    void *edid;
};
_Static_assert(sizeof(struct limine_framebuffer) == 64, "Limine protocol, revision 0");

struct limine_framebuffers {
    uint64_t revision;
    uint64_t count;
    const struct limine_framebuffer **framebuffers;
};

struct limine_memory_map {
    uint64_t revision;
    uint64_t count;
    struct boot_range **entries; /* an array of pointers; rows laid out as struct boot_range */
};

struct limine_file {
    uint64_t revision;
    uint64_t address; /* hhdm offset + physical */
    uint64_t size_bytes;
    const char *path;
    const char *cmdline;
    uint32_t media, unused, tftp_ip, tftp_port, partition, mbr_disk_id;
    uint8_t disk_uuid[16], partition_uuid[16], filesystem_uuid[16];
};
_Static_assert(sizeof(struct limine_file) == 112, "Limine protocol");

struct limine_executable_file {
    uint64_t revision;
    const struct limine_file *file;
};

struct limine_rsdp {
    uint64_t revision;
    uint64_t address; /* physical in base revision 3, hhdm offset + physical in all others */
};

struct limine_executable_address {
    uint64_t revision;
    uint64_t physical_base;
    uint64_t virtual_base;
};

#endif
