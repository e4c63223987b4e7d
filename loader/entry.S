/* SPDX-License-Identifier: MIT */
/* From the machine's first 32-bit instruction to C in long mode.
 *
 * Each boot path has an entry symbol of its own that loads its number and the address of its
 * information block; a number in a register tells the paths apart more surely than what EAX holds.
 * All of them arrive in flat 32-bit protected mode with paging off and interrupts off, with a
 * stack that cannot be trusted, and on EFI machines with stale values in CR4 and EFER, so every
 * control register is set from scratch here.
 *
 *   boot_pml4 [0] -> boot_pdpt [0..3] -> boot_pd, 4 x 512 leaves of 2 MiB: virtual = physical
 *
 * These six tables map [0, 4 GiB); pagetables_reach() adds what the kernel needs above. */

#include "loader/bootentry.h"
#include "loader/multiboot2.h"

#define CR0_START    0x80000011      /* PG | ET | PE */
#define CR4_PAE      0x00000020
#define MSR_EFER     0xc0000080
#define EFER_LME     0x00000100
#define ENTRY_TABLE  0x003           /* present, writable */
#define ENTRY_LEAF   0x083           /* present, writable, page size */
#define SELECTOR_CODE64 0x08

/* PVH: "Xen", type 18 (XEN_ELFNOTE_PHYS32_ENTRY), the 32-bit physical address to enter at. */
    .section .note.pvh, "a", @note
    .balign 4
    .long 2f - 1f
    .long 4f - 3f
    .long 18
1:  .asciz "Xen"
2:  .balign 4
3:  .long entry_pvh
4:  .balign 4

/* Multiboot2: searched for in the first 32 KiB of the file, 8-aligned. No EFI tag: GRUB then leaves
 * the boot services and enters in 32-bit mode on EFI too. The size asked for is that of bochs.c. */
    .section .multiboot2, "a", @progbits
    .balign 8
multiboot2_header:
    .long MULTIBOOT2_HEADER_MAGIC
    .long MULTIBOOT2_ARCH_I386
    .long multiboot2_header_end - multiboot2_header
    .long -(MULTIBOOT2_HEADER_MAGIC + MULTIBOOT2_ARCH_I386 + \
            (multiboot2_header_end - multiboot2_header))
    .short MULTIBOOT2_HEADER_FRAMEBUFFER, MULTIBOOT2_HEADER_OPTIONAL
    .long 20, 1024, 768, 32
    .balign 8
    .short MULTIBOOT2_HEADER_MODULE_ALIGN, 0
    .long 8
    .short MULTIBOOT2_HEADER_END, 0
    .long 8
multiboot2_header_end:

    .section .text.entry, "ax", @progbits
    .code32
    .globl entry_pvh
    .type entry_pvh, @function
entry_pvh:
    movl $BOOT_ENTRY_PVH, %ebp
    jmp entry_common

/* The ELF entry point. Whoever jumps here without the magic number is not understood. */
    .globl entry_multiboot2
    .type entry_multiboot2, @function
entry_multiboot2:
    movl $BOOT_ENTRY_MULTIBOOT2, %ebp
    cmpl $MULTIBOOT2_BOOT_MAGIC, %eax
    je entry_common
    movl $BOOT_ENTRY_UNKNOWN, %ebp

/* EBP: which path. EBX: its information block. */
entry_common:
    cli
    cld
    movl $boot_stack_top, %esp

    xorl %eax, %eax
    movl $loader_bss_begin, %edi
    movl $loader_bss_end, %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    rep stosl

    movl $boot_pdpt + ENTRY_TABLE, boot_pml4
    movl $boot_pd + ENTRY_TABLE, boot_pdpt
    movl $boot_pd + 0x1000 + ENTRY_TABLE, boot_pdpt + 8
    movl $boot_pd + 0x2000 + ENTRY_TABLE, boot_pdpt + 16
    movl $boot_pd + 0x3000 + ENTRY_TABLE, boot_pdpt + 24

    movl $boot_pd, %edi
    movl $ENTRY_LEAF, %eax
5:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    jnc 5b

    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    xorl %edx, %edx
    movl $EFER_LME, %eax
    wrmsr
    movl $CR0_START, %eax
    movl %eax, %cr0

    lgdt entry_gdt_pointer
    ljmp $SELECTOR_CODE64, $entry_long_mode

    .code64
entry_long_mode:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl %ebp, %edi
    movl %ebx, %esi
    xorl %ebp, %ebp
    call loader_main
6:  cli
    hlt
    jmp 6b

    .section .rodata.entry, "a", @progbits
    .balign 8
    .globl entry_gdt                 /* other processors come through it too (ap.S) */
entry_gdt:
    .quad 0
    .quad 0x00209b0000000000         /* 64-bit code */
entry_gdt_pointer:
    .word . - entry_gdt - 1
    .long entry_gdt

    .section .bss.entry, "aw", @nobits
    .balign 4096
    .globl boot_pml4
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4 * 4096
boot_stack:
    .skip 16384
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
