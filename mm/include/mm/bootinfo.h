/* SPDX-License-Identifier: MIT */
/* What a kernel tells mm about the machine at boot: plain C, no boot protocol in it.
 * This header is part of the public API of mm/.
 *
 * The numbers of the range types are those of the Limine protocol (Memory Map feature), and a
 * `struct boot_range` is laid out like its memory map entry, so that a Limine kernel hands its
 * response on as it is. Kernels with another source (E820, UEFI) translate their types. */
#ifndef MM_BOOTINFO_H
#define MM_BOOTINFO_H

#include <mm/types.h>

MM_BEGIN_DECLS

enum boot_range_type {
    BOOT_USABLE = 0,
    BOOT_RESERVED = 1,
    BOOT_ACPI_RECLAIMABLE = 2,
    BOOT_ACPI_NVS = 3,
    BOOT_BAD = 4,
    BOOT_LOADER_RECLAIMABLE = 5,
    BOOT_EXECUTABLE = 6, /* kernel image and modules */
    BOOT_FRAMEBUFFER = 7,
    BOOT_METADATA = 8, /* never reported: set by mm for its own bookkeeping; as input: reserved */
    BOOT_RANGE_TYPES = 9,
};

/* One row of a memory map as firmware delivers it: [base, base + length), any alignment, possibly
 * wrapping, overlapping others, or of a type nobody knows. */
struct boot_range {
    uint64_t base;
    uint64_t length;
    uint64_t type;
};

/* A part of the kernel image: virtual, page-aligned, half-open; `begin == end` means none. */
struct boot_section {
    vaddr_t begin;
    vaddr_t end;
};

/* A function or object of the kernel image. */
struct boot_symbol {
    const char *name;
    vaddr_t begin;
    uint64_t bytes;
};

#define BOOT_KEEP_MAX  16
#define BOOT_GUARD_MAX 8

/* Who lends mm its memory, where an operating system stands around it: a heap that lives in the HHDM
 * says when it gets frames and when it gives them back.
 *   Context:  no lock of mm is held; any number of CPUs at once. */
struct boot_lender {
    /* [start, start + bytes) is about to be used.
     *   Returns:  true if it holds zeroes. */
    bool (*take)(void *start, uint64_t bytes);
    /* It is not used any more and may hold anything; its frames go to the pmm next. */
    void (*give)(void *start, uint64_t bytes);
    /* What was given is free in the pmm. */
    void (*given)(void);
};

struct boot_info {
    /* The memory map: pointers to its rows, as in the Limine response. memmap_build() permutes the
     * pointers (it sorts them in place); the rows are only read. Both must be mapped. */
    struct boot_range **map;
    uint64_t map_count;

    /* Memory that is never free, whatever the map says: image, modules, framebuffer, the map
     * itself, the loader's stack. `type` says as what it is kept. */
    struct boot_range keep[BOOT_KEEP_MAX];
    uint32_t keep_count;

    /* Physical address p of RAM is readable and writable at hhdm_offset + p while mm starts. */
    uint64_t hhdm_offset;

    /* The kernel image: virtual kernel_virt + x is physical kernel_phys + x. */
    paddr_t kernel_phys;
    vaddr_t kernel_virt;
    struct boot_section text, rodata, data; /* data: .data and .bss, read and write */
    /* Pages inside `data` that stay unmapped: below and above each boot stack. */
    struct boot_section guard[BOOT_GUARD_MAX];
    uint32_t guard_count;
    /* What lies at each guard, for reports: "guard page below the boot stack"; NULL: no name. */
    const char *guard_name[BOOT_GUARD_MAX];

    /* Parts of the image that change after boot; each may be empty (begin == end).
     *   init           code and constants that only boot needs: read and execute until
     *                  kvm_release_init() unmaps them and gives the frames to the pmm; meets none
     *                  of text, rodata and data
     *   init_data      a part of `data` with the same fate: read and write until then
     *   ro_after_init  a part of `data` that kvm_seal() makes read-only */
    struct boot_section init, init_data, ro_after_init;

    /* Finds the function or object that holds an address of the image, for mm_explain() and the
     * heap's reports: in any context, without a lock. NULL: no names. */
    bool (*find_symbol)(vaddr_t address, struct boot_symbol *out);

    /* Linear framebuffer; framebuffer_bytes 0 means none. */
    paddr_t framebuffer_base;
    uint64_t framebuffer_bytes;

    /* Kernel command line, key=value separated by spaces; never NULL. */
    const char *command_line;

    /* Somebody else owns the page tables and control registers: mm leaves them alone, and the heap
     * lives in the HHDM, in contiguous frames. */
    bool paging_is_foreign;

    /* With foreign paging: NULL, or who is told what the heap takes and gives. */
    const struct boot_lender *lender;
};

MM_END_DECLS
#endif
