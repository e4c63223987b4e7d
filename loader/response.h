/* SPDX-License-Identifier: MIT */
/* The answers to the kernel's requests. */
#ifndef LOADER_RESPONSE_H
#define LOADER_RESPONSE_H

#include "loader/base.h"
#include "loader/cmdline.h"
#include "loader/elf.h"
#include "loader/framebuffer.h"
#include "loader/hhdm.h"
#include "loader/request.h"
#include "loader/source.h"

/* All that the answers are made of. */
struct response_facts {
    const struct boot_source *source;
    const struct loader_options *options;
    const struct kernel_image *image;
    const struct framebuffer *framebuffer;
    const struct hhdm *hhdm;
};

/* Fills in every response but the memory map; a request that cannot be satisfied stays as it is. */
void response_fill(const struct response_facts *facts, const struct requests *requests);

/* Answers the memory map request. Nothing may be allocated afterwards. */
void response_fill_memmap(const struct response_facts *facts, const struct requests *requests);

#endif
