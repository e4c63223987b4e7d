/* SPDX-License-Identifier: MIT */
/* The fake CPU of the hosted port: CPUID, CR0, CR3, CR4, EFER and PAT, one set for each thread.
 *
 * It is as strict as the SDM: what would be a general protection fault on hardware (an unknown or
 * reserved bit, a feature that CPUID lacks, a register that it does not announce) is a violation
 * and changes nothing. Writes to CR3 and CR4 drop translations as SDM vol. 3, 4.10.4.1 says. Bits
 * in a stuck_* mask keep their value, so that a test can see who reads back what it has written. */
#include "hosted_parts.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MSR_EFER 0xC0000080u
#define MSR_PAT  0x277u

#define CR0_AT_ENTRY 0x80010011u /* PG WP ET PE (Limine protocol, x86-64 machine state) */
#define CR4_PAE      ((uint64_t)1 << 5)
#define EFER_SCE     ((uint64_t)1 << 0)
#define EFER_LME     ((uint64_t)1 << 8)
#define EFER_LMA     ((uint64_t)1 << 10)
#define PAT_AT_RESET 0x0007040600070406u /* SDM vol. 3, 11.12.4 */

#define CPUID_1_EDX_PGE  ((uint32_t)1 << 13)
#define CPUID_1_EDX_PAT  ((uint32_t)1 << 16)
#define CPUID_7_EBX_SMEP ((uint32_t)1 << 7)
#define CPUID_7_EBX_SMAP ((uint32_t)1 << 20)
#define CPUID_7_ECX_UMIP ((uint32_t)1 << 2)
#define CPUID_7_ECX_LA57 ((uint32_t)1 << 16)
#define CPUID_X1_EDX_NX  ((uint32_t)1 << 20)
#define CPUID_X1_EDX_1GB ((uint32_t)1 << 26)
#define CPUID_X1_EDX_LM  ((uint32_t)1 << 29)

static pthread_key_t cpu_key;
static pthread_once_t cpu_key_once = PTHREAD_ONCE_INIT;
static __thread struct hosted_cpu *this_cpu;

static void cpu_free(void *cpu)
{
    this_cpu = NULL;
    hosted_smp_remove(cpu);
    free(cpu);
}

/* The first thread's CPU outlives the keys' destructors: those run at pthread_exit only. */
static void cpu_free_at_exit(void)
{
    if (this_cpu != NULL)
        cpu_free(this_cpu);
}

static void cpu_key_create(void)
{
    if (pthread_key_create(&cpu_key, cpu_free) != 0 || atexit(cpu_free_at_exit) != 0)
        abort();
}

struct hosted_cpu *hosted_cpu(void)
{
    if (this_cpu == NULL) {
        pthread_once(&cpu_key_once, cpu_key_create);
        this_cpu = calloc(1, sizeof *this_cpu);
        if (this_cpu == NULL || pthread_setspecific(cpu_key, this_cpu) != 0)
            abort();
        hosted_smp_add(this_cpu);
        hosted_cpu_reset(4);
    }
    return this_cpu;
}

struct hosted_cpu *hosted_cpu_if_any(void)
{
    return this_cpu;
}

void hosted_cpu_reset(unsigned levels)
{
    struct hosted_cpu *cpu = hosted_cpu();
    unsigned number = cpu->number;

    hosted_smp_lock(cpu);
    hosted_tlb_drop_all_locked(cpu);
    memset(cpu, 0, sizeof *cpu);
    cpu->number = number;
    cpu->leaf_0.eax = 7;
    cpu->leaf_1.edx = CPUID_1_EDX_PGE | CPUID_1_EDX_PAT;
    cpu->leaf_7.ebx = CPUID_7_EBX_SMEP | CPUID_7_EBX_SMAP;
    cpu->leaf_7.ecx = CPUID_7_ECX_UMIP | (levels == 5 ? CPUID_7_ECX_LA57 : 0);
    cpu->leaf_8000_0000.eax = 0x80000008;
    cpu->leaf_8000_0001.edx = CPUID_X1_EDX_NX | CPUID_X1_EDX_1GB | CPUID_X1_EDX_LM;
    cpu->leaf_8000_0008.eax = (levels == 5 ? 57u : 48u) << 8 | 52u;
    cpu->cr0 = CR0_AT_ENTRY;
    cpu->cr4 = CR4_PAE | (levels == 5 ? CR4_LA57 : 0);
    cpu->efer = EFER_LME | EFER_LMA | EFER_NXE;
    cpu->pat = PAT_AT_RESET;
    cpu->speculate = true;
    hosted_smp_unlock(cpu, true);
}

void hosted_cpu_forget(void)
{
    hosted_tlb_drop_all(hosted_cpu());
}

/* ---- CPUID ---- */

struct mm_port_cpuid mm_port_cpuid(uint32_t leaf, uint32_t subleaf)
{
    const struct hosted_cpu *cpu = hosted_cpu();
    bool extended = leaf >= 0x80000000u;

    if (subleaf != 0 || leaf > (extended ? cpu->leaf_8000_0000.eax : cpu->leaf_0.eax))
        return (struct mm_port_cpuid){ 0 };
    switch (leaf) {
    case 0:
        return cpu->leaf_0;
    case 1:
        return cpu->leaf_1;
    case 7:
        return cpu->leaf_7;
    case 0x80000000u:
        return cpu->leaf_8000_0000;
    case 0x80000001u:
        return cpu->leaf_8000_0001;
    case 0x80000008u:
        return cpu->leaf_8000_0008;
    default:
        return (struct mm_port_cpuid){ 0 };
    }
}

unsigned hosted_cpu_physical_bits(void)
{
    unsigned bits = mm_port_cpuid(0x80000008u, 0).eax & 0xff;

    return bits == 0 ? 36 : bits > 52 ? 52 : bits;
}

bool hosted_cpu_has_1gb_pages(void)
{
    return (mm_port_cpuid(0x80000001u, 0).edx & CPUID_X1_EDX_1GB) != 0;
}

/* ---- Model-specific registers ---- */

static uint64_t efer_allowed(void)
{
    uint64_t allowed = EFER_SCE | EFER_LME | EFER_LMA;

    if ((mm_port_cpuid(0x80000001u, 0).edx & CPUID_X1_EDX_NX) != 0)
        allowed |= EFER_NXE;
    return allowed;
}

/* Every byte of the PAT is 0, 1, 4, 5, 6 or 7 (SDM vol. 3, table 11-10). */
static bool pat_is_valid(uint64_t value)
{
    for (unsigned i = 0; i < 8; i++) {
        uint64_t type = value >> (8 * i) & 0xff;

        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

static bool has_pat(void)
{
    return (mm_port_cpuid(1, 0).edx & CPUID_1_EDX_PAT) != 0;
}

/* The register behind an MSR number, or NULL with a report. */
static uint64_t *msr_find(struct hosted_cpu *cpu, uint32_t index, const char *verb)
{
    if (index == MSR_EFER && mm_port_cpuid(0x80000001u, 0).edx != 0)
        return &cpu->efer;
    if (index == MSR_PAT && has_pat())
        return &cpu->pat;
    hosted_violation("#GP: %s MSR 0x%x, which CPUID does not announce", verb, index);
    return NULL;
}

uint64_t mm_port_read_msr(uint32_t index)
{
    const uint64_t *value = msr_find(hosted_cpu(), index, "read of");

    return value != NULL ? *value : 0;
}

/* What a register holds after a write, if the bits of `stuck` do not move. */
static uint64_t merge(uint64_t before, uint64_t written, uint64_t stuck)
{
    return (before & stuck) | (written & ~stuck);
}

void mm_port_write_msr(uint32_t index, uint64_t value)
{
    struct hosted_cpu *cpu = hosted_cpu();
    const uint64_t *found = msr_find(cpu, index, "write to");

    if (found == &cpu->efer) {
        if ((value & ~efer_allowed()) != 0 || ((value ^ cpu->efer) & EFER_LME) != 0)
            hosted_violation("#GP: EFER = 0x%llx", (unsigned long long)value);
        else
            cpu->efer = merge(cpu->efer, value, cpu->stuck_efer);
    } else if (found == &cpu->pat) {
        if (!pat_is_valid(value))
            hosted_violation("#GP: PAT = 0x%llx", (unsigned long long)value);
        else
            cpu->pat = merge(cpu->pat, value, cpu->stuck_pat);
    }
}

/* ---- Control registers ---- */

uint64_t mm_port_read_cr(unsigned number)
{
    const struct hosted_cpu *cpu = hosted_cpu();

    switch (number) {
    case 0:
        return cpu->cr0;
    case 3:
        return cpu->cr3;
    case 4:
        return cpu->cr4;
    default:
        hosted_violation("#UD: read of CR%u", number);
        return 0;
    }
}

static uint64_t cr4_allowed(void)
{
    struct mm_port_cpuid leaf_1 = mm_port_cpuid(1, 0), leaf_7 = mm_port_cpuid(7, 0);
    uint64_t allowed = CR4_PAE;

    if ((leaf_1.edx & CPUID_1_EDX_PGE) != 0)
        allowed |= CR4_PGE;
    if ((leaf_7.ebx & CPUID_7_EBX_SMEP) != 0)
        allowed |= CR4_SMEP;
    if ((leaf_7.ebx & CPUID_7_EBX_SMAP) != 0)
        allowed |= CR4_SMAP;
    if ((leaf_7.ecx & CPUID_7_ECX_UMIP) != 0)
        allowed |= CR4_UMIP;
    if ((leaf_7.ecx & CPUID_7_ECX_LA57) != 0)
        allowed |= CR4_LA57;
    return allowed;
}

static void write_cr0(struct hosted_cpu *cpu, uint64_t value)
{
    if (((value ^ CR0_AT_ENTRY) & ~CR0_WP) != 0)
        hosted_violation("CR0 = 0x%llx: mm may change CR0.WP only", (unsigned long long)value);
    else
        cpu->cr0 = merge(cpu->cr0, value, cpu->stuck_cr0);
}

/* Bits 3 and 4 are PWT and PCD; all others beside the address are reserved (SDM vol. 3, 4.5). */
static void write_cr3(struct hosted_cpu *cpu, uint64_t value)
{
    uint64_t reserved = ~(((uint64_t)1 << hosted_cpu_physical_bits()) - 1) | 0xfe7;

    if ((value & reserved) != 0 || hosted_ram_at(value & ~(PAGE_SIZE - 1)) == NULL) {
        hosted_violation("CR3 = 0x%llx: reserved bits, or no RAM", (unsigned long long)value);
        return;
    }
    cpu->cr3 = value;
    cpu->cr3_loads++;
    if (!cpu->ignore_cr3_flush)
        hosted_tlb_drop_local(cpu);
    hosted_tlb_speculate(cpu);
}

static void write_cr4(struct hosted_cpu *cpu, uint64_t value)
{
    uint64_t before = cpu->cr4;

    if ((value & ~cr4_allowed()) != 0 || ((value ^ before) & (CR4_PAE | CR4_LA57)) != 0) {
        hosted_violation("#GP: CR4 = 0x%llx", (unsigned long long)value);
        return;
    }
    cpu->cr4 = merge(before, value, cpu->stuck_cr4);
    if (((cpu->cr4 ^ before) & CR4_PGE) == 0)
        return;
    cpu->pge_flushes++;
    if (!cpu->ignore_pge_flush)
        hosted_tlb_drop_all(cpu);
    hosted_tlb_speculate(cpu);
}

void mm_port_write_cr(unsigned number, uint64_t value)
{
    struct hosted_cpu *cpu = hosted_cpu();

    if (number == 0)
        write_cr0(cpu, value);
    else if (number == 3)
        write_cr3(cpu, value);
    else if (number == 4)
        write_cr4(cpu, value);
    else
        hosted_violation("#UD: write to CR%u", number);
}

void mm_port_invlpg(vaddr_t address)
{
    struct hosted_cpu *cpu = hosted_cpu();

    cpu->invlpg_count++;
    if (!cpu->ignore_invlpg && cpu->invlpg_count != cpu->skip_invlpg)
        hosted_tlb_drop_page(cpu, address);
    hosted_tlb_speculate(cpu);
}
