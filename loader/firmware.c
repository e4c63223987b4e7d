/* SPDX-License-Identifier: MIT */
/* Tables that the firmware left in memory: the ACPI root pointer and the SMBIOS entry points.
 *
 *   BIOS  "RSD PTR ", "_SM_", "_SM3_" at a multiple of 16 in the first KiB of the extended BIOS
 *         data area or in [e0000, 100000)   (ACPI 6.5, 5.2.5.1; SMBIOS 3.6, 5.2)
 *   EFI   system table -> configuration table | GUID | pointer | GUID | pointer | ...
 *                                                                  (UEFI 2.10, 4.3 and 4.6)
 *
 * Boot loaders pass a copy of the RSDP, which lies in memory that the kernel may reuse one day; the
 * original is preferred, and the copy serves where none is found. Nothing is believed without its
 * signature and checksum. All of it is read only. */
#include "loader/firmware.h"

#include "loader/pagetables.h"
#include "loader/print.h"
#include "loader/text.h"

#define BIOS_BASE         0xe0000ul
#define BIOS_END          0x100000ul
#define EBDA_SEGMENT      0x40eul /* where the BIOS data area holds it */
#define EBDA_LEAST        0x400ul
#define EBDA_SEARCH_BYTES 1024ul
#define BIOS_STEP         16ul

#define RSDP_OLD_BYTES  20                   /* revision 0: what its checksum covers */
#define EFI_SIGNATURE   0x5453595320494249ul /* "IBI SYST" */
#define EFI_TABLES_MAX  1024
#define ENTRY_BYTES_MAX 64

struct efi_system_table {
    uint64_t signature;
    uint8_t between[96];
    uint64_t table_count;
    uint64_t tables;
};

struct efi_configuration_table {
    uint64_t guid[2];
    uint64_t address;
};

_Static_assert(offsetof(struct efi_system_table, table_count) == 104, "EFI system table");

/* GUIDs as they lie in memory, two little-endian words. */
static const uint64_t efi_acpi_old[2] = { 0x11d32d88eb9d2d30, 0x4dc13f279000169a };
static const uint64_t efi_acpi_new[2] = { 0x11d3e4f18868e871, 0x81883cc7800022bc };
static const uint64_t efi_smbios32[2] = { 0x11d32d88eb9d2d31, 0x4dc13f279000169a };
static const uint64_t efi_smbios64[2] = { 0x4a2c9794f2fd1544, 0x94e320cfbbe52e99 };

/* The bytes of a table add up to 0. */
static bool firmware_sums_up(const uint8_t *table, size_t bytes)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < bytes; i++) {
        sum = (uint8_t)(sum + table[i]);
    }
    return sum == 0;
}

static bool firmware_is_rsdp(const uint8_t *table)
{
    return memcmp(table, "RSD PTR ", 8) == 0 && firmware_sums_up(table, RSDP_OLD_BYTES);
}

/* SMBIOS entry points have their own length: at byte 5 in the 32-bit form, 6 in the 64-bit one. */
static bool firmware_is_smbios32(const uint8_t *table)
{
    return memcmp(table, "_SM_", 4) == 0 && table[5] <= ENTRY_BYTES_MAX &&
           firmware_sums_up(table, table[5]);
}

static bool firmware_is_smbios64(const uint8_t *table)
{
    return memcmp(table, "_SM3_", 5) == 0 && table[6] <= ENTRY_BYTES_MAX &&
           firmware_sums_up(table, table[6]);
}

/* Keeps the first table of each kind. */
static void firmware_keep(const uint8_t *table, struct firmware_tables *out)
{
    if (out->rsdp == 0 && firmware_is_rsdp(table)) {
        out->rsdp = pointer_phys(table);
    }
    if (out->smbios32 == 0 && firmware_is_smbios32(table)) {
        out->smbios32 = pointer_phys(table);
    }
    if (out->smbios64 == 0 && firmware_is_smbios64(table)) {
        out->smbios64 = pointer_phys(table);
    }
}

static void firmware_search_bios(struct firmware_tables *out)
{
    uint16_t segment;

    memcpy(&segment, phys_pointer(EBDA_SEGMENT), sizeof segment);
    uint64_t ebda = (uint64_t)segment << 4;

    for (uint64_t at = ebda; ebda >= EBDA_LEAST && at < ebda + EBDA_SEARCH_BYTES; at += BIOS_STEP) {
        if (firmware_is_rsdp(phys_pointer(at)) && out->rsdp == 0) {
            out->rsdp = at;
        }
    }
    for (uint64_t at = BIOS_BASE; at < BIOS_END - BIOS_STEP; at += BIOS_STEP) {
        firmware_keep(phys_pointer(at), out);
    }
}

static bool firmware_is_guid(const struct efi_configuration_table *table, const uint64_t *guid)
{
    return table->guid[0] == guid[0] && table->guid[1] == guid[1];
}

static void firmware_keep_efi(const struct efi_configuration_table *table,
                              struct firmware_tables *out, uint64_t *old_rsdp)
{
    bool is_rsdp = firmware_is_guid(table, efi_acpi_new);
    bool is_old = firmware_is_guid(table, efi_acpi_old);

    if (!is_rsdp && !is_old && !firmware_is_guid(table, efi_smbios32) &&
        !firmware_is_guid(table, efi_smbios64)) {
        return;
    }
    pagetables_reach(table->address, table->address + ENTRY_BYTES_MAX);
    if (is_old && firmware_is_rsdp(phys_pointer(table->address))) {
        *old_rsdp = table->address;
    } else {
        firmware_keep(phys_pointer(table->address), out);
    }
}

static void firmware_search_efi(uint64_t address, struct firmware_tables *out)
{
    const struct efi_system_table *system = phys_pointer(address);
    uint64_t old_rsdp = 0;

    pagetables_reach(address, address + sizeof *system);
    if (system->signature != EFI_SIGNATURE || system->table_count > EFI_TABLES_MAX) {
        print_line("EFI: no system table at %#lx", address);
        return;
    }
    const struct efi_configuration_table *tables = phys_pointer(system->tables);

    pagetables_reach(system->tables, system->tables + system->table_count * sizeof *tables);
    for (uint64_t i = 0; i < system->table_count; i++) {
        firmware_keep_efi(&tables[i], out, &old_rsdp);
    }
    if (out->rsdp == 0) {
        out->rsdp = old_rsdp;
    }
}

void firmware_find_tables(const struct boot_source *source, struct firmware_tables *out)
{
    bool is_copy = source->rsdp - source->kept_base < source->kept_bytes;

    if (source->firmware == SOURCE_FIRMWARE_BIOS) {
        firmware_search_bios(out);
    } else if (source->efi_system_table != 0) {
        firmware_search_efi(source->efi_system_table, out);
    }
    if (source->rsdp != 0 && (!is_copy || out->rsdp == 0)) {
        out->rsdp = source->rsdp;
    }
}
