/* SPDX-License-Identifier: MIT */
/* Exceptions while the loader runs: reported, never survived. */
#ifndef LOADER_TRAP_H
#define LOADER_TRAP_H

#include "loader/base.h"

/* Installs handlers that end in one error line; the kernel starts without them. */
void trap_init(void);

/* Gives another processor the same handlers. Its CS must be the loader's. */
void trap_load(void);

/* Called by traps.S. */
_Noreturn void trap_report(uint64_t vector, uint64_t error, uint64_t rip, uint64_t address);

#endif
