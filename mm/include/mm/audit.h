/* SPDX-License-Identifier: MIT */
/* Proves what page tables allow. This header is part of the public API of mm/.
 *
 * An audit reads every entry of a space, the shared upper half too, and judges it by rules. What a
 * single mapping allows is checked when it is made; what several of them allow together, to one frame,
 * nobody sees but this. It trusts neither counters nor the code that made the tables.
 *
 * paging_audit() judges any space by any rules; mm_audit() knows the rules of a whole mm, logs a line for
 * each class and one verdict:
 *
 *   [MM] ✓ audit: <class>: <how many were looked at>
 *   [MM] ✗ audit: <class>: <how many are wrong> of <...>, first: 0x<page> <rights> -> 0x<frame>
 *   [MM] AUDIT ok=<0|1> violations=<n> leaves=<n> tables=<n> us=<n> <key>=<violations> ...
 *
 * with the keys of audit_class_key(), in the order of enum audit_class. */
#ifndef MM_AUDIT_H
#define MM_AUDIT_H

#include <mm/mm.h>

MM_BEGIN_DECLS

enum audit_class {
    AUDIT_EXCLUSIVE, /* no frame is writable through one leaf and executable through another or the same */
    AUDIT_USER,   /* no entry of the upper half lets user code in */
    AUDIT_FREE,   /* outside of the HHDM, no leaf leads to a frame that is free or cached */
    AUDIT_TABLES, /* page tables: reached through the HHDM alone, known to the pmm as tables, never
                      * empty, counted right; the shared half is the kernel's */
    AUDIT_RESERVED, /* no reserved bit is set (SDM vol. 3, 4.5) */
    AUDIT_GUARDS,   /* guard pages are not mapped */
    AUDIT_IMAGE,    /* the kernel image: each section where and as it was linked, nothing else */
    AUDIT_ALIASES,  /* no leaf anywhere makes a read-only section writable */
    AUDIT_HHDM, /* the HHDM: each address leads to its own frame, RAM or framebuffer, not executable */
    AUDIT_CLASSES
};

/* A part of the kernel image; the pages between two parts must not be mapped. */
struct audit_section {
    vaddr_t begin;
    vaddr_t end;
    paddr_t phys;
    paging_rights_t rights; /* without PAGING_GLOBAL, which is not looked at */
};

struct audit_rules {
    uint64_t hhdm_offset;
    paddr_t hhdm_end;         /* exclusive, physical; 0: there is no HHDM in this space */
    const struct memmap *map; /* what the HHDM may show; NULL: anything */
    struct mm_extent also;    /* and this: the framebuffer of the boot information */
    vaddr_t image_begin;      /* where nothing but the sections may be; begin == end: no image */
    vaddr_t image_end;
    const struct audit_section *sections;
    size_t section_count;
    /* Calls visit(argument, base, bytes) for each range that must not be mapped; NULL: none. Called
     * without a lock of the space. */
    void (*guards)(void *context, void (*visit)(void *argument, vaddr_t base, uint64_t bytes),
                   void *argument);
    void *guards_context;
};

struct audit_finding {
    uint64_t checked;    /* leaves, entries, tables, guards or pages, as the class has it */
    uint64_t violations; /* the first one is told below */
    vaddr_t page;
    paddr_t frame;
    paging_rights_t rights;
};

struct audit_result {
    struct audit_finding found[AUDIT_CLASSES];
    uint64_t leaves;
    uint64_t tables;
    uint64_t
        violations; /* of all classes; without AUDIT_EXCLUSIVE if MM_ALLOW_WRITE_EXECUTE is 1 */
    uint64_t ns;
};

/* Judges the space.
 *   Returns:    MM_OK and *result, violations or not: look at result->violations.
 *   On failure: MM_OUT_OF_MEMORY: no memory for the list of executable frames, if these are scattered
 *               (16 bytes for each run; the first 32 take none).
 *   Locking:    the lock of the space and that of its kernel space, until all entries are read; guards
 *               one by one.
 *   Context:    thread of control. Frames that others allocate or free meanwhile may be judged by their
 *               state before; a verdict counts when nobody changes the space.
 *   Cost:       two reads of each entry; for a leaf outside of the HHDM a look at each frame's state. */
MM_MUST_USE mm_status_t paging_audit(struct address_space *space, const struct audit_rules *rules,
                                     struct audit_result *result);

/* Judges the kernel's space by the rules of this mm, and logs.
 *   Returns:    true if nothing is wrong; also where paging is foreign (then nothing is logged).
 *   Context:    thread of control; after init_memory() for as long as nobody changes mappings. */
bool mm_audit(struct mm *mm, struct audit_result *result);

/* The same later, when .init is gone and constants are sealed: logs only classes with a violation, and
 * the verdict as `[MM] AUDIT AGAIN ok=...`. */
bool mm_audit_again(struct mm *mm, struct audit_result *result);

/* "no frame is writable and executable", ...; and the key in the verdict, "exclusive", ... */
const char *audit_class_name(enum audit_class class_);
const char *audit_class_key(enum audit_class class_);

MM_END_DECLS
#endif
