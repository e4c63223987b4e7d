/* SPDX-License-Identifier: MIT */
/* The loader's story, from the first C instruction to the kernel's.
 *
 *   firmware's information block -> struct boot_source, memory map
 *   kernel file                  -> image in one block, requests found in it
 *   requests                     -> responses, page tables, at last the memory map
 *
 * Order matters in three places: what was passed in is safe before anything is allocated; the
 * framebuffer and the base revision's rules are in the map before the HHDM is planned; the memory
 * map is answered after the last allocation. */
#include "loader/bootentry.h"
#include "loader/cmdline.h"
#include "loader/elf.h"
#include "loader/firmware.h"
#include "loader/framebuffer.h"
#include "loader/handover.h"
#include "loader/hhdm.h"
#include "loader/machine.h"
#include "loader/maprows.h"
#include "loader/memory.h"
#include "loader/mp.h"
#include "loader/negotiate.h"
#include "loader/pagetables.h"
#include "loader/print.h"
#include "loader/request.h"
#include "loader/response.h"
#include "loader/screen.h"
#include "loader/source.h"
#include "loader/text.h"
#include "loader/trap.h"

extern char loader_begin[], loader_end[]; /* loader.ld */

_Noreturn void loader_main(uint32_t entry, uint64_t info);

static struct boot_source source;
static struct loader_options options;
static struct kernel_image image;
static struct requests requests;
static struct framebuffer framebuffer;
static struct firmware_tables tables;
static struct hhdm hhdm;

static void loader_read_source(uint32_t entry, uint64_t info)
{
    switch (entry) {
    case BOOT_ENTRY_PVH:
        pvh_read(info, &source);
        break;
    case BOOT_ENTRY_MULTIBOOT2:
        multiboot2_read(info, &source);
        break;
    default:
        print_fail("started by something that is neither PVH nor Multiboot2");
    }
}

/* Where the kernel has a line of its own, only the loader's keys may stand on the other one. */
static void loader_read_options(void)
{
    cmdline_take(source.command_line, &options);
    if (options.mode.text != NULL && !source.display_is_free) {
        print_fail("command line: loader.mode=%s: GRUB, or who else has started the loader, has "
                   "chosen the mode",
                   options.mode.text);
    }
    if (source.kernel_line == NULL) {
        return;
    }
    if (options.kernel_line[0] != '\0') {
        print_fail("command line: %s: only loader.* keys stand on the loader's line; the kernel's "
                   "line stands behind its file",
                   options.kernel_line);
    }
    memcpy(options.kernel_line, source.kernel_line, text_length(source.kernel_line) + 1);
}

/* The kernel's file is not needed once the kernel runs; modules are its own for ever. */
static void loader_claim_file(const struct source_file *file, enum memory_type type)
{
    if (file->bytes > 0 && !memory_take(file->base, file->base + file->bytes, type)) {
        print_fail("memory map: file %s [%#lx, %#lx) is not in usable memory", file->path,
                   file->base, file->base + file->bytes);
    }
    if (file->base % PAGE_BYTES != 0) {
        print_fail("file %s at %#lx is not 4 KiB aligned", file->path, file->base);
    }
}

/* Takes what is in use already out of the usable memory. */
static void loader_claim_memory(void)
{
    if (options.base_revision < 3) {
        memory_reserve(0, PAGE_BYTES); /* never usable before revision 3 */
    }
    if (!memory_take(pointer_phys(loader_begin), pointer_phys(loader_end), MEMORY_LOADER)) {
        print_fail("memory map: the loader's own memory [%#lx, %#lx) is not usable",
                   pointer_phys(loader_begin), pointer_phys(loader_end));
    }
    if (source.file_count == 0) {
        print_fail("no kernel file: pass it %s", source.how_to_pass_files);
    }
    for (size_t i = 0; i < source.file_count; i++) {
        loader_claim_file(&source.files[i], i == 0 ? MEMORY_LOADER : MEMORY_EXECUTABLE);
    }
    if (!memory_claim(source.kept_base, source.kept_base + source.kept_bytes, MEMORY_LOADER)) {
        print_fail("memory map: the information block [%#lx, %#lx) is not in usable memory",
                   source.kept_base, source.kept_base + source.kept_bytes);
    }
}

/* Failures from here on are drawn there. */
static void loader_use_pixels(const struct framebuffer *screen)
{
    pagetables_reach(screen->base, screen->base + screen->bytes);
    screen_use_pixels(screen);
}

/* What lies above 4 GiB comes within reach only now: that may take pages. */
static void loader_reach_far(void)
{
    for (size_t i = 0; i < source.file_count; i++) {
        pagetables_reach(source.files[i].base, source.files[i].base + source.files[i].bytes);
    }
    if (source.framebuffer.bytes != 0) {
        loader_use_pixels(&source.framebuffer);
    }
}

static void loader_place_kernel(void)
{
    elf_check(&source.files[0], &image);
    if (!options.slide_given) {
        image.phys_base =
            memory_alloc(image.bytes, image.align, MEMORY_EXECUTABLE, "the kernel image");
    } else {
        image.phys_base = options.slide;
        if (image.phys_base + image.bytes < image.phys_base ||
            !memory_take(image.phys_base, image.phys_base + image.bytes, MEMORY_EXECUTABLE)) {
            print_fail("loader.slide=%#lx: %lu KB there are not free usable memory",
                       image.phys_base, image.bytes / 1024);
        }
    }
    pagetables_reach(image.phys_base, image.phys_base + image.bytes);
    elf_place(&image);
}

static void loader_set_up_framebuffer(void)
{
    if (requests.of[REQUEST_FRAMEBUFFER] == NULL) {
        if (options.mode.text != NULL) {
            print_fail("command line: loader.mode=%s: the kernel asks for no framebuffer, or "
                       "loader.omit has taken the request",
                       options.mode.text);
        }
        return;
    }
    if (source.display_is_free) {
        bochs_set_mode(&options.mode, &source.framebuffer);
    }
    if (source.framebuffer.bytes == 0) {
        return;
    }
    framebuffer = source.framebuffer;
    loader_use_pixels(&framebuffer);
    if (!memory_mark_framebuffer(framebuffer.base, framebuffer.base + framebuffer.bytes)) {
        print_fail("framebuffer [%#lx, %#lx) lies over memory that is in use", framebuffer.base,
                   framebuffer.base + framebuffer.bytes);
    }
}

_Noreturn void loader_main(uint32_t entry, uint64_t info)
{
    print_init();
    trap_init();
    loader_read_source(entry, info);
    loader_read_options();
    machine_check();

    loader_claim_memory();
    loader_reach_far();
    firmware_find_tables(&source, &tables);
    loader_place_kernel();
    requests_find(&image, options.omit, &requests);
    negotiate_base_revision(&options, &requests);
    loader_set_up_framebuffer();
    hhdm_plan(&options, negotiate_levels(&options, &requests), &image, &hhdm);

    uint64_t start = negotiate_entry(&image, &requests);
    uint64_t stack_bytes = negotiate_stack_bytes(&requests);
    uint64_t stack = memory_alloc(stack_bytes, PAGE_BYTES, MEMORY_LOADER, "the kernel's stack");
    uint64_t root = pagetables_build(&hhdm, &image);
    const struct response_facts facts = { &source, &options, &image, &framebuffer, &tables, &hhdm };

    response_fill(&facts, &requests);
    mp_answer(&(const struct mp_facts){ &source, &options, &hhdm, root, stack_bytes },
              requests.of[REQUEST_MP]);
    response_fill_memmap(&facts, &requests);
    print_line("kernel at %#lx (physical %#lx, %lu KB), HHDM at %#lx, %u levels", image.virt_base,
               image.phys_base, image.bytes / 1024, hhdm.offset, hhdm.levels);
    handover(&hhdm, root, stack + align_down(stack_bytes, 16), start);
}
