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

#define STRESS_LINE         64u
#define STRESS_MARK         32u /* a mark's place in its line */
#define STRESS_ALL_BYTES    ((uint64_t)0xfffffff)
#define STRESS_FRAME_BIT    ((uint64_t)1 << 62)
#define STRESS_TRANSIT      ((uint64_t)1 << 63)
#define STRESS_CALL_ITEMS   4u
#define STRESS_ONE_IN       8u /* calls of a kind: in the other way */
#define STRESS_BULK         8u /* frames with one call, at most */
#define STRESS_LARGE_ONE_IN 128u

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

/* One at a time in a set, where the machine has room for that (stress.c). */
static bool stress_may_take_large(const struct stress_set *set)
{
    if (!set->may_take_large)
        return false;
    for (uint32_t i = 0; i < set->count; i++)
        if (set->items[i].bytes == LARGE_PAGE_SIZE)
            return false;
    return true;
}

static MM_COLD void stress_fail_for_lack(const struct stress_set *set, const char *what)
{
    stress_fail("CPU %u (%s): no %s, although there must be", set->cpu,
                stress_context_names[set->context], what);
}

/* Under mm.fail= blocks fail on purpose: each is counted, and compared with what the heap has counted. */
static void stress_lack_block(struct stress_set *set, const char *what)
{
    if (mm_kernel()->options.fail_bytes != 0)
        set->refused++;
    else
        stress_fail_for_lack(set, what);
}

/* A frame; one in STRESS_ONE_IN with any content. */
static bool stress_alloc_frame(struct stress_set *set, struct stress_item *item)
{
    unsigned flags = stress_random(&set->random, STRESS_ONE_IN) == 0 ? PMM_NOZERO : 0;
    paddr_t frame;

    if (pmm_alloc_frame_flags(&mm_kernel()->pmm, flags, &frame) != MM_OK) {
        stress_fail_for_lack(set, "frame");
        return false;
    }
    *item = (struct stress_item){ .memory = phys_to_virt(frame),
                                  .bytes = (uint32_t)FRAME_SIZE,
                                  .is_frame = true,
                                  .any_content = flags != 0 };
    return true;
}

/* 2 MiB, of which there may be none: then nothing is wrong. */
static bool stress_alloc_large(struct stress_item *item)
{
    paddr_t frame;

    if (pmm_alloc_large(&mm_kernel()->pmm, 0, &frame) != MM_OK)
        return false;
    *item = (struct stress_item){ .memory = phys_to_virt(frame),
                                  .bytes = (uint32_t)LARGE_PAGE_SIZE,
                                  .is_frame = true };
    return true;
}

/* Small ones more often than large ones. */
static uint32_t stress_choose_bytes(struct stress_set *set)
{
    uint64_t most = set->block_bytes_max >> stress_random(&set->random, 16);

    if (most < STRESS_LINE)
        most = STRESS_LINE;
    return (uint32_t)(STRESS_BLOCK_LEAST +
                      stress_random(&set->random, most - STRESS_BLOCK_LEAST + 1));
}

static bool stress_alloc_block(struct stress_set *set, struct stress_item *item)
{
    uint64_t way = stress_random(&set->random, STRESS_ONE_IN);
    size_t align = (size_t)STRESS_LINE << stress_random(&set->random, 4);

    *item = (struct stress_item){ .bytes = stress_choose_bytes(set), .any_content = way == 0 };
    if (way == 0)
        item->memory = kmalloc_nozero(item->bytes);
    else if (way == 1 && align <= set->block_bytes_max)
        item->memory = kmalloc_aligned(item->bytes, align);
    else
        item->memory = kmalloc(item->bytes);
    if (item->memory == NULL)
        stress_lack_block(set, "block");
    else if (way == 1 && align <= set->block_bytes_max && (uint64_t)item->memory % align != 0)
        stress_fail("CPU %u: block at 0x%lx is not aligned to %lu", set->cpu,
                    (uint64_t)item->memory, align);
    return item->memory != NULL;
}

/* 2 MiB from threads only, of which few CPUs hold more than one: other items need room too. */
static bool stress_alloc(struct stress_set *set, struct stress_item *item)
{
    uint64_t way = stress_random(&set->random, 2 * STRESS_LARGE_ONE_IN);

    if (way == 0 && set->context == STRESS_THREAD && stress_may_take_large(set))
        return stress_alloc_large(item);
    return way % 2 == 0 ? stress_alloc_frame(set, item) : stress_alloc_block(set, item);
}

static void stress_free_frame(struct stress_set *set, const struct stress_item *item)
{
    struct pmm *pmm = &mm_kernel()->pmm;
    paddr_t frame = virt_to_phys(item->memory);

    if (item->bytes == LARGE_PAGE_SIZE) {
        pmm_free_large(pmm, frame);
    } else if (stress_random(&set->random, STRESS_ONE_IN) == 0) {
        memset(item->memory, 0, FRAME_SIZE);
        pmm_free_zeroed_frame(pmm, frame);
    } else {
        pmm_free_frame(pmm, frame);
    }
}

static void stress_free(struct stress_set *set, const struct stress_item *item)
{
    if (item->is_frame)
        stress_free_frame(set, item);
    else if (stress_random(&set->random, STRESS_ONE_IN) == 0)
        kfree_sized(item->memory, item->bytes);
    else
        kfree(item->memory);
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

    if (stress_alloc(set, &item) && (item.any_content || stress_check_zero(&item)))
        stress_keep(set, item);
}

/* Several frames with one call: all or none, and there must be. */
static void stress_take_many(struct stress_set *set)
{
    uint64_t count = 1 + stress_random(&set->random, STRESS_BULK);
    paddr_t frames[STRESS_BULK];

    if (count > set->capacity - set->count)
        count = set->capacity - set->count;
    if (count == 0)
        return;
    if (pmm_alloc_frames(&mm_kernel()->pmm, count, 0, frames) != MM_OK) {
        stress_fail_for_lack(set, "frames");
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        struct stress_item item = { .memory = phys_to_virt(frames[i]),
                                    .bytes = (uint32_t)FRAME_SIZE,
                                    .is_frame = true };

        if (stress_check_zero(&item))
            stress_keep(set, item);
    }
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
        stress_free(set, &item);
}

/* Frames of the set, whoever took them and how, with one call. */
static void stress_give_back_many(struct stress_set *set)
{
    paddr_t frames[STRESS_BULK];
    uint64_t count = 0;

    for (uint32_t i = set->count; i > 0 && count < STRESS_BULK; i--) {
        struct stress_item item = set->items[i - 1];

        if (!item.is_frame || item.bytes != FRAME_SIZE)
            continue;
        if (!stress_verify(item.memory, stress_state(set, &item), item.sequence))
            return;
        set->items[i - 1] = set->items[--set->count];
        frames[count++] = virt_to_phys(item.memory);
    }
    if (count > 0)
        pmm_free_frames(&mm_kernel()->pmm, frames, count);
}

/* What krealloc() keeps is the old content, up to the smaller size, and zeroes behind it. Behind what was
 * asked for, up to the old block's end, a block that was not cleared may hold anything. */
static bool stress_check_resized(const struct stress_item *before, const struct stress_item *after)
{
    uint32_t kept = before->bytes < after->bytes ? before->bytes : after->bytes;
    const uint8_t *bytes = after->memory;
    uint64_t check = ((const struct stress_stamp *)after->memory)->check;

    for (uint32_t at = STRESS_MARK; at + 8 <= kept; at += STRESS_LINE) {
        if (*(const volatile uint64_t *)(bytes + at) != stress_mark_of(check, at)) {
            stress_fail("block at 0x%lx, resized from %u to %u bytes, has lost byte %u",
                        (uint64_t)after->memory, before->bytes, after->bytes, at);
            return false;
        }
    }
    for (uint32_t at = before->bytes; !before->any_content && at < after->bytes; at++) {
        if (bytes[at] != 0) {
            stress_fail("block at 0x%lx, resized from %u to %u bytes, is not zero at byte %u",
                        (uint64_t)after->memory, before->bytes, after->bytes, at);
            return false;
        }
    }
    return true;
}

static void stress_resize(struct stress_set *set)
{
    struct stress_item item, resized;

    if (!stress_pick(set, &item))
        return;
    if (item.is_frame) {
        stress_keep(set, item);
        return;
    }
    resized = item;
    resized.bytes = stress_choose_bytes(set);
    resized.memory = krealloc(item.memory, resized.bytes);
    set->stayed += resized.memory == item.memory;
    if (resized.memory == NULL) {
        stress_lack_block(set, "block to resize into");
        if (stress_verify(item.memory, stress_state(set, &item), item.sequence))
            stress_keep(set, item); /* as it was */
    } else if (stress_check_resized(&item, &resized))
        stress_keep(set, resized);
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
    item->any_content = true; /* as far as anybody knows here */
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
        stress_free(set, &item);
}

/* ---- Sets ---- */

void stress_set_init(struct stress_set *set, unsigned cpu, enum stress_context context,
                     uint32_t block_bytes_max, bool may_take_large)
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
    set->may_take_large = may_take_large;
}

static void stress_step_rare(struct stress_set *set)
{
    switch (stress_random(&set->random, 4)) {
    case 0:
        stress_take_many(set);
        return;
    case 1:
        stress_give_back_many(set);
        return;
    default:
        stress_resize(set);
        return;
    }
}

void stress_set_step(struct stress_set *set)
{
    uint64_t choice = stress_random(&set->random, 16);

    set->operations++;
    if (choice < 2)
        stress_receive(set);
    else if (choice == 15 && set->count > 0)
        stress_step_rare(set);
    else if (set->count == 0 || (choice < 9 && set->count < set->capacity))
        stress_take(set);
    else if (choice < 13)
        stress_give_back(set);
    else
        stress_pass_on(set);
}

static void stress_count(struct stress_holdings *sum, const struct stress_item *item)
{
    if (item->is_frame)
        sum->frames += item->bytes / FRAME_SIZE;
    else
        sum->blocks++;
}

void stress_check_cpu(const struct stress_cpu *cpu, struct stress_holdings *sum)
{
    struct stress_item item;

    for (unsigned context = 0; context < STRESS_CONTEXTS; context++) {
        const struct stress_set *set = &cpu->sets[context];

        sum->refused += set->refused;
        sum->stayed += set->stayed;
        for (uint32_t i = 0; i < set->count; i++) {
            (void)stress_verify(set->items[i].memory, stress_state(set, &set->items[i]),
                                set->items[i].sequence);
            stress_count(sum, &set->items[i]);
        }
    }
    for (unsigned i = 0; i < STRESS_BOX; i++) {
        if (cpu->box[i] == NULL)
            continue;
        (void)stress_open(cpu->box[i], cpu->sets[0].cpu, &item);
        stress_count(sum, &item);
    }
}

void stress_release_cpu(struct stress_cpu *cpu)
{
    struct stress_item item;

    for (unsigned context = 0; context < STRESS_CONTEXTS; context++) {
        struct stress_set *set = &cpu->sets[context];

        while (set->count > 0 && stress_pick(set, &item))
            stress_free(set, &item);
    }
    for (unsigned i = 0; i < STRESS_BOX; i++) {
        if (cpu->box[i] != NULL && stress_open(cpu->box[i], cpu->sets[0].cpu, &item))
            stress_free(&cpu->sets[STRESS_THREAD], &item);
        cpu->box[i] = NULL;
    }
}
