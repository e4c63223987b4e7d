/* SPDX-License-Identifier: MIT */
/* What mm says of an address in a fault report: every kind of address, at its borders, with the locks
 * of mm taken, before mm stands, and with a heap whose state is damaged. */
#include "support.h"

#include "mm/heap_parts.h"

#include <mm/explain.h>

#include <stdio.h>
#include <string.h>

#define HEAP_BYTES MM_MIB(2)
#define STACKS     mm.kvm.stacks.base
#define IMAGE      0xffffffff80000000u
#define IMAGE_PHYS MM_MIB(16)

static struct machine machine;
static struct mm mm;

/* RAM [1 MiB, 17 MiB) with kernel and heap in it, a reserved range, a framebuffer, a hole. */
static void mm_set_up(void)
{
    const struct boot_range list[] = {
        ROW(0xf0000, MM_MIB(1), BOOT_RESERVED),
        ROW(MM_MIB(1), MM_MIB(16), BOOT_USABLE),
        ROW(MM_MIB(16), MM_MIB(17), BOOT_EXECUTABLE),
        ROW(MM_MIB(20), MM_MIB(21), BOOT_FRAMEBUFFER),
    };
    paddr_t heap;

    machine_set_up(&machine, list, COUNT_OF(list), false);
    mm = (struct mm){ .map = machine.map, .pmm = machine.pmm, .cpu = features_of(4, 46, true) };
    mm.boot.text = (struct boot_section){ IMAGE, IMAGE + 0x3000 };
    mm.boot.rodata = (struct boot_section){ IMAGE + 0x3000, IMAGE + 0x5000 };
    mm.boot.data = (struct boot_section){ IMAGE + 0x5000, IMAGE + 0x9000 };
    mm.boot.guard[0] = (struct boot_section){ IMAGE + 0x7000, IMAGE + 0x8000 };
    mm.boot.guard_count = 1;
    mm.boot.kernel_virt = IMAGE;
    mm.boot.kernel_phys = IMAGE_PHYS;
    assert_ok(paging_init(&mm.kernel_space, &mm.pmm, &mm.cpu));
    const struct kvm_window taken = { IMAGE, IMAGE + MM_MIB(2) };
    assert_ok(kvm_init(&mm.kvm, &mm.kernel_space, &taken, 1));
    assert_ok(
        pmm_alloc_contiguous(&mm.pmm, HEAP_BYTES / FRAME_SIZE, MM_MIB(1), PMM_NO_LIMIT, &heap));
    assert_ok(kheap_init(phys_to_virt(heap), HEAP_BYTES, NULL, &mm.heap));
}

#define assert_explained(address, ...)                                                             \
    do {                                                                                           \
        char expected_text[160], got_text[160];                                                    \
        snprintf(expected_text, sizeof(expected_text), __VA_ARGS__);                               \
        mm_explain(&mm, (vaddr_t)(address), got_text, sizeof(got_text));                           \
        assert_string_equal(got_text, expected_text);                                              \
    } while (0)

static vaddr_t hhdm(paddr_t address)
{
    return hhdm_offset() + address;
}

static void explain_null_has_an_offset_both_ways(void **state)
{
    (void)state;
    mm_set_up();
    assert_explained(0, "null + 0x0");
    assert_explained(0x18, "null + 0x18");
    assert_explained(0xfff, "null + 0xfff");
    assert_explained(0x1000, "lower half, outside everything that mm maps");
    assert_explained(0 - (vaddr_t)8, "null - 0x8");
    assert_explained(0 - (vaddr_t)0x1001, "higher half, outside everything that mm maps");
}

static void explain_page_of_nobody_tells_where_it_leads(void **state)
{
    (void)state;
    mm_set_up();
    assert_ok(paging_map_page(&mm.kernel_space, MM_MIB(4), 0x5000, PAGING_USER));
    assert_ok(paging_map_range(&mm.kernel_space, MM_MIB(6), MM_MIB(8), MM_MIB(2), PAGING_WRITE));
    assert_explained(MM_MIB(4), "lower half, a page mapped to physical 0x5000");
    assert_explained(MM_MIB(4) + 4095, "lower half, a page mapped to physical 0x5000");
    assert_explained(MM_MIB(6) + 0x3008, "lower half, a page mapped to physical 0x803000");
    assert_explained(MM_MIB(4) + PAGE_SIZE, "lower half, outside everything that mm maps");
}

static void explain_canonical_depends_on_the_levels(void **state)
{
    (void)state;
    mm_set_up();
    assert_explained(0x0000800000000000u, "not canonical");
    assert_explained(0xffff7fffffffffffu, "not canonical");
    assert_explained(0x0123456789abcdefu, "not canonical");
    mm.cpu.levels = 5;
    assert_explained(0x0000800000000000u, "lower half, outside everything that mm maps");
    assert_explained(0x0100000000000000u, "not canonical");
}

static void explain_image_names_the_section(void **state)
{
    (void)state;
    mm_set_up();
    assert_explained(IMAGE, "kernel text + 0x0");
    assert_explained(IMAGE + 0x2fff, "kernel text + 0x2fff");
    assert_explained(IMAGE + 0x3000, "kernel rodata + 0x0");
    assert_explained(IMAGE + 0x5008, "kernel data + 0x8");
    assert_explained(IMAGE + 0x7010, "guard page of the kernel image + 0x10");
    assert_explained(IMAGE + 0x8000, "kernel data + 0x3000");
    assert_explained(IMAGE + 0x9000, "higher half, outside everything that mm maps");
}

static void explain_heap_names_the_block_and_the_byte(void **state)
{
    (void)state;
    mm_set_up();
    uint8_t *small = kheap_alloc(mm.heap, 64), *large = kheap_alloc(mm.heap, 5000);
    void *buddy = kheap_alloc(mm.heap, 5000); /* behind it: nothing merges when it is freed */
    uintptr_t at = (uintptr_t)small, large_at = (uintptr_t)large;

    assert_explained(at, "heap block 0x%lx of 64 bytes, byte 0", at);
    assert_explained(at + 12, "heap block 0x%lx of 64 bytes, byte 12", at);
    assert_explained(large_at + 5119, "heap block 0x%lx of 5120 bytes, byte 5119", large_at);
    kheap_free(mm.heap, large);
    assert_explained(large_at + 7, "free heap block 0x%lx of 5120 bytes, byte 7", large_at);
    assert_explained((uintptr_t)mm.heap + 3, "state of the heap, byte 3");
    kheap_free(mm.heap, buddy);
    kheap_free(mm.heap, small);
}

/*   guard | 2 MiB | .. | 64 KiB | nothing .....                                             */
static void explain_heap_window_counts_from_the_heap(void **state)
{
    struct kheap *heap;

    (void)state;
    mm_set_up();
    vaddr_t base = kvm_heap_window(&mm.kvm).base;
    heap = mm.heap;
    mm.heap = NULL;
    assert_explained(base, "window of the heap, before there is a heap");
    mm.heap = heap;
    assert_explained(base + 8, "window of the heap + 0x8, where no memory is");
    assert_ok(kvm_heap_commit(&mm.kvm, base, MM_MIB(2)));
    assert_ok(kvm_heap_commit(&mm.kvm, base + MM_MIB(4), MM_KIB(64)));
    assert_explained(base - 1, "heap guard, 1 byte below the heap");
    assert_explained(mm.kvm.heap.base, "heap guard, 2097152 bytes below the heap");
    assert_explained(base + 5, "heap, byte 5");
    assert_explained(base + MM_MIB(2), "heap guard, 0 bytes above the heap");
    assert_explained(base + MM_MIB(2) + 9, "heap guard, 9 bytes above the heap");
    assert_explained(base + MM_MIB(4), "heap, byte 4194304");
    assert_explained(base + MM_MIB(4) + MM_KIB(64) + 70000,
                     "heap guard, 70000 bytes above the heap");
    vaddr_t end = base + MM_MIB(4) + MM_KIB(64);
    assert_explained(end + MM_MIB(2) - 1, "heap guard, 2097151 bytes above the heap");
    assert_explained(end + MM_MIB(2), "window of the heap + 0x610000, where no memory is");
    assert_explained(base + MM_GIB(1), "window of the heap + 0x40000000, where no memory is");
}

/*   slot 2: | 61 unmapped pages | guard | 1 page | guard |       slot 3: no stack */
static void explain_stack_tells_stack_guard_and_overflow(void **state)
{
    vaddr_t top = STACKS + 3 * KVM_STACK_SLOT_BYTES - PAGE_SIZE;

    (void)state;
    mm_set_up();
    mm.kvm.stack_pages[2] = 1;
    mm.kvm.stack_pages[4] = KVM_STACK_BUSY;
    assert_explained(top - 1, "kernel stack 2, 1 byte below its top");
    assert_explained(top - PAGE_SIZE, "kernel stack 2, 4096 bytes below its top");
    assert_explained(top, "guard page above kernel stack 2");
    assert_explained(top - PAGE_SIZE - 8, "guard page below kernel stack 2 (stack overflow)");
    assert_explained(top - 3 * PAGE_SIZE, "8192 bytes below kernel stack 2 (stack overflow)");
    assert_explained(top + PAGE_SIZE, "kernel stack slot 3, which holds no stack");
    assert_explained(STACKS + 5 * KVM_STACK_SLOT_BYTES - PAGE_SIZE - 8,
                     "kernel stack slot 4, which holds no stack");
    assert_explained(STACKS + KVM_STACK_SLOTS * KVM_STACK_SLOT_BYTES,
                     "window of the kernel stacks, behind the last slot");
}

static void explain_device_names_its_physical_address(void **state)
{
    (void)state;
    mm_set_up();
    vaddr_t base = mm.kvm.devices.base, device;
    assert_explained(base + 0x3000, "window of device registers + 0x3000, where no device is");
    assert_ok(kvm_map_device(&mm.kvm, 0xfee00010, 8, PAGING_UNCACHED, &device));
    assert_explained(device + 4, "device at physical 0xfee00014, byte 20 of its pages");
    assert_explained(device - 0x11, "guard page below the device at 0x%lx", device - 0x10);
    assert_explained(device - 0x10 + PAGE_SIZE, "guard page above the device at 0x%lx",
                     device - 0x10);
    kvm_unmap_device(&mm.kvm, device);
    assert_explained(device, "window of device registers + 0x%lx, where no device is",
                     device - base);
}

static void stack_overflow_is_what_lies_below_a_stack(void **state)
{
    vaddr_t top = STACKS + KVM_STACK_SLOT_BYTES - PAGE_SIZE;

    (void)state;
    mm_set_up();
    mm.kvm.stack_pages[0] = 2;
    assert_true(mm_is_stack_overflow(&mm, top - 2 * PAGE_SIZE - 1));
    assert_true(mm_is_stack_overflow(&mm, STACKS));
    assert_false(mm_is_stack_overflow(&mm, top - 2 * PAGE_SIZE));
    assert_false(mm_is_stack_overflow(&mm, top));
    assert_false(mm_is_stack_overflow(&mm, top + PAGE_SIZE));
    assert_false(mm_is_stack_overflow(&mm, STACKS - 1));
    assert_false(mm_is_stack_overflow(&mm, 0));
}

static void explain_hhdm_knows_type_and_state_of_the_frame(void **state)
{
    paddr_t frame, table, metadata;

    (void)state;
    mm_set_up();
    metadata = virt_to_phys(machine.metadata);
    assert_ok(pmm_alloc_frame(&mm.pmm, &frame));
    assert_ok(pmm_alloc_table(&mm.pmm, &table));
    assert_explained(hhdm(frame + 18), "HHDM of frame 0x%lx, byte 18 (usable, used)", frame);
    assert_explained(hhdm(table), "HHDM of frame 0x%lx, byte 0 (usable, page table)", table);
    pmm_free_frame(&mm.pmm, frame);
    assert_explained(hhdm(frame), "HHDM of frame 0x%lx, byte 0 (usable, free)", frame);
    assert_explained(hhdm(mm_round_down(metadata, FRAME_SIZE)),
                     "HHDM of frame 0x%lx, byte 0 (metadata, reserved)",
                     mm_round_down(metadata, FRAME_SIZE));
    assert_explained(hhdm(MM_MIB(17) - 1),
                     "HHDM of frame 0x10ff000, byte 4095 (executable, reserved)"); /* behind data */
    assert_explained(hhdm(IMAGE_PHYS + 0x1234), "HHDM of frame 0x1001000: kernel text + 0x1234");
    assert_explained(hhdm(0xf0008), "HHDM of physical 0xf0008 (reserved)");
    assert_explained(hhdm(MM_MIB(20)), "HHDM of physical 0x1400000 (framebuffer)");
    assert_explained(hhdm(MM_MIB(18)), "HHDM of physical 0x1200000 (no memory)");
    assert_explained(hhdm(0xfee00000), "HHDM of physical 0xfee00000 (no memory)");
    assert_explained(hhdm(MM_GIB(4)), "lower half, outside everything that mm maps");
}

static bool symbol_find(vaddr_t address, struct boot_symbol *out)
{
    *out = (struct boot_symbol){ "kmain", IMAGE + 0x100, 0x80 };
    return address >= out->begin && address - out->begin < out->bytes;
}

static void explain_image_names_symbols_guards_and_what_is_gone(void **state)
{
    (void)state;
    mm_set_up();
    mm.boot.find_symbol = symbol_find;
    mm.boot.guard_name[0] = "guard page below the boot stack";
    mm.boot.init = (struct boot_section){ IMAGE + 0x9000, IMAGE + 0xb000 };
    mm.boot.init_data = (struct boot_section){ IMAGE + 0x5000, IMAGE + 0x6000 };
    mm.boot.ro_after_init = (struct boot_section){ IMAGE + 0x6000, IMAGE + 0x7000 };
    assert_explained(IMAGE + 0x112, "text of function kmain + 0x12");
    assert_explained(IMAGE + 0x180, "kernel text + 0x180");
    assert_explained(hhdm(IMAGE_PHYS + 0x112),
                     "HHDM of frame 0x1000000: text of function kmain + 0x12");
    assert_explained(IMAGE + 0x7010, "guard page below the boot stack");
    assert_explained(IMAGE + 0x9010, "kernel init + 0x10");
    assert_explained(IMAGE + 0x5010, "kernel init_data + 0x10");
    assert_explained(IMAGE + 0x6010, "kernel ro_after_init + 0x10");
    assert_explained(hhdm(IMAGE_PHYS + 0x9010), "HHDM of frame 0x1009000: kernel init + 0x10");
    mm.kvm.init_released = true;
    assert_explained(IMAGE + 0x9010, "kernel init + 0x10 (given back after boot)");
    assert_explained(IMAGE + 0x5010, "kernel init_data + 0x10 (given back after boot)");
    assert_explained(IMAGE + 0x6010, "kernel ro_after_init + 0x10");
    assert_explained(hhdm(IMAGE_PHYS + 0x9010),
                     "HHDM of frame 0x1009000, byte 16 (executable, reserved)");
}

static void explain_block_counts_past_its_end(void **state)
{
    vaddr_t block;

    (void)state;
    mm_set_up();
    assert_explained(mm.kvm.blocks.base + 8, "window of blocks + 0x8, where no block is");
    assert_ok(kvm_alloc(&mm.kvm, 3 * PAGE_SIZE, 0, &block));
    assert_explained(block + 5, "block 0x%lx of 12288 bytes, byte 5", block);
    assert_explained(block + 3 * PAGE_SIZE + 17,
                     "17 bytes past the end of the 12288-byte block 0x%lx (guard)", block);
    assert_explained(block - 1, "1 byte below the 12288-byte block 0x%lx (guard)", block);
    assert_explained(block + 4 * PAGE_SIZE, "window of blocks + 0x%lx, where no block is",
                     block + 4 * PAGE_SIZE - mm.kvm.blocks.base);
    kvm_free(&mm.kvm, block);
    assert_explained(block, "window of blocks + 0x%lx, where no block is",
                     block - mm.kvm.blocks.base);
}

/* At the full level the heap knows how many bytes were asked for, and where red zones are. */
static void explain_heap_counts_past_what_was_asked_for(void **state)
{
    char text[160], expected[160];

    (void)state;
    mm_set_up();
    kheap_set_level(mm.heap, KHEAP_FULL);
    uintptr_t block = (uintptr_t)kheap_alloc(mm.heap, 100);
    assert_explained(block, "heap block 0x%lx of 100 bytes, byte 0", block);
    assert_explained(block + 99, "heap block 0x%lx of 100 bytes, byte 99", block);
    assert_explained(block + 100, "0 bytes past the end of the 100-byte heap block 0x%lx", block);
    assert_explained(block - 1, "1 byte below the 100-byte heap block 0x%lx", block);
    mm_explain_fault(&mm, block + 103, 2, text, sizeof(text));
    snprintf(expected, sizeof(expected),
             "write to 0x%lx: 3 bytes past the end of the 100-byte heap block 0x%lx", block + 103,
             block);
    assert_string_equal(text, expected);
    kheap_free(mm.heap, (void *)block);
}

static void explain_fault_says_what_was_tried(void **state)
{
    char text[160];

    (void)state;
    mm_set_up();
    mm_explain_fault(&mm, 0x18, 2, text, sizeof(text));
    assert_string_equal(text, "write to 0x18: null + 0x18");
    mm_explain_fault(&mm, 0x18, 0, text, sizeof(text));
    assert_string_equal(text, "read of 0x18: null + 0x18");
    mm_explain_fault(&mm, 0x18, 0x14, text, sizeof(text));
    assert_string_equal(text, "instruction fetch from 0x18: null + 0x18");
}

/* ---- The further lines ---- */

static char more[8][MM_LOG_LINE_MAX];
static size_t more_count;

static void note_more(void *context, const char *line)
{
    assert_ptr_equal(context, &mm);
    assert_true(more_count < COUNT_OF(more));
    snprintf(more[more_count++], sizeof(more[0]), "%s", line);
}

static void assert_more(vaddr_t address, size_t count)
{
    more_count = 0;
    mm_explain_more(&mm, address, note_more, &mm);
    for (size_t i = 0; i < more_count && more_count != count; i++)
        print_message("%s\n", more[i]);
    assert_int_equal(more_count, count);
}

#define assert_line(index, ...)                                                                    \
    do {                                                                                           \
        char expected_text[MM_LOG_LINE_MAX];                                                       \
        snprintf(expected_text, sizeof(expected_text), __VA_ARGS__);                               \
        assert_string_equal(more[index], expected_text);                                           \
    } while (0)

static void explain_more_shows_window_levels_and_frame(void **state)
{
    vaddr_t block;
    paddr_t frame;

    (void)state;
    mm_set_up();
    assert_ok(kvm_alloc(&mm.kvm, PAGE_SIZE, 0, &block));
    assert_ok(paging_translate(&mm.kernel_space, block, &frame));
    assert_more(block + 5, 3);
    assert_line(0, "window of the blocks, 0x%lx-0x%lx", mm.kvm.blocks.base, mm.kvm.blocks.end);
    assert_line(1, "page tables: PML4e rwx--, PDPTe rwx--, PDe rwx--, PTe rw--g (4 KB) -> 0x%lx",
                frame + 5);
    assert_line(2, "frame 0x%lx: usable, used", frame);
    assert_more(block - 1, 2);
    assert_line(1, "page tables: PML4e rwx--, PDPTe rwx--, PDe rwx--, PTe not present");
    assert_more(mm.kvm.heap.base, 2);
    assert_line(0, "window of the heap, 0x%lx-0x%lx", mm.kvm.heap.base, mm.kvm.heap.end);
    assert_line(1, "page tables: PML4e not present");
    assert_more(0x0123456789abcdefu, 0);
}

/* A frame seen through the HHDM: who has it mapped is found in every window. */
static void explain_more_finds_the_owner_of_a_frame(void **state)
{
    vaddr_t block, top, heap;
    paddr_t frame;

    (void)state;
    mm_set_up();
    heap = kvm_heap_window(&mm.kvm).base + MM_MIB(2);
    assert_ok(kvm_heap_commit(&mm.kvm, heap, MM_MIB(2)));
    assert_ok(kvm_alloc_stack(&mm.kvm, MM_KIB(16), &top));
    assert_ok(kvm_alloc(&mm.kvm, MM_KIB(40), 0, &block));
    assert_ok(paging_translate(&mm.kernel_space, block + MM_KIB(36) + 7, &frame));
    assert_more(hhdm(frame), 4);
    assert_line(3, "the frame is mapped at 0x%lx too: block 0x%lx of 40960 bytes, byte 36871",
                block + MM_KIB(36) + 7, block);
    assert_line(2, "frame 0x%lx: usable, used", mm_round_down(frame, FRAME_SIZE));
    assert_ok(paging_translate(&mm.kernel_space, top - 8, &frame));
    assert_more(hhdm(frame), 4);
    assert_line(3, "the frame is mapped at 0x%lx too: kernel stack 0, 8 bytes below its top",
                top - 8);
    assert_ok(paging_translate(&mm.kernel_space, heap + MM_MIB(1) + 3, &frame));
    assert_more(hhdm(frame), 4);
    assert_line(3, "the frame is mapped at 0x%lx too: heap, byte %lu", heap + MM_MIB(1) + 3,
                MM_MIB(3) + 3);
    assert_ok(pmm_alloc_frame(&mm.pmm, &frame)); /* mapped nowhere */
    assert_more(hhdm(frame), 3);
    assert_line(2, "frame 0x%lx: usable, used", frame);
    assert_more(hhdm(mm.kernel_space.root), 3);
    assert_line(2, "frame 0x%lx: usable, page table", mm.kernel_space.root);
}

static void explain_more_names_the_neighbours_in_the_heap(void **state)
{
    uint8_t *block[3];

    (void)state;
    mm_set_up();
    for (size_t i = 0; i < COUNT_OF(block); i++)
        block[i] = kheap_alloc(mm.heap, 4096);
    kheap_free(mm.heap, block[2]);
    more_count = 0;
    mm_explain_more(&mm, (uintptr_t)block[1] + 9, note_more, &mm);
    assert_true(more_count >= 2);
    assert_non_null(strstr(more[more_count - 2], "below: heap block 0x"));
    assert_non_null(strstr(more[more_count - 1], "above: free heap block 0x"));
    kheap_free(mm.heap, block[1]);
    kheap_free(mm.heap, block[0]);
}

static void explain_works_before_mm_is_up(void **state)
{
    (void)state;
    mm = (struct mm){ 0 };
    init_hhdm(0, 0);
    assert_explained(0x18, "null + 0x18");
    assert_explained(0x0123456789abcdefu, "not canonical");
    assert_explained(IMAGE, "higher half, outside everything that mm maps");
    assert_explained(0xffffff0000000000u, "higher half, outside everything that mm maps");
    assert_int_equal(pmm_peek_frame(&mm.pmm, MM_MIB(1)), PMM_FRAME_OUTSIDE);
    /* The loader's HHDM, no map yet. */
    init_hhdm(0xffff800000000000u, MM_GIB(64));
    assert_explained(0xffff800000001000u, "HHDM of physical 0x1000 (no memory)");
    init_hhdm(0, 0);
}

/* A lock that is taken twice by one thread is a violation of the hosted port, which fails the test.
 */
static void explain_takes_no_lock(void **state)
{
    struct mm_port_lock *locks[] = { &mm.pmm.lock, &mm.kernel_space.lock, &mm.kvm.lock, NULL };
    uint64_t saved[COUNT_OF(locks)];

    (void)state;
    mm_set_up();
    mm.kvm.stack_pages[0] = 1;
    uintptr_t block = (uintptr_t)kheap_alloc(mm.heap, 64);
    locks[3] = &mm.heap->lock;
    for (size_t i = 0; i < COUNT_OF(locks); i++)
        saved[i] = mm_port_lock(locks[i]);
    assert_explained(block + 1, "heap block 0x%lx of 64 bytes, byte 1", block);
    assert_explained(hhdm(MM_MIB(17) - 1),
                     "HHDM of frame 0x10ff000, byte 4095 (executable, reserved)");
    assert_explained(STACKS + KVM_STACK_SLOT_BYTES - PAGE_SIZE - 1,
                     "kernel stack 0, 1 byte below its top");
    for (size_t i = COUNT_OF(locks); i > 0; i--)
        mm_port_unlock(locks[i - 1], saved[i - 1]);
}

static void explain_keeps_to_the_buffer(void **state)
{
    char buffer[16];

    (void)state;
    mm_set_up();
    memset(buffer, '#', sizeof(buffer));
    mm_explain(&mm, 0x18, buffer, 5);
    assert_string_equal(buffer, "null");
    assert_int_equal(buffer[5], '#');
    mm_explain(&mm, 0x18, buffer, 1);
    assert_string_equal(buffer, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(explain_null_has_an_offset_both_ways),
        TEST(explain_page_of_nobody_tells_where_it_leads),
        TEST(explain_canonical_depends_on_the_levels),
        TEST(explain_image_names_the_section),
        TEST(explain_heap_names_the_block_and_the_byte),
        TEST(explain_heap_window_counts_from_the_heap),
        TEST(explain_stack_tells_stack_guard_and_overflow),
        TEST(explain_device_names_its_physical_address),
        TEST(stack_overflow_is_what_lies_below_a_stack),
        TEST(explain_hhdm_knows_type_and_state_of_the_frame),
        TEST(explain_image_names_symbols_guards_and_what_is_gone),
        TEST(explain_block_counts_past_its_end),
        TEST(explain_heap_counts_past_what_was_asked_for),
        TEST(explain_fault_says_what_was_tried),
        TEST(explain_more_shows_window_levels_and_frame),
        TEST(explain_more_finds_the_owner_of_a_frame),
        TEST(explain_more_names_the_neighbours_in_the_heap),
        TEST(explain_works_before_mm_is_up),
        TEST(explain_takes_no_lock),
        TEST(explain_keeps_to_the_buffer),
    };

    return RUN_TESTS(tests);
}
