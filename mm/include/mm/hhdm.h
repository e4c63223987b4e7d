/* SPDX-License-Identifier: MIT */
/* The higher-half direct map: physical address p stands at virtual address hhdm_offset + p.
 * This header is part of the public API of mm/.
 *
 * One of the two globals of mm. The offset is whatever the loader chose, and is kept atomically.
 * Which addresses are really mapped is decided by the page tables (Limine protocol, HHDM feature:
 * from base revision 3 on only usable, reclaimable, executable and framebuffer memory). */
#ifndef MM_HHDM_H
#define MM_HHDM_H

#include <mm/types.h>

MM_BEGIN_DECLS

/* Sets the offset and the end of physical memory that is reached through it. Boot CPU only. */
void init_hhdm(uint64_t offset, paddr_t end);

uint64_t hhdm_offset(void);
paddr_t hhdm_end(void);

/* The virtual address of a physical one, and back.
 *   Debug builds assert that the address lies below hhdm_end() (virt_to_phys: inside the HHDM).
 *   Context:  any. */
void *phys_to_virt(paddr_t address);
paddr_t virt_to_phys(const void *address);

MM_END_DECLS
#endif
