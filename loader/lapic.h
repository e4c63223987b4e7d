/* SPDX-License-Identifier: MIT */
/* The local APIC of the processor that calls: its id, and messages to the others. */
#ifndef LOADER_LAPIC_H
#define LOADER_LAPIC_H

#include "loader/base.h"

#define LAPIC_ID_MOST 254u /* of an xAPIC; 255 addresses everyone */

/* Is there one, switched on? Also makes sure that the loader reaches its registers. */
bool lapic_is_usable(void);

bool lapic_has_x2apic(void);
bool lapic_is_x2apic(void);

/* Switches this processor's to x2APIC mode; there is no way back but a reset. */
void lapic_enable_x2apic(void);

uint32_t lapic_id(void);

/* Resets the processor with that id: it then waits for a start message. */
void lapic_send_init(uint32_t id);

/* Starts it in real mode at `page`, below 1 MiB. */
void lapic_send_start(uint32_t id, uint64_t page);

#endif
