/* SPDX-License-Identifier: MIT */
/* Prints the memory map of the machine that it is booted on, as the firmware gave it.
 *
 * The boot tests compare what the kernel says about memory with what this program reads: it is
 * entered by PVH like the loader, shares no code with it, and knows nothing of Limine. One line of
 * serial output per row, "row BASE LENGTH TYPE" in hexadecimal (E820 types), then "end". The start
 * information and the table behind it lie in low memory that nobody has touched yet.
 * Source: Xen PVH boot ABI, struct hvm_start_info and struct hvm_memmap_table_entry; build:
 * -m32 -nostdlib, linked at 1 MiB. */
#include <stdint.h>

#define COM1               0x3f8u
#define LINE_STATUS        5u
#define TRANSMITTER_EMPTY  0x20u
#define DEBUG_EXIT         0xf4u
#define DEBUG_EXIT_SUCCESS 0x10u
#define PVH_MAGIC          0x336ec578u

/* The fields are split in halves: 64-bit ones are not aligned for a 32-bit compiler. */
struct start_info {
    uint32_t magic, version, flags, module_count;
    uint32_t modules[2], command_line[2], rsdp[2], map[2];
    uint32_t map_count, reserved;
};

struct map_row {
    uint32_t base[2], length[2];
    uint32_t type, reserved;
};

__attribute__((used)) void probe_main(const struct start_info *info);

/* The PVH note names the 32-bit entry; EBX holds the start information there. */
__asm__(".section .note.pvh, \"a\", @note\n"
        ".balign 4\n"
        ".long 4, 4, 18\n"
        ".asciz \"Xen\"\n"
        ".long probe_entry\n"
        ".text\n"
        ".globl probe_entry\n"
        "probe_entry:\n"
        "    cld\n"
        "    movl $probe_stack + 4096, %esp\n"
        "    pushl $0\n"
        "    pushl $0\n"
        "    pushl $0\n"
        "    pushl %ebx\n"
        "    call probe_main\n"
        "1:  hlt\n"
        "    jmp 1b\n"
        ".local probe_stack\n"
        ".comm probe_stack, 4096, 16\n");

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static uint8_t in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static void put_char(char c)
{
    while ((in8(COM1 + LINE_STATUS) & TRANSMITTER_EMPTY) == 0)
        ;
    out8(COM1, (uint8_t)c);
}

static void put_text(const char *text)
{
    for (; *text != '\0'; text++)
        put_char(*text);
}

static void put_hex32(uint32_t value)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        put_char("0123456789abcdef"[(value >> shift) & 0xf]);
}

static void put_row(const struct map_row *row)
{
    put_text("row ");
    put_hex32(row->base[1]);
    put_hex32(row->base[0]);
    put_char(' ');
    put_hex32(row->length[1]);
    put_hex32(row->length[0]);
    put_char(' ');
    put_hex32(row->type);
    put_char('\n');
}

void probe_main(const struct start_info *info)
{
    if (info->magic == PVH_MAGIC) {
        const struct map_row *rows = (const struct map_row *)info->map[0];

        for (uint32_t i = 0; i < info->map_count; i++)
            put_row(&rows[i]);
        put_text("end\n");
    } else {
        put_text("no PVH start information\n");
    }
    out8(DEBUG_EXIT, DEBUG_EXIT_SUCCESS);
}
