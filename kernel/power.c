/* SPDX-License-Identifier: MIT */
/* Owns the way out. One flag; written once, when the command line is read. */
#include "kernel/power.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/io.h"
#include "kernel/smp.h"

#define POWER_QEMU_PORT 0xf4 /* -device isa-debug-exit,iobase=0xf4,iosize=0x04 */

static MM_RO_AFTER_INIT bool power_qemu_exit;

MM_INIT void power_set_qemu_exit(bool on)
{
    power_qemu_exit = on;
}

_Noreturn void power_end(enum power_status status)
{
    cpu_interrupts_off();
    if (power_qemu_exit)
        io_write32(POWER_QEMU_PORT, (uint32_t)status);
    smp_stop_others();
    cpu_halt_forever();
}
