/* SPDX-License-Identifier: MIT */
/* What mm says of an address right at the border of a thing, and inside a large leaf. */
#include "support.h"

#include <mm/explain.h>

#include <stdio.h>
#include <string.h>

#define IMAGE      ((vaddr_t)0xffffffff80000000)
#define IMAGE_PHYS MM_MIB(16)

static struct machine machine;
static struct mm mm;

/* RAM up to 16 MiB, the image's text behind it; no heap. */
static void mm_set_up(void)
{
    const struct boot_range list[] = {
        ROW(MM_MIB(1), IMAGE_PHYS, BOOT_USABLE),
        ROW(IMAGE_PHYS, IMAGE_PHYS + MM_MIB(1), BOOT_EXECUTABLE),
    };
    const struct kvm_window taken = { IMAGE, IMAGE + MM_MIB(2) };

    machine_set_up(&machine, list, COUNT_OF(list), false);
    mm = (struct mm){ .map = machine.map, .pmm = machine.pmm, .cpu = features_of(4, 46, true) };
    mm.boot.kernel_virt = IMAGE;
    mm.boot.kernel_phys = IMAGE_PHYS;
    mm.boot.text = (struct boot_section){ IMAGE, IMAGE + 0x3000 };
    assert_ok(paging_init(&mm.kernel_space, &mm.pmm, &mm.cpu));
    assert_ok(kvm_init(&mm.kvm, &mm.kernel_space, &taken, 1));
}

#define assert_explained(address, ...)                                                             \
    do {                                                                                           \
        char expected_text[160], got_text[160];                                                    \
        snprintf(expected_text, sizeof(expected_text), __VA_ARGS__);                               \
        mm_explain(&mm, (vaddr_t)(address), got_text, sizeof(got_text));                           \
        assert_string_equal(got_text, expected_text);                                              \
    } while (0)

/* Bit 12 of a large leaf is no part of its frame's address. */
static void explain_device_in_a_large_leaf_names_its_physical_address(void **state)
{
    static const paging_rights_t types[] = { PAGING_UNCACHED, PAGING_WRITE_COMBINING };
    const paddr_t phys = 0xfd000000;

    (void)state;
    mm_set_up();
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        vaddr_t device;

        assert_ok(kvm_map_device(&mm.kvm, phys, MM_MIB(4), types[i], &device));
        assert_int_equal(mm.kernel_space.stats.leaves[1], 2);
        for (uint64_t at = 0; at < MM_MIB(4); at += 0x12345)
            assert_explained(device + at, "device at physical 0x%lx, byte %lu of its pages",
                             phys + at, at);
        assert_explained(device + MM_MIB(4), "guard page above the device at 0x%lx", device);
        kvm_unmap_device(&mm.kvm, device);
    }
}

static void explain_first_byte_behind_a_block_is_past_its_end(void **state)
{
    vaddr_t block;

    (void)state;
    mm_set_up();
    assert_ok(kvm_alloc(&mm.kvm, PAGE_SIZE, 0, &block));
    assert_explained(block, "block 0x%lx of 4096 bytes, byte 0", block);
    assert_explained(block + PAGE_SIZE - 1, "block 0x%lx of 4096 bytes, byte 4095", block);
    assert_explained(block + PAGE_SIZE, "0 bytes past the end of the 4096-byte block 0x%lx (guard)",
                     block);
    assert_explained(block + PAGE_SIZE + 1,
                     "1 byte past the end of the 4096-byte block 0x%lx (guard)", block);
    kvm_free(&mm.kvm, block);
}

static bool symbol_find(vaddr_t address, struct boot_symbol *out)
{
    *out = (struct boot_symbol){ "kmain", IMAGE + 0x100, 0x80 };
    return address >= out->begin && address - out->begin < out->bytes;
}

static void explain_symbol_has_a_first_and_a_last_byte(void **state)
{
    (void)state;
    mm_set_up();
    mm.boot.find_symbol = symbol_find;
    assert_explained(IMAGE + 0xff, "kernel text + 0xff");
    assert_explained(IMAGE + 0x100, "text of function kmain + 0x0");
    assert_explained(IMAGE + 0x17f, "text of function kmain + 0x7f");
    assert_explained(IMAGE + 0x180, "kernel text + 0x180");
}

static char levels_line[MM_LOG_LINE_MAX];

static void note_levels(void *context, const char *line)
{
    (void)context;
    if (strncmp(line, "page tables: ", 13) == 0)
        snprintf(levels_line, sizeof levels_line, "%s", line + 13);
}

static void explain_more_shows_leaves_of_each_size(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *words;
    } sizes[] = {
        { PAGE_SIZE, "PML4e rwx--, PDPTe rwx--, PDe rwx--, PTe rw--g (4 KB) -> 0x200000123" },
        { MM_MIB(2), "PML4e rwx--, PDPTe rwx--, PDe rw--g (2 MB) -> 0x200000123" },
        { MM_GIB(1), "PML4e rwx--, PDPTe rw--g (1 GB) -> 0x200000123" },
    };
    const vaddr_t page = (vaddr_t)0xffffc00000000000;

    (void)state;
    mm_set_up();
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        assert_ok(paging_map_range(&mm.kernel_space, page, MM_GIB(8), sizes[i].bytes,
                                   PAGING_WRITE | PAGING_GLOBAL));
        mm_explain_more(&mm, page + 0x123, note_levels, NULL);
        assert_string_equal(levels_line, sizes[i].words);
        assert_ok(paging_unmap_range(&mm.kernel_space, page, sizes[i].bytes));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(explain_device_in_a_large_leaf_names_its_physical_address),
        TEST(explain_first_byte_behind_a_block_is_past_its_end),
        TEST(explain_symbol_has_a_first_and_a_last_byte),
        TEST(explain_more_shows_leaves_of_each_size),
    };

    return RUN_TESTS(tests);
}
