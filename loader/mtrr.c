/* SPDX-License-Identifier: MIT */
/* Memory type range registers: every processor must have the boot processor's.
 *
 *   default type 2FFh | variable pairs 200h.. | fixed 250h 258h 259h 268h..26Fh
 *
 * Firmware normally sets all processors alike, and then nothing is written: processors that share a
 * core share these registers, and must not change them under each other. Where they differ, the
 * sequence of SDM vol. 3A, 11.11.8 writes them with the caches off; it runs with interrupts off,
 * CR4.PGE clear and paging on, as every processor here does. */
#include "loader/mtrr.h"

#include "loader/base.h"
#include "loader/cpu.h"

#define MSR_MTRR_CAP     0xfe
#define MSR_MTRR_DEFAULT 0x2ff
#define MSR_MTRR_FIRST   0x200
#define MTRR_CAP_FIXED   (1u << 8)
#define MTRR_ENABLED     (1ul << 11)

#define CR0_CACHE_DISABLE (1ul << 30)

#define MTRR_FIXED_COUNT   11
#define MTRR_VARIABLE_MOST 32 /* pairs; CPUs have 8 to 16 */

static const uint16_t fixed_msrs[MTRR_FIXED_COUNT] = { 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                                       0x26b, 0x26c, 0x26d, 0x26e, 0x26f };

static struct {
    uint64_t default_type;
    uint64_t variable[2 * MTRR_VARIABLE_MOST];
    uint64_t fixed[MTRR_FIXED_COUNT];
} saved;

/* How many variable MSRs and fixed MSRs this processor has; 0 where it has no MTRRs at all. */
static void mtrr_count(unsigned *variable, unsigned *fixed)
{
    *variable = *fixed = 0;
    if ((cpu_id(1, 0).edx >> 12 & 1) != 0) {
        uint32_t cap = (uint32_t)cpu_read_msr(MSR_MTRR_CAP);
        uint32_t pairs = cap & 0xff;

        *variable = 2 * (pairs < MTRR_VARIABLE_MOST ? pairs : MTRR_VARIABLE_MOST);
        *fixed = (cap & MTRR_CAP_FIXED) != 0 ? MTRR_FIXED_COUNT : 0;
    }
}

void mtrr_save(void)
{
    unsigned variable, fixed;

    mtrr_count(&variable, &fixed);
    for (unsigned i = 0; i < variable; i++) {
        saved.variable[i] = cpu_read_msr(MSR_MTRR_FIRST + i);
    }
    for (unsigned i = 0; i < fixed; i++) {
        saved.fixed[i] = cpu_read_msr(fixed_msrs[i]);
    }
    saved.default_type = variable + fixed > 0 ? cpu_read_msr(MSR_MTRR_DEFAULT) : 0;
}

static bool mtrr_differ(unsigned variable, unsigned fixed)
{
    bool differ = variable + fixed > 0 && cpu_read_msr(MSR_MTRR_DEFAULT) != saved.default_type;

    for (unsigned i = 0; i < variable; i++) {
        differ |= cpu_read_msr(MSR_MTRR_FIRST + i) != saved.variable[i];
    }
    for (unsigned i = 0; i < fixed; i++) {
        differ |= cpu_read_msr(fixed_msrs[i]) != saved.fixed[i];
    }
    return differ;
}

static void mtrr_write(unsigned variable, unsigned fixed)
{
    cpu_write_msr(MSR_MTRR_DEFAULT, saved.default_type & ~MTRR_ENABLED);
    for (unsigned i = 0; i < variable; i++) {
        cpu_write_msr(MSR_MTRR_FIRST + i, saved.variable[i]);
    }
    for (unsigned i = 0; i < fixed; i++) {
        cpu_write_msr(fixed_msrs[i], saved.fixed[i]);
    }
    cpu_write_msr(MSR_MTRR_DEFAULT, saved.default_type);
}

void mtrr_apply(void)
{
    unsigned variable, fixed;
    uint64_t cr0;

    mtrr_count(&variable, &fixed);
    if (!mtrr_differ(variable, fixed)) {
        return;
    }
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0; wbinvd" : : "r"(cr0 | CR0_CACHE_DISABLE) : "memory");
    cpu_reload_cr3();
    mtrr_write(variable, fixed);
    cpu_reload_cr3();
    __asm__ volatile("wbinvd; mov %0, %%cr0" : : "r"(cr0) : "memory");
}
