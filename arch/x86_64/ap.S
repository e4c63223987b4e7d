/* SPDX-License-Identifier: MIT */
/* Owns the few instructions of a further CPU during which neither the loader's stack nor ours can
 * be used.
 *
 * In: RDI = CR3, RSI = CR4, RDX = top of the stack, RCX = function, R8 = its argument. CR4.PGE is
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

    .section .note.GNU-stack, "", @progbits
