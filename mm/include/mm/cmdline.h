/* SPDX-License-Identifier: MIT */
/* Reads a kernel command line: key=value pairs separated by spaces. Part of the public API of mm/.
 *
 * The line is never copied or written. A word without '=' is a key with an empty value. Of a key
 * that stands twice, the last counts. */
#ifndef MM_CMDLINE_H
#define MM_CMDLINE_H

#include <mm/types.h>

MM_BEGIN_DECLS

struct mm_cmdline_word {
    const char *key;
    size_t key_bytes;
    const char *value;
    size_t value_bytes;
};

/* Takes the next word.
 *   Returns:  true, the word in *word and *line behind it; false at the end of the line. */
bool mm_cmdline_next(const char **line, struct mm_cmdline_word *word);

/* True if the word's key is `key`, or its value is `value`. */
bool mm_cmdline_key_is(const struct mm_cmdline_word *word, const char *key);
bool mm_cmdline_value_is(const struct mm_cmdline_word *word, const char *value);

/* Finds the last word with that key.
 *   Returns:  true and the word in *word; false if there is none (*word is as before). */
bool mm_cmdline_find(const char *line, const char *key, struct mm_cmdline_word *word);

/* Suites of the kernel's benchmark: bits of mm_options.bench. */
#define MM_BENCH_FRAMES 1u
#define MM_BENCH_PAGING 2u
#define MM_BENCH_HEAP   4u

#define MM_BAD_RAM_MAX 8u

/* What the mm.* keys of a command line ask for. */
struct mm_options {
    int log_level;           /* mm.log=error|info|debug: an enum mm_log_level; default info */
    bool low_memory;         /* mm.lowmem=on: also hand out frames below 1 MiB; default off */
    bool dump;               /* mm.dump=on: log all mappings of the kernel at boot; default off */
    uint32_t stress_seconds; /* mm.stress=SECONDS: for the kernel's stress test; default 0, none */
    bool full_harden;        /* mm.harden=default|full: misuse is told at once, at a price */
    /* mm.badram=BASE:LENGTH: memory that is never used, whole frames; the key may stand up to
     * MM_BAD_RAM_MAX times. Numbers in decimal or 0x..., with K, M, G or T behind them. */
    struct mm_extent bad_ram[MM_BAD_RAM_MAX];
    uint32_t bad_ram_count;
    unsigned bench;    /* mm.bench=frames|paging|heap|all: MM_BENCH_* bits; default 0, none */
    bool record_sites; /* mm.leaks=on: the heap records who allocates; default off */
    const char *fail;  /* mm.fail=CONDITIONS of kheap_faults_read(): a part of the line */
    size_t fail_bytes; /* 0: none */
};

/* Reads the mm.* keys. A key that mm does not know, or a value that the key does not take, is one
 * warning line and otherwise ignored. */
struct mm_options mm_options_read(const char *line);

MM_END_DECLS
#endif
