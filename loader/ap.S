/* SPDX-License-Identifier: MIT */
/* The road of an application processor, from its start message to the kernel's function.
 *
 *   trampoline page   real mode, CS = page >> 4: straight to long mode, paging and all
 *   ap_long_mode      identity map (the bridge): takes a stack, goes to C: ap_main()
 *   ap_park           the kernel's tables, at the HHDM alias of this very code: waits
 *
 * After INIT the CPU has caches off (CR0.CD, CR0.NW) and nothing else of use (SDM vol. 3A, table
 * 9-1); paging, protection and write protection are turned on by one write of CR0, with CR4 and
 * EFER set before. The state in which it waits is the one handover.S gives the boot processor.
 * An AP reports its arrival only after its last look at the identity map, so the boot processor
 * may leave as soon as all have arrived; trampoline and loader stay reclaimable memory. */

#include "loader/ap.h"

#define CR0_KERNEL      0x80010011   /* PG | WP | ET | PE */
#define MSR_EFER        0xc0000080
#define EFER_KERNEL     0x00000900   /* NXE | LME */
#define SELECTOR_LOADER 0x08         /* in entry_gdt */
#define SELECTOR_CODE64 0x28         /* in handover_gdt */
#define SELECTOR_DATA64 0x30
#define GDT_LIMIT       (7 * 8 - 1)

/* Offsets in struct ap_park and struct limine_mp_info. */
#define KERNEL_ROOT 0
#define HHDM_OFFSET 8
#define STACK_TOP   16
#define INFO        24
#define STATE       32
#define INFO_GOTO   16

    .section .rodata.ap, "a", @progbits
    .balign 16
    .globl ap_trampoline
    .globl ap_trampoline_end
    .globl ap_trampoline_root
    .globl ap_trampoline_cr4
    .code16
ap_trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl ap_trampoline_gdt - ap_trampoline
    movl ap_trampoline_cr4 - ap_trampoline, %eax
    movl %eax, %cr4
    movl ap_trampoline_root - ap_trampoline, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    movl $EFER_KERNEL, %eax
    xorl %edx, %edx
    wrmsr
    movl $CR0_KERNEL, %eax
    movl %eax, %cr0
    ljmpl $SELECTOR_LOADER, $ap_long_mode
    .balign 4
ap_trampoline_root:
    .long 0
ap_trampoline_cr4:
    .long 0
ap_trampoline_gdt:
    .word 2 * 8 - 1
    .long entry_gdt
ap_trampoline_end:

    .section .text.ap, "ax", @progbits
    .code64
ap_long_mode:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl $1, %eax
    lock xaddl %eax, ap_stacks_taken
    cmpl ap_stack_count, %eax
    jae ap_stop
    movq ap_stack_tops, %rdx
    movq (%rdx,%rax,8), %rsp
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call ap_main

/* Also reached at the HHDM alias; every jump here is relative. */
ap_stop:
    hlt
    jmp ap_stop

    .globl ap_park
    .type ap_park, @function
ap_park:
    movq KERNEL_ROOT(%rdi), %rbx
    movq HHDM_OFFSET(%rdi), %rdx
    movq STACK_TOP(%rdi), %rcx
    movq STATE(%rdi), %rsi
    movq INFO(%rdi), %rdi

    movq %rcx, %rsp
    leaq handover_gdt(%rdx), %rax
    pushq %rax
    subq $8, %rsp
    movw $GDT_LIMIT, 6(%rsp)
    lgdt 6(%rsp)
    movq $0, 8(%rsp)
    movw $0, 6(%rsp)
    lidt 6(%rsp)                     /* none: limit 0, as the boot processor has it */
    leaq ap_in_hhdm(%rdx), %rax
    pushq $SELECTOR_CODE64
    pushq %rax
    lretq

ap_in_hhdm:
    movq %rbx, %cr3
    movl $SELECTOR_DATA64, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    xorl %eax, %eax
    lldt %ax
    movq %rcx, %rsp

    movl $AP_WAITING, %eax
    movl $AP_PARKED, %ecx
    lock cmpxchgl %ecx, (%rsi)
    jne ap_stop
1:  movq INFO_GOTO(%rdi), %rax
    testq %rax, %rax
    jnz 2f
    pause
    jmp 1b

2:  pushq $0                         /* the return address of the kernel's function */
    pushq %rax
    pushq $2                         /* RFLAGS */
    xorl %eax, %eax
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %edx, %edx
    xorl %esi, %esi
    xorl %ebp, %ebp
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    xorl %r10d, %r10d
    xorl %r11d, %r11d
    xorl %r12d, %r12d
    xorl %r13d, %r13d
    xorl %r14d, %r14d
    xorl %r15d, %r15d
    popfq
    ret

    .section .note.GNU-stack, "", @progbits
