/* SPDX-License-Identifier: MIT */
/* See heap_fixture.h. */
#include "heap_fixture.h"

#include <string.h>

struct machine heap_machine;
struct kheap *heap;
unsigned char *region;
size_t region_bytes;
size_t first_offset;

void heap_set_up(size_t bytes)
{
    struct kheap_stats stats;
    paddr_t base;

    machine_set_up_simple(&heap_machine, MM_MIB(48));
    assert_ok(pmm_alloc_contiguous(&heap_machine.pmm, bytes / FRAME_SIZE, MM_MIB(1), PMM_NO_LIMIT,
                                   &base));
    region = phys_to_virt(base);
    region_bytes = bytes;
    memset(region, 0xa5, bytes);
    assert_ok(kheap_init(region, bytes, NULL, &heap));
    stats = kheap_stats(heap);
    first_offset = bytes - stats.free_bytes;
    kheap_set_default(heap);
}

void heap_set_up_full(size_t bytes)
{
    heap_set_up(bytes);
    kheap_set_level(heap, KHEAP_FULL);
    assert_int_equal(kheap_level(heap), KHEAP_FULL);
}

void heap_set_up_growing(uint64_t ram, bool (*symbols)(vaddr_t address, struct boot_symbol *out))
{
    struct kheap_config config = {
        .first_bytes = MM_MIB(1), .first_is_zero = true, .bytes = MM_MIB(64), .find_symbol = symbols
    };
    paddr_t base;

    machine_set_up_simple(&heap_machine, ram);
    assert_ok(pmm_alloc_contiguous(&heap_machine.pmm, 256, MM_MIB(1), PMM_NO_LIMIT, &base));
    config.first = phys_to_virt(base);
    memset(config.first, 0, config.first_bytes);
    config.base = hhdm_offset();
    config.pmm = &heap_machine.pmm;
    assert_ok(kheap_create(&config, &heap));
    kheap_set_default(heap);
}

void assert_heap_sound(void)
{
    struct kheap_stats stats = kheap_stats(heap);

    assert_true(kheap_verify(heap));
    assert_int_equal(stats.region_bytes, region_bytes);
    assert_true(stats.free_bytes + stats.used_bytes <= region_bytes - first_offset);
    assert_true(stats.largest_free_block <= stats.free_bytes);
}

void assert_heap_stats_equal(struct kheap_stats a, struct kheap_stats b)
{
    assert_memory_equal(&a, &b, sizeof a);
}

void assert_all_free(void)
{
    kheap_drain(heap, KHEAP_ALL_SLOTS);
    assert_int_equal(kheap_stats(heap).used_blocks, 0);
    assert_int_equal(kheap_stats(heap).used_bytes, 0);
    assert_true(kheap_verify(heap));
}

const char *address_words(const char *reason, const void *address)
{
    static char words[96];

    mm_format(words, sizeof words, "%s|0x%lx", reason, (uintptr_t)address);
    return words;
}
