/* SPDX-License-Identifier: MIT */
/* What the kernel asks for against what loader and machine can give. */
#ifndef LOADER_NEGOTIATE_H
#define LOADER_NEGOTIATE_H

#include "loader/base.h"
#include "loader/cmdline.h"
#include "loader/elf.h"
#include "loader/request.h"

/* Answers the base revision tag, or fails by name when the kernel asks for one not given here. */
void negotiate_base_revision(const struct loader_options *options, struct requests *requests);

/* Returns 4 or 5 levels of page tables; fails by name when the machine lacks what must be. */
unsigned negotiate_levels(const struct loader_options *options, const struct requests *requests);

/* The size of the kernel's first stack, 64 KiB at least. */
uint64_t negotiate_stack_bytes(const struct requests *requests);

/* The kernel's first instruction; fails by name when it lies in no executable segment. */
uint64_t negotiate_entry(const struct kernel_image *image, const struct requests *requests);

#endif
