/* SPDX-License-Identifier: MIT */
/* Every sequence of calls up to a small length, on memories of a few frames. After the last call of each
 * sequence every frame is looked at (what stood before the last call is the end of a shorter sequence).
 *
 *      [ 1 .. 6 free frames ]  a gap  [ 1 or 2 free frames ]        calls of two slots
 *
 * A failing sequence is printed by the letters of `calls`. */
#include "support.h"

#include <string.h>

#define FRAMES     8u
#define LENGTH_MAX 8u

enum state { FREE, USED, TABLE, KEPT };

static struct machine machine;
static paddr_t address[FRAMES];
static uint8_t state_of[FRAMES];
static uint8_t order[FRAMES]; /* used frames, oldest first */
static size_t frames, used;
static char sequence[LENGTH_MAX + 1];

static size_t index_of(paddr_t frame)
{
    for (size_t i = 0; i < frames; i++)
        if (address[i] == frame)
            return i;
    fail_msg("%s: frame 0x%lx is none of the free ones", sequence, frame);
    return 0;
}

/* A free frame that the pmm uses for a cache: reserved. */
static bool is_hidden(size_t index)
{
    return state_of[index] == FREE &&
           pmm_frame_state(&machine.pmm, address[index]) == PMM_FRAME_RESERVED;
}

/* Hidden frames left out. */
static size_t first_in(enum state state)
{
    for (size_t i = 0; i < frames; i++)
        if (state_of[i] == state && !is_hidden(i))
            return i;
    return frames;
}

/* Two free frames beside each other, the first at a multiple of 8 KiB. */
static bool has_free_pair(void)
{
    for (size_t i = 0; i + 1 < frames; i++)
        if (state_of[i] == FREE && state_of[i + 1] == FREE && !is_hidden(i) && !is_hidden(i + 1) &&
            address[i] + FRAME_SIZE == address[i + 1] && mm_is_aligned(address[i], 2 * FRAME_SIZE))
            return true;
    return false;
}

static void take(paddr_t frame, enum state state)
{
    size_t index = index_of(frame);
    uint64_t *words = phys_to_virt(frame);

    if (state_of[index] != FREE || words[0] != 0 || words[511] != 0)
        fail_msg("%s: frame 0x%lx was not free, or is not zero", sequence, frame);
    words[0] = words[511] = state == TABLE ? 0 : frame;
    state_of[index] = (uint8_t)state;
    if (state == USED)
        order[used++] = (uint8_t)index;
}

static void forget(size_t place)
{
    state_of[order[place]] = FREE;
    memmove(&order[place], &order[place + 1], used - place - 1);
    used--;
}

/* ---- The calls; one that has nothing to work on does nothing ---- */

static void alloc(void)
{
    paddr_t frame;
    mm_status_t status = pmm_alloc_frame(&machine.pmm, &frame);

    if ((status == MM_OK) != (first_in(FREE) < frames))
        fail_msg("%s: alloc: \"%s\"", sequence, mm_status_name(status));
    if (status == MM_OK)
        take(frame, USED);
}

static void free_at(size_t place)
{
    paddr_t frame = address[order[place]];

    forget(place);
    pmm_free_frame(&machine.pmm, frame);
}

static void free_oldest(void)
{
    if (used > 0)
        free_at(0);
}

static void free_newest(void)
{
    if (used > 0)
        free_at(used - 1);
}

static void alloc_pair(void)
{
    paddr_t first;
    mm_status_t status =
        pmm_alloc_contiguous(&machine.pmm, 2, 2 * FRAME_SIZE, PMM_NO_LIMIT, &first);

    if ((status == MM_OK) != has_free_pair())
        fail_msg("%s: alloc of two: \"%s\"", sequence, mm_status_name(status));
    if (status == MM_OK) {
        take(first, USED);
        take(first + FRAME_SIZE, USED);
    }
}

static void free_pair(void)
{
    for (size_t i = 0; i + 1 < used; i++) {
        paddr_t first = address[order[i]];

        if (address[order[i + 1]] != first + FRAME_SIZE)
            continue;
        forget(i);
        forget(i);
        pmm_free_contiguous(&machine.pmm, first, 2);
        return;
    }
}

static void table(void)
{
    size_t index = first_in(TABLE);
    paddr_t frame;

    if (index < frames) {
        state_of[index] = FREE;
        pmm_free_table(&machine.pmm, address[index]);
        return;
    }
    if (pmm_alloc_table(&machine.pmm, &frame) == MM_OK)
        take(frame, TABLE);
    else if (first_in(FREE) < frames)
        fail_msg("%s: no table, but a free frame", sequence);
}

static void reserve(void)
{
    size_t index = first_in(KEPT);
    bool release = index < frames;
    mm_status_t status;

    if (!release)
        index = first_in(FREE);
    if (index == frames)
        return;
    status = release ? pmm_release_range(&machine.pmm, address[index], address[index] + FRAME_SIZE)
                     : pmm_reserve_range(&machine.pmm, address[index], address[index] + FRAME_SIZE);
    if (status != MM_OK)
        fail_msg("%s: reserve or release: \"%s\"", sequence, mm_status_name(status));
    state_of[index] = release ? FREE : KEPT;
}

static void in_handler(void (*call)(void))
{
    assert_true(hosted_interrupt_enter());
    call();
    hosted_interrupt_leave();
}

static void alloc_in_handler(void)
{
    in_handler(alloc);
}

static void free_in_handler(void)
{
    in_handler(free_newest);
}

static const struct {
    char letter;
    void (*call)(void);
} calls[] = {
    { 'a', alloc },       { 'A', alloc_in_handler }, { 'f', free_newest }, { 'F', free_in_handler },
    { 'o', free_oldest }, { 'p', alloc_pair },       { 'P', free_pair },   { 't', table },
    { 'r', reserve },
};

/* ---- All sequences ---- */

static void check_all(void)
{
    static const enum pmm_frame_state expected[] = {
        [FREE] = PMM_FRAME_FREE,
        [USED] = PMM_FRAME_USED,
        [TABLE] = PMM_FRAME_TABLE,
        [KEPT] = PMM_FRAME_RESERVED,
    };
    uint64_t counts[4] = { 0 }, kept = 0, hidden;
    struct pmm_stats stats = pmm_stats(&machine.pmm);

    for (size_t i = 0; i < frames; i++) {
        kept += state_of[i] == KEPT;
        counts[is_hidden(i) ? KEPT : state_of[i]]++;
        if (!is_hidden(i) && pmm_frame_state(&machine.pmm, address[i]) != expected[state_of[i]])
            fail_msg("%s: frame 0x%lx is not in state %d", sequence, address[i], state_of[i]);
    }
    hidden = counts[KEPT] - kept;
    if (hidden > 2 || stats.free_frames != counts[FREE] ||
        stats.used_frames != counts[USED] + counts[TABLE] || stats.table_frames != counts[TABLE])
        fail_msg("%s: %lu free, %lu used, %lu tables", sequence, stats.free_frames,
                 stats.used_frames, stats.table_frames);
}

static void begin(const struct pmm_config *config)
{
    pmm_init(&machine.pmm, &machine.map, machine.metadata, config);
    frames = used = 0;
    for (size_t i = 0; i < machine.map.count; i++)
        for (paddr_t at = machine.map.ranges[i].base;
             machine.map.ranges[i].type == BOOT_USABLE && at < machine.map.ranges[i].end;
             at += FRAME_SIZE)
            address[frames++] = at;
    memset(state_of, FREE, sizeof state_of);
}

/* Runs the sequence whose number in the base of COUNT_OF(calls) is `number`. */
static void run(const struct pmm_config *config, uint64_t number, size_t length)
{
    begin(config);
    for (size_t i = 0; i < length; i++) {
        sequence[i] = calls[number % COUNT_OF(calls)].letter;
        sequence[i + 1] = '\0';
        calls[number % COUNT_OF(calls)].call();
        number /= COUNT_OF(calls);
    }
    check_all();
}

static void run_all(const struct boot_range *list, size_t count, const struct pmm_config *config)
{
    size_t most = support_is_sanitized() ? 4 : 6;
    uint64_t all = 1;

    machine_set_up_config(&machine, list, count, config);
    for (size_t length = 1; length <= most; length++) {
        all *= COUNT_OF(calls);
        for (uint64_t number = 0; number < all; number++)
            run(config, number, length);
    }
    assert_true(pmm_verify(&machine.pmm));
}

/* The map and the metadata take frames of their own; what is left is what begin() finds. */
static void run_of(const struct pmm_config *config)
{
    const struct boot_range one[] = { ROW(MM_MIB(1), MM_MIB(1) + 5 * FRAME_SIZE, BOOT_USABLE) };
    const struct boot_range two[] = {
        ROW(MM_MIB(1), MM_MIB(1) + 4 * FRAME_SIZE, BOOT_USABLE),
        ROW(MM_MIB(1) + 9 * FRAME_SIZE, MM_MIB(1) + 11 * FRAME_SIZE, BOOT_USABLE),
    };

    run_all(one, COUNT_OF(one), config);
    run_all(two, COUNT_OF(two), config);
}

static void every_sequence_with_magazines_is_right(void **state)
{
    (void)state;
    run_of(&(struct pmm_config){ .magazine_frames = 4 });
}

static void every_sequence_at_the_full_level_is_right(void **state)
{
    (void)state;
    run_of(&(struct pmm_config){ .full_harden = true });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_sequence_with_magazines_is_right),
        TEST(every_sequence_at_the_full_level_is_right),
    };

    return RUN_TESTS(tests);
}
