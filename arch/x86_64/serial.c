/* SPDX-License-Identifier: MIT */
/* Owns the 16550 UART at COM1 (registers: the PC16550D data sheet, section 8).
 *
 *   +0 data / divisor low | +1 interrupt enable / divisor high | +2 interrupt id / FIFO control
 *   +3 line control       | +4 modem control                   | +5 line status | +7 scratch
 *
 * Invariants: no interrupt is ever enabled. `serial_room` bytes can be sent without a look at the
 * line status: when the transmitter is empty, its FIFO takes 16. A transmitter that stays busy for
 * SERIAL_PATIENCE polls (seconds) loses the byte, and is then asked once per byte until it answers
 * again, so that a dead port slows the kernel down once and never stops it. */
#include "arch/x86_64/serial.h"
#include "arch/x86_64/io.h"

#define SERIAL_PORT       0x3f8
#define SERIAL_DATA       (SERIAL_PORT + 0)
#define SERIAL_INTERRUPTS (SERIAL_PORT + 1)
#define SERIAL_FIFO       (SERIAL_PORT + 2)
#define SERIAL_LINE       (SERIAL_PORT + 3)
#define SERIAL_MODEM      (SERIAL_PORT + 4)
#define SERIAL_STATUS     (SERIAL_PORT + 5)
#define SERIAL_SCRATCH    (SERIAL_PORT + 7)

#define SERIAL_STATUS_DATA  0x01u /* a byte was received */
#define SERIAL_STATUS_EMPTY 0x20u /* the transmitter's FIFO is empty */
#define SERIAL_FIFO_BYTES   16u
#define SERIAL_PATIENCE     10000000u /* a port read takes about 1 microsecond */

static bool serial_present;
static bool serial_stuck;
static unsigned serial_fifo_bytes;
static unsigned serial_room;

static bool serial_wait(uint8_t status, unsigned polls)
{
    while (polls-- > 0) {
        if ((io_read8(SERIAL_STATUS) & status) != 0)
            return true;
        __builtin_ia32_pause();
    }
    return false;
}

/* Where no UART is, the bus floats: the scratch register does not keep what was written. */
static bool serial_has_scratch(void)
{
    io_write8(SERIAL_SCRATCH, 0x5a);
    if (io_read8(SERIAL_SCRATCH) != 0x5a)
        return false;
    io_write8(SERIAL_SCRATCH, 0xa5);
    return io_read8(SERIAL_SCRATCH) == 0xa5;
}

/* In loopback mode what is sent comes back; nothing goes out on the line. */
static bool serial_loops_back(void)
{
    bool works;

    io_write8(SERIAL_MODEM, 0x1e);
    io_write8(SERIAL_DATA, 0xae);
    works = serial_wait(SERIAL_STATUS_DATA, SERIAL_PATIENCE / 64) && io_read8(SERIAL_DATA) == 0xae;
    io_write8(SERIAL_MODEM, 0x03); /* loopback off; DTR and RTS on */
    return works;
}

bool serial_init(void)
{
    serial_present = false;
    if (!serial_has_scratch())
        return false;
    io_write8(SERIAL_INTERRUPTS, 0x00);
    io_write8(SERIAL_LINE, 0x80); /* the first two registers are now the divisor */
    io_write8(SERIAL_DATA, 1);    /* 115200 baud */
    io_write8(SERIAL_INTERRUPTS, 0);
    io_write8(SERIAL_LINE, 0x03); /* 8 bits, no parity, one stop bit */
    io_write8(SERIAL_FIFO, 0x07); /* FIFOs on and empty */
    serial_fifo_bytes = (io_read8(SERIAL_FIFO) & 0xc0) == 0xc0 ? SERIAL_FIFO_BYTES : 1;
    serial_room = 0;
    serial_stuck = false;
    serial_present = serial_loops_back();
    return serial_present;
}

static void serial_write_byte(char byte)
{
    if (serial_room == 0) {
        serial_stuck = !serial_wait(SERIAL_STATUS_EMPTY, serial_stuck ? 1 : SERIAL_PATIENCE);
        if (serial_stuck)
            return;
        serial_room = serial_fifo_bytes;
    }
    io_write8(SERIAL_DATA, (uint8_t)byte);
    serial_room--;
}

void serial_write(const char *bytes, size_t count)
{
    if (!serial_present)
        return;
    for (size_t i = 0; i < count; i++)
        serial_write_byte(bytes[i]);
}
