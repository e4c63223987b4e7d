/* SPDX-License-Identifier: MIT */
/* ACPI tables: found by their signature, checked before anyone reads them. */
#ifndef LOADER_ACPI_H
#define LOADER_ACPI_H

#include "loader/base.h"

/* What every table begins with (ACPI 6.5, 5.2.6). */
struct acpi_table {
    char signature[4];
    uint32_t bytes; /* with this header */
    uint8_t revision;
    uint8_t checksum;
    char oem_id[6];
    char oem_table_id[8];
    uint32_t oem_revision;
    uint32_t creator_id;
    uint32_t creator_revision;
};

_Static_assert(sizeof(struct acpi_table) == 36, "ACPI: table header");

/* The first sound table with the four characters; NULL where there is none. rsdp: physical, 0 is
 * none. The table is in the loader's reach; a table with a wrong checksum or length is said and
 * passed over. */
const struct acpi_table *acpi_find(uint64_t rsdp, const char *signature);

/* One processor that the firmware enabled. */
struct madt_cpu {
    uint32_t lapic_id;
    uint32_t acpi_uid;
};

/* Lists the enabled processors in the MADT's order, each local APIC id once (madt.c).
 *   Returns: how many were written to `out`; with out = NULL an upper bound of that. */
size_t madt_list_cpus(const struct acpi_table *madt, struct madt_cpu *out);

#endif
