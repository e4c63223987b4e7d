/* SPDX-License-Identifier: MIT */
/* Owns the few instructions of a further CPU during which neither the loader's stack nor ours can
 * be used: ap_switch, into our memory, and ap_park, to where it stands still.
 *
 * ap_switch. In: RDI = CR3, RSI = CR4, RDX = top of the stack, RCX = function, R8 = its argument. CR4.PGE is
 * off while CR3 is loaded, so that no global translation of the loader's survives (SDM vol. 3,
 * 4.10.4.1). RBP = 0 ends every walk along the frame pointers; the call leaves RSP as the calling
 * convention wants it. */

#define AP_CR4_PGE 0x80

    .section .text.ap, "ax", @progbits
    .global ap_switch
    .type ap_switch, @function
ap_switch:
    movq %rsi, %rax
    andq $~AP_CR4_PGE, %rax
    movq %rax, %cr4
    movq %rdi, %cr3
    movq %rsi, %cr4
    movq %rdx, %rsp
    xorl %ebp, %ebp
    movq %r8, %rdi
    call *%rcx
    ud2
    .size ap_switch, . - ap_switch

/* In: RDI = struct ap_park_place. CS 0x08 and data 0x10 are gdt.h's. Nothing returns to the stack. */
    .balign 128 /* all of it in one page */
    .global ap_park
    .type ap_park, @function
ap_park:
    movq 0(%rdi), %rax
    movq 8(%rdi), %rcx
    movq 16(%rdi), %rdx
    movq 24(%rdi), %rsi
    movq 32(%rdi), %r8
    movq 40(%rdi), %r9
    movq %rcx, %cr4
    movq %rax, %cr3
    movq %rdx, %rsp
    lgdt (%rsi)
    lidt (%r8)
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    pushq $0x08
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
1:  lock incl (%r9)
    .global ap_park_halt
ap_park_halt:
    cli
    hlt
    jmp ap_park_halt
    .size ap_park, . - ap_park
    .org ap_park + 128, 0xcc /* an error if it is longer */

    .section .note.GNU-stack, "", @progbits
