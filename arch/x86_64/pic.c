/* SPDX-License-Identifier: MIT */
/* Owns the 8259 pair at ports 0x20 and 0xa0, for as long as it takes to switch it off.
 *
 *   ICW1 edge triggered, cascade, ICW4 follows | ICW2 first vector | ICW3 wiring | ICW4 8086 mode
 *
 * Invariant: after pic_disable() all 16 lines are masked. A masked controller can still deliver its
 * spurious interrupt when a line drops at the wrong moment, and as the firmware left it that would
 * look like an exception; hence the new vectors. */
#include "arch/x86_64/pic.h"
#include "arch/x86_64/interrupt.h"
#include "arch/x86_64/io.h"
#include <mm/types.h>

#define PIC_FIRST  0x20
#define PIC_SECOND 0xa0
#define PIC_LINES  8u

static MM_INIT void pic_program(uint16_t port, uint8_t vector, uint8_t wiring)
{
    io_write8(port, 0x11);
    io_write8((uint16_t)(port + 1), vector);
    io_write8((uint16_t)(port + 1), wiring);
    io_write8((uint16_t)(port + 1), 0x01);
    io_write8((uint16_t)(port + 1), 0xff); /* all lines masked */
}

/* A spurious interrupt is not in service, so there is no end to report. */
static void pic_ignore(const struct trap_frame *frame)
{
    (void)frame;
}

MM_INIT void pic_disable(void)
{
    for (unsigned line = 0; line < 2 * PIC_LINES; line++)
        interrupt_set_handler(TRAP_PIC + line, pic_ignore);
    pic_program(PIC_FIRST, TRAP_PIC, 0x04);              /* the second one hangs on line 2 */
    pic_program(PIC_SECOND, TRAP_PIC + PIC_LINES, 0x02); /* and knows that it does */
}
