/* SPDX-License-Identifier: MIT */
/* Questions about this machine, and the state the protocol wants its devices and CPU to be in. */
#ifndef LOADER_MACHINE_H
#define LOADER_MACHINE_H

#include "loader/base.h"

/* Fails by name where the CPU lacks what the protocol takes for granted: NX and PAT. */
void machine_check(void);

bool machine_has_5_levels(void);

/* Masks the PICs and the I/O APIC's ordinary entries; prepares this CPU. */
void machine_prepare(void);

/* Sets the PAT and EFER of the CPU that calls. */
void machine_prepare_cpu(void);

#endif
