/* SPDX-License-Identifier: MIT */
/* Rows that loader.map adds to the map the kernel gets: lies on purpose, to test the kernel. */
#ifndef LOADER_MAPROWS_H
#define LOADER_MAPROWS_H

#include "loader/base.h"
#include "loader/cmdline.h"
#include "loader/limine.h"
#include "loader/source.h"

/* Checks every loader.map value, inline or file, and fails by name on a bad one.
 *   Returns: how many rows maprows_copy() will write. */
size_t maprows_count(const struct loader_options *options, const struct boot_source *source);

/* Writes the rows as they were given, in their order. */
void maprows_copy(const struct loader_options *options, const struct boot_source *source,
                  struct limine_memmap_entry *out);

#endif
