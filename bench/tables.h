/* SPDX-License-Identifier: MIT */
/* Subjects of the paging suite: page tables behind one table of pointers.
 *
 * All take their tables from one frame allocator, cleared; physical 0 stands at tables_ram. A call
 * returns 0 if it was done. */
#ifndef BENCH_TABLES_H
#define BENCH_TABLES_H

#include "bench/bench.h"

#include <mm/mm.h>

extern char *tables_ram;
extern struct pmm tables_pmm;

/* What is done to one page; `map_large` and `split` to one of 2 MiB. */
struct tables_subject {
    const char *name;
    void (*begin)(void); /* an empty space, */
    void (*end)(void);   /* and its tables go back */
    int (*map)(vaddr_t page, paddr_t frame, paging_rights_t rights);
    int (*map_large)(vaddr_t page, paddr_t frame, paging_rights_t rights);
    int (*unmap)(vaddr_t page, paddr_t *frame);
    int (*protect)(vaddr_t page, paging_rights_t rights);
    int (*translate)(vaddr_t address, paddr_t *out);
    int (*split)(vaddr_t page, paging_rights_t rights);
};

extern const struct tables_subject tables_walk, tables_walk_lock;

#endif
