/* SPDX-License-Identifier: MIT */
/* The road of an application processor (AP), from its start message to the place where it waits
 * for the kernel. ap.S reads this too: the assembler sees only the macros. */
#ifndef LOADER_AP_H
#define LOADER_AP_H

/* Whoever changes AP_WAITING first decides: the AP that has arrived, or the boot processor that has
 * waited long enough. */
#define AP_WAITING  1
#define AP_PARKED   2
#define AP_GIVEN_UP 3

#ifndef __ASSEMBLER__

#include "loader/base.h"

/* What ap_park() reads, by these offsets. */
struct ap_park {
    uint64_t kernel_root; /*  0 */
    uint64_t hhdm_offset; /*  8 */
    uint64_t stack_top;   /* 16: this and the next two are HHDM addresses */
    uint64_t info;        /* 24: the kernel's struct limine_mp_info */
    uint64_t state;       /* 32: a uint32_t, AP_... */
};

_Static_assert(offsetof(struct ap_park, state) == 32, "ap.S reads by offset");

/* The code that is copied to a page below 1 MiB, and two fields of it to be filled in there. */
extern const char ap_trampoline[], ap_trampoline_end[];
extern const char ap_trampoline_root[]; /* uint32_t: tables with the identity map */
extern const char ap_trampoline_cr4[];  /* uint32_t */

/* The stacks, as physical addresses of their tops; each AP that comes takes the next one. */
extern const uint64_t *ap_stack_tops;
extern uint32_t ap_stack_count;
extern uint32_t ap_stacks_taken;

/* The first C function of an AP, on the loader's identity map. */
_Noreturn void ap_main(uint64_t stack_top);

/* Leaves the loader's identity map and waits for the kernel. */
_Noreturn void ap_park(const struct ap_park *park);

#endif
#endif
