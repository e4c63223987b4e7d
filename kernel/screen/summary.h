/* SPDX-License-Identifier: MIT */
/* The picture at the end of a boot: what memory there is, who has it, where it stands.
 *
 * summary_collect() asks the memory manager, summary_draw() only draws, so that a test can draw any
 * machine. */
#ifndef KERNEL_SCREEN_SUMMARY_H
#define KERNEL_SCREEN_SUMMARY_H

#include "kernel/screen/surface.h"
#include <mm/mm.h>

#define SUMMARY_WINDOWS_MAX 8u
#define SUMMARY_FACTS       5u
#define SUMMARY_FACT_MAX    40u

/* A part of the kernel's address space. */
struct summary_window {
    const char *name;
    const char *rights; /* "R-X", "RW- WC" */
    char note[32];
    vaddr_t base, end;
    uint32_t rgb;
};

struct summary {
    uint64_t total_bytes, usable_bytes, free_bytes;
    uint64_t free_frames, range_count;
    const struct mm_range *ranges; /* of the memory map */
    size_t ranges_count;
    struct mm_test_result tests;
    struct summary_window windows[SUMMARY_WINDOWS_MAX]; /* by address */
    size_t window_count;
    char facts[SUMMARY_FACTS][SUMMARY_FACT_MAX]; /* for the line below the greeting; empty: none */
};

/* Fills in what is true now.
 *   Context:  as pmm_stats(). */
void summary_collect(struct summary *summary, struct mm *mm, struct mm_test_result tests,
                     unsigned cpus);

/* Draws the whole surface.
 *   Returns:  false, and nothing is drawn, where there is too little room (below 640 x 480). */
bool summary_draw(const struct summary *summary, const struct surface *surface);

/* Writes a size in the unit that suits it, as "64 KB", "511 MB" or "63.9 GB", cut, not
 * rounded: at most seven characters below 10000 TB. `text` has SUMMARY_SIZE_MAX bytes. */
#define SUMMARY_SIZE_MAX 16u
void summary_format_size(char *text, uint64_t bytes);

/* The colour of a type of memory in the bar (enum boot_range_type). */
uint32_t summary_type_colour(uint64_t type);

#endif
