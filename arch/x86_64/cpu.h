/* SPDX-License-Identifier: MIT */
/* The few instructions of this CPU that C has no words for and mm/port.h does not offer.
 *
 * Owns nothing. Control registers 0, 3 and 4, CPUID and model-specific registers are reached
 * through <mm/port.h>, so that there is one way to each. */
#ifndef ARCH_X86_64_CPU_H
#define ARCH_X86_64_CPU_H

#include <stdint.h>

/* The address of the last page fault (SDM vol. 3, 2.5). */
static inline uint64_t cpu_read_cr2(void)
{
    uint64_t value;

    __asm__ volatile("movq %%cr2, %0" : "=r"(value));
    return value;
}

/* The time-stamp counter, read after everything before it is done (SDM vol. 2, RDTSC). */
static inline uint64_t cpu_read_tsc(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void cpu_interrupts_off(void)
{
    __asm__ volatile("cli" : : : "memory");
}

static inline void cpu_interrupts_on(void)
{
    __asm__ volatile("sti" : : : "memory");
}

/* Stops this CPU. A non-maskable interrupt ends one hlt, hence the loop. */
static inline _Noreturn void cpu_halt_forever(void)
{
    for (;;)
        __asm__ volatile("cli\n\thlt" : : : "memory");
}

#endif
