/* SPDX-License-Identifier: MIT */
/* The Bochs display interface of QEMU's standard VGA: a framebuffer without firmware or BIOS calls.
 *
 * Registers are reached through an index port and a data port; the pixels lie behind BAR 0 of the
 * PCI function 1234:1111 of class VGA. Others answer at the same ports with their pixels elsewhere
 * (virtio, qxl, vmware), or have the same id without the ports (bochs-display). All of PCI is
 * scanned, because slot and BAR move with QEMU's options; without PCI every read is all ones. */
#include "loader/cpu.h"
#include "loader/framebuffer.h"
#include "loader/print.h"

#define PCI_ADDRESS        0xcf8
#define PCI_DATA           0xcfc
#define PCI_ENABLE         0x80000000u
#define PCI_ID             0x00
#define PCI_COMMAND        0x04
#define PCI_CLASS          0x08
#define PCI_HEADER         0x0c
#define PCI_BAR0           0x10
#define PCI_BAR1           0x14
#define PCI_COMMAND_MEMORY 0x2u
#define PCI_MULTIFUNCTION  0x00800000u
#define PCI_NO_DEVICE      0xffffffffu
#define PCI_BAR_IO         0x1u
#define PCI_BAR_64_BIT     0x4u
#define PCI_CLASS_VGA      0x0300u /* upper half of PCI_CLASS */
#define BOCHS_PCI_ID       0x11111234u

#define DISPI_INDEX       0x1ce
#define DISPI_DATA        0x1cf
#define DISPI_ID          0
#define DISPI_WIDTH       1
#define DISPI_HEIGHT      2
#define DISPI_BITS        3
#define DISPI_ENABLE      4
#define DISPI_VIRT_WIDTH  6
#define DISPI_VIRT_HEIGHT 7
#define DISPI_X_OFFSET    8
#define DISPI_Y_OFFSET    9
#define DISPI_MEMORY      10 /* in units of 64 KiB */
#define DISPI_ID_FAMILY   0xb0c0
#define DISPI_ENABLED     0x01
#define DISPI_LINEAR      0x40

static uint32_t pci_read(uint32_t function, uint32_t offset)
{
    cpu_out32(PCI_ADDRESS, PCI_ENABLE | function << 8 | offset);
    return cpu_in32(PCI_DATA);
}

static void pci_write(uint32_t function, uint32_t offset, uint32_t value)
{
    cpu_out32(PCI_ADDRESS, PCI_ENABLE | function << 8 | offset);
    cpu_out32(PCI_DATA, value);
}

/* A function's number is bus << 8 | device << 3 | function. */
static bool pci_find(uint32_t id, uint32_t class, uint32_t *out)
{
    for (uint32_t device = 0; device < 1u << 16; device += 8) {
        uint32_t functions = 8;

        if (pci_read(device, PCI_ID) == PCI_NO_DEVICE) {
            continue;
        }
        if ((pci_read(device, PCI_HEADER) & PCI_MULTIFUNCTION) == 0) {
            functions = 1;
        }
        for (uint32_t function = device; function < device + functions; function++) {
            if (pci_read(function, PCI_ID) == id && pci_read(function, PCI_CLASS) >> 16 == class) {
                *out = function;
                return true;
            }
        }
    }
    return false;
}

/* The address behind BAR 0, or 0 where it is no memory or was never placed. */
static uint64_t pci_memory_base(uint32_t function)
{
    uint32_t low = pci_read(function, PCI_BAR0);
    uint64_t base = low & ~0xfu;

    if ((low & PCI_BAR_IO) != 0) {
        return 0;
    }
    if ((low & PCI_BAR_64_BIT) != 0) {
        base |= (uint64_t)pci_read(function, PCI_BAR1) << 32;
    }
    return base;
}

static uint16_t dispi_read(uint16_t index)
{
    cpu_out16(DISPI_INDEX, index);
    return cpu_in16(DISPI_DATA);
}

static void dispi_write(uint16_t index, uint16_t value)
{
    cpu_out16(DISPI_INDEX, index);
    cpu_out16(DISPI_DATA, value);
}

/* Geometry can change only while the display is off; switching it on clears the pixels, and cuts
 * down what is more than the display can show.
 *   Returns: whether the mode is what it was to be. */
static bool dispi_set_mode(uint16_t width, uint16_t height, uint16_t bits)
{
    dispi_write(DISPI_ENABLE, 0);
    dispi_write(DISPI_WIDTH, width);
    dispi_write(DISPI_HEIGHT, height);
    dispi_write(DISPI_BITS, bits);
    dispi_write(DISPI_VIRT_WIDTH, width);
    dispi_write(DISPI_VIRT_HEIGHT, height);
    dispi_write(DISPI_X_OFFSET, 0);
    dispi_write(DISPI_Y_OFFSET, 0);
    dispi_write(DISPI_ENABLE, DISPI_ENABLED | DISPI_LINEAR);
    return dispi_read(DISPI_WIDTH) == width && dispi_read(DISPI_HEIGHT) == height &&
           dispi_read(DISPI_BITS) == bits;
}

/* Where the components of a pixel lie: blue lowest. With 16 bits green has one more than the others,
 * with 32 the highest byte is unused. */
static void bochs_set_colours(struct framebuffer *framebuffer)
{
    uint8_t bits = framebuffer->bits <= 16 ? 5 : 8;
    uint8_t green_bits = framebuffer->bits == 16 ? 6 : bits;

    framebuffer->blue_bits = framebuffer->red_bits = bits;
    framebuffer->green_bits = green_bits;
    framebuffer->blue_shift = 0;
    framebuffer->green_shift = bits;
    framebuffer->red_shift = (uint8_t)(bits + green_bits);
}

static bool bochs_find(uint32_t *function)
{
    return pci_find(BOCHS_PCI_ID, PCI_CLASS_VGA, function) &&
           (dispi_read(DISPI_ID) & 0xfff0) == DISPI_ID_FAMILY;
}

/* Tells, or fails where the mode was asked for: the display has no room. */
static void bochs_lacks_memory(const struct display_mode *mode, uint64_t needed, uint64_t memory)
{
    if (mode->text != NULL) {
        print_fail("command line: loader.mode=%s: it takes %lu KB and the display has %lu KB "
                   "(QEMU: -device VGA,vgamem_mb=N)",
                   mode->text, needed / 1024, memory / 1024);
    }
    print_line("framebuffer: the display has no room for %u x %u x %u", mode->width, mode->height,
               mode->bits);
}

bool bochs_set_mode(const struct display_mode *mode, struct framebuffer *out)
{
    uint32_t pixel_bytes = (mode->bits + 7) / 8, function;
    uint64_t needed = (uint64_t)mode->width * mode->height * pixel_bytes;

    if (!bochs_find(&function)) {
        if (mode->text != NULL) {
            print_fail("command line: loader.mode=%s: there is no display that the loader can set "
                       "(QEMU: -vga std)",
                       mode->text);
        }
        return false;
    }
    uint64_t base = pci_memory_base(function);
    uint64_t memory = base == 0 ? 0 : (uint64_t)dispi_read(DISPI_MEMORY) << 16;
    if (memory < needed) {
        bochs_lacks_memory(mode, needed, memory);
        return false;
    }
    pci_write(function, PCI_COMMAND,
              (pci_read(function, PCI_COMMAND) & 0xffff) | PCI_COMMAND_MEMORY);
    if (!dispi_set_mode((uint16_t)mode->width, (uint16_t)mode->height, (uint16_t)mode->bits)) {
        print_fail("the display took %u x %u x %u for %u x %u x %u", dispi_read(DISPI_WIDTH),
                   dispi_read(DISPI_HEIGHT), dispi_read(DISPI_BITS), mode->width, mode->height,
                   mode->bits);
    }
    *out = (struct framebuffer){
        .base = base,
        .width = mode->width,
        .height = mode->height,
        .pitch = dispi_read(DISPI_VIRT_WIDTH) * pixel_bytes,
        .bits = (uint16_t)mode->bits,
    };
    out->bytes = (uint64_t)out->pitch * out->height;
    bochs_set_colours(out);
    return true;
}
