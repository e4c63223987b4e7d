/* SPDX-License-Identifier: MIT */
/* The MP request: the machine's other processors, started and waiting for the kernel. */
#ifndef LOADER_MP_H
#define LOADER_MP_H

#include "loader/base.h"
#include "loader/cmdline.h"
#include "loader/hhdm.h"
#include "loader/limine.h"
#include "loader/source.h"

struct mp_facts {
    const struct boot_source *source;
    const struct loader_options *options;
    const struct hhdm *hhdm;
    uint64_t root;        /* the kernel's tables, complete */
    uint64_t stack_bytes; /* for each processor */
};

/* Starts every processor that the firmware enabled and answers the request with those that came.
 * Without a request (NULL) the others are left alone; without a local APIC or an ACPI MADT the
 * request stays unanswered, and the reason is said. Allocates: comes before the memory map's
 * response. */
void mp_answer(const struct mp_facts *facts, struct limine_request *request);

#endif
