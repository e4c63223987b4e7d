/* SPDX-License-Identifier: MIT */
/* Owns the speed of the time-stamp counter, found once: from CPUID leaf 0x15 where it is filled
 * in, else by comparing it with channel 2 of the interval timer.
 *
 *   time-stamp counter   before [first mark] after . . . . . before [second mark] after
 *   interval timer              count latched                       count latched
 *
 * What stops this CPU (system management, a hypervisor that is short of CPUs) makes a mark wide,
 * and the width bounds the error: wide marks are taken again, and of all comparisons the one with
 * the least possible error counts.
 *
 * Invariants: a comparison whose error can exceed 1 / TSC_WORST is not believed, nor is a speed
 * outside [TSC_SLOWEST, TSC_FASTEST]; tsc_ticks_per_second is then 0 and the clock stands at 0.
 * Sources: SDM vol. 3, 18.7.3; Intel 8254 data sheet (mode 0, counter latch command); port 0x61:
 * bit 0 gate of channel 2, bit 1 speaker, bit 5 output of channel 2. */
#include "arch/x86_64/tsc.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/io.h"
#include <mm/port.h>

#define TSC_SLOWEST   10000000ull
#define TSC_FASTEST   10000000000ull /* remainder * NS_PER_SECOND stays below 2^64 */
#define NS_PER_SECOND 1000000000ull

#define TSC_GOOD  1000u /* an error below 1/1000 needs no second try */
#define TSC_WORST 20u
#define TSC_TRIES 20u     /* of at most 55 ms */
#define TSC_MARKS 100000u /* more than fit into 55 ms: the interval timer stands still */

#define PIT_HZ       1193182ull
#define PIT_LEAST    2386u /* 2 ms: the shortest time that is compared */
#define PIT_CHANNEL2 0x42
#define PIT_COMMAND  0x43
#define PIT_GATE     0x61
#define PIT_GATE_ON  0x01u
#define PIT_SPEAKER  0x02u
#define PIT_OUTPUT   0x20u
#define PIT_START    0xb0 /* channel 2, low then high byte, mode 0: counts down once, 1 to 0 */
#define PIT_LATCH    0x80 /* channel 2 */

/* A look at both clocks: the interval timer stood at `count` at some moment of [before, after]. */
struct tsc_mark {
    uint64_t before, after;
    uint32_t count;
    bool over; /* the timer has come to its end: `count` may have wrapped */
};

struct tsc_comparison {
    uint64_t ticks;  /* of the time-stamp counter */
    uint64_t error;  /* at most, in the same ticks */
    uint32_t counts; /* of the interval timer; 0: there was no comparison */
};

static MM_RO_AFTER_INIT uint64_t tsc_ticks_per_second;
static MM_RO_AFTER_INIT uint64_t tsc_start;

static MM_INIT uint64_t tsc_hz_of_cpuid(void)
{
    struct mm_port_cpuid leaf = mm_port_cpuid(0x15, 0);

    if (leaf.eax == 0 || leaf.ebx == 0 || leaf.ecx == 0)
        return 0;
    return (uint64_t)leaf.ecx * leaf.ebx / leaf.eax;
}

/* The latch command is the moment that counts; reading what was latched takes its time. */
static MM_INIT struct tsc_mark tsc_take_mark(void)
{
    struct tsc_mark mark;

    mark.before = cpu_read_tsc();
    io_write8(PIT_COMMAND, PIT_LATCH);
    mark.after = cpu_read_tsc();
    mark.count = io_read8(PIT_CHANNEL2);
    mark.count |= (uint32_t)io_read8(PIT_CHANNEL2) << 8;
    mark.over = (io_read8(PIT_GATE) & PIT_OUTPUT) != 0;
    return mark;
}

static MM_INIT uint64_t tsc_width(const struct tsc_mark *mark)
{
    return mark->after - mark->before;
}

static MM_INIT bool tsc_is_better(const struct tsc_comparison *a, const struct tsc_comparison *b)
{
    return b->counts == 0 || a->error * b->ticks < b->error * a->ticks;
}

static MM_INIT bool tsc_is_good(const struct tsc_comparison *comparison, uint64_t part)
{
    return comparison->counts != 0 && comparison->error * part <= comparison->ticks;
}

/* Marks from the start to the end of one count-down of 55 ms; improves *best. A mark that is the
 * narrowest so far becomes the first one. The very first is dropped: the count is loaded with the
 * timer's next clock, and until then the old one shows. A bus that floats shows the output high at
 * once. */
static MM_INIT void tsc_compare_once(struct tsc_comparison *best)
{
    struct tsc_mark first, now;

    io_write8(PIT_COMMAND, PIT_START);
    io_write8(PIT_CHANNEL2, 0xff);
    io_write8(PIT_CHANNEL2, 0xff);
    (void)tsc_take_mark();
    first = tsc_take_mark();
    now = first;
    for (unsigned i = 0; i < TSC_MARKS && !now.over; i++, now = tsc_take_mark()) {
        struct tsc_comparison next = { now.after - first.before,
                                       tsc_width(&first) + tsc_width(&now), 0 };

        next.counts = first.count > now.count ? first.count - now.count : 0;
        if (next.counts >= PIT_LEAST && next.ticks <= UINT32_MAX && tsc_is_better(&next, best))
            *best = next;
        if (tsc_is_good(best, TSC_GOOD))
            return;
        if (next.counts < PIT_LEAST && tsc_width(&now) < tsc_width(&first))
            first = now;
    }
}

static MM_INIT uint64_t tsc_hz_of_pit(void)
{
    uint8_t gate = io_read8(PIT_GATE);
    struct tsc_comparison best = { 0, 0, 0 };

    io_write8(PIT_GATE, (uint8_t)((gate & ~PIT_SPEAKER) | PIT_GATE_ON));
    for (unsigned i = 0; i < TSC_TRIES && !tsc_is_good(&best, TSC_GOOD); i++)
        tsc_compare_once(&best);
    io_write8(PIT_GATE, gate);
    return tsc_is_good(&best, TSC_WORST) ? best.ticks * PIT_HZ / best.counts : 0;
}

static MM_INIT bool tsc_hz_is_sane(uint64_t hz)
{
    return hz >= TSC_SLOWEST && hz <= TSC_FASTEST;
}

MM_INIT void tsc_init(void)
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
