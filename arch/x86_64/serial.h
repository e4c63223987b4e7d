/* SPDX-License-Identifier: MIT */
/* The first serial port: output by polling. */
#ifndef ARCH_X86_64_SERIAL_H
#define ARCH_X86_64_SERIAL_H

#include <stdbool.h>
#include <stddef.h>

/* Sets COM1 to 115200 baud, 8 data bits, no parity, one stop bit, FIFOs on.
 *   Returns:  false if there is no working port; serial_write() then does nothing. */
bool serial_init(void);

/* Sends the bytes. Never waits for ever: what a stuck transmitter does not take is dropped. */
void serial_write(const char *bytes, size_t count);

#endif
