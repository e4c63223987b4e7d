/* SPDX-License-Identifier: MIT */
/* See pmm_model.h.
 *
 *   frames[i]: address, state; sorted by address       in_state[s]: the frames in state s, any order
 *
 * Used frames carry a stamp in their first and last word while they are allocated, so that a frame
 * with two owners, or one that is cleared while it is used, shows. A frame that pmm_free_zeroed_frame()
 * or pmm_free_table() takes is made zero before. */
#include "pmm_model.h"
#include "pmm_ranges.h"

#include <string.h>

enum state {
    FREE,
    USED,
    TABLE,
    RESERVED, /* from the beginning, for good */
    KEPT,     /* by pmm_reserve_range() */
    RETIRED,  /* bad RAM */
    STATES
};

struct frame {
    paddr_t address;
    uint32_t place; /* in in_state[state] */
    uint8_t state;
    bool doomed; /* bad RAM in use, by the pmm itself if FREE: retired when it is freed */
};

static struct machine machine;
static struct frame frames[PMM_MODEL_FRAMES];
static uint32_t in_state[STATES][PMM_MODEL_FRAMES];
static size_t count_of[STATES], frame_count;
static size_t doomed_frames[PMM_MODEL_FRAMES], doomed_count; /* FREE and doomed */
static uint64_t step_number, free_at_first;
static pmm_model_choose choose;

struct pmm *pmm_model_pmm(void)
{
    return &machine.pmm;
}

/* ---- The model's state ---- */

static void put(size_t index, enum state state)
{
    frames[index].state = (uint8_t)state;
    frames[index].place = (uint32_t)count_of[state];
    in_state[state][count_of[state]++] = (uint32_t)index;
}

static void move(size_t index, enum state state)
{
    struct frame *frame = &frames[index];
    size_t last = --count_of[frame->state];
    uint32_t other = in_state[frame->state][last];

    in_state[frame->state][frame->place] = other;
    frames[other].place = frame->place;
    put(index, state);
}

/* The frame at the address; frame_count if there is none. */
static size_t find(paddr_t address)
{
    size_t low = 0, high = frame_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (frames[middle].address < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < frame_count && frames[low].address == address ? low : frame_count;
}

static size_t pick(enum state state)
{
    return in_state[state][choose(count_of[state])];
}

/* Frames from `from` on that are neighbours and in `state`, `max` at most. */
static size_t row_of(size_t from, enum state state, size_t max)
{
    size_t count = 0;

    while (count < max && from + count < frame_count && frames[from + count].state == state &&
           frames[from + count].address == frames[from].address + count * FRAME_SIZE)
        count++;
    return count;
}

/* ---- What the pmm says ---- */

static enum pmm_frame_state state_in_pmm(size_t index)
{
    return pmm_frame_state(&machine.pmm, frames[index].address);
}

static bool is_hidden(size_t index)
{
    return frames[index].state == FREE && state_in_pmm(index) == PMM_FRAME_RESERVED;
}

static size_t count_hidden(void)
{
    size_t count = 0;

    for (size_t i = 0; i < count_of[FREE]; i++)
        count += is_hidden(in_state[FREE][i]);
    return count;
}

/* Frames of the pmm's own in bad RAM that it has left meanwhile. */
static void sync_doomed(void)
{
    for (size_t i = 0; i < doomed_count;) {
        size_t index = doomed_frames[i];

        if (state_in_pmm(index) != PMM_FRAME_RETIRED) {
            i++;
            continue;
        }
        frames[index].doomed = false;
        move(index, RETIRED);
        doomed_frames[i] = doomed_frames[--doomed_count];
    }
}

static void check_state(size_t index)
{
    static const enum pmm_frame_state expected[STATES] = {
        [FREE] = PMM_FRAME_FREE,         [USED] = PMM_FRAME_USED,     [TABLE] = PMM_FRAME_TABLE,
        [RESERVED] = PMM_FRAME_RESERVED, [KEPT] = PMM_FRAME_RESERVED, [RETIRED] = PMM_FRAME_RETIRED,
    };
    enum pmm_frame_state state;

    sync_doomed();
    state = state_in_pmm(index);
    if (state == expected[frames[index].state])
        return;
    if (frames[index].state == FREE && state == PMM_FRAME_RESERVED)
        return; /* hidden: counted in check_counts() */
    fail_msg("step %lu: frame 0x%lx is in state %d, in the model %d", step_number,
             frames[index].address, state, frames[index].state);
}

static void check_counts(void)
{
    struct pmm_stats stats = pmm_stats(&machine.pmm);
    uint64_t reserved;

    sync_doomed();
    reserved = count_of[RESERVED] + count_of[KEPT] + count_of[RETIRED];
    if (stats.total_frames != frame_count ||
        stats.used_frames != count_of[USED] + count_of[TABLE] ||
        stats.table_frames != count_of[TABLE] || stats.reserved_frames < reserved ||
        stats.reserved_frames > reserved + PMM_MODEL_HIDDEN ||
        stats.retired_frames != count_of[RETIRED] || stats.cached_frames > stats.free_frames ||
        stats.zeroed_frames > stats.cached_frames ||
        stats.free_frames + stats.used_frames + stats.reserved_frames != frame_count)
        fail_msg("step %lu: the pmm counts %lu total, %lu free, %lu used, %lu table, %lu reserved; "
                 "the model %zu total, %zu free, %zu used, %zu table, %lu reserved",
                 step_number, stats.total_frames, stats.free_frames, stats.used_frames,
                 stats.table_frames, stats.reserved_frames, frame_count, count_of[FREE],
                 count_of[USED] + count_of[TABLE], count_of[TABLE], reserved);
}

void pmm_model_check(void)
{
    for (size_t i = 0; i < frame_count; i++)
        check_state(i);
    check_counts();
    assert_int_equal(pmm_stats(&machine.pmm).reserved_frames,
                     count_of[RESERVED] + count_of[KEPT] + count_of[RETIRED] + count_hidden());
    assert_ranges_are_counted(&machine.pmm);
    if (!pmm_verify(&machine.pmm))
        fail_msg("step %lu: pmm_verify: %s", step_number, log_line(log_lines() - 1));
}

/* ---- Stamps ---- */

static uint64_t *words_of(size_t index)
{
    return phys_to_virt(frames[index].address);
}

static void stamp(size_t index)
{
    words_of(index)[0] = words_of(index)[511] = ~frames[index].address;
}

static void check_stamp(size_t index)
{
    if (words_of(index)[0] != ~frames[index].address ||
        words_of(index)[511] != ~frames[index].address)
        fail_msg("step %lu: used frame 0x%lx was written to", step_number, frames[index].address);
}

static void clear_stamp(size_t index)
{
    words_of(index)[0] = words_of(index)[511] = 0;
}

/* ---- The calls ---- */

/* Frames [first, first + count) must be free in the model; they are now in `state`. */
static void took(paddr_t first, size_t count, enum state state, bool zeroed)
{
    size_t index = find(first);

    if (index == frame_count || row_of(index, FREE, count) < count)
        fail_msg("step %lu: the pmm gave %zu frames at 0x%lx, which are not free", step_number,
                 count, first);
    for (size_t i = index; i < index + count; i++) {
        if (frames[i].doomed)
            fail_msg("step %lu: the pmm gave bad frame 0x%lx", step_number, frames[i].address);
        if (zeroed && !is_zero(words_of(i), FRAME_SIZE))
            fail_msg("step %lu: frame 0x%lx is not zero", step_number, frames[i].address);
        if (!zeroed) {
            memset(words_of(i), 0x5a, FRAME_SIZE);
        }
        stamp(i);
        move(i, state);
        check_state(i);
    }
}

static void give(size_t index)
{
    check_stamp(index);
    move(index, frames[index].doomed ? RETIRED : FREE);
    frames[index].doomed = false;
}

static void expect_none_left(mm_status_t status, size_t wanted)
{
    sync_doomed();
    assert_status(status, MM_OUT_OF_MEMORY);
    if (count_of[FREE] - count_hidden() >= wanted)
        fail_msg("step %lu: out of memory, but of %zu frames asked for %zu are free", step_number,
                 wanted, count_of[FREE]);
}

/* No frame for the pmm's bookkeeping: right only if none is free but the `wanted` ones. */
static void expect_no_room(mm_status_t status, size_t wanted)
{
    sync_doomed();
    assert_status(status, MM_OUT_OF_MEMORY);
    if (count_of[FREE] - count_hidden() > wanted)
        fail_msg("step %lu: no room for bookkeeping, but %zu frames are free", step_number,
                 count_of[FREE]);
}

static void do_alloc(void)
{
    paddr_t frame = 0x1234;
    bool nozero = choose(4) == 0;
    mm_status_t status = nozero ? pmm_alloc_frame_flags(&machine.pmm, PMM_NOZERO, &frame)
                                : pmm_alloc_frame(&machine.pmm, &frame);

    if (status == MM_OK) {
        took(frame, 1, USED, !nozero);
        return;
    }
    expect_none_left(status, 1);
    assert_int_equal(frame, 0x1234);
}

static void do_free(void)
{
    size_t index;

    if (count_of[USED] == 0)
        return;
    index = pick(USED);
    give(index);
    if (choose(4) == 0) {
        memset(words_of(index), 0, FRAME_SIZE);
        pmm_free_zeroed_frame(&machine.pmm, frames[index].address);
    } else {
        pmm_free_frame(&machine.pmm, frames[index].address);
    }
    check_state(index);
}

static void do_alloc_table(void)
{
    paddr_t frame;
    mm_status_t status = pmm_alloc_table(&machine.pmm, &frame);

    if (status == MM_OK)
        took(frame, 1, TABLE, true);
    else
        expect_no_room(status, 0);
}

static void do_free_table(void)
{
    size_t index;

    if (count_of[TABLE] == 0)
        return;
    index = pick(TABLE);
    give(index);
    clear_stamp(index);
    pmm_free_table(&machine.pmm, frames[index].address);
    check_state(index);
}

#define BULK 40u

static void do_alloc_bulk(void)
{
    paddr_t got[BULK];
    size_t count = choose(BULK + 1);
    unsigned flags = choose(2) == 0 ? PMM_NOZERO : 0;
    mm_status_t status;

    memset(got, 0x12, sizeof got);
    status = pmm_alloc_frames(&machine.pmm, count, flags, got);
    if (status != MM_OK) {
        expect_none_left(status, count);
        return;
    }
    for (size_t i = 0; i < count; i++)
        took(got[i], 1, USED, flags == 0);
}

static void do_free_bulk(void)
{
    paddr_t list[BULK];
    size_t count = choose(BULK), done = 0;

    while (done < count && count_of[USED] > 0) {
        size_t index = pick(USED);

        give(index);
        list[done++] = frames[index].address;
    }
    pmm_free_frames(&machine.pmm, list, done);
    for (size_t i = 0; i < done; i++)
        check_state(find(list[i]));
}

/* Free frames of 2 MiB that hold page tables are not for blocks (pmm.h). */
static bool is_beside_table(size_t index)
{
    paddr_t chunk = mm_round_down(frames[index].address, LARGE_PAGE_SIZE);

    for (size_t i = 0; i < count_of[TABLE]; i++)
        if (mm_round_down(frames[in_state[TABLE][i]].address, LARGE_PAGE_SIZE) == chunk)
            return true;
    return false;
}

/* True if the model has such a block. */
static bool block_exists(uint64_t count, uint64_t align_bytes, paddr_t limit)
{
    sync_doomed();
    for (size_t i = 0; i < frame_count; i++) {
        paddr_t base = frames[i].address;
        size_t free = 0;

        if (frames[i].state != FREE || !mm_is_aligned(base, align_bytes) || base >= limit ||
            count > (limit - base) / FRAME_SIZE || row_of(i, FREE, count) < count)
            continue;
        while (free < count && !is_hidden(i + free) && !is_beside_table(i + free))
            free++;
        if (free == count)
            return true;
    }
    return false;
}

static void do_alloc_contiguous(void)
{
    uint64_t most = choose(4) == 0 ? 600 : 12;
    uint64_t count = 1 + choose(most);
    uint64_t align_bytes = FRAME_SIZE << choose(choose(4) == 0 ? 11 : 4);
    paddr_t limit = PMM_NO_LIMIT, first;
    unsigned flags = choose(4) == 0 ? PMM_NOZERO : 0;
    mm_status_t status;

    if (choose(3) == 0)
        limit = frames[choose(frame_count)].address + choose(3) * FRAME_SIZE / 2;
    status = pmm_alloc_contiguous_flags(&machine.pmm, count, align_bytes, limit, flags, &first);
    if (status == MM_OK) {
        if (!mm_is_aligned(first, align_bytes) || first + count * FRAME_SIZE > limit)
            fail_msg("step %lu: block at 0x%lx: align 0x%lx, limit 0x%lx", step_number, first,
                     align_bytes, limit);
        took(first, count, USED, flags == 0);
        return;
    }
    assert_status(status, MM_OUT_OF_MEMORY);
    if (block_exists(count, align_bytes, limit))
        fail_msg("step %lu: no block of %lu frames, align 0x%lx, limit 0x%lx, but there is one",
                 step_number, count, align_bytes, limit);
}

static void do_free_contiguous(void)
{
    size_t first, count;

    if (count_of[USED] == 0)
        return;
    first = pick(USED);
    count = row_of(first, USED, 1 + choose(choose(4) == 0 ? 600 : 16));
    for (size_t i = first; i < first + count; i++)
        give(i);
    pmm_free_contiguous(&machine.pmm, frames[first].address, count);
    check_state(first);
    check_state(first + count - 1);
}

#define LARGE_FRAMES (LARGE_PAGE_SIZE / FRAME_SIZE)

static void do_alloc_large(void)
{
    unsigned flags = choose(4) == 0 ? PMM_NOZERO : 0;
    paddr_t block;
    mm_status_t status = pmm_alloc_large(&machine.pmm, flags, &block);

    if (status == MM_OK) {
        assert_true(mm_is_aligned(block, LARGE_PAGE_SIZE));
        took(block, LARGE_FRAMES, USED, flags == 0);
        return;
    }
    assert_status(status, MM_OUT_OF_MEMORY);
    if (block_exists(LARGE_FRAMES, LARGE_PAGE_SIZE, PMM_NO_LIMIT))
        fail_msg("step %lu: no block of 2 MiB, but there is one", step_number);
}

/* Any 2 MiB, wherever its frames came from. */
static void do_free_large(void)
{
    size_t first;

    if (count_of[USED] < LARGE_FRAMES)
        return;
    first = find(mm_round_down(frames[pick(USED)].address, LARGE_PAGE_SIZE));
    if (first == frame_count || row_of(first, USED, LARGE_FRAMES) < LARGE_FRAMES)
        return;
    for (size_t i = first; i < first + LARGE_FRAMES; i++)
        give(i);
    pmm_free_large(&machine.pmm, frames[first].address);
    check_state(first);
    check_state(first + LARGE_FRAMES - 1);
}

static void do_reserve(void)
{
    size_t first = choose(frame_count), count = 1 + choose(choose(4) == 0 ? 600 : 10);
    size_t neighbours = 0, free;
    mm_status_t status;

    if (count_of[FREE] > 0 && choose(4) != 0)
        first = pick(FREE);
    while (neighbours < count && first + neighbours < frame_count &&
           frames[first + neighbours].address == frames[first].address + neighbours * FRAME_SIZE)
        neighbours++;
    free = row_of(first, FREE, count);
    for (size_t i = 0; i < free; i++)
        if (is_hidden(first + i))
            free = i;
    status = pmm_reserve_range(&machine.pmm, frames[first].address,
                               frames[first].address + count * FRAME_SIZE);
    if (free == count && status != MM_OK) {
        expect_no_room(status, count);
    } else if (free == count) {
        for (size_t i = first; i < first + count; i++) {
            move(i, KEPT);
            check_state(i);
        }
    } else if (neighbours == count) {
        assert_status(status, MM_NOT_FREE);
    } else if (status != MM_INVALID_ADDRESS && status != MM_NOT_FREE) {
        fail_msg("step %lu: a reserve beyond RAM: \"%s\"", step_number, mm_status_name(status));
    }
}

static void do_release(void)
{
    size_t first, count;
    mm_status_t status;

    if (count_of[KEPT] == 0)
        return;
    first = pick(KEPT);
    count = row_of(first, KEPT, 1 + choose(choose(4) == 0 ? 600 : 10));
    status = pmm_release_range(&machine.pmm, frames[first].address,
                               frames[first].address + count * FRAME_SIZE);
    assert_ok(status);
    for (size_t i = first; i < first + count; i++) {
        move(i, FREE);
        check_state(i);
    }
    if (frames[first].state == FREE && choose(2) == 0)
        assert_status(pmm_release_range(&machine.pmm, frames[first].address,
                                        frames[first].address + FRAME_SIZE),
                      MM_NOT_FREE);
}

static void do_bad_arguments(void)
{
    paddr_t out = 0x1234;
    struct pmm *pmm = &machine.pmm;

    assert_status(pmm_alloc_contiguous(pmm, 0, FRAME_SIZE, PMM_NO_LIMIT, &out),
                  MM_INVALID_ARGUMENT);
    assert_status(pmm_alloc_contiguous(pmm, 1, 3 * FRAME_SIZE, PMM_NO_LIMIT, &out),
                  MM_INVALID_ARGUMENT);
    assert_status(pmm_alloc_contiguous(pmm, 1, 0, PMM_NO_LIMIT, &out), MM_INVALID_ARGUMENT);
    assert_status(pmm_alloc_contiguous(pmm, 1, 64, PMM_NO_LIMIT, &out), MM_INVALID_ARGUMENT);
    assert_status(pmm_alloc_contiguous(pmm, UINT64_MAX, FRAME_SIZE, PMM_NO_LIMIT, &out),
                  MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_contiguous(pmm, 1 + (UINT64_MAX >> FRAME_SHIFT), FRAME_SIZE,
                                       PMM_NO_LIMIT, &out),
                  MM_OUT_OF_MEMORY);
    assert_status(pmm_alloc_contiguous(pmm, 1, (uint64_t)1 << 63, PMM_NO_LIMIT, &out),
                  MM_OUT_OF_MEMORY);
    assert_status(pmm_reserve_range(pmm, 1, FRAME_SIZE), MM_NOT_ALIGNED);
    assert_status(pmm_release_range(pmm, 0, FRAME_SIZE + 1), MM_NOT_ALIGNED);
    assert_status(pmm_reserve_range(pmm, MM_GIB(1), MM_GIB(1)), MM_INVALID_ADDRESS);
    assert_int_equal(out, 0x1234);
}

/* ---- Bad RAM, caches, injected failures ---- */

/* `hidden`: something of the pmm's own stood there, and may stand there until its owner comes by. */
static void retired_one(size_t index, bool hidden)
{
    if (hidden && state_in_pmm(index) == PMM_FRAME_RESERVED) {
        if (!frames[index].doomed)
            doomed_frames[doomed_count++] = index;
        frames[index].doomed = true;
    } else if (frames[index].state == USED || frames[index].state == TABLE)
        frames[index].doomed = true;
    else if (frames[index].state != RETIRED)
        move(index, RETIRED);
}

static void do_retire(void)
{
    size_t first = choose(frame_count), waiting = 0, free = 0;
    bool hidden[4];
    uint64_t told = 0;
    paddr_t end;
    mm_status_t status;

    if (count_of[RETIRED] > frame_count / 8 || choose(16) != 0)
        return;
    end = frames[first].address + (1 + choose(4)) * FRAME_SIZE;
    for (size_t i = first; i < frame_count && frames[i].address < end; i++)
        hidden[i - first] = is_hidden(i);
    status = pmm_retire_range(&machine.pmm, frames[first].address, end, &told);
    for (size_t i = first; i < frame_count && frames[i].address < end; i++) {
        /* Without a frame for bookkeeping a part may have been retired. */
        if (status == MM_OK || state_in_pmm(i) == PMM_FRAME_RETIRED)
            retired_one(i, hidden[i - first]);
        waiting += frames[i].state == USED || frames[i].state == TABLE || frames[i].doomed;
        free += frames[i].state == FREE && !is_hidden(i);
        check_state(i);
    }
    if (status == MM_OK)
        assert_int_equal(told, waiting);
    else
        expect_no_room(status, free);
}

static uint64_t longest_free_run(void)
{
    size_t longest = 0;

    sync_doomed();
    for (size_t i = 0; i < frame_count; i++) {
        size_t count = 0;

        while (i + count < frame_count && frames[i + count].state == FREE &&
               !is_hidden(i + count) &&
               frames[i + count].address == frames[i].address + count * FRAME_SIZE)
            count++;
        longest = count > longest ? count : longest;
        i += count > 0 ? count - 1 : 0;
    }
    return longest;
}

static void do_drain(void)
{
    struct pmm_stats stats;
    uint64_t free = 0;

    if (choose(8) != 0) {
        pmm_drain_slot(&machine.pmm);
        return;
    }
    pmm_drain(&machine.pmm);
    stats = pmm_stats(&machine.pmm);
    assert_int_equal(stats.cached_frames, 0);
    for (size_t i = 0; i < stats.range_count; i++)
        free += pmm_range_stats(&machine.pmm, i).free_frames;
    assert_int_equal(free, stats.free_frames);
    assert_int_equal(pmm_largest_free(&machine.pmm), longest_free_run());
}

static void do_idle(void)
{
    for (uint64_t i = choose(8); i > 0; i--)
        (void)pmm_idle_work(&machine.pmm);
}

/* The n-th allocation fails, whatever it is, and none before it. */
static void do_inject(void)
{
    uint64_t nth = 1 + choose(4);
    paddr_t frame = 0x1234;

    if (count_of[FREE] < 16)
        return;
    pmm_fault_inject(&machine.pmm, nth, 0);
    for (uint64_t i = 1; i < nth; i++)
        do_alloc();
    switch (choose(4)) {
    case 0:
        assert_status(pmm_alloc_table(&machine.pmm, &frame), MM_OUT_OF_MEMORY);
        break;
    case 1:
        assert_status(pmm_alloc_frames(&machine.pmm, 1, 0, &frame), MM_OUT_OF_MEMORY);
        break;
    case 2:
        assert_status(pmm_alloc_contiguous(&machine.pmm, 1, FRAME_SIZE, PMM_NO_LIMIT, &frame),
                      MM_OUT_OF_MEMORY);
        break;
    default:
        assert_status(pmm_alloc_frame(&machine.pmm, &frame), MM_OUT_OF_MEMORY);
        break;
    }
    assert_int_equal(frame, 0x1234);
    do_alloc();
    pmm_fault_inject(&machine.pmm, 0, 0);
}

static void do_trace(void)
{
    pmm_set_trace(&machine.pmm, choose(4) == 0);
}

/* ---- Wrong calls: one report each, and nothing changes ---- */

static void free_as(enum state state, paddr_t frame)
{
    if (state == TABLE)
        pmm_free_table(&machine.pmm, frame);
    else if (choose(8) == 0)
        pmm_free_frames(&machine.pmm, &frame, 1);
    else if (choose(8) == 0)
        pmm_free_contiguous(&machine.pmm, frame, 1);
    else
        pmm_free_frame(&machine.pmm, frame);
}

static void do_wrong_free(void)
{
    enum state state = (enum state)choose(STATES), as = choose(2) == 0 ? USED : TABLE;
    char words[64];
    size_t index;

    if (state == as || count_of[state] == 0)
        return;
    index = pick(state);
    mm_format(words, sizeof words, "free|0x%lx", frames[index].address);
    EXPECT_BUG(words, free_as(as, frames[index].address));
    check_state(index);
}

static void do_wrong_address(void)
{
    paddr_t first = frames[0].address, last = frames[frame_count - 1].address;
    paddr_t wrong[] = { frames[choose(frame_count)].address + 1 + choose(FRAME_SIZE - 1),
                        last + FRAME_SIZE,
                        first >= FRAME_SIZE ? first - FRAME_SIZE : 1,
                        0,
                        (paddr_t)1 << 52,
                        ~(paddr_t)0xfff };
    paddr_t address = wrong[choose(COUNT_OF(wrong))];
    char words[64];

    if (find(address) != frame_count && frames[find(address)].state == USED)
        return;
    mm_format(words, sizeof words, "free|0x%lx", address);
    EXPECT_BUG(words, free_as(choose(2) == 0 ? USED : TABLE, address));
}

/* A block that reaches a frame that is not used: none of it is freed. */
static void do_wrong_block(void)
{
    size_t first, count;

    if (count_of[USED] == 0)
        return;
    first = pick(USED);
    count = row_of(first, USED, 64);
    if (count == 64)
        return;
    EXPECT_BUG("free",
               pmm_free_contiguous(&machine.pmm, frames[first].address, count + 1 + choose(3)));
    for (size_t i = first; i < first + count; i++) {
        check_state(i);
        check_stamp(i);
    }
}

static void do_wrong(void)
{
    switch (choose(4)) {
    case 0:
        do_wrong_address();
        break;
    case 1:
        do_wrong_block();
        break;
    case 2:
        do_bad_arguments();
        break;
    default:
        do_wrong_free();
        break;
    }
}

/* ---- Programs ---- */

static void (*const calls[])(void) = {
    do_alloc,
    do_alloc,
    do_alloc,
    do_alloc,
    do_free,
    do_free,
    do_free,
    do_alloc_table,
    do_free_table,
    do_alloc_bulk,
    do_free_bulk,
    do_alloc_contiguous,
    do_free_contiguous,
    do_alloc_large,
    do_free_large,
    do_retire,
    do_drain,
    do_idle,
    do_inject,
    do_trace,
    do_reserve,
    do_release,
    do_wrong,
};

static void call_at_level(void (*call)(void), uint64_t level)
{
    if (level == 0) {
        call();
        return;
    }
    assert_true(hosted_interrupt_enter());
    call_at_level(call, level - 1);
    hosted_interrupt_leave();
}

void pmm_model_step(unsigned flags)
{
    void (*call)(void) = calls[choose(COUNT_OF(calls))];

    step_number++;
    if (call == do_wrong && (flags & PMM_MODEL_MISUSE) == 0)
        call = do_bad_arguments;
    call_at_level(call, (flags & PMM_MODEL_LEVELS) != 0 ? choose(MM_PORT_LEVELS) : 0);
    check_counts();
    check_state(choose(frame_count));
}

static void add_range(const struct mm_range *range, bool low_memory)
{
    paddr_t lowest = low_memory ? FRAME_SIZE : MM_LOW_MEMORY_END;

    if (!memmap_type_is_ram(range->type))
        return;
    for (paddr_t at = range->base; at < range->end; at += FRAME_SIZE) {
        assert_true(frame_count < PMM_MODEL_FRAMES);
        frames[frame_count].address = at;
        put(frame_count++, range->type == BOOT_USABLE && at >= lowest ? FREE : RESERVED);
    }
}

void pmm_model_set_up_map(pmm_model_choose chooser, const struct boot_range *list, size_t count,
                          const struct pmm_config *config)
{
    choose = chooser;
    frame_count = 0;
    step_number = 0;
    doomed_count = 0;
    memset(count_of, 0, sizeof count_of);
    memset(frames, 0, sizeof frames);
    machine_set_up_config(&machine, list, count, config);
    for (size_t i = 0; i < machine.map.count; i++)
        add_range(&machine.map.ranges[i], config->low_memory);
    free_at_first = count_of[FREE];
    pmm_model_check();
}

/* Tiny and small, one range or many, blocks of 2 MiB whole, cut or none; below and above 4 GiB. */
unsigned pmm_model_set_up(pmm_model_choose chooser)
{
    static const uint64_t sizes[] = { 1, 3, 16, 40, 64, 100, 300 };
    struct boot_range list[8];
    size_t count = 1 + chooser(5);
    struct pmm_config config = {
        .low_memory = chooser(3) == 0,
        .full_harden = chooser(4) == 0,
        .memory_is_zero = chooser(4) == 0,
        .magazine_frames = chooser(3) == 0 ? 0 : (uint64_t)4 << chooser(4),
    };
    paddr_t at = MM_MIB(1) + (chooser(2) == 0 ? 24 : 40) * FRAME_SIZE;
    bool levels = chooser(2) == 0;

    list[0] = (struct boot_range){ MM_MIB(1), 24 * FRAME_SIZE, BOOT_USABLE };
    for (size_t i = 1; i < count; i++) {
        uint64_t large = chooser(6) == 0 ? 512 * (1 + chooser(2)) : 0;

        list[i].base = at;
        list[i].length = (sizes[chooser(COUNT_OF(sizes))] + large) * FRAME_SIZE;
        list[i].type = chooser(5) == 0 ? BOOT_LOADER_RECLAIMABLE : BOOT_USABLE;
        at += list[i].length + chooser(3) * FRAME_SIZE;
        if (chooser(4) == 0)
            at = mm_round_up(at, LARGE_PAGE_SIZE);
        if (chooser(8) == 0)
            at = mm_round_up(at, MM_GIB(4));
    }
    if (chooser(3) == 0) {
        list[count++] = (struct boot_range){ 0, 20 * FRAME_SIZE, BOOT_USABLE };
        list[count++] =
            (struct boot_range){ MM_MIB(1) - 3 * FRAME_SIZE, 3 * FRAME_SIZE, BOOT_USABLE };
    }
    pmm_model_set_up_map(chooser, list, count, &config);
    if (config.full_harden)
        return PMM_MODEL_MISUSE | (levels ? PMM_MODEL_LEVELS : 0);
    return levels ? PMM_MODEL_LEVELS : PMM_MODEL_MISUSE;
}

void pmm_model_finish(void)
{
    pmm_model_check();
    while (count_of[TABLE] > 0)
        do_free_table();
    while (count_of[USED] > 0)
        do_free();
    while (count_of[KEPT] > 0)
        do_release();
    assert_true(count_of[FREE] + count_of[RETIRED] >= free_at_first);
    pmm_model_check();
}
