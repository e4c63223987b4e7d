/* SPDX-License-Identifier: MIT */
/* The only file that knows the boot protocol: Limine, base revisions 2 and 3.
 *
 *   limine_requests (.data, one object: markers outside, requests between)
 *      --the loader fills in the responses-->
 *   limine_command_line(), limine_loader(), limine_boot_info()
 *
 * A loader that does not know revision 3 leaves the tag as it is and boots all the same; its
 * answers mean the same to us, but for the RSDP (physical in revision 3, in the direct map in all
 * others). Responses lie in memory that is given back at the end of the boot: what must survive
 * is copied here; the memory map's rows, which can be many, are kept until mm has made its own of
 * them. Invariants: a pointer of the loader is checked before it is followed; a required answer
 * that is missing or cannot be true is one error line and the end. */
#include "kernel/limine.h"
#include "kernel/boot.h"
#include "kernel/console.h"
#include "kernel/image.h"
#include "kernel/string.h"
#include "kernel/symbols.h"
#include <mm/mm.h>

#define LIMINE_STACK_BYTES     MM_KIB(64) /* what the protocol gives at least */
#define LIMINE_WANTED_REVISION 3
#define COMMAND_LINE_MAX       4096 /* with its end */
#define PHYSICAL_END           ((uint64_t)1 << 52)

/* The loader writes into it, hence volatile; `used`, because nothing in C writes the responses. */
static volatile struct {
    uint64_t start_marker[4];
    uint64_t base_revision[3];
    struct limine_request hhdm, memory_map, executable_address;
    struct limine_request executable_file, executable_cmdline, rsdp, bootloader_info, firmware_type;
    struct limine_request framebuffer;
    struct limine_stack_size_request stack_size;
    struct limine_paging_mode_request paging_mode;
    struct limine_entry_point_request entry_point;
    struct limine_mp_request mp;
    uint64_t end_marker[2];
} limine_requests __attribute__((used, aligned(8), section(".limine_requests"))) = {
    .start_marker = LIMINE_START_MARKER,
    .base_revision = LIMINE_BASE_REVISION(LIMINE_WANTED_REVISION),
    .hhdm = { .id = LIMINE_HHDM },
    .memory_map = { .id = LIMINE_MEMORY_MAP },
    .executable_address = { .id = LIMINE_EXECUTABLE_ADDRESS },
    .executable_file = { .id = LIMINE_EXECUTABLE_FILE },
    .executable_cmdline = { .id = LIMINE_EXECUTABLE_CMDLINE },
    .rsdp = { .id = LIMINE_RSDP },
    .bootloader_info = { .id = LIMINE_BOOTLOADER_INFO },
    .firmware_type = { .id = LIMINE_FIRMWARE_TYPE },
    .framebuffer = { .id = LIMINE_FRAMEBUFFER, .revision = 1 },
    .stack_size = { .head = { .id = LIMINE_STACK_SIZE }, .stack_bytes = LIMINE_STACK_BYTES },
    /* Four levels are enough; five are fine where the loader has set them up. */
    .paging_mode = { .head = { .id = LIMINE_PAGING_MODE, .revision = 1 },
                     .mode = 0,
                     .max_mode = 1,
                     .min_mode = 0 },
    .entry_point = { .head = { .id = LIMINE_ENTRY_POINT }, .entry = _start },
    .mp = { .head = { .id = LIMINE_MP }, .flags = LIMINE_MP_X2APIC },
    .end_marker = LIMINE_END_MARKER,
};

/* mm takes the rows as they are. */
_Static_assert(sizeof(struct boot_range) == 24 && offsetof(struct boot_range, base) == 0 &&
                   offsetof(struct boot_range, length) == 8 &&
                   offsetof(struct boot_range, type) == 16,
               "struct boot_range is a Limine memory map entry");

static MM_RO_AFTER_INIT char limine_line[COMMAND_LINE_MAX];
static MM_INIT_DATA struct boot_loader limine_facts;
static MM_RO_AFTER_INIT struct boot_info limine_info;

/* Copies at most `capacity` bytes with the terminating zero.
 *   Returns:  true if all of it fitted. */
static MM_INIT bool limine_copy_text(char *to, size_t capacity, const char *from)
{
    size_t i = 0;

    for (; from[i] != '\0' && i + 1 < capacity; i++)
        to[i] = from[i];
    to[i] = '\0';
    return from[i] == '\0';
}

/* ---- Command line ---- */

/* Loaders without the executable command line feature (Limine 8.2) keep the line with the file. */
static MM_INIT const char *limine_find_command_line(void)
{
    const struct limine_executable_cmdline *own = limine_requests.executable_cmdline.response;
    const struct limine_executable_file *file = limine_requests.executable_file.response;

    if (own != NULL && own->cmdline != NULL)
        return own->cmdline;
    if (file != NULL && file->file != NULL && file->file->cmdline != NULL)
        return file->file->cmdline;
    return "";
}

MM_INIT const char *limine_command_line(void)
{
    size_t end = COMMAND_LINE_MAX - 1;

    if (limine_copy_text(limine_line, sizeof(limine_line), limine_find_command_line()))
        return limine_line;
    /* Half a word could mean something else: cut after the last whole one. */
    while (end > 0 && limine_line[end - 1] != ' ')
        end--;
    limine_line[end] = '\0';
    console_print("WARNING: command line: only the first %zu bytes are read", end);
    return limine_line;
}

/* ---- Facts for the user ---- */

static MM_INIT const char *limine_firmware_name(void)
{
    const struct limine_firmware_type *firmware = limine_requests.firmware_type.response;

    if (firmware == NULL)
        return "unknown";
    switch (firmware->type) {
    case LIMINE_FIRMWARE_BIOS:
        return "BIOS";
    case LIMINE_FIRMWARE_EFI32:
        return "UEFI (32-bit)";
    case LIMINE_FIRMWARE_EFI64:
        return "UEFI (64-bit)";
    case LIMINE_FIRMWARE_SBI:
        return "SBI";
    default:
        return "unknown";
    }
}

static MM_INIT void limine_describe_revision(char *text, size_t capacity)
{
    uint64_t used = limine_requests.base_revision[1];

    if (used != LIMINE_REVISION_MAGIC)
        (void)mm_format(text, capacity, "%llu", (unsigned long long)used);
    else if (limine_requests.base_revision[2] == 0)
        (void)mm_format(text, capacity, "%d", LIMINE_WANTED_REVISION);
    else
        (void)mm_format(text, capacity, "2 or older");
}

/* A pointer of the loader, or a physical address: they never overlap, because the direct map lies
 * in the higher half and physical addresses have 52 bits. */
static MM_INIT paddr_t limine_to_phys(uint64_t address)
{
    const struct limine_hhdm *hhdm = limine_requests.hhdm.response;

    if (hhdm != NULL && address >= hhdm->offset)
        return address - hhdm->offset;
    return address;
}

static MM_INIT void limine_find_rsdp(struct boot_loader *facts)
{
    const struct limine_rsdp *rsdp = limine_requests.rsdp.response;

    if (rsdp == NULL || rsdp->address == 0)
        return;
    facts->rsdp = limine_to_phys(rsdp->address);
    facts->has_rsdp = facts->rsdp < PHYSICAL_END;
}

MM_INIT const struct boot_loader *limine_loader(void)
{
    const struct limine_bootloader_info *info = limine_requests.bootloader_info.response;
    struct boot_loader *facts = &limine_facts;

    if (info != NULL && info->name != NULL)
        (void)limine_copy_text(facts->name, sizeof(facts->name), info->name);
    if (info != NULL && info->version != NULL)
        (void)limine_copy_text(facts->version, sizeof(facts->version), info->version);
    facts->firmware = limine_firmware_name();
    limine_describe_revision(facts->revision, sizeof(facts->revision));
    limine_find_rsdp(facts);
    return facts;
}

/* ---- What mm needs ---- */

static MM_INIT const void *limine_require(const void *response, const char *name)
{
    if (response == NULL)
        mm_fatal("the boot loader gave no %s response", name);
    return response;
}

static MM_INIT void limine_read_hhdm(struct boot_info *boot)
{
    const struct limine_hhdm *hhdm = limine_require(limine_requests.hhdm.response, "HHDM");
    unsigned levels = mm_cpu_features().levels;

    if (!mm_is_aligned(hhdm->offset, PAGE_SIZE) || hhdm->offset >> 63 == 0 ||
        !paging_is_canonical(hhdm->offset, levels))
        mm_fatal("the boot loader gave an HHDM offset of 0x%llx, which is not the page-aligned "
                 "address of a higher half with %u page table levels",
                 (unsigned long long)hhdm->offset, levels);
    boot->hhdm_offset = hhdm->offset;
}

static MM_INIT void limine_read_map(struct boot_info *boot)
{
    const struct limine_memory_map *map =
        limine_require(limine_requests.memory_map.response, "memory map");

    if (map->entries == NULL && map->count != 0)
        mm_fatal("the boot loader gave a memory map of %llu rows without an address",
                 (unsigned long long)map->count);
    boot->map = map->entries;
    boot->map_count = map->count;
}

static MM_INIT void limine_read_address(struct boot_info *boot)
{
    const struct limine_executable_address *address =
        limine_require(limine_requests.executable_address.response, "executable address");

    if (address->virtual_base != (vaddr_t)__kernel_begin)
        mm_fatal("the boot loader says that the kernel lies at 0x%llx; it was linked for 0x%llx",
                 (unsigned long long)address->virtual_base, (unsigned long long)__kernel_begin);
    if (!mm_is_aligned(address->physical_base, FRAME_SIZE) ||
        address->physical_base >= PHYSICAL_END)
        mm_fatal("the boot loader says that the kernel lies at physical 0x%llx, which is no frame",
                 (unsigned long long)address->physical_base);
    boot->kernel_virt = address->virtual_base;
    boot->kernel_phys = address->physical_base;
}

static MM_INIT struct boot_section limine_section(const char *begin, const char *end)
{
    struct boot_section section = { (vaddr_t)begin, (vaddr_t)end };

    return section;
}

static MM_INIT void limine_fill_sections(struct boot_info *boot)
{
    static const struct {
        const char *page;
        const char *name;
    } guards[] = {
        { __guard_0, "guard page below the boot stack" },
        { __guard_1, "guard page above the boot stack and below the double fault stack" },
        { __guard_2, "guard page below the NMI stack" },
        { __guard_3, "guard page below the machine check stack" },
        { __guard_4, "guard page above the machine check stack" },
    };
    const uint32_t count = sizeof(guards) / sizeof(guards[0]);

    _Static_assert(sizeof(guards) / sizeof(guards[0]) <=
                       sizeof(boot->guard) / sizeof(boot->guard[0]),
                   "every guard page has a place");
    boot->text = limine_section(__text_begin, __text_end);
    boot->rodata = limine_section(__rodata_begin, __rodata_end);
    boot->data = limine_section(__data_begin, __data_end);
    boot->init = limine_section(__init_begin, __init_end);
    boot->init_data = limine_section(__init_data_begin, __init_data_end);
    boot->ro_after_init = limine_section(__ro_after_init_begin, __ro_after_init_end);
    for (uint32_t i = 0; i < count; i++) {
        boot->guard[i] = limine_section(guards[i].page, guards[i].page + PAGE_SIZE);
        boot->guard_name[i] = guards[i].name;
    }
    boot->guard_count = count;
    boot->find_symbol = symbols_find;
}

/* ---- Memory that is never free ---- */

static MM_INIT void limine_keep(struct boot_info *boot, paddr_t base, uint64_t bytes, uint64_t type)
{
    if (bytes == 0)
        return;
    if (boot->keep_count == BOOT_KEEP_MAX)
        mm_fatal("the boot loader named more than %d pieces of memory to keep", BOOT_KEEP_MAX);
    boot->keep[boot->keep_count].base = base;
    boot->keep[boot->keep_count].length = bytes;
    boot->keep[boot->keep_count].type = type;
    boot->keep_count++;
}

static MM_INIT void limine_keep_file(struct boot_info *boot)
{
    const struct limine_executable_file *response = limine_requests.executable_file.response;

    if (response != NULL && response->file != NULL)
        limine_keep(boot, limine_to_phys(response->file->address), response->file->size_bytes,
                    BOOT_LOADER_RECLAIMABLE);
}

/* The rows usually lie side by side. Where they are strewn about, what lies between them is not
 * kept: the protocol puts them into loader memory, and the map says so. */
static MM_INIT void limine_keep_map(struct boot_info *boot)
{
    uint64_t lowest = UINT64_MAX, highest = 0;
    uint64_t row_bytes = sizeof(struct boot_range);

    for (uint64_t i = 0; i < boot->map_count; i++) {
        uint64_t row = (uint64_t)boot->map[i];

        if (row == 0)
            mm_fatal("the boot loader gave a memory map whose row %llu has no address",
                     (unsigned long long)i);
        lowest = row < lowest ? row : lowest;
        highest = row > highest ? row : highest;
    }
    if (boot->map_count == 0)
        return;
    limine_keep(boot, limine_to_phys((uint64_t)boot->map), boot->map_count * sizeof(boot->map[0]),
                BOOT_LOADER_RECLAIMABLE);
    if (highest - lowest <= boot->map_count * row_bytes * 4)
        limine_keep(boot, limine_to_phys(lowest), highest - lowest + row_bytes,
                    BOOT_LOADER_RECLAIMABLE);
}

/* The stack that the kernel was entered on: RSP points at its first word, a return address. The
 * kernel has left it, but no memory of the loader is free before it is released on purpose. */
static MM_INIT void limine_keep_stack(struct boot_info *boot, vaddr_t loader_stack)
{
    paddr_t top = limine_to_phys(loader_stack) + sizeof(uint64_t);
    paddr_t base = top > LIMINE_STACK_BYTES ? top - LIMINE_STACK_BYTES : 0;

    /* A stack inside the kernel image is kept with the image. */
    if (loader_stack < (vaddr_t)__kernel_begin && top < PHYSICAL_END)
        limine_keep(boot, base, top - base, BOOT_LOADER_RECLAIMABLE);
}

static MM_INIT uint64_t limine_framebuffer_count(void)
{
    const struct limine_framebuffers *response = limine_requests.framebuffer.response;

    return response != NULL && response->framebuffers != NULL ? response->count : 0;
}

/* The framebuffer's physical range.
 *   Returns:  false if it cannot be true. */
static MM_INIT bool limine_framebuffer_range(const struct limine_framebuffer *screen, paddr_t *base,
                                             uint64_t *bytes)
{
    *base = limine_to_phys(screen->address);
    return *base < PHYSICAL_END && !__builtin_mul_overflow(screen->pitch, screen->height, bytes) &&
           *bytes != 0 && *bytes <= PHYSICAL_END - *base;
}

static MM_INIT void limine_keep_framebuffers(struct boot_info *boot)
{
    const struct limine_framebuffers *response = limine_requests.framebuffer.response;

    for (uint64_t i = 0; i < limine_framebuffer_count(); i++) {
        const struct limine_framebuffer *screen = response->framebuffers[i];
        paddr_t base;
        uint64_t bytes;

        if (screen == NULL)
            continue;
        if (!limine_framebuffer_range(screen, &base, &bytes)) {
            console_print(
                "WARNING: framebuffer %llu of the boot loader is ignored: %llu rows of %llu "
                "bytes at 0x%llx",
                (unsigned long long)i, (unsigned long long)screen->height,
                (unsigned long long)screen->pitch, (unsigned long long)screen->address);
            continue;
        }
        limine_keep(boot, base, bytes, BOOT_FRAMEBUFFER);
        if (boot->framebuffer_bytes == 0) {
            boot->framebuffer_base = base;
            boot->framebuffer_bytes = bytes;
        }
    }
}

/* The one that boot_info.framebuffer_base names. Without an HHDM nobody knows where it is mapped. */
MM_INIT struct boot_framebuffer limine_framebuffer(void)
{
    const struct limine_framebuffers *response = limine_requests.framebuffer.response;
    const struct limine_hhdm *hhdm = limine_requests.hhdm.response;
    struct boot_framebuffer result = { .base = NULL };

    for (uint64_t i = 0; hhdm != NULL && i < limine_framebuffer_count(); i++) {
        const struct limine_framebuffer *screen = response->framebuffers[i];
        paddr_t base;
        uint64_t bytes;

        if (screen == NULL || !limine_framebuffer_range(screen, &base, &bytes))
            continue;
        result.base = (void *)(hhdm->offset + base);
        result.width = screen->width;
        result.height = screen->height;
        result.pitch = screen->pitch;
        result.bits_per_pixel = screen->bits_per_pixel;
        result.is_rgb = screen->model == LIMINE_FRAMEBUFFER_RGB;
        result.red_bits = screen->red_bits;
        result.red_shift = screen->red_shift;
        result.green_bits = screen->green_bits;
        result.green_shift = screen->green_shift;
        result.blue_bits = screen->blue_bits;
        result.blue_shift = screen->blue_shift;
        break;
    }
    return result;
}

MM_INIT const struct boot_info *limine_boot_info(vaddr_t loader_stack)
{
    struct boot_info *boot = &limine_info;

    limine_read_hhdm(boot);
    limine_read_map(boot);
    limine_read_address(boot);
    limine_fill_sections(boot);
    boot->command_line = limine_line;
    limine_keep(boot, boot->kernel_phys, (uint64_t)(__kernel_end - __kernel_begin),
                BOOT_EXECUTABLE);
    limine_keep_file(boot);
    limine_keep_map(boot);
    limine_keep_stack(boot, loader_stack);
    limine_keep_framebuffers(boot);
    return boot;
}

/* ---- CPUs ---- */

static void (*limine_cpu_enter)(void *argument);

/* The response and all rows are checked once; without a good one there is one CPU. */
uint64_t limine_cpu_count(void)
{
    const struct limine_mp *mp = limine_requests.mp.head.response;

    if (mp == NULL || mp->cpus == NULL)
        return 0;
    for (uint64_t i = 0; i < mp->count; i++) {
        if (mp->cpus[i] != NULL)
            continue;
        console_print("WARNING: row %llu of the boot loader's %llu CPUs has no address",
                      (unsigned long long)i, (unsigned long long)mp->count);
        return i;
    }
    return mp->count;
}

bool limine_cpu_list_is_whole(void)
{
    const struct limine_mp *mp = limine_requests.mp.head.response;

    if (mp == NULL || mp->count == 0)
        return true;
    for (uint64_t i = 0; mp->cpus != NULL && i < mp->count; i++) {
        if (mp->cpus[i] == NULL)
            return false;
    }
    return mp->cpus != NULL;
}

bool limine_cpu_is_boot(uint64_t index)
{
    const struct limine_mp *mp = limine_requests.mp.head.response;

    return mp->cpus[index]->lapic_id == mp->boot_lapic_id;
}

uint32_t limine_cpu_lapic_id(uint64_t index)
{
    const struct limine_mp *mp = limine_requests.mp.head.response;

    return mp->cpus[index]->lapic_id;
}

/* A CPU's first step in the kernel, on the loader's stack and page tables. */
static void limine_enter_cpu(struct limine_cpu *cpu)
{
    limine_cpu_enter((void *)cpu->extra);
}

/* The CPU jumps as soon as it sees `enter`: everything else is written before. */
void limine_release_cpu(uint64_t index, void (*enter)(void *argument), void *argument)
{
    const struct limine_mp *mp = limine_requests.mp.head.response;
    struct limine_cpu *cpu = mp->cpus[index];

    limine_cpu_enter = enter;
    cpu->extra = (uint64_t)argument;
    __atomic_store_n(&cpu->enter, limine_enter_cpu, __ATOMIC_RELEASE);
}

/* ---- The end ---- */

void limine_forget(void)
{
    limine_requests.hhdm.response = NULL;
    limine_requests.memory_map.response = NULL;
    limine_requests.executable_address.response = NULL;
    limine_requests.executable_file.response = NULL;
    limine_requests.executable_cmdline.response = NULL;
    limine_requests.rsdp.response = NULL;
    limine_requests.bootloader_info.response = NULL;
    limine_requests.firmware_type.response = NULL;
    limine_requests.framebuffer.response = NULL;
    limine_requests.stack_size.head.response = NULL;
    limine_requests.paging_mode.head.response = NULL;
    limine_requests.entry_point.head.response = NULL;
    limine_requests.mp.head.response = NULL;
    limine_info.map = NULL;
    limine_info.map_count = 0;
}
