/* SPDX-License-Identifier: MIT */
/* The end of the system, and how it is told to the outside. */
#ifndef KERNEL_POWER_H
#define KERNEL_POWER_H

#include <stdbool.h>

/* What the kernel writes to QEMU's isa-debug-exit device. QEMU's exit status is 2 * value + 1;
 * values that give 0 or 1 are avoided, because resets and QEMU's own errors look like that. */
enum power_status {
    POWER_SUCCESS = 0x10,
    POWER_TEST_FAILED = 0x11,
    POWER_PANIC = 0x12, /* also: an [MM] ERROR that halts */
};

/* Whether power_end() may write to the device: only when the command line says that the machine is
 * QEMU, as on others the port may be anything. Off at first. */
void power_set_qemu_exit(bool on);

/* Ends: QEMU exits where that is on; any other machine stops here.
 *   Context:  any. */
_Noreturn void power_end(enum power_status status);

#endif
