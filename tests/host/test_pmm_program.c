/* SPDX-License-Identifier: MIT */
/* Random programs of calls on the frames of 16 MiB, against a model that keeps one state for each frame in
 * an array. */
#include "support.h"

#include <string.h>

static struct machine machine;
static struct pmm *const pmm = &machine.pmm;

#define MODEL_FRAMES (16 * 256u)

static struct {
    unsigned char state[MODEL_FRAMES]; /* enum pmm_frame_state */
    bool metadata[MODEL_FRAMES];       /* mm's own */
    bool adopted;                      /* one of them was free at the start */
    uint64_t tag[MODEL_FRAMES];        /* written into a used frame; 0 if none */
    uint64_t next_tag;
} model;

/* Usable rows with gaps, a reserved hole, the kernel and the loader between them, over 16 MiB. */
static void model_set_up(bool low_memory)
{
    const struct boot_range list[] = {
        ROW(0, 0x9fc00, BOOT_USABLE),
        ROW(0xf0000, 0x100000, BOOT_RESERVED),
        ROW(MM_MIB(1), MM_MIB(3), BOOT_USABLE),
        ROW(MM_MIB(3), MM_MIB(3) + 0x11000, BOOT_EXECUTABLE),
        ROW(MM_MIB(3) + 0x11000, MM_MIB(5), BOOT_USABLE),
        ROW(MM_MIB(5) + 0x1000, MM_MIB(5) + 0x2000, BOOT_USABLE), /* one frame alone */
        ROW(MM_MIB(6), MM_MIB(8), BOOT_USABLE),
        ROW(MM_MIB(8), MM_MIB(8) + 0x40000, BOOT_LOADER_RECLAIMABLE),
        ROW(MM_MIB(8) + 0x40000, MM_MIB(8) + 0x53000, BOOT_USABLE),
        ROW(MM_MIB(10), MM_MIB(16) - 0x5000, BOOT_USABLE),
    };

    memset(&model, 0, sizeof model);
    machine_set_up(&machine, list, COUNT_OF(list), low_memory);
    for (uint64_t i = 0; i < MODEL_FRAMES; i++) {
        paddr_t frame = i * FRAME_SIZE;
        const struct mm_range *range = memmap_find(&machine.map, frame);

        if (range == NULL || !memmap_type_is_ram(range->type))
            model.state[i] = PMM_FRAME_OUTSIDE;
        else if (range->type != BOOT_USABLE || frame == 0 ||
                 (frame < MM_LOW_MEMORY_END && !low_memory))
            model.state[i] = PMM_FRAME_RESERVED;
        else
            model.state[i] = PMM_FRAME_FREE;
        model.metadata[i] = range != NULL && range->type == BOOT_METADATA;
    }
}

static bool model_all(uint64_t from, uint64_t to, enum pmm_frame_state wanted)
{
    for (uint64_t i = from; i < to; i++)
        if (i >= MODEL_FRAMES || model.state[i] != wanted)
            return false;
    return true;
}

/* Frames that came out of the pmm: free before, zero now; their new owner signs them. */
static void model_take(paddr_t first, uint64_t count, enum pmm_frame_state new_state)
{
    assert_int_equal(first % FRAME_SIZE, 0);
    assert_true(model_all(first / FRAME_SIZE, first / FRAME_SIZE + count, PMM_FRAME_FREE));
    assert_true(is_zero(phys_to_virt(first), count * FRAME_SIZE));
    for (uint64_t i = first / FRAME_SIZE; i < first / FRAME_SIZE + count; i++) {
        uint64_t *memory = phys_to_virt(i * FRAME_SIZE);

        model.state[i] = (unsigned char)new_state;
        model.tag[i] = ++model.next_tag;
        memory[0] = memory[511] = memory[random_below(512)] = model.tag[i];
    }
}

/* Frames that go back: nobody else has written into them. */
static void model_give(uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++) {
        uint64_t *memory = phys_to_virt(i * FRAME_SIZE);

        assert_int_equal(memory[0], model.tag[i]);
        assert_int_equal(memory[511], model.tag[i]);
        model.state[i] = PMM_FRAME_FREE;
        model.tag[i] = 0;
    }
}

static uint64_t model_count(enum pmm_frame_state wanted)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < MODEL_FRAMES; i++)
        count += model.state[i] == wanted;
    return count;
}

/* A random frame in that state, or any if none is found soon. */
static uint64_t model_pick(enum pmm_frame_state wanted)
{
    uint64_t frame = random_below(MODEL_FRAMES);

    for (uint64_t i = 0; i < MODEL_FRAMES && model.state[frame] != wanted; i++)
        frame = (frame + 1) % MODEL_FRAMES;
    return frame;
}

static void step_alloc_frame(bool table)
{
    paddr_t frame = 0x1234;
    mm_status_t status = table ? pmm_alloc_table(pmm, &frame) : pmm_alloc_frame(pmm, &frame);

    if (model_count(PMM_FRAME_FREE) == 0) {
        assert_int_equal(status, MM_OUT_OF_MEMORY);
        assert_int_equal(frame, 0x1234);
    } else {
        assert_int_equal(status, MM_OK);
        model_take(frame, 1, table ? PMM_FRAME_TABLE : PMM_FRAME_USED);
    }
}

static void step_free_frame(bool table)
{
    enum pmm_frame_state right = table ? PMM_FRAME_TABLE : PMM_FRAME_USED;
    uint64_t frame = random_chance(90) ? model_pick(right) : random_below(MODEL_FRAMES);
    paddr_t address = frame * FRAME_SIZE;
    char words[32];

    if (model.state[frame] == right) {
        model_give(frame, frame + 1);
        if (table) {
            memset(phys_to_virt(address), 0, FRAME_SIZE); /* as the contract wants it */
            pmm_free_table(pmm, address);
        } else {
            pmm_free_frame(pmm, address);
        }
        return;
    }
    mm_format(words, sizeof words, "0x%lx", address);
    if (table)
        EXPECT_BUG(words, pmm_free_table(pmm, address));
    else
        EXPECT_BUG(words, pmm_free_frame(pmm, address));
}

static void step_alloc_contiguous(void)
{
    uint64_t count = 1 + random_below(random_chance(20) ? 600 : 20);
    uint64_t align = FRAME_SIZE << (random_chance(50) ? 0 : random_below(9));
    paddr_t limit = random_chance(50) ? PMM_NO_LIMIT : random_below(MM_MIB(17));
    uint64_t first = 0, step = align / FRAME_SIZE;
    paddr_t got = 0x1234;
    mm_status_t status = pmm_alloc_contiguous(pmm, count, align, limit, &got);

    while (first + count <= MODEL_FRAMES && !model_all(first, first + count, PMM_FRAME_FREE))
        first += step;
    if (first + count > MODEL_FRAMES || (first + count) * FRAME_SIZE > limit) {
        assert_int_equal(status, MM_OUT_OF_MEMORY);
        assert_int_equal(got, 0x1234);
        return;
    }
    assert_int_equal(status, MM_OK);
    assert_int_equal(got % align, 0);
    assert_true(got >= first * FRAME_SIZE && got + count * FRAME_SIZE <= limit);
    model_take(got, count, PMM_FRAME_USED);
}

static void step_free_contiguous(void)
{
    uint64_t first = model_pick(PMM_FRAME_USED), count = 1 + random_below(40);
    char words[32];

    if (random_chance(80))
        while (count > 1 && !model_all(first, first + count, PMM_FRAME_USED))
            count--;
    if (model_all(first, first + count, PMM_FRAME_USED)) {
        model_give(first, first + count);
        pmm_free_contiguous(pmm, first * FRAME_SIZE, count);
        return;
    }
    mm_format(words, sizeof words, "0x%lx", first * FRAME_SIZE);
    EXPECT_BUG(words, pmm_free_contiguous(pmm, first * FRAME_SIZE, count));
}

static void step_reserve_or_release(bool release)
{
    enum pmm_frame_state from = release ? PMM_FRAME_RESERVED : PMM_FRAME_FREE;
    uint64_t first = model_pick(from), count = 1 + random_below(random_chance(50) ? 1 : 30);
    paddr_t base, end;
    bool outside = false;
    mm_status_t status;

    for (uint64_t i = first; i < first + count; i++) {
        if (i < MODEL_FRAMES && (i == 0 || model.metadata[i]))
            return; /* mm's own, and frame 0: nobody who is right releases them */
        outside |= i >= MODEL_FRAMES || model.state[i] == PMM_FRAME_OUTSIDE;
    }
    base = first * FRAME_SIZE;
    end = base + count * FRAME_SIZE;
    status = release ? pmm_release_range(pmm, base, end) : pmm_reserve_range(pmm, base, end);
    if (outside) {
        assert_int_equal(status, MM_INVALID_ADDRESS);
    } else if (!model_all(first, first + count, from)) {
        assert_int_equal(status, MM_NOT_FREE);
    } else {
        assert_int_equal(status, MM_OK);
        for (uint64_t i = first; i < first + count; i++)
            model.state[i] = release ? PMM_FRAME_FREE : PMM_FRAME_RESERVED;
    }
}

/* A free frame that the pmm has taken for its bookkeeping is mm's own from then on. One holds more than
 * the chunks of this memory can need. */
static void model_adopt(void)
{
    uint64_t adopted = 0;

    if (pmm_stats(pmm).reserved_frames == model_count(PMM_FRAME_RESERVED))
        return;
    for (uint64_t i = 0; i < MODEL_FRAMES; i++) {
        if (model.state[i] != PMM_FRAME_FREE ||
            pmm_frame_state(pmm, i * FRAME_SIZE) != PMM_FRAME_RESERVED)
            continue;
        model.state[i] = PMM_FRAME_RESERVED;
        model.metadata[i] = true;
        adopted++;
    }
    assert_int_equal(adopted, 1);
    assert_false(model.adopted);
    model.adopted = true;
}

static void step(void)
{
    unsigned dice = (unsigned)random_below(100);

    if (dice < 35)
        step_alloc_frame(dice < 5);
    else if (dice < 68)
        step_free_frame(dice < 41);
    else if (dice < 80)
        step_alloc_contiguous();
    else if (dice < 92)
        step_free_contiguous();
    else
        step_reserve_or_release(dice < 96);
}

static void model_check(void)
{
    struct pmm_stats stats = pmm_stats(pmm);

    for (uint64_t i = 0; i < MODEL_FRAMES; i++)
        assert_frame_state(pmm, i * FRAME_SIZE + random_below(FRAME_SIZE),
                           (enum pmm_frame_state)model.state[i]);
    assert_int_equal(stats.free_frames, model_count(PMM_FRAME_FREE));
    assert_int_equal(stats.table_frames, model_count(PMM_FRAME_TABLE));
    assert_int_equal(stats.used_frames, model_count(PMM_FRAME_USED) + stats.table_frames);
    assert_int_equal(stats.reserved_frames, model_count(PMM_FRAME_RESERVED));
    assert_pmm_sound(pmm);
}

static void pmm_random_program_agrees_with_the_model(void **state)
{
    (void)state;
    for (seeds_begin(8); seeds_next();) {
        model_set_up(random_chance(50));
        for (unsigned i = 0; i < 3000; i++) {
            step();
            model_adopt();
            if (i % 250 == 0)
                model_check();
        }
        model_check();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pmm_random_program_agrees_with_the_model),
    };

    return RUN_TESTS(tests);
}
