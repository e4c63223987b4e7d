/* SPDX-License-Identifier: MIT */
/* Owns the speed of the time-stamp counter, found once: from CPUID leaf 0x15 where it is filled
 * in, else by timing two runs of the interval timer's channel 2, 5 ms each. The shorter one
 * counts: what interrupts a measurement (system management, a hypervisor) only makes it longer.
 *
 * Invariants: a speed outside [TSC_SLOWEST, TSC_FASTEST] is not believed; tsc_ticks_per_second is
 * then 0 and the clock stands at 0. Sources: SDM vol. 3, 18.7.3; Intel 8254 data sheet; port 0x61:
 * bit 0 gate of channel 2, bit 1 speaker, bit 5 output of channel 2. */
#include "arch/x86_64/tsc.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/io.h"
#include <mm/port.h>

#define TSC_SLOWEST   10000000ull
#define TSC_FASTEST   10000000000ull /* remainder * NS_PER_SECOND stays below 2^64 */
#define NS_PER_SECOND 1000000000ull

#define PIT_HZ       1193182ull
#define PIT_COUNT    5966u /* 5 ms */
#define PIT_CHANNEL2 0x42
#define PIT_COMMAND  0x43
#define PIT_GATE     0x61
#define PIT_GATE_ON  0x01u
#define PIT_SPEAKER  0x02u
#define PIT_OUTPUT   0x20u
#define PIT_PATIENCE 1000000000ull /* ticks: 20 times what the fastest counter makes in 5 ms */

static uint64_t tsc_ticks_per_second;
static uint64_t tsc_start;

static uint64_t tsc_hz_of_cpuid(void)
{
    struct mm_port_cpuid leaf = mm_port_cpuid(0x15, 0);

    if (leaf.eax == 0 || leaf.ebx == 0 || leaf.ecx == 0)
        return 0;
    return (uint64_t)leaf.ecx * leaf.ebx / leaf.eax;
}

/* Ticks during one count-down of PIT_COUNT; 0 if the timer does not count. Mode 0 counts from the
 * moment the count's second byte is written. A bus that floats shows the output high at once,
 * which makes a speed that nobody believes. */
static uint64_t tsc_ticks_of_pit(void)
{
    uint64_t begin, ticks = 0;

    io_write8(PIT_COMMAND, 0xb0); /* channel 2, low then high byte, mode 0: output rises at 0 */
    io_write8(PIT_CHANNEL2, PIT_COUNT & 0xff);
    begin = cpu_read_tsc();
    io_write8(PIT_CHANNEL2, PIT_COUNT >> 8);
    for (unsigned polls = 0; polls < UINT32_MAX && ticks < PIT_PATIENCE; polls++) {
        bool done = (io_read8(PIT_GATE) & PIT_OUTPUT) != 0;

        ticks = cpu_read_tsc() - begin;
        if (done)
            return ticks;
    }
    return 0;
}

static uint64_t tsc_hz_of_pit(void)
{
    uint8_t gate = io_read8(PIT_GATE);
    uint64_t first, second, ticks;

    io_write8(PIT_GATE, (uint8_t)((gate & ~PIT_SPEAKER) | PIT_GATE_ON));
    first = tsc_ticks_of_pit();
    second = first != 0 ? tsc_ticks_of_pit() : 0;
    io_write8(PIT_GATE, gate);
    ticks = second != 0 && second < first ? second : first;
    return ticks * PIT_HZ / PIT_COUNT;
}

static bool tsc_hz_is_sane(uint64_t hz)
{
    return hz >= TSC_SLOWEST && hz <= TSC_FASTEST;
}

void tsc_init(void)
{
    uint64_t hz = tsc_hz_of_cpuid();

    if (!tsc_hz_is_sane(hz))
        hz = tsc_hz_of_pit();
    tsc_ticks_per_second = tsc_hz_is_sane(hz) ? hz : 0;
    tsc_start = cpu_read_tsc();
}

uint64_t tsc_hz(void)
{
    return tsc_ticks_per_second;
}

uint64_t tsc_time_ns(void)
{
    uint64_t ticks, seconds, rest;

    if (tsc_ticks_per_second == 0)
        return 0;
    ticks = cpu_read_tsc() - tsc_start;
    seconds = ticks / tsc_ticks_per_second;
    rest = ticks % tsc_ticks_per_second;
    return seconds * NS_PER_SECOND + rest * NS_PER_SECOND / tsc_ticks_per_second;
}
