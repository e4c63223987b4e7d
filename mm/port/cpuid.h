/* SPDX-License-Identifier: MIT */
/* CPUID of the CPU that this runs on. Internal to the ports that have one: x86_64.c and linux.c (the
 * hosted port invents its own).
 *
 *      leaf 0x00000000  -> eax: the highest basic leaf          asked first, so that a leaf that
 *      leaf 0x80000000  -> eax: the highest extended leaf       the CPU does not have reads as 0
 */
#ifndef MM_PORT_CPUID_H
#define MM_PORT_CPUID_H

#include <mm/port.h>

static inline struct mm_port_cpuid cpuid_raw(uint32_t leaf, uint32_t subleaf)
{
    struct mm_port_cpuid out;

    __asm__ volatile("cpuid"
                     : "=a"(out.eax), "=b"(out.ebx), "=c"(out.ecx), "=d"(out.edx)
                     : "a"(leaf), "c"(subleaf));
    return out;
}

/* Above the highest leaf Intel CPUs answer with the highest basic one, not with zeroes (SDM vol. 2,
 * CPUID). */
static inline struct mm_port_cpuid cpuid_or_zero(uint32_t leaf, uint32_t subleaf)
{
    struct mm_port_cpuid none = { 0, 0, 0, 0 };

    if (leaf > cpuid_raw(leaf & 0xffff0000u, 0).eax)
        return none;
    return cpuid_raw(leaf, subleaf);
}

#endif
