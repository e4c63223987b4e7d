/* SPDX-License-Identifier: MIT */
/* CPU features that memory protection rests on: NX, write protection, SMEP, SMAP, UMIP, global pages
 * and the page attribute table. Every bit is set only where CPUID announces it, and read back. */
#include <mm/cpu.h>
#include <mm/log.h>

#define MSR_EFER 0xC0000080u
#define MSR_PAT  0x277u
#define EFER_NXE ((uint64_t)1 << 11)
#define CR0_WP   ((uint64_t)1 << 16)
#define CR4_PGE  ((uint64_t)1 << 7)
#define CR4_UMIP ((uint64_t)1 << 11)
#define CR4_LA57 ((uint64_t)1 << 12)
#define CR4_SMEP ((uint64_t)1 << 20)
#define CR4_SMAP ((uint64_t)1 << 21)

/* One byte an entry: 0 WB, 1 WT, 2 UC-, 3 UC, 4 WP, 5 WC (Limine protocol, x86-64 machine state; SDM
 * vol. 3, 11.12.2). paging.c selects entries 0, 3 and 5. */
#define PAT_LAYOUT 0x0000010500070406u

static bool bit(uint32_t word, unsigned number)
{
    return (word >> number & 1) != 0;
}

static unsigned read_physical_bits(uint32_t highest_extended)
{
    unsigned bits = 36; /* what every CPU with PAE has (SDM vol. 3, 4.1.4) */

    if (highest_extended >= 0x80000008)
        bits = mm_port_cpuid(0x80000008, 0).eax & 0xff;
    return bits > 52 ? 52 : bits;
}

struct mm_cpu_features mm_cpu_features(void)
{
    uint32_t highest = mm_port_cpuid(0, 0).eax;
    uint32_t highest_extended = mm_port_cpuid(0x80000000, 0).eax;
    struct mm_port_cpuid basic = mm_port_cpuid(1, 0);
    struct mm_port_cpuid structured = { 0 }, extended = { 0 };

    if (highest >= 7)
        structured = mm_port_cpuid(7, 0);
    if (highest_extended >= 0x80000001)
        extended = mm_port_cpuid(0x80000001, 0);
    return (struct mm_cpu_features){
        .nx = bit(extended.edx, 20),
        .pge = bit(basic.edx, 13),
        .pat = bit(basic.edx, 16),
        .smep = bit(structured.ebx, 7),
        .smap = bit(structured.ebx, 20),
        .umip = bit(structured.ecx, 2),
        .huge_pages = bit(extended.edx, 26),
        .la57 = bit(structured.ecx, 16),
        .physical_bits = read_physical_bits(highest_extended),
        .levels = (mm_port_read_cr(4) & CR4_LA57) != 0 ? 5 : 4,
    };
}

mm_status_t enable_nx_bit(void)
{
    if (mm_port_cpuid(0x80000000, 0).eax < 0x80000001 || !bit(mm_port_cpuid(0x80000001, 0).edx, 20))
        return MM_UNSUPPORTED;
    mm_port_write_msr(MSR_EFER, mm_port_read_msr(MSR_EFER) | EFER_NXE);
    return (mm_port_read_msr(MSR_EFER) & EFER_NXE) != 0 ? MM_OK : MM_UNSUPPORTED;
}

mm_status_t enable_write_protect(void)
{
    mm_port_write_cr(0, mm_port_read_cr(0) | CR0_WP);
    return (mm_port_read_cr(0) & CR0_WP) != 0 ? MM_OK : MM_UNSUPPORTED;
}

static mm_status_t enable_cr4_bit(const char *name, bool present, uint64_t mask)
{
    if (!present)
        return MM_OK;
    mm_port_write_cr(4, mm_port_read_cr(4) | mask);
    if ((mm_port_read_cr(4) & mask) != 0)
        return MM_OK;
    mm_error("CR4.%s does not stay set although CPUID announces it", name);
    return MM_UNSUPPORTED;
}

static mm_status_t program_pat(const struct mm_cpu_features *features)
{
    if (!features->pat)
        return MM_OK;
    mm_port_write_msr(MSR_PAT, PAT_LAYOUT);
    if (mm_port_read_msr(MSR_PAT) == PAT_LAYOUT)
        return MM_OK;
    mm_error("the page attribute table does not read back as written");
    return MM_UNSUPPORTED;
}

mm_status_t enable_cpu_protection(const struct mm_cpu_features *features)
{
    mm_status_t status;

    if (enable_nx_bit() != MM_OK) {
        mm_error("the CPU has no NX bit (EFER.NXE), or it does not stay set");
        return MM_UNSUPPORTED;
    }
    if (enable_write_protect() != MM_OK) {
        mm_error("CR0.WP does not stay set");
        return MM_UNSUPPORTED;
    }
    if ((status = enable_cr4_bit("SMEP", features->smep, CR4_SMEP)) != MM_OK ||
        (status = enable_cr4_bit("SMAP", features->smap, CR4_SMAP)) != MM_OK ||
        (status = enable_cr4_bit("UMIP", features->umip, CR4_UMIP)) != MM_OK ||
        (status = enable_cr4_bit("PGE", features->pge, CR4_PGE)) != MM_OK ||
        (status = program_pat(features)) != MM_OK)
        return status;
    mm_info("CPU protection: NX WP%s%s%s%s%s", features->smep ? " SMEP" : "",
            features->smap ? " SMAP" : "", features->umip ? " UMIP" : "",
            features->pge ? " PGE" : "", features->pat ? " PAT" : "");
    return MM_OK;
}
