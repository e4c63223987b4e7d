/* SPDX-License-Identifier: MIT */
/* The Multiboot2 numbers that both entry.S and multiboot2.c need. Read by the assembler too: nothing
 * but macros. Multiboot2 specification 2.0, sections 3.1.1 (header) and 3.3 (machine state). */
#ifndef LOADER_MULTIBOOT2_H
#define LOADER_MULTIBOOT2_H

#define MULTIBOOT2_HEADER_MAGIC 0xe85250d6
#define MULTIBOOT2_BOOT_MAGIC   0x36d76289 /* in EAX when we are entered */
#define MULTIBOOT2_ARCH_I386    0

#define MULTIBOOT2_HEADER_END          0
#define MULTIBOOT2_HEADER_FRAMEBUFFER  5
#define MULTIBOOT2_HEADER_MODULE_ALIGN 6
#define MULTIBOOT2_HEADER_OPTIONAL     1

#endif
