/* SPDX-License-Identifier: MIT */
/* See kvm_fixture.h. */
#include "kvm_fixture.h"

struct kvm kvm;

static struct mm_cpu_features features;

void kvm_space_set_up(unsigned levels, uint64_t ram_bytes)
{
    features = features_of(levels, 46, true);
    hosted_cpu_reset(levels);
    hosted_cpu()->leaf_8000_0008.eax = 46;
    hosted_cpu()->pat = 0x0000010500070406u; /* the order of the Limine protocol */
    machine_set_up_simple(&machine, ram_bytes);
    assert_ok(paging_init(&space, &machine.pmm, &features));
}

void kvm_set_up(unsigned levels, uint64_t ram_bytes)
{
    const struct kvm_window taken[] = {
        { levels == 4 ? HHDM_4 : HHDM_5, (levels == 4 ? HHDM_4 : HHDM_5) + MM_GIB(64) },
        { KERNEL_VIRT, KERNEL_VIRT + MM_MIB(4) },
    };

    kvm_space_set_up(levels, ram_bytes);
    assert_ok(kvm_init(&kvm, &space, taken, COUNT_OF(taken)));
    paging_activate(&space, &features);
}

void kvm_fragment(uint64_t ram_bytes)
{
    for (paddr_t frame = MM_MIB(1); frame < MM_MIB(1) + ram_bytes; frame += 2 * FRAME_SIZE)
        if (pmm_frame_state(&machine.pmm, frame) == PMM_FRAME_FREE)
            assert_ok(pmm_reserve_range(&machine.pmm, frame, frame + FRAME_SIZE));
}

void *assert_memory(vaddr_t page)
{
    struct hosted_translation seen;

    assert_int_equal(hosted_cpu_access(page, HOSTED_WRITE, &seen), HOSTED_OK);
    assert_int_equal(hosted_cpu_access(page, HOSTED_EXECUTE, NULL), HOSTED_FORBIDDEN);
    assert_int_equal(hosted_cpu_access(page, HOSTED_USER, NULL), HOSTED_FORBIDDEN);
    assert_true(seen.global);
    assert_int_equal(seen.memory_type, 6);
    assert_int_equal(pmm_frame_state(&machine.pmm, seen.address), PMM_FRAME_USED);
    return phys_to_virt(mm_round_down(seen.address, PAGE_SIZE));
}

void assert_backed(vaddr_t page)
{
    assert_true(is_zero(assert_memory(page), PAGE_SIZE));
}

void assert_guard(vaddr_t page)
{
    assert_int_equal(hosted_cpu_access(page, HOSTED_READ, NULL), HOSTED_NOT_PRESENT);
    assert_int_equal(hosted_cpu_access(page + PAGE_SIZE - 1, HOSTED_READ, NULL),
                     HOSTED_NOT_PRESENT);
}
