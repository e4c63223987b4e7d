/* SPDX-License-Identifier: MIT */
/* The loader's own keys on the command line, and the line that is left for the kernel. */
#ifndef LOADER_CMDLINE_H
#define LOADER_CMDLINE_H

#include "loader/base.h"
#include "loader/framebuffer.h"
#include "loader/source.h"

/* "loader.map=x " takes 13 characters, so no line can hold more. */
#define CMDLINE_MAPS_MAX (SOURCE_TEXT_BYTES / 13 + 1)

struct loader_options {
    uint64_t base_revision; /* what the loader knows: 3, or 2 */
    uint64_t hhdm;
    uint64_t slide;
    bool hhdm_given;
    bool slide_given;
    bool la57;
    bool lost_cpu_given;
    uint64_t lost_cpu; /* local APIC id of a processor that shall not start */
    struct display_mode mode;
    uint32_t omit; /* a bit for each enum request_kind */
    size_t map_count;
    const char *maps[CMDLINE_MAPS_MAX]; /* the values of loader.map, checked by maprows.c */
    char kernel_line[SOURCE_TEXT_BYTES];
    char loader_words[SOURCE_TEXT_BYTES]; /* where the values point into */
};

/* Takes the loader.* keys out of `line`; fails by name on an unknown key or a bad value. A key that
 * is given again replaces the earlier value; loader.omit and loader.map add to it. */
void cmdline_take(const char *line, struct loader_options *out);

/* Does the word stand on the line, alone between spaces? */
bool cmdline_has_word(const char *line, const char *word);

#endif
