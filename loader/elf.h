/* SPDX-License-Identifier: MIT */
/* The kernel file: what it asks for, and where its image went. */
#ifndef LOADER_ELF_H
#define LOADER_ELF_H

#include "loader/base.h"
#include "loader/source.h"

#define KERNEL_SEGMENTS_MAX 32

/* One load segment; virtual addresses, [base, end). */
struct kernel_segment {
    uint64_t base;
    uint64_t end;
    uint64_t file_offset;
    uint64_t file_bytes;
    bool writable;
    bool executable;
};

/* virtual = physical - phys_base + virt_base, for the whole image, gaps included. */
struct kernel_image {
    const struct source_file *file;
    uint64_t virt_base; /* page aligned, like all sizes and bases here */
    uint64_t phys_base;
    uint64_t bytes;
    uint64_t align;             /* the largest p_align, at least a page */
    uint64_t initialised_bytes; /* from virt_base to where the last segment's file bytes end */
    uint64_t entry;
    size_t segment_count;
    struct kernel_segment segments[KERNEL_SEGMENTS_MAX]; /* ascending, disjoint */
};

/* Checks the file and fills in *out but for phys_base; every defect fails by name. */
void elf_check(const struct source_file *file, struct kernel_image *out);

/* Copies the segments to image->phys_base and clears everything else of the block. The memory must
 * be the caller's and reached by the loader's identity map. */
void elf_place(const struct kernel_image *image);

/* Does the address lie in an executable segment? */
bool elf_is_code(const struct kernel_image *image, uint64_t address);

#endif
