/* SPDX-License-Identifier: MIT */
/* Owns the stamps in the frames and blocks of the stress test.
 *
 *   byte 0        8       16          24       32        96        160 ...
 *        | address | state | sequence | check  | mark    | mark    | mark      every 64 bytes
 *
 *   state   63 in transit | 62 frame | 61..34 bytes | 33..32 context
 *           | 31..0 CPU (in transit: the receiver's)
 *
 * `check` is a mix of the three words before it, a mark a mix of `check` and its place. Every line
 * of 64 bytes, the size of the smallest block, has a word of the owner's, and memory is zeroed when
 * it is handed out: who gets what another one has, in whole or in part, wipes the other's words out.
 *
 * Invariants: an item in a set bears that set's stamp; one in a box bears the stamp "in transit" to
 * the box's CPU, and nobody else has its address. A set is used by one context of one CPU. */
#include "kernel/smp.h"
#include "kernel/stress_parts.h"

#define STRESS_LINE       64u
#define STRESS_MARK       32u /* a mark's place in its line */
#define STRESS_ALL_BYTES  ((uint64_t)0xfffffff)
#define STRESS_FRAME_BIT  ((uint64_t)1 << 62)
#define STRESS_TRANSIT    ((uint64_t)1 << 63)
#define STRESS_CALL_ITEMS 4u

struct stress_stamp {
    uint64_t address;
    uint64_t state;
    uint64_t sequence;
    uint64_t check;
};
_Static_assert(sizeof(struct stress_stamp) == STRESS_MARK, "the first mark follows the stamp");
_Static_assert(STRESS_BLOCK_LEAST == STRESS_MARK + 8, "the smallest item has one mark");

static const char *const stress_context_names[STRESS_CONTEXTS] = { "thread", "timer", "call" };

/* ---- Chance ---- */

/* A mix in which every bit of the result depends on every bit of the value. */
uint64_t stress_mix(uint64_t value)
{
    value = (value ^ value >> 31) * 0x9fb21c651e98df25u;
    value = (value ^ value >> 29) * 0xd6e8feb86659fd93u;
    return value ^ value >> 32;
}

uint64_t stress_random(uint64_t *state, uint64_t below)
{
    *state += 0x9e3779b97f4a7c15u; /* odd: all 2^64 states follow each other */
    return (stress_mix(*state) >> 16) % below;
}

/* ---- Stamps ---- */

static uint64_t stress_state(const struct stress_set *set, const struct stress_item *item)
{
    return (item->is_frame ? STRESS_FRAME_BIT : 0) | (uint64_t)item->bytes << 34 |
           (uint64_t)set->context << 32 | set->cpu;
}

static uint64_t stress_check_of(const struct stress_stamp *stamp)
{
    return stress_mix(stamp->address ^
                      stress_mix(stamp->state ^ stress_mix(stamp->sequence ^ STRESS_SEED)));
}

static uint64_t stress_mark_of(uint64_t check, uint32_t at)
{
    return stress_mix(check + at) | 1; /* never what fresh memory holds */
}

static void stress_write(void *memory, uint32_t bytes, uint64_t state, uint64_t sequence)
{
    struct stress_stamp stamp = { .address = (uint64_t)memory,
                                  .state = state,
                                  .sequence = sequence };

    stamp.check = stress_check_of(&stamp);
    *(volatile struct stress_stamp *)memory = stamp;
    for (uint32_t at = STRESS_MARK; at + 8 <= bytes; at += STRESS_LINE)
        *(volatile uint64_t *)((uint8_t *)memory + at) = stress_mark_of(stamp.check, at);
}

static struct stress_stamp stress_read(const void *memory)
{
    return *(const volatile struct stress_stamp *)memory;
}

static uint32_t stress_bytes_in(uint64_t state)
{
    return (uint32_t)(state >> 34 & STRESS_ALL_BYTES);
}

/* Who a state says is the owner: "CPU 3 (timer)". */
static void stress_name_owner(uint64_t state, char *text, size_t capacity)
{
    unsigned context = (unsigned)(state >> 32 & 3);

    if ((state & STRESS_TRANSIT) != 0)
        (void)mm_format(text, capacity, "nobody yet, on its way to CPU %u", (uint32_t)state);
    else
        (void)mm_format(text, capacity, "CPU %u (%s)", (uint32_t)state,
                        context < STRESS_CONTEXTS ? stress_context_names[context] : "?");
}

static MM_COLD void stress_report_stamp(const void *memory, uint64_t state, uint64_t sequence)
{
    struct stress_stamp found = stress_read(memory);
    const char *what = (state & STRESS_FRAME_BIT) != 0 ? "frame" : "block";
    char owner[64], other[64];

    stress_name_owner(state, owner, sizeof(owner));
    stress_name_owner(found.state, other, sizeof(other));
    if (found.check != stress_check_of(&found))
        stress_fail("%s at 0x%lx of %s has lost its stamp %lu: it begins with 0x%lx 0x%lx", what,
                    (uint64_t)memory, owner, sequence, found.address, found.state);
    else
        stress_fail("%s at 0x%lx of %s, stamp %lu, has two owners: the stamp is %lu of %s", what,
                    (uint64_t)memory, owner, sequence, found.sequence, other);
}

/* Whether the memory bears this stamp and all its marks. */
static bool stress_verify(const void *memory, uint64_t state, uint64_t sequence)
{
    struct stress_stamp found = stress_read(memory);
    uint32_t bytes = stress_bytes_in(state);
    char owner[64];

    if (found.address != (uint64_t)memory || found.state != state || found.sequence != sequence ||
        found.check != stress_check_of(&found)) {
        stress_report_stamp(memory, state, sequence);
        return false;
    }
    for (uint32_t at = STRESS_MARK; at + 8 <= bytes; at += STRESS_LINE) {
        uint64_t mark = *(const volatile uint64_t *)((const uint8_t *)memory + at);

        if (mark == stress_mark_of(found.check, at))
            continue;
        stress_name_owner(state, owner, sizeof(owner));
        stress_fail("%s at 0x%lx of %u bytes of %s: byte %u is overwritten, with 0x%lx",
                    (state & STRESS_FRAME_BIT) != 0 ? "frame" : "block", (uint64_t)memory, bytes,
                    owner, at, mark);
        return false;
    }
    return true;
}

/* Memory is handed out zeroed. */
static bool stress_check_zero(const struct stress_item *item)
{
    const volatile uint64_t *words = item->memory;

    for (uint32_t i = 0; i < item->bytes / 8; i++) {
        if (words[i] == 0)
            continue;
        stress_fail(
            "%s at 0x%lx of %u bytes is not zero when it is handed out: byte %u holds 0x%lx",
            item->is_frame ? "frame" : "block", (uint64_t)item->memory, item->bytes, i * 8,
            words[i]);
        return false;
    }
    return true;
}

/* ---- Items ---- */

static bool stress_alloc(struct stress_set *set, struct stress_item *item)
{
    paddr_t frame;

    item->is_frame = stress_random(&set->random, 2) == 0;
    if (item->is_frame) {
        mm_status_t status = pmm_alloc_frame(&mm_kernel()->pmm, &frame);

        item->bytes = (uint32_t)FRAME_SIZE;
        item->memory = status == MM_OK ? phys_to_virt(frame) : NULL;
    } else {
        uint64_t orders = stress_random(&set->random, 16);
        uint64_t most = set->block_bytes_max >> orders; /* small ones more often than large ones */

        if (most < STRESS_LINE)
            most = STRESS_LINE;
        item->bytes = (uint32_t)(STRESS_BLOCK_LEAST +
                                 stress_random(&set->random, most - STRESS_BLOCK_LEAST + 1));
        item->memory = kmalloc(item->bytes);
    }
    if (item->memory == NULL)
        stress_fail("CPU %u (%s): no %s, although there must be", set->cpu,
                    stress_context_names[set->context], item->is_frame ? "frame" : "block");
    return item->memory != NULL;
}

static void stress_free(void *memory, bool is_frame)
{
    if (is_frame)
        pmm_free_frame(&mm_kernel()->pmm, virt_to_phys(memory));
    else
        kfree(memory);
}

static void stress_keep(struct stress_set *set, struct stress_item item)
{
    item.sequence = ++set->sequence;
    stress_write(item.memory, item.bytes, stress_state(set, &item), item.sequence);
    set->items[set->count++] = item;
}

static void stress_take(struct stress_set *set)
{
    struct stress_item item;

    if (stress_alloc(set, &item) && stress_check_zero(&item))
        stress_keep(set, item);
}

/* Takes one of the items out of the set, if its stamp is right. */
static bool stress_pick(struct stress_set *set, struct stress_item *item)
{
    uint32_t at = (uint32_t)stress_random(&set->random, set->count);

    *item = set->items[at];
    if (!stress_verify(item->memory, stress_state(set, item), item->sequence))
        return false;
    set->items[at] = set->items[--set->count];
    return true;
}

static void stress_give_back(struct stress_set *set)
{
    struct stress_item item;

    if (stress_pick(set, &item))
        stress_free(item.memory, item.is_frame);
}

/* ---- From CPU to CPU ---- */

/* The release store shows the new stamp with the address. */
static void stress_pass_on(struct stress_set *set)
{
    uint32_t to = (uint32_t)stress_random(&set->random, smp_cpu_count());
    void **place = &stress_cpu(to)->box[stress_random(&set->random, STRESS_BOX)];
    struct stress_item item;
    void *empty = NULL;

    if (!stress_pick(set, &item))
        return;
    stress_write(item.memory, item.bytes,
                 STRESS_TRANSIT | (item.is_frame ? STRESS_FRAME_BIT : 0) |
                     (uint64_t)item.bytes << 34 | to,
                 item.sequence);
    if (!__atomic_compare_exchange_n(place, &empty, item.memory, false, __ATOMIC_RELEASE,
                                     __ATOMIC_RELAXED))
        stress_keep(set, item);
}

/* An item in the box of a CPU, told by its stamp alone. */
static bool stress_open(void *memory, uint32_t cpu, struct stress_item *item)
{
    struct stress_stamp found = stress_read(memory);
    uint64_t state = STRESS_TRANSIT | (found.state & STRESS_FRAME_BIT) |
                     (found.state & STRESS_ALL_BYTES << 34) | cpu;

    item->memory = memory;
    item->is_frame = (state & STRESS_FRAME_BIT) != 0;
    item->bytes = stress_bytes_in(state);
    item->sequence = found.sequence;
    return stress_verify(memory, state, found.sequence);
}

static void stress_receive(struct stress_set *set)
{
    void **place = &stress_cpu(set->cpu)->box[stress_random(&set->random, STRESS_BOX)];
    void *memory = __atomic_exchange_n(place, NULL, __ATOMIC_ACQUIRE);
    struct stress_item item;

    if (memory == NULL || !stress_open(memory, set->cpu, &item))
        return;
    set->received++;
    if (set->count < set->capacity)
        stress_keep(set, item);
    else
        stress_free(item.memory, item.is_frame);
}

/* ---- Sets ---- */

void stress_set_init(struct stress_set *set, unsigned cpu, enum stress_context context,
                     uint32_t block_bytes_max)
{
    static const uint32_t capacities[STRESS_CONTEXTS] = { STRESS_ITEMS_MAX, STRESS_ITEMS_MAX / 2,
                                                          STRESS_CALL_ITEMS };
    uint64_t place = (uint64_t)cpu * STRESS_CONTEXTS + (uint64_t)context;

    memset(set, 0, sizeof(*set));
    set->random = stress_mix(STRESS_SEED + place);
    set->cpu = cpu;
    set->context = context;
    set->capacity = capacities[context];
    set->block_bytes_max = block_bytes_max;
}

void stress_set_step(struct stress_set *set)
{
    uint64_t choice = stress_random(&set->random, 16);

    set->operations++;
    if (choice < 2)
        stress_receive(set);
    else if (set->count == 0 || (choice < 9 && set->count < set->capacity))
        stress_take(set);
    else if (choice < 13)
        stress_give_back(set);
    else
        stress_pass_on(set);
}

static void stress_count(struct stress_holdings *sum, bool is_frame)
{
    if (is_frame)
        sum->frames++;
    else
        sum->blocks++;
}

void stress_check_cpu(const struct stress_cpu *cpu, struct stress_holdings *sum)
{
    struct stress_item item;

    for (unsigned context = 0; context < STRESS_CONTEXTS; context++) {
        const struct stress_set *set = &cpu->sets[context];

        for (uint32_t i = 0; i < set->count; i++) {
            (void)stress_verify(set->items[i].memory, stress_state(set, &set->items[i]),
                                set->items[i].sequence);
            stress_count(sum, set->items[i].is_frame);
        }
    }
    for (unsigned i = 0; i < STRESS_BOX; i++) {
        if (cpu->box[i] == NULL)
            continue;
        (void)stress_open(cpu->box[i], cpu->sets[0].cpu, &item);
        stress_count(sum, item.is_frame);
    }
}

void stress_release_cpu(struct stress_cpu *cpu)
{
    struct stress_item item;

    for (unsigned context = 0; context < STRESS_CONTEXTS; context++) {
        struct stress_set *set = &cpu->sets[context];

        while (set->count > 0 && stress_pick(set, &item))
            stress_free(item.memory, item.is_frame);
    }
    for (unsigned i = 0; i < STRESS_BOX; i++) {
        if (cpu->box[i] != NULL && stress_open(cpu->box[i], cpu->sets[0].cpu, &item))
            stress_free(item.memory, item.is_frame);
        cpu->box[i] = NULL;
    }
}
