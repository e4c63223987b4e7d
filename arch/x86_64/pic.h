/* SPDX-License-Identifier: MIT */
/* The two 8259 interrupt controllers of a PC, which this kernel does not use. */
#ifndef ARCH_X86_64_PIC_H
#define ARCH_X86_64_PIC_H

/* Moves their vectors away from the CPU's exceptions, to TRAP_PIC, and masks all of them. What may
 * still come is the spurious one (Intel 8259A data sheet, "default IR7"); it is ignored. */
void pic_disable(void);

#endif
