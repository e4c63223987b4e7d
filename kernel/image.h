/* SPDX-License-Identifier: MIT */
/* The symbols of kernel.ld: bounds of the kernel image, all multiples of 4096.
 *
 * They are addresses, not objects; `extern const char x[]` says so. Ranges are half-open. */
#ifndef KERNEL_IMAGE_H
#define KERNEL_IMAGE_H

extern const char __kernel_begin[], __kernel_end[];
extern const char __text_begin[], __text_end[];
extern const char __init_begin[], __init_end[]; /* code of the boot; gone when it is over */
extern const char __rodata_begin[], __rodata_end[];
extern const char __data_begin[], __data_end[]; /* .data, .bss and the stacks; in it: */
extern const char __ro_after_init_begin[], __ro_after_init_end[];
extern const char __init_data_begin[], __init_data_end[];

/* Each guard is one page: __guard_0 below the boot stack, the others between the stacks, the last
 * above them. */
extern const char __guard_0[], __guard_1[], __guard_2[], __guard_3[], __guard_4[];
extern const char __boot_stack_begin[], __boot_stack_end[];
extern const char __double_fault_stack_begin[], __double_fault_stack_end[];
extern const char __nmi_stack_begin[], __nmi_stack_end[];
extern const char __machine_check_stack_begin[], __machine_check_stack_end[];

/* The first instruction, in entry.S. */
extern const char _start[];

#endif
