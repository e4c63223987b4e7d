/* SPDX-License-Identifier: MIT */
/* ACPI tables: found by their signature, checked before anyone reads them.
 *
 *   RSDP -> XSDT | header | 64-bit addresses |  -> table | header | ... |
 *        -> RSDT | header | 32-bit addresses |  -> table
 *
 * The XSDT is used where the RSDP is of revision 2 or later and names a sound one, otherwise the
 * RSDT. Tables are the firmware's data: they may lie above 4 GiB and at any alignment, all bytes of
 * a sound one sum up to 0, and a length beyond ACPI_TABLE_MOST is taken for damage.
 * ACPI 6.5, sections 5.2.5 to 5.2.8. */
#include "loader/acpi.h"

#include "loader/pagetables.h"
#include "loader/print.h"
#include "loader/text.h"

#define ACPI_TABLE_MOST   (1ul << 20)
#define ACPI_ADDRESS_END  (1ul << 47) /* what an identity map of 4 levels can show */
#define ACPI_RSDP_1_BYTES 20
#define ACPI_RSDP_2_BYTES 36

struct acpi_rsdp {
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes */
    char oem_id[6];
    uint8_t revision; /* 0 is ACPI 1.0; the fields behind rsdt exist from 2 on */
    uint32_t rsdt;
    uint32_t bytes;
    uint64_t xsdt;
    uint8_t extended_checksum;
    uint8_t reserved[3];
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_rsdp) == ACPI_RSDP_2_BYTES, "ACPI: RSDP");

static bool acpi_sums_to_zero(const void *start, uint64_t bytes)
{
    const uint8_t *at = start;
    uint8_t sum = 0;

    for (uint64_t i = 0; i < bytes; i++) {
        sum = (uint8_t)(sum + at[i]);
    }
    return sum == 0;
}

/* The table at a physical address, if it is sound and has the signature. */
static const struct acpi_table *acpi_open(uint64_t address, const char *signature)
{
    const struct acpi_table *table = phys_pointer(address);

    if (address == 0 || address >= ACPI_ADDRESS_END - ACPI_TABLE_MOST) {
        return NULL;
    }
    pagetables_reach(address, address + sizeof *table);
    if (memcmp(table->signature, signature, sizeof table->signature) != 0) {
        return NULL;
    }
    if (table->bytes < sizeof *table || table->bytes > ACPI_TABLE_MOST) {
        print_line("ACPI: table %s at %#lx says it has %u bytes; passed over", signature, address,
                   table->bytes);
        return NULL;
    }
    pagetables_reach(address, address + table->bytes);
    if (!acpi_sums_to_zero(table, table->bytes)) {
        print_line("ACPI: table %s at %#lx has a wrong checksum; passed over", signature, address);
        return NULL;
    }
    return table;
}

/* Opens the tables that a root table lists, until one has the signature. */
static const struct acpi_table *acpi_search(const struct acpi_table *root, size_t address_bytes,
                                            const char *signature)
{
    const char *entry = (const char *)(root + 1), *end = (const char *)root + root->bytes;

    for (; entry + address_bytes <= end; entry += address_bytes) {
        uint64_t address = 0;

        memcpy(&address, entry, address_bytes); /* little-endian, and not aligned */
        const struct acpi_table *table = acpi_open(address, signature);
        if (table != NULL) {
            return table;
        }
    }
    return NULL;
}

/* Copies the RSDP, with the later fields 0 where it has none; false when it is no RSDP. */
static bool acpi_read_rsdp(uint64_t address, struct acpi_rsdp *out)
{
    const struct acpi_rsdp *rsdp = phys_pointer(address);

    if (address == 0 || address >= ACPI_ADDRESS_END - sizeof *rsdp) {
        return false;
    }
    pagetables_reach(address, address + sizeof *rsdp);
    if (memcmp(rsdp->signature, "RSD PTR ", 8) != 0 ||
        !acpi_sums_to_zero(rsdp, ACPI_RSDP_1_BYTES)) {
        print_line("ACPI: no sound RSDP at %#lx", address);
        return false;
    }
    memset(out, 0, sizeof *out);
    memcpy(out, rsdp, ACPI_RSDP_1_BYTES);
    if (rsdp->revision >= 2 && acpi_sums_to_zero(rsdp, ACPI_RSDP_2_BYTES)) {
        memcpy(out, rsdp, ACPI_RSDP_2_BYTES);
    }
    return true;
}

const struct acpi_table *acpi_find(uint64_t rsdp, const char *signature)
{
    const struct acpi_table *root;
    struct acpi_rsdp found;

    if (!acpi_read_rsdp(rsdp, &found)) {
        return NULL;
    }
    root = acpi_open(found.xsdt, "XSDT");
    if (root != NULL) {
        return acpi_search(root, sizeof(uint64_t), signature);
    }
    root = acpi_open(found.rsdt, "RSDT");
    return root != NULL ? acpi_search(root, sizeof(uint32_t), signature) : NULL;
}
