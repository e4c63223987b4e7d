/* SPDX-License-Identifier: MIT */
/* Entry points of the 32 exceptions while the loader runs. Each leaves the same frame, with a zero
 * where the CPU pushes no error code (SDM vol. 3A, table 6-1), and never returns:
 *
 *   rsp + 0 vector   + 8 error code   + 16 RIP   + 24 CS ... */

    .section .text.traps, "ax", @progbits
    .altmacro
    .macro trap_stub vector
trap_stub_\vector:
    .if (0x60227d00 >> \vector) & 1  /* 8, 10-14, 17, 21, 29, 30 */
    .else
    pushq $0
    .endif
    pushq $\vector
    jmp trap_common
    .endm

    .macro trap_address vector
    .quad trap_stub_\vector
    .endm

    .set vector, 0
    .rept 32
    trap_stub %vector
    .set vector, vector + 1
    .endr

trap_common:
    cld
    movq 0(%rsp), %rdi
    movq 8(%rsp), %rsi
    movq 16(%rsp), %rdx
    movq %cr2, %rcx
    andq $-16, %rsp
    call trap_report

    .section .rodata.traps, "a", @progbits
    .balign 8
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 32
    trap_address %vector
    .set vector, vector + 1
    .endr

    .section .note.GNU-stack, "", @progbits
