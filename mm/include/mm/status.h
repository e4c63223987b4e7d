/* SPDX-License-Identifier: MIT */
/* What a call of mm answers. This header is part of the public API of mm/.
 *
 * A status other than MM_OK means: the call has changed nothing, outputs included. Only conditions
 * that a correct caller can meet have a status; a caller's bug is reported through mm_port_bug(). */
#ifndef MM_STATUS_H
#define MM_STATUS_H

#include <mm/types.h>

MM_BEGIN_DECLS

typedef enum mm_status {
    MM_OK = 0,
    MM_OUT_OF_MEMORY,    /* no free frame, block or address range of the size asked for */
    MM_INVALID_ADDRESS,  /* not canonical, beyond MAXPHYADDR, or outside of what is managed */
    MM_INVALID_ARGUMENT, /* a count, size, alignment or flag that has no meaning */
    MM_NOT_ALIGNED,      /* an address or size that must be a multiple of the page size */
    MM_ALREADY_MAPPED,   /* a page, or a large leaf around it, is mapped there */
    MM_NOT_MAPPED,       /* nothing is mapped there */
    MM_LARGE_PAGE,       /* the page is a part of a 2 MiB or 1 GiB leaf */
    MM_NOT_FREE,         /* a frame of the range is used or reserved */
    MM_NOT_CONTIGUOUS,   /* the bytes lie in frames that are not neighbours */
    MM_UNSUPPORTED,      /* the CPU lacks what is asked for */
    MM_NO_USABLE_MEMORY, /* the memory map offers no usable frame, or no room for metadata */
    MM_STATUS_COUNT
} mm_status_t;

/* The status in words, such as "out of memory"; never NULL. */
const char *mm_status_name(mm_status_t status);

MM_END_DECLS
#endif
