/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests kheap_alloc kheap_free */
/* The second block of 1024 bytes lies in the firmware's ROM: stores to it are lost.
 *
 * seen by: heap: a block keeps what is written */
#include "tests/boot/broken/broken.h"

#define ROM_FRAME ((paddr_t)0xfffff000)

static void *rom;

BROKEN_WRAPS(void *, kheap_alloc, struct kheap *heap, size_t bytes);

void *__wrap_kheap_alloc(struct kheap *heap, size_t bytes)
{
    static unsigned count;
    struct mm *mm = mm_kernel();
    vaddr_t page = mm->kvm.stacks.end - MM_MIB(64);

    if (!broken_now || bytes != 1024 || ++count != 2)
        return __real_kheap_alloc(heap, bytes);
    if (paging_map_page(&mm->kernel_space, page, ROM_FRAME, PAGING_WRITE) != MM_OK)
        return NULL;
    rom = (void *)page;
    return rom;
}

BROKEN_WRAPS(void, kheap_free, struct kheap *heap, void *block);

void __wrap_kheap_free(struct kheap *heap, void *block)
{
    if (block == NULL || block != rom)
        __real_kheap_free(heap, block);
    else if (paging_unmap_page(&mm_kernel()->kernel_space, (vaddr_t)block, NULL) == MM_OK)
        rom = NULL;
}
