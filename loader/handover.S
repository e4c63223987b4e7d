/* SPDX-License-Identifier: MIT */
/* From the loader's identity map to the kernel, with the CPU as the protocol says: CS 28h and 30h
 * in all other segment registers out of a GDT of seven, no IDT and no LDT; CR0 = PG WP ET PE,
 * CR4 = PAE (and LA57), RFLAGS = 2, general registers 0, RSP at a pushed return address of 0.
 *
 * CR4.LA57 cannot change in long mode (SDM vol. 3A, 4.1.2), so 5 levels take a step back: 64-bit,
 * compatibility mode, paging off, LA57, paging on, 64-bit. All of that is below 4 GiB and identity
 * mapped, and only the low half of EDI is relied on across it: the address of struct handover. */

#define CR0_KERNEL      0x80010011   /* PG | WP | ET | PE */
#define CR0_PAGING_BIT  31
#define CR4_PAE         0x00000020
#define CR4_LA57        0x00001000
#define SELECTOR_CODE32 0x18
#define SELECTOR_DATA32 0x20
#define SELECTOR_CODE64 0x28
#define SELECTOR_DATA64 0x30

/* Offsets in struct handover. */
#define BRIDGE_ROOT 0
#define KERNEL_ROOT 8
#define HHDM_OFFSET 16
#define STACK_TOP   24
#define ENTRY       32
#define FIVE_LEVELS 40

    .section .text.handover, "ax", @progbits
    .code64
    .globl handover_jump
    .type handover_jump, @function
handover_jump:
    cli
    cld
    lgdt handover_gdt_pointer
    cmpl $0, FIVE_LEVELS(%rdi)
    jne handover_5_levels
    movq BRIDGE_ROOT(%rdi), %rax
    movq %rax, %cr3
    jmp handover_on_bridge

handover_5_levels:
    pushq $SELECTOR_CODE32
    pushq $handover_compatibility
    lretq

    .code32
handover_compatibility:
    movl $SELECTOR_DATA32, %eax
    movl %eax, %ds
    movl %eax, %ss
    movl %cr0, %eax
    btrl $CR0_PAGING_BIT, %eax
    movl %eax, %cr0                  /* leaves long mode; EFER.LME stays set */
    movl $CR4_PAE | CR4_LA57, %eax
    movl %eax, %cr4
    movl BRIDGE_ROOT(%edi), %eax
    movl %eax, %cr3
    movl %cr0, %eax
    btsl $CR0_PAGING_BIT, %eax
    movl %eax, %cr0
    ljmp $SELECTOR_CODE64, $handover_on_bridge

    .code64
handover_on_bridge:
    movl %edi, %edi
    movq KERNEL_ROOT(%rdi), %rbx
    movq HHDM_OFFSET(%rdi), %rdx
    movq ENTRY(%rdi), %rsi
    movq STACK_TOP(%rdi), %rsp

    leaq handover_gdt(%rdx), %rax
    movq %rax, handover_gdt_pointer + 2
    lgdt handover_gdt_pointer
    lidt handover_no_idt
    leaq handover_in_hhdm(%rdx), %rax
    pushq $SELECTOR_CODE64
    pushq %rax
    lretq

/* From here on at the HHDM alias, on the kernel's stack: nothing refers to the lower half. */
handover_in_hhdm:
    movq %rbx, %cr3
    movl $SELECTOR_DATA64, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    xorl %eax, %eax
    lldt %ax
    movl $CR0_KERNEL, %eax
    movq %rax, %cr0

    pushq $0                         /* the return address of the kernel's entry point */
    pushq %rsi
    pushq $2                         /* RFLAGS, taken last: clearing a register sets flags */
    xorl %eax, %eax
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %edx, %edx
    xorl %esi, %esi
    xorl %edi, %edi
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

    .section .data.handover, "aw", @progbits
    .balign 8
    .globl handover_gdt              /* the other processors have it too (ap.S) */
handover_gdt:                        /* accessed bits set: the CPU need not write here */
    .quad 0
    .quad 0x00009b000000ffff         /* 08: 16-bit code */
    .quad 0x000093000000ffff         /* 10: 16-bit data */
    .quad 0x00cf9b000000ffff         /* 18: 32-bit code */
    .quad 0x00cf93000000ffff         /* 20: 32-bit data */
    .quad 0x00209b0000000000         /* 28: 64-bit code */
    .quad 0x0000930000000000         /* 30: 64-bit data */
    .balign 8
    .skip 6
handover_gdt_pointer:
    .word 7 * 8 - 1
    .quad handover_gdt
handover_no_idt:
    .word 0
    .quad 0

    .section .note.GNU-stack, "", @progbits
