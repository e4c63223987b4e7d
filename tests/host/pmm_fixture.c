/* SPDX-License-Identifier: MIT */
/* See pmm_fixture.h. */
#include "pmm_fixture.h"

#include <string.h>

struct machine pmm_machine;
struct pmm *const pmm = &pmm_machine.pmm;

void pmm_set_up(uint64_t bytes, struct pmm_config config)
{
    machine_set_up_simple(&pmm_machine, bytes);
    memset(pmm_machine.metadata, 0xa5, pmm_metadata_bytes(&pmm_machine.map));
    pmm_init(pmm, &pmm_machine.map, pmm_machine.metadata, &config);
}

void pmm_set_up_cached(uint64_t bytes, uint64_t frames)
{
    pmm_set_up(bytes, (struct pmm_config){ .magazine_frames = frames });
}

void level_up(void)
{
    assert_true(hosted_interrupt_enter());
}

void level_down(void)
{
    hosted_interrupt_leave();
}

paddr_t alloc_one(void)
{
    paddr_t frame;

    assert_ok(pmm_alloc_frame(pmm, &frame));
    assert_true(is_zero(phys_to_virt(frame), FRAME_SIZE));
    return frame;
}

void assert_state(paddr_t frame, enum pmm_frame_state expected)
{
    assert_string_equal(pmm_state_name(pmm_frame_state(pmm, frame)), pmm_state_name(expected));
    assert_string_equal(pmm_state_name(pmm_peek_frame(pmm, frame)), pmm_state_name(expected));
}

void expect_free_bug(const char *state, paddr_t frame)
{
    char words[64];

    mm_format(words, sizeof words, "%s|0x%lx", state, frame);
    EXPECT_BUG(words, pmm_free_frame(pmm, frame));
    assert_pmm_sound(pmm);
}

struct pmm_slot *make_cache_in_the_upper_slot(void)
{
    level_up();
    pmm_free_frame(pmm, alloc_one());
    level_down();
    for (size_t i = MM_PORT_SLOT_TABLE; i > 0; i--)
        if (pmm->slots[i - 1] != &pmm_absent_slot)
            return pmm->slots[i - 1];
    fail_msg("no cache was made");
    return NULL;
}
