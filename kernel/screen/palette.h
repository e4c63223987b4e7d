/* SPDX-License-Identifier: MIT */
/* Every colour of the screen, 0xRRGGBB: a dark, slightly blue ground, light text, and hues of about
 * the same brightness, so that no part shouts. */
#ifndef KERNEL_SCREEN_PALETTE_H
#define KERNEL_SCREEN_PALETTE_H

/* Ground, from back to front. */
#define PALETTE_GROUND 0x10131au
#define PALETTE_PANEL  0x1a1f2au
#define PALETTE_EDGE   0x2f3748u

/* Text. */
#define PALETTE_TEXT  0xe4e8f0u
#define PALETTE_DIM   0x939db0u
#define PALETTE_FAINT 0x667085u

/* The log: lines of the memory manager and their tag. */
#define PALETTE_MEMORY_LINE 0xb4c0d4u
#define PALETTE_TAG         0x4fc4cfu

/* Meaning. */
#define PALETTE_ACCENT  0x7cc4ffu
#define PALETTE_GOOD    0x7bd88fu
#define PALETTE_BAD     0xff6b7au
#define PALETTE_WARNING 0xffb454u
#define PALETTE_SPARK   0xffd479u

/* Memory by type. */
#define PALETTE_USABLE      0x5fc98bu
#define PALETTE_LOADER      0x5a9bf0u
#define PALETTE_KERNEL      0xb99cffu
#define PALETTE_METADATA    0xffd479u
#define PALETTE_ACPI        0x4fc4cfu
#define PALETTE_ACPI_NVS    0x2f8f9cu
#define PALETTE_RESERVED    0x5b667au
#define PALETTE_BAD_MEMORY  0xff5464u
#define PALETTE_FRAMEBUFFER 0xf48fb8u

/* Windows of the address space that are no type of memory. */
#define PALETTE_HEAP   0xff9f5au
#define PALETTE_STACKS 0x9fd356u

#endif
