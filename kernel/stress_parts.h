/* SPDX-License-Identifier: MIT */
/* Shared by kernel/stress.c, stress_items.c, stress_pages.c and nobody else.
 *
 *   stress.c         rounds, checks between them, the report
 *   stress_items.c   frames and blocks, stamped by their owner
 *   stress_pages.c   pages: each CPU's own, and those that all CPUs read
 *
 * A CPU works in three contexts, each with a random sequence and items of its own, so that none
 * needs a lock: its thread of control, its timer handler, and what other CPUs call on it. */
#ifndef KERNEL_STRESS_PARTS_H
#define KERNEL_STRESS_PARTS_H

#include <mm/mm.h>

#define STRESS_SEED        0x6d656c6c6f6f73u
#define STRESS_ITEMS_MAX   32u /* of one context */
#define STRESS_BOX         8u  /* items that wait for one CPU */
#define STRESS_BLOCK_LEAST 40u /* bytes: a stamp and its first mark */

enum stress_context {
    STRESS_THREAD,
    STRESS_TIMER,
    STRESS_CALL,
    STRESS_CONTEXTS,
};

struct stress_item {
    void *memory;
    uint64_t sequence; /* of its stamp */
    uint32_t bytes;    /* a frame's: 4 KiB or 2 MiB; a block's: as asked for */
    bool is_frame;
    bool any_content; /* it need not be zero when it is handed out */
};

struct stress_set {
    uint64_t random;
    uint64_t sequence; /* of the last stamp */
    uint64_t operations;
    uint64_t received; /* items that came from another CPU */
    uint64_t refused;  /* blocks that mm.fail= let fail */
    uint64_t stayed; /* blocks that were resized in place, some because mm.fail= let a move fail */
    uint32_t cpu;
    enum stress_context context;
    uint32_t block_bytes_max;
    bool may_take_large; /* frames of 2 MiB */
    uint32_t capacity;
    uint32_t count;
    struct stress_item items[STRESS_ITEMS_MAX];
};

struct stress_cpu {
    struct stress_set sets[STRESS_CONTEXTS];
    void *box[STRESS_BOX]; /* from other CPUs, for this one; atomic; NULL: empty */
    uint64_t mappings;     /* pages mapped and unmapped again */
    uint64_t ticks;        /* timer interrupts that did work */
};

/* ---- stress.c ---- */

/* Keeps the first error, from whichever CPU and context, and ends the round for all. */
MM_COLD void stress_fail(const char *format, ...) MM_PRINTF(1, 2);

struct stress_cpu *stress_cpu(unsigned number);

/* ---- stress_items.c ---- */

/* A number below `below`, which is not 0. */
uint64_t stress_random(uint64_t *state, uint64_t below);
uint64_t stress_mix(uint64_t value);

void stress_set_init(struct stress_set *set, unsigned cpu, enum stress_context context,
                     uint32_t block_bytes_max, bool may_take_large);

/* One step: take items, give some back, resize one, pass one on, or receive one. */
void stress_set_step(struct stress_set *set);

struct stress_holdings {
    uint64_t frames;
    uint64_t blocks;
    uint64_t refused, stayed;
};

/* Checks the stamp of all that the CPU holds and that waits for it, and adds it to the count.
 *   Context:  all CPUs stand. */
void stress_check_cpu(const struct stress_cpu *cpu, struct stress_holdings *sum);

/* Gives all of it back, stamps checked.
 *   Context:  all CPUs stand. */
void stress_release_cpu(struct stress_cpu *cpu);

/* ---- stress_pages.c ---- */

/* Maps the pages that all CPUs read, or takes them away.
 *   Returns:  false after stress_fail(). */
bool stress_pages_start(void);
void stress_pages_stop(void);

/* How many frames these pages use. */
uint64_t stress_pages_frames(void);

/* Maps pages of the CPU's own, looks through them, and unmaps them. */
void stress_pages_own(struct stress_cpu *cpu);

/* Takes a block of kvm_alloc(), looks through it, and gives it back. */
void stress_pages_block(struct stress_cpu *cpu);

/* Gives one of the common pages another frame. */
void stress_pages_change(struct stress_cpu *cpu);

/* Reads one of the common pages.
 *   Context:  any. */
void stress_pages_read(struct stress_set *set);

#endif
