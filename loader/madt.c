/* SPDX-License-Identifier: MIT */
/* The processors in ACPI's Multiple APIC Description Table.
 *
 *   MADT   | header | APIC address u32 | flags u32 | entry | entry | ...
 *   entry  | type u8 | bytes u8 | ...
 *     0    | ACPI UID u8  | APIC id u8 | flags u32 |                    local APIC
 *     9    | reserved u16 | x2APIC id u32 | flags u32 | ACPI UID u32 |  local x2APIC
 *
 * Only entries with the "enabled" flag are processors that are there; "online capable" ones may be
 * plugged in later and are not ours to start. Firmware may list a processor in both forms; it is
 * taken once. ACPI 6.5, sections 5.2.12.2 and 5.2.12.12. */
#include "loader/acpi.h"

#include "loader/print.h"
#include "loader/text.h"

#define MADT_ENTRIES      44
#define MADT_LOCAL_APIC   0
#define MADT_LOCAL_X2APIC 9
#define MADT_ENABLED      1u

struct madt_local_apic {
    uint8_t type, bytes;
    uint8_t acpi_uid;
    uint8_t lapic_id;
    uint32_t flags;
};

struct madt_local_x2apic {
    uint8_t type, bytes;
    uint16_t reserved;
    uint32_t lapic_id;
    uint32_t flags;
    uint32_t acpi_uid;
};

_Static_assert(sizeof(struct madt_local_apic) == 8, "ACPI: MADT entry of type 0");
_Static_assert(sizeof(struct madt_local_x2apic) == 16, "ACPI: MADT entry of type 9");

/* Reads one entry, `bytes` long; false when it is no enabled processor. */
static bool madt_read_cpu(const uint8_t *entry, size_t bytes, struct madt_cpu *out)
{
    struct madt_local_apic apic;
    struct madt_local_x2apic x2apic;

    if (entry[0] == MADT_LOCAL_APIC && bytes >= sizeof apic) {
        memcpy(&apic, entry, sizeof apic);
        *out = (struct madt_cpu){ apic.lapic_id, apic.acpi_uid };
        return (apic.flags & MADT_ENABLED) != 0;
    }
    if (entry[0] == MADT_LOCAL_X2APIC && bytes >= sizeof x2apic) {
        memcpy(&x2apic, entry, sizeof x2apic);
        *out = (struct madt_cpu){ x2apic.lapic_id, x2apic.acpi_uid };
        return (x2apic.flags & MADT_ENABLED) != 0;
    }
    return false;
}

static bool madt_is_listed(const struct madt_cpu *cpus, size_t count, uint32_t lapic_id)
{
    for (size_t i = 0; i < count; i++) {
        if (cpus[i].lapic_id == lapic_id) {
            return true;
        }
    }
    return false;
}

size_t madt_list_cpus(const struct acpi_table *madt, struct madt_cpu *out)
{
    const uint8_t *table = (const uint8_t *)madt;
    size_t count = 0;

    for (size_t at = MADT_ENTRIES; at + 2 <= madt->bytes;) {
        size_t bytes = table[at + 1];
        struct madt_cpu cpu;

        if (bytes < 2 || bytes > madt->bytes - at) {
            if (out != NULL) {
                print_line("ACPI: MADT entry at %#lx has %lu bytes; the rest is not read", at,
                           bytes);
            }
            break;
        }
        if (madt_read_cpu(&table[at], bytes, &cpu) &&
            (out == NULL || !madt_is_listed(out, count, cpu.lapic_id))) {
            if (out != NULL) {
                out[count] = cpu;
            }
            count++;
        }
        at += bytes;
    }
    return count;
}
