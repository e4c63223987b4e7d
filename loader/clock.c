/* SPDX-License-Identifier: MIT */
/* Elapsed time for the few waits that hardware asks for: channel 2 of the interval timer (8254),
 * counting down from 65536 at CLOCK_HZ, speaker off. Its interrupt goes nowhere and nothing else on
 * a PC uses it; the time-stamp counter is left alone, because its frequency is unknown here.
 *
 * Newer machines may leave the 8254 without a clock. A counter that stands still for many reads is
 * therefore taken for dead, and a read counts as one tick, which is about what its three port
 * accesses cost: every wait ends. */
#include "loader/clock.h"

#include "loader/cpu.h"

#define PIT_CHANNEL_2      0x42
#define PIT_COMMAND        0x43
#define PIT_CHANNEL_2_RATE 0xb4 /* channel 2, low byte then high byte, mode 2, binary */
#define PIT_CHANNEL_2_HOLD 0x80 /* channel 2, latch the count */
#define PORT_B             0x61
#define PORT_B_GATE_2      0x01
#define PORT_B_SPEAKER     0x02

#define CLOCK_DEAD_READS 10000

static uint16_t last;
static unsigned still_reads; /* how many in a row saw no change */
static uint64_t ticks;

static uint16_t clock_read(void)
{
    cpu_out8(PIT_COMMAND, PIT_CHANNEL_2_HOLD);
    uint8_t low = cpu_in8(PIT_CHANNEL_2);

    return (uint16_t)(low | cpu_in8(PIT_CHANNEL_2) << 8);
}

void clock_start(void)
{
    cpu_out8(PORT_B, (uint8_t)((cpu_in8(PORT_B) & ~PORT_B_SPEAKER) | PORT_B_GATE_2));
    cpu_out8(PIT_COMMAND, PIT_CHANNEL_2_RATE);
    cpu_out8(PIT_CHANNEL_2, 0);
    cpu_out8(PIT_CHANNEL_2, 0);
    last = clock_read();
    still_reads = 0;
    ticks = 0;
}

uint64_t clock_ticks(void)
{
    uint16_t now = clock_read();
    uint16_t passed = (uint16_t)(last - now); /* counts down, wraps at 65536 */

    last = now;
    if (passed != 0) {
        still_reads = 0;
        ticks += passed;
    } else if (still_reads < CLOCK_DEAD_READS) {
        still_reads++;
    } else {
        ticks++;
    }
    return ticks;
}

void clock_wait_us(uint64_t us)
{
    uint64_t end = clock_ticks() + us * CLOCK_HZ / 1000000 + 1;

    while (clock_ticks() < end) {
        cpu_pause();
    }
}
