/* SPDX-License-Identifier: MIT */
/* A small kernel that asks a boot loader for everything and prints the answers on COM1.
 *
 *   name value ...         one answer on each line, numbers in hexadecimal, texts in quotes
 *   end                    the last line; then isa-debug-exit gets 10h
 *
 * It shares no code with the loader or the real kernel: numbers and layouts are written down here a
 * second time, from the protocol. What an answer points at is read through the direct map; firmware
 * tables are, where the base revision is below 3, because only then are they in it. */
#include <stddef.h>
#include <stdint.h>

#define COM1       0x3f8
#define DEBUG_EXIT 0xf4
#define BSS_BYTES  300000

#define COMMON 0xc7b1dd30df4c8b88, 0x0a82e883a194f07b

struct request {
    uint64_t id[4];
    uint64_t revision;
    const uint64_t *volatile answer;
    uint64_t extra[3];
};

struct file {
    uint64_t revision;
    const uint8_t *address;
    uint64_t bytes;
    const char *path;
    const char *string;
};

enum {
    HHDM,
    MAP,
    ADDRESS,
    FILE,
    LINE,
    RSDP,
    LOADER,
    FIRMWARE,
    SCREEN,
    MODULES,
    SMBIOS,
    EFI,
    EFI_MAP
};

__attribute__((used, aligned(8))) static volatile uint64_t base_tag[3] = { 0xf9562b2d5c95a6c8,
                                                                           0x6a7b384944536bdc, 3 };

__attribute__((used, aligned(8))) static struct request requests[] = {
    [HHDM] = { .id = { COMMON, 0x48dcf1cb8ad2b852, 0x63984e959a98244b } },
    [MAP] = { .id = { COMMON, 0x67cf3d9d378a806f, 0xe304acdfc50c3c62 } },
    [ADDRESS] = { .id = { COMMON, 0x71ba76863cc55f63, 0xb2644a48c516a487 } },
    [FILE] = { .id = { COMMON, 0xad97e90e83f1ed67, 0x31eb5d1c5ff23b69 } },
    [LINE] = { .id = { COMMON, 0x4b161536e598651e, 0xb390ad4a2f1f303a } },
    [RSDP] = { .id = { COMMON, 0xc5e77b6b397e7b43, 0x27637845accdcf3c } },
    [LOADER] = { .id = { COMMON, 0xf55038d8e2a1202f, 0x279426fcf5f59740 } },
    [FIRMWARE] = { .id = { COMMON, 0x8c2f75d90bef28a8, 0x7045a4688eac00c3 } },
    [SCREEN] = { .id = { COMMON, 0x9d5827dcd881dd75, 0xa3148604f6fab11b }, .revision = 1 },
    [MODULES] = { .id = { COMMON, 0x3e7e279702be32af, 0xca1c4f3bd1280cee }, .revision = 1 },
    [SMBIOS] = { .id = { COMMON, 0x9e9046f11e095391, 0xaa4a520fefbde5ee } },
    [EFI] = { .id = { COMMON, 0x5ceba5163eaaf6d6, 0x0a6981610cf65fcc } },
    [EFI_MAP] = { .id = { COMMON, 0x7df62a431d6872d5, 0xa4fcdfb3e57306c8 } },
};

static uint8_t bss[BSS_BYTES];

_Noreturn void answers_main(uint64_t rsp);

__asm__(".globl answers_entry\n"
        "answers_entry:\n"
        "    movq %rsp, %rdi\n"
        "    call answers_main\n");

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void say_char(char c)
{
    while ((in8(COM1 + 5) & 0x20) == 0) {
    }
    out8(COM1, (uint8_t)c);
}

static void say(const char *text)
{
    for (; *text != '\0'; text++) {
        say_char(*text);
    }
}

static void say_number(uint64_t value)
{
    int shift = 60;

    say_char(' ');
    while (shift > 0 && value >> shift == 0) {
        shift -= 4;
    }
    for (; shift >= 0; shift -= 4) {
        say_char("0123456789abcdef"[value >> shift & 15]);
    }
}

static void say_text(const char *text)
{
    say(" \"");
    say(text);
    say("\"");
}

static void say_line(const char *name, const uint64_t *numbers, size_t count)
{
    say(name);
    for (size_t i = 0; i < count; i++) {
        say_number(numbers[i]);
    }
    say("\n");
}

static const uint64_t *answer(int which)
{
    return requests[which].answer;
}

/* Prints the fields behind the revision. */
static void say_answer(const char *name, int which, size_t count)
{
    if (answer(which) != NULL) {
        say_line(name, answer(which) + 1, count);
    }
}

static uint64_t read_msr(uint32_t msr)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (uint64_t)high << 32 | low;
}

static void say_machine(uint64_t rsp)
{
    uint64_t cr0, cr4, flags, cs, ss;

    __asm__("mov %%cr0, %0" : "=r"(cr0));
    __asm__("mov %%cr4, %0" : "=r"(cr4));
    __asm__("pushfq; popq %0" : "=r"(flags));
    __asm__("mov %%cs, %0" : "=r"(cs));
    __asm__("mov %%ss, %0" : "=r"(ss));
    say_line("cpu", (const uint64_t[]){ cr0, cr4, read_msr(0xc0000080), read_msr(0x277) }, 4);
    say_line("entry",
             (const uint64_t[]){ cs & 0xffff, ss & 0xffff, flags & 0x600, rsp & 15,
                                 *(const uint64_t *)rsp },
             5);
}

static void say_bss(void)
{
    uint64_t dirty = 0;

    for (size_t i = 0; i < sizeof bss; i++) {
        dirty += ((volatile uint8_t *)bss)[i] != 0;
    }
    say_line("bss", &dirty, 1);
}

static void say_map(void)
{
    const uint64_t *const *rows = (const uint64_t *const *)answer(MAP)[2];

    for (uint64_t i = 0; i < answer(MAP)[1]; i++) {
        say_line("map", rows[i], 3);
    }
}

static void say_file(const char *name, const struct file *file)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < file->bytes; i++) {
        sum = (sum << 1 | sum >> 63) ^ file->address[i];
    }
    say(name);
    say_text(file->path);
    say_text(file->string);
    say_number((uint64_t)file->address - answer(HHDM)[1]);
    say_number(file->bytes);
    say_number(sum);
    say("\n");
}

static void say_files(void)
{
    say_file("file", (const struct file *)answer(FILE)[1]);
    if (answer(MODULES) != NULL) {
        const struct file *const *files = (const struct file *const *)answer(MODULES)[2];

        for (uint64_t i = 0; i < answer(MODULES)[1]; i++) {
            say_file("module", files[i]);
        }
    }
}

static void say_efi_map(void)
{
    if (answer(EFI_MAP) == NULL) {
        return;
    }
    const uint8_t *map = (const uint8_t *)answer(EFI_MAP)[1];
    uint64_t bytes = answer(EFI_MAP)[2], row_bytes = answer(EFI_MAP)[3];

    say_answer("efi-map", EFI_MAP, 4);
    for (uint64_t at = 0; at + row_bytes <= bytes; at += row_bytes) {
        const uint64_t *row = (const uint64_t *)(map + at);

        say_line("efi-row", (const uint64_t[]){ row[1], row[3], row[0] & 0xffffffff }, 3);
    }
}

static void say_screen(void)
{
    if (answer(SCREEN) == NULL) {
        return;
    }
    const uint64_t *screen = *(const uint64_t *const *)answer(SCREEN)[2];

    say("screen");
    for (int i = 0; i < 4; i++) {
        say_number(i == 0 ? screen[0] - answer(HHDM)[1] : screen[i]);
    }
    for (int i = 32; i < 41; i++) {
        say_number(((const uint8_t *)screen)[i]);
    }
    say("\n");
}

/* The first 8 bytes of a firmware table, if it is mapped. */
static void say_table(const char *name, int which, int field)
{
    if (base_tag[1] == 0x6a7b384944536bdc && answer(which) != NULL && answer(which)[field] != 0) {
        say_line(name, (const uint64_t *)answer(which)[field], 1);
    }
}

_Noreturn void answers_main(uint64_t rsp)
{
    say("answers\n");
    say_bss();
    say_machine(rsp);
    say_line("base", (const uint64_t[]){ base_tag[1], base_tag[2] }, 2);
    say_answer("hhdm", HHDM, 1);
    say_answer("address", ADDRESS, 2);
    say_answer("firmware", FIRMWARE, 1);
    say_answer("rsdp", RSDP, 1);
    say_answer("smbios", SMBIOS, 2);
    say_answer("efi", EFI, 1);
    say_table("rsdp-bytes", RSDP, 1);
    say_table("smbios32-bytes", SMBIOS, 1);
    say_table("smbios64-bytes", SMBIOS, 2);
    say_table("efi-bytes", EFI, 1);
    say("line");
    say_text((const char *)answer(LINE)[1]);
    say("\nloader");
    say_text((const char *)answer(LOADER)[1]);
    say_text((const char *)answer(LOADER)[2]);
    say("\n");
    say_map();
    say_files();
    say_screen();
    say_efi_map();
    say("end\n");
    for (;;) {
        out8(DEBUG_EXIT, 0x10);
        __asm__ volatile("cli; hlt");
    }
}
