/* SPDX-License-Identifier: MIT */
/* What the files of mm_explain share. Internal to mm.
 *
 *      explain.c         the one line           explain_image.c   sections and symbols
 *      explain_more.c    the further lines */
#ifndef MM_EXPLAIN_PARTS_H
#define MM_EXPLAIN_PARTS_H

#include <mm/explain.h>

struct explain_text {
    char *buffer;
    size_t capacity;
};

/* Writes what the address is, if it lies in the kernel image; false if it does not. */
bool explain_image(const struct mm *mm, vaddr_t address, struct explain_text text);

/* The same for an address of the HHDM whose frame is one of the image's. */
bool explain_image_alias(const struct mm *mm, vaddr_t address, struct explain_text text);

/* The physical address that the HHDM shows at `address`; false if that is no address of the HHDM. */
bool explain_hhdm_physical(const struct mm *mm, vaddr_t address, paddr_t *out);

/* The leaf that maps the address in the kernel's space; false if there is none. */
bool explain_leaf(const struct mm *mm, vaddr_t address, struct paging_level *out);
paddr_t explain_leaf_physical(const struct paging_level *leaf, vaddr_t address);

/* Bytes that an entry of this level covers. */
uint64_t explain_level_bytes(unsigned level);

/* ", free", ", used", ...; "" for what is no frame of the pmm. */
const char *explain_frame_state(enum pmm_frame_state state);

static inline bool explain_is_in(vaddr_t address, vaddr_t begin, vaddr_t end)
{
    return address >= begin && address < end;
}

static inline const char *explain_plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

#endif
