/* SPDX-License-Identifier: MIT */
/* Owns the entry of every exception and interrupt: 256 stubs of 16 bytes, then one common path.
 *
 * A stub brings all vectors to one shape: an error code (0 where the CPU pushes none) and the
 * vector number. The common path adds the general registers; the result is `struct trap_frame` of
 * idt.h. interrupt_dispatch() returns where the vector has a handler; the way back takes from the
 * frame what the way in has put there. Kernel code only is interrupted, so GS stays as it is.
 *
 * Invariant: the CPU aligns RSP to 16 before it pushes 5 words (SDM vol. 3, 6.14.2); with the
 * error code, the vector and 15 registers that makes 22 words, so RSP is aligned to 16 at the
 * call, as the calling convention asks. */

/* Exceptions that push an error code: 8, 10..14, 17, 21, 29, 30 (SDM vol. 3, table 6-1; AMD APM
 * vol. 2, table 8-1). */
#define TRAP_ERROR_CODES 0x60227d00

    .section .text.traps, "ax", @progbits
    .balign 16
    .global trap_stubs
    .type trap_stubs, @function
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector > 31
    pushq $0
    .elseif ((TRAP_ERROR_CODES >> vector) & 1) == 0
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr
    .balign 16
    .size trap_stubs, . - trap_stubs

    .type trap_common, @function
trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call interrupt_dispatch
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp /* vector and error code */
    iretq
    .size trap_common, . - trap_common

    .section .note.GNU-stack, "", @progbits
