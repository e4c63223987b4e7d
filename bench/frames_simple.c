/* SPDX-License-Identifier: MIT */
/* Simple frame allocators, each under one lock:
 *
 *   naive      one bit for each frame; the search begins at the word where the last frame was found
 *              (what the seed of this project did, and many hobby kernels do)
 *   stack      an array of the free frames' numbers, four bytes each
 *   stack_irq  the same with a lock that interrupt handlers may take as well
 *   list       free frames linked through their own first word
 *
 * The bitmap alone can find 2 MiB blocks: eight words that are zero. */
#include "bench/frames.h"

#include <sched.h>
#include <string.h>

/* A holder that was preempted is let run. */
void frames_lock_wait(struct frames_lock *lock)
{
    for (unsigned i = 0; __atomic_exchange_n(&lock->word, 1, __ATOMIC_ACQUIRE) != 0;) {
        while (__atomic_load_n(&lock->word, __ATOMIC_RELAXED) != 0) {
            __builtin_ia32_pause();
            if (++i % 1000 == 0)
                sched_yield();
        }
    }
}

/* ---- naive ---- */

struct naive {
    struct frames_lock lock;
    uint64_t words, hint;
    uint64_t *used;
};

static uint64_t naive_bytes(uint64_t bytes)
{
    return sizeof(struct naive) + bytes / 4096 / 8;
}

static void *naive_create(void *metadata, uint64_t bytes)
{
    struct naive *naive = metadata;

    *naive = (struct naive){ .words = bytes / 4096 / 64 };
    naive->used = (uint64_t *)(void *)(naive + 1);
    memset(naive->used, 0, naive->words * 8);
    return naive;
}

static uint64_t naive_find(const struct naive *naive, uint64_t from, uint64_t to)
{
    for (; from < to; from++)
        if (~naive->used[from] != 0)
            break;
    return from;
}

static int naive_get(void *self, unsigned flags, uint64_t *out)
{
    struct naive *naive = self;
    uint64_t word;

    frames_lock(&naive->lock);
    word = naive_find(naive, naive->hint, naive->words);
    if (word == naive->words)
        word = naive_find(naive, 0, naive->hint);
    if (~naive->used[word] == 0) {
        frames_unlock(&naive->lock);
        return 1;
    }
    unsigned bit = (unsigned)__builtin_ctzll(~naive->used[word]);
    naive->used[word] |= (uint64_t)1 << bit;
    naive->hint = word;
    frames_unlock(&naive->lock);
    *out = (word * 64 + bit) * 4096;
    if ((flags & FRAMES_NOZERO) == 0)
        frames_clear(*out);
    return 0;
}

static void naive_put(void *self, uint64_t frame)
{
    struct naive *naive = self;

    frames_lock(&naive->lock);
    naive->used[frame / 4096 / 64] &= ~((uint64_t)1 << (frame / 4096 % 64));
    frames_unlock(&naive->lock);
}

static int naive_get_large(void *self, unsigned flags, uint64_t *out)
{
    struct naive *naive = self;

    frames_lock(&naive->lock);
    for (uint64_t word = 0; word + 8 <= naive->words; word += 8) {
        const uint64_t *w = &naive->used[word];

        if ((w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) != 0)
            continue;
        memset(&naive->used[word], 0xff, 64);
        frames_unlock(&naive->lock);
        *out = word * 64 * 4096;
        if ((flags & FRAMES_NOZERO) == 0)
            memset(frames_ram + *out, 0, 2 << 20);
        return 0;
    }
    frames_unlock(&naive->lock);
    return 1;
}

static void naive_put_large(void *self, uint64_t block)
{
    struct naive *naive = self;

    frames_lock(&naive->lock);
    memset(&naive->used[block / 4096 / 64], 0, 64);
    frames_unlock(&naive->lock);
}

FRAMES_SUBJECT(naive, .get_large = naive_get_large, .put_large = naive_put_large,
               .most_bytes = MM_GIB(1024));

/* ---- stack ---- */

struct stack {
    struct frames_lock lock;
    uint64_t count;
    uint32_t *frames;
};

/* What it takes a kernel to let interrupt handlers in, too: the flags are saved, interrupts switched off
 * and later on again. A process may only do the saving and the restoring; the rest costs more. */
static inline void flags_save_and_restore(void)
{
    __asm__ volatile("pushfq\n\tpopfq" : : : "memory", "cc");
}

static uint64_t stack_bytes(uint64_t bytes)
{
    return sizeof(struct stack) + bytes / 4096 * sizeof(uint32_t);
}

static void *stack_create(void *metadata, uint64_t bytes)
{
    struct stack *stack = metadata;

    *stack = (struct stack){ .count = bytes / 4096 };
    stack->frames = (uint32_t *)(void *)(stack + 1);
    for (uint64_t i = 0; i < stack->count; i++)
        stack->frames[i] = (uint32_t)(stack->count - 1 - i);
    return stack;
}

static inline int stack_get(void *self, unsigned flags, uint64_t *out)
{
    struct stack *stack = self;

    frames_lock(&stack->lock);
    if (stack->count == 0) {
        frames_unlock(&stack->lock);
        return 1;
    }
    *out = (uint64_t)stack->frames[--stack->count] * 4096;
    frames_unlock(&stack->lock);
    if ((flags & FRAMES_NOZERO) == 0)
        frames_clear(*out);
    return 0;
}

static inline void stack_put(void *self, uint64_t frame)
{
    struct stack *stack = self;

    frames_lock(&stack->lock);
    stack->frames[stack->count++] = (uint32_t)(frame / 4096);
    frames_unlock(&stack->lock);
}

FRAMES_SUBJECT(stack, .most_bytes = MM_GIB(1024));

static int stack_irq_get(void *self, unsigned flags, uint64_t *out)
{
    flags_save_and_restore();
    return stack_get(self, flags, out);
}

static void stack_irq_put(void *self, uint64_t frame)
{
    flags_save_and_restore();
    stack_put(self, frame);
}

/* stack's memory, other calls. */
const struct frames_subject frames_stack_irq = {
    .name = "stack_irq",
    .metadata_bytes = stack_bytes,
    .create = stack_create,
    .get = stack_irq_get,
    .put = stack_irq_put,
    .most_bytes = MM_GIB(16),
};

/* ---- list ---- */

struct list {
    struct frames_lock lock;
    uint64_t first; /* address + 1; 0: none */
};

static uint64_t list_bytes(uint64_t bytes)
{
    (void)bytes;
    return sizeof(struct list);
}

static void *list_create(void *metadata, uint64_t bytes)
{
    struct list *list = metadata;

    *list = (struct list){ .first = 0 };
    for (uint64_t at = bytes; at >= 4096; at -= 4096) {
        uint64_t frame = FRAMES_BYTES + at - 4096;

        *(uint64_t *)(void *)(frames_ram + frame) = list->first;
        list->first = frame + 1;
    }
    return list;
}

static int list_get(void *self, unsigned flags, uint64_t *out)
{
    struct list *list = self;

    frames_lock(&list->lock);
    if (list->first == 0) {
        frames_unlock(&list->lock);
        return 1;
    }
    *out = list->first - 1;
    list->first = *(uint64_t *)(void *)(frames_ram + *out);
    frames_unlock(&list->lock);
    if ((flags & FRAMES_NOZERO) == 0)
        frames_clear(*out);
    return 0;
}

static void list_put(void *self, uint64_t frame)
{
    struct list *list = self;

    frames_lock(&list->lock);
    *(uint64_t *)(void *)(frames_ram + frame) = list->first;
    list->first = frame + 1;
    frames_unlock(&list->lock);
}

FRAMES_SUBJECT(list, .most_bytes = FRAMES_LIST_BYTES, .touches_memory = true);
