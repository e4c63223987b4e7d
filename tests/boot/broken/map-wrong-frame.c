/* SPDX-License-Identifier: MIT */
/* wrap: run_memory_tests paging_map_page paging_translate paging_unmap_page */
/* Mappings lead to another frame than the one that paging_translate names: only a store shows it.
 *
 * seen by: paging: what is written through a page arrives in its frame
 * seen by: paging: an unmapped page leaves no translation
 * seen by: pmm: the tests leave no frame behind */
#include "tests/boot/broken/broken.h"

static uint8_t other_page[PAGE_SIZE] __attribute__((aligned(4096)));
static vaddr_t mapped_page;
static paddr_t mapped_frame;

BROKEN_WRAPS(mm_status_t, paging_map_page, struct address_space *space, vaddr_t page, paddr_t frame,
             paging_rights_t rights);

mm_status_t __wrap_paging_map_page(struct address_space *space, vaddr_t page, paddr_t frame,
                                   paging_rights_t rights)
{
    const struct boot_info *boot = &mm_kernel()->boot;
    paddr_t other = boot->kernel_phys + ((vaddr_t)other_page - boot->kernel_virt);
    mm_status_t status;

    if (!broken_now || rights != PAGING_WRITE)
        return __real_paging_map_page(space, page, frame, rights);
    status = __real_paging_map_page(space, page, other, rights);
    if (status == MM_OK) {
        mapped_page = page;
        mapped_frame = frame;
    }
    return status;
}

BROKEN_WRAPS(mm_status_t, paging_translate, struct address_space *space, vaddr_t address,
             paddr_t *out);

mm_status_t __wrap_paging_translate(struct address_space *space, vaddr_t address, paddr_t *out)
{
    mm_status_t status = __real_paging_translate(space, address, out);

    if (status == MM_OK && mapped_page != 0 && mm_round_down(address, PAGE_SIZE) == mapped_page)
        *out = mapped_frame + address % PAGE_SIZE;
    return status;
}

BROKEN_WRAPS(mm_status_t, paging_unmap_page, struct address_space *space, vaddr_t page,
             paddr_t *frame);

mm_status_t __wrap_paging_unmap_page(struct address_space *space, vaddr_t page, paddr_t *frame)
{
    mm_status_t status = __real_paging_unmap_page(space, page, frame);

    if (status == MM_OK && page == mapped_page) {
        mapped_page = 0;
        if (frame != NULL)
            *frame = mapped_frame;
    }
    return status;
}
