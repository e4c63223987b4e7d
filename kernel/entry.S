/* SPDX-License-Identifier: MIT */
/* Owns the first instructions: from the loader's stack to the kernel's own, then kmain().
 *
 * In: the machine state at entry of the Limine protocol: long mode, interrupts off, RSP in loader
 * memory. Out: RDI = the loader's RSP, so that its stack can be kept; RSP = the
 * top of the boot stack, aligned to 16; RBP = 0, where every walk along the frame pointers ends. */

    .section .text.entry, "ax", @progbits
    .global _start
    .type _start, @function
_start:
    cli
    cld
    movq %rsp, %rdi
    movq $__boot_stack_end, %rsp
    xorl %ebp, %ebp
    call kmain
    ud2
    .size _start, . - _start

    .section .note.GNU-stack, "", @progbits
