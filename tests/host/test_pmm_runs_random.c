/* SPDX-License-Identifier: MIT */
/* Random requests for neighbouring frames, against a look at every frame: what fits somewhere is not
 * refused, whatever was written down about runs before.
 *
 *      | 8 .. 12 MiB, odd ends |   | 20 .. 24 MiB |   | 4 GiB - 4 MiB ........ 4 GiB + 4 MiB |   all used at
 *      first; then pieces become free, used, reserved or bad, and requests come in between */
#include "support.h"

#define RANGES    3u
#define MOST      (20u * 256)
#define STEPS     250u
#define KEPT_MOST 32u

static struct machine machine;
static struct pmm *const pmm = &machine.pmm;

static struct {
    paddr_t address;
    bool is_free, is_used;
} frames[MOST];
static size_t frame_count;

static struct mm_extent kept[KEPT_MOST];
static size_t kept_count;
static unsigned kinds; /* of counts: with few of them only short runs become free */

static void look(void)
{
    frame_count = 0;
    for (size_t i = 0; i < pmm_stats(pmm).range_count; i++) {
        struct mm_extent extent = pmm_range_extent(pmm, i);
        for (paddr_t at = extent.base; at < extent.end; at += FRAME_SIZE) {
            enum pmm_frame_state state = pmm_frame_state(pmm, at);
            assert_true(frame_count < MOST);
            frames[frame_count].address = at;
            frames[frame_count].is_free = state == PMM_FRAME_FREE;
            frames[frame_count++].is_used = state == PMM_FRAME_USED;
        }
    }
}

/* Neighbours from frame `index` on that are free (or used), `most` at most. */
static size_t row_of(size_t index, bool is_free, size_t most)
{
    size_t count = 0;

    while (count < most && index + count < frame_count &&
           (is_free ? frames[index + count].is_free : frames[index + count].is_used) &&
           frames[index + count].address == frames[index].address + count * FRAME_SIZE)
        count++;
    return count;
}

/* True if a block fits; it looks at everything. */
static bool fits(uint64_t count, uint64_t align_bytes, paddr_t limit)
{
    for (size_t i = 0; i < frame_count; i++)
        if (mm_is_aligned(frames[i].address, align_bytes) && frames[i].address < limit &&
            (limit - frames[i].address) / FRAME_SIZE >= count && row_of(i, true, count) == count)
            return true;
    return false;
}

/* Often one at a border of 2 MiB blocks. */
static size_t some_frame(void)
{
    size_t index = random_below(frame_count);
    size_t behind = frames[index].address / FRAME_SIZE % (LARGE_PAGE_SIZE / FRAME_SIZE);

    if (random_chance(50) && behind <= index)
        index -= behind;
    return index - (index < 4 ? 0 : random_below(5));
}

static uint64_t some_count(void)
{
    static const uint64_t least[] = { 1, 1, 60, 500, 1000, 1500 },
                          more[] = { 8, 140, 10, 30, 50, 1600 };
    size_t which = random_below(kinds);

    return least[which] + random_below(more[which]);
}

static void request(void)
{
    uint64_t count = some_count(), align_bytes = FRAME_SIZE;
    paddr_t limit = PMM_NO_LIMIT, first = 0x1234;

    if (random_chance(30))
        align_bytes <<= random_below(11);
    if (random_chance(30))
        limit = frames[random_below(frame_count)].address + random_below(3) * FRAME_SIZE / 2;
    mm_status_t status =
        pmm_alloc_contiguous_flags(pmm, count, align_bytes, limit, PMM_NOZERO, &first);
    if (status != MM_OK) {
        assert_status(status, MM_OUT_OF_MEMORY);
        if (fits(count, align_bytes, limit))
            fail_msg("no %lu frames, align 0x%lx, limit 0x%lx, but they fit", count, align_bytes,
                     limit);
        return;
    }
    assert_true(mm_is_aligned(first, align_bytes) && first + count * FRAME_SIZE <= limit);
    size_t index = 0;
    while (index < frame_count && frames[index].address != first)
        index++;
    assert_int_equal(row_of(index, true, count), count);
    if (random_chance(60))
        pmm_free_contiguous(pmm, first, count);
}

static void free_some(void)
{
    size_t index = some_frame(), count = row_of(index, false, some_count());

    if (count != 0)
        pmm_free_contiguous(pmm, frames[index].address, count);
}

static void reserve_some(void)
{
    size_t index = some_frame(), count = row_of(index, true, some_count());
    paddr_t base = frames[index].address, end = base + count * FRAME_SIZE;

    if (count != 0 && kept_count < KEPT_MOST && pmm_reserve_range(pmm, base, end) == MM_OK)
        kept[kept_count++] = (struct mm_extent){ base, end };
}

static void release_some(void)
{
    if (kept_count == 0)
        return;
    size_t index = random_below(kept_count);
    struct mm_extent extent = kept[index];
    kept[index] = kept[--kept_count];
    assert_ok(pmm_release_range(pmm, extent.base, extent.end));
}

static void retire_some(void)
{
    paddr_t at = frames[random_below(frame_count)].address;

    for (size_t i = 0; i < kept_count; i++)
        if (at >= kept[i].base && at < kept[i].end)
            return;
    mm_status_t status = pmm_retire_range(pmm, at, at + FRAME_SIZE, NULL);
    if (status != MM_OK) /* no frame to write it down in */
        assert_status(status, MM_OUT_OF_MEMORY);
}

static void set_up(void)
{
    const paddr_t odd = random_below(200) * FRAME_SIZE, more = random_below(200) * FRAME_SIZE;
    const struct boot_range list[RANGES] = {
        ROW(MM_MIB(8) + odd, MM_MIB(12) - more, BOOT_USABLE),
        ROW(MM_MIB(20), MM_MIB(24), BOOT_USABLE),
        ROW(MM_GIB(4) - MM_MIB(4) - more, MM_GIB(4) + MM_MIB(4) + odd, BOOT_USABLE),
    };
    const struct pmm_config config = { .full_harden = true };
    paddr_t frame;

    machine_set_up_config(&machine, list, COUNT_OF(list), &config);
    while (pmm_alloc_frame_flags(pmm, PMM_NOZERO, &frame) == MM_OK)
        continue;
    kept_count = 0;
    kinds = 1 + (unsigned)random_below(6);
}

static void block_that_fits_is_never_refused(void **state)
{
    (void)state;
    if (support_is_sanitized())
        return;
    for (seeds_begin(20); seeds_next();) {
        set_up();
        for (unsigned step = 0; step < STEPS; step++) {
            uint64_t what = random_below(100);

            look();
            if (what < 45)
                request();
            else if (what < 88)
                free_some();
            else if (what < 93)
                reserve_some();
            else if (what < 98)
                release_some();
            else
                retire_some();
            if (step % 10 == 0)
                assert_true(pmm_verify(pmm));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(block_that_fits_is_never_refused),
    };

    return RUN_TESTS(tests);
}
