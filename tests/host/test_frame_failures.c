/* SPDX-License-Identifier: MIT */
/* The n-th frame that cannot be had, in every call of paging.h and kvm.h: for n = 1, 2, ... until the
 * call takes no more of them.
 *
 *      world  ->  call, n-th failure  ->  MM_OUT_OF_MEMORY: nothing at all has changed, n + 1
 *                                     ->  MM_OK: it got along without (a 2 MiB frame, say), or n is
 *                                         beyond all that it takes: every used frame is accounted for
 *
 * The n-th alone fails, and all from the n-th on. The world is a kernel space with image, HHDM and
 * windows, and a space that shares its upper half; with 4 and 5 levels, with and without 1 GiB leaves.
 * What must not change: the tables by a walk of their own, counters, frames, windows, and whatever the
 * call was to write its result to.
 *
 * A table lists the calls; those that promise to take no memory are in it, too, and must work without
 * any. A test reads both headers and finds each function of theirs in the table. */
#include "walker.h"

#include <mm/audit.h>

#include <stdio.h>
#include <string.h>

#define KERNEL_VIRT  ((vaddr_t)0xffffffff80000000)
#define KERNEL_PHYS  MM_MIB(8)
#define KERNEL_BYTES MM_MIB(6)
#define RAM_END      MM_MIB(32)
#define AREA         ((vaddr_t)0xffff800000000000) /* upper half, where no window is */
#define LOW          MM_GIB(1)
#define BORDER       MM_GIB(512) /* two entries of a level-4 table meet */
#define ELSEWHERE    MM_GIB(8)   /* physical, no RAM */
#define RW           (PAGING_READ | PAGING_WRITE)
#define RW_GLOBAL    (RW | PAGING_GLOBAL)
#define TRIES_MAX    2000u
#define LIST         1024u

/* Where calls write to. */
struct outs {
    struct address_space space;
    vaddr_t address;
    uint64_t bytes;
    paddr_t frames[LIST];
};

static struct machine machine;
static struct mm_cpu_features features;
static struct address_space kernel, user;
static struct kvm kvm;
static struct boot_info boot;
static struct outs out;
static bool out_is_made, user_is_gone;
static paddr_t scattered[LIST];
static vaddr_t held; /* a block, stack, device that stands before the call */

/* ---- The world ---- */

static const struct kvm_window windows_taken[] = { { AREA, AREA + 8 * MM_GIB(512) },
                                                   { KERNEL_VIRT, KERNEL_VIRT + KERNEL_BYTES } };

static struct boot_section section(uint64_t begin_page, uint64_t end_page)
{
    return (struct boot_section){ KERNEL_VIRT + begin_page * PAGE_SIZE,
                                  KERNEL_VIRT + end_page * PAGE_SIZE };
}

/* text 16 | rodata 8 | data, a guard and data of boot only in it, constants in its third 2 MiB | init 8 */
static void boot_set_up(void)
{
    uint64_t pages = KERNEL_BYTES / PAGE_SIZE;

    boot = machine.rows.boot;
    boot.hhdm_offset = hhdm_offset();
    boot.kernel_phys = KERNEL_PHYS;
    boot.kernel_virt = KERNEL_VIRT;
    boot.text = section(0, 16);
    boot.rodata = section(16, 24);
    boot.data = section(24, pages - 8);
    boot.init = section(pages - 8, pages);
    boot.init_data = section(40, 42);
    boot.ro_after_init = section(600, 603);
    boot.guard[0] = section(30, 31);
    boot.guard_count = 1;
}

static void set_up(unsigned levels, bool huge_pages)
{
    const struct boot_range list[] = {
        ROW(0xf0000, 0x100000, BOOT_RESERVED),
        ROW(MM_MIB(1), KERNEL_PHYS, BOOT_USABLE),
        ROW(KERNEL_PHYS, KERNEL_PHYS + KERNEL_BYTES, BOOT_EXECUTABLE),
        ROW(KERNEL_PHYS + KERNEL_BYTES, RAM_END, BOOT_USABLE),
    };

    features = features_of(levels, 46, huge_pages);
    hosted_cpu_reset(levels);
    hosted_cpu()->leaf_8000_0008.eax = 46;
    hosted_cpu()->pat = 0x0000010500070406u;
    if (!huge_pages)
        hosted_cpu()->leaf_8000_0001.edx &= ~((uint32_t)1 << 26);
    machine_set_up(&machine, list, COUNT_OF(list), false);
    boot_set_up();
    assert_ok(paging_init(&kernel, &machine.pmm, &features));
    assert_ok(kvm_map_kernel(&kernel, &machine.map, &boot));
    assert_ok(kvm_init(&kvm, &kernel, windows_taken, COUNT_OF(windows_taken)));
    paging_activate(&kernel, &features);
    assert_ok(paging_create_user(&user, &kernel));
    memset(&out, 0x5a, sizeof out);
    out_is_made = user_is_gone = false;
    held = 0;
    for (size_t i = 0; i < LIST; i++)
        scattered[i] = ELSEWHERE + (i * 7 + 1) * FRAME_SIZE;
}

/* ---- What must not change ---- */

struct state {
    struct walker_snapshot kernel, user;
    struct kvm_stats kvm;
    uint64_t guards; /* a hash of where windows are empty */
    uint64_t heap_bytes;
    bool init_released, constants_sealed;
    struct outs out;
};

static void hash_guard(void *context, vaddr_t base, uint64_t bytes)
{
    uint64_t *hash = context;

    *hash = (*hash ^ base) * 0x100000001b3u;
    *hash = (*hash ^ bytes) * 0x100000001b3u;
}

static void look(struct state *state)
{
    memset(state, 0, sizeof *state);
    state->kernel = walker_snapshot(&kernel);
    if (!user_is_gone)
        state->user = walker_snapshot(&user);
    state->kvm = kvm_stats(&kvm);
    kvm_for_each_guard(&kvm, hash_guard, &state->guards);
    state->heap_bytes = kvm.heap_bytes;
    state->init_released = kvm.init_released;
    state->constants_sealed = kvm.constants_sealed;
    state->out = out;
}

static void assert_state(const struct state *before)
{
    static struct state now;

    look(&now);
    assert_snapshot_equal(&kernel, &before->kernel);
    assert_snapshot_equal(&user, &before->user);
    assert_memory_equal(&now.kvm, &before->kvm, sizeof now.kvm);
    assert_int_equal(now.guards, before->guards);
    assert_int_equal(now.heap_bytes, before->heap_bytes);
    assert_int_equal(now.init_released, before->init_released);
    assert_int_equal(now.constants_sealed, before->constants_sealed);
    assert_memory_equal(&now.out, &before->out, sizeof now.out);
    assert_pmm_sound(&machine.pmm);
}

/* Used frames that nothing here knows of: the same before and after a call that succeeds. */
static uint64_t frames_unaccounted(void)
{
    struct kvm_stats stats = kvm_stats(&kvm);
    uint64_t known = kernel.stats.table_frames + stats.node_frames;

    known += (stats.heap_bytes + stats.block_bytes + stats.stack_bytes) / FRAME_SIZE;
    known += user_is_gone ? 0 : user.stats.table_frames;
    known += out_is_made ? out.space.stats.table_frames : 0;
    return pmm_stats(&machine.pmm).used_frames - known;
}

/* ---- Before the call ---- */

static void large_leaves(void)
{
    assert_ok(paging_map_range(&kernel, AREA, ELSEWHERE, MM_GIB(2), RW_GLOBAL));
    assert_ok(paging_map_range(&kernel, AREA + MM_GIB(4), ELSEWHERE, MM_MIB(8), RW_GLOBAL));
}

static void small_leaves(void)
{
    assert_ok(paging_map_range(&kernel, AREA, ELSEWHERE + PAGE_SIZE, MM_MIB(6), RW_GLOBAL));
}

static void a_neighbour(void)
{
    assert_ok(paging_map_page(&kernel, AREA + MM_MIB(4) - PAGE_SIZE, ELSEWHERE, RW));
}

static void user_large_leaves(void)
{
    assert_ok(paging_map_range(&user, LOW, ELSEWHERE, MM_GIB(1) + MM_MIB(4), RW | PAGING_USER));
}

/* No 2 MiB in one piece anywhere. */
static void fragments(void)
{
    for (paddr_t frame = MM_MIB(1); frame < RAM_END; frame += 2 * FRAME_SIZE)
        if (pmm_frame_state(&machine.pmm, frame) == PMM_FRAME_FREE)
            assert_ok(pmm_reserve_range(&machine.pmm, frame, frame + FRAME_SIZE));
}

static void a_block(void)
{
    assert_ok(kvm_alloc(&kvm, PAGE_SIZE, 0, &held));
}

static void a_large_block(void)
{
    assert_ok(kvm_alloc(&kvm, MM_MIB(4) + MM_KIB(300), 0, &held));
}

static void a_stack(void)
{
    assert_ok(kvm_alloc_stack(&kvm, MM_KIB(16), &held));
}

static void a_device(void)
{
    assert_ok(kvm_map_device(&kvm, ELSEWHERE + MM_MIB(1), MM_MIB(6), PAGING_UNCACHED, &held));
}

static void a_heap(void)
{
    held = kvm_heap_window(&kvm).base;
    assert_ok(kvm_heap_commit(&kvm, held, MM_MIB(4) + MM_KIB(64)));
}

/* More scattered executable frames than an audit keeps in mind without memory of its own. */
static void executable_frames(void)
{
    for (uint64_t i = 0; i < 64; i++)
        assert_ok(paging_map_page(&kernel, AREA + i * PAGE_SIZE, ELSEWHERE + 2 * i * FRAME_SIZE,
                                  PAGING_EXECUTE));
}

/* ---- The calls ---- */

#define CALL(name, call)                                                                           \
    static mm_status_t name(void)                                                                  \
    {                                                                                              \
        return call;                                                                               \
    }

/* For what returns no status. */
#define WORK(name, ...)                                                                            \
    static mm_status_t name(void)                                                                  \
    {                                                                                              \
        __VA_ARGS__;                                                                               \
        return MM_OK;                                                                              \
    }

static mm_status_t make(mm_status_t status)
{
    out_is_made = status == MM_OK;
    return status;
}

CALL(init, make(paging_init(&out.space, &machine.pmm, &features)))
CALL(create_user, make(paging_create_user(&out.space, &kernel)))
WORK(destroy, paging_destroy(&user); user_is_gone = true)
WORK(activate, paging_activate(&kernel, &features))
WORK(switch_twice, paging_switch(&user); paging_switch(&kernel))

CALL(map_page, paging_map_page(&kernel, AREA, ELSEWHERE, RW))
CALL(map_page_low, paging_map_page(&kernel, LOW, ELSEWHERE, RW))
CALL(map_page_beside, paging_map_page(&kernel, AREA + MM_MIB(4), ELSEWHERE, RW))
CALL(map_page_in_table, paging_map_page(&kernel, AREA + MM_MIB(2), ELSEWHERE, RW))
CALL(map_page_user, paging_map_page(&user, LOW, ELSEWHERE, RW | PAGING_USER))
CALL(map_range_4k,
     paging_map_range(&kernel, AREA + MM_MIB(1), ELSEWHERE + PAGE_SIZE, MM_MIB(6), RW_GLOBAL))
CALL(map_range_2m, paging_map_range(&kernel, AREA + MM_MIB(2), ELSEWHERE, MM_MIB(8), RW))
CALL(map_range_1g, paging_map_range(&kernel, AREA, ELSEWHERE, MM_GIB(3), RW))
CALL(map_range_mixed, paging_map_range(&kernel, AREA + MM_GIB(1) - MM_MIB(2) - PAGE_SIZE,
                                       ELSEWHERE + MM_GIB(1) - MM_MIB(2) - PAGE_SIZE,
                                       MM_GIB(1) + MM_MIB(4) + 2 * PAGE_SIZE, RW))
CALL(map_range_border, paging_map_range(&kernel, AREA + BORDER - MM_MIB(3),
                                        ELSEWHERE + MM_GIB(2) - MM_MIB(3), MM_MIB(6), RW))
CALL(map_range_user,
     paging_map_range(&user, BORDER - PAGE_SIZE, ELSEWHERE, 2 * PAGE_SIZE, RW | PAGING_USER))
CALL(map_frames, paging_map_frames(&kernel, AREA + MM_MIB(1), scattered, LIST, RW_GLOBAL))
CALL(map_frames_user, paging_map_frames(&user, BORDER - MM_MIB(2), scattered, LIST, RW))

CALL(unmap_page, paging_unmap_page(&kernel, AREA + MM_MIB(5), &out.frames[0]))
CALL(unmap_page_2m, paging_unmap_page(&kernel, AREA + MM_GIB(4) + MM_MIB(2), &out.frames[0]))
CALL(unmap_page_user, paging_unmap_page(&user, LOW + MM_GIB(1) + PAGE_SIZE, &out.frames[0]))
CALL(unmap_range_cut, paging_unmap_range(&kernel, AREA + PAGE_SIZE, MM_GIB(2) - 2 * PAGE_SIZE))
CALL(unmap_range_inside, paging_unmap_range(&kernel, AREA + MM_MIB(3), MM_MIB(6)))
CALL(unmap_range_2m, paging_unmap_range(&kernel, AREA + MM_GIB(4) + MM_MIB(1), MM_MIB(6)))
CALL(unmap_range_user, paging_unmap_range(&user, LOW + MM_MIB(1), MM_GIB(1)))
CALL(unmap_range_whole, paging_unmap_range(&kernel, AREA, MM_GIB(2)))
CALL(unmap_range_small, paging_unmap_range(&kernel, AREA + MM_MIB(1), MM_MIB(4)))
CALL(unmap_frames, paging_unmap_frames(&kernel, AREA + MM_MIB(1), out.frames, LIST))
CALL(unmap_frames_user, paging_unmap_frames(&user, LOW + MM_MIB(1), out.frames, LIST))

CALL(protect_page, paging_protect_page(&kernel, AREA + MM_MIB(5), PAGING_READ))
CALL(protect_page_2m, paging_protect_page(&kernel, AREA + MM_GIB(4), PAGING_EXECUTE))
CALL(protect_page_user, paging_protect_page(&user, LOW, PAGING_READ))
CALL(protect_range_cut, paging_protect_range(&kernel, AREA + MM_MIB(1), MM_GIB(1), PAGING_READ))
CALL(protect_range_2m,
     paging_protect_range(&kernel, AREA + MM_GIB(4) + PAGE_SIZE, MM_MIB(4), PAGING_UNCACHED))
CALL(protect_range_user, paging_protect_range(&user, LOW + MM_MIB(1), MM_GIB(1), PAGING_READ))
CALL(protect_range_whole, paging_protect_range(&kernel, AREA, MM_GIB(2), PAGING_READ))

CALL(remap_range_cut,
     paging_remap_range(&kernel, AREA + MM_MIB(3), 2 * ELSEWHERE, MM_MIB(4), PAGING_READ))
CALL(remap_range_odd,
     paging_remap_range(&kernel, AREA + MM_GIB(4), 2 * ELSEWHERE + PAGE_SIZE, MM_MIB(6), RW_GLOBAL))
CALL(remap_range_user,
     paging_remap_range(&user, LOW + MM_GIB(1) - MM_MIB(1), 2 * ELSEWHERE, MM_MIB(4), RW))
CALL(remap_range_whole, paging_remap_range(&kernel, AREA, 2 * ELSEWHERE, MM_GIB(2), RW))

static mm_status_t ask(void)
{
    struct paging_mapping mapping;
    struct paging_run run;
    struct paging_level levels[PAGING_LEVELS_MAX];
    paddr_t frame;
    mm_status_t status = paging_translate(&kernel, AREA, &frame);

    if (status == MM_OK)
        status = paging_query(&kernel, AREA, &mapping);
    assert_true(paging_next_run(&kernel, AREA, &run));
    assert_int_not_equal(paging_peek(&kernel, AREA, levels), 0);
    paging_dump(&kernel);
    return status;
}

static void count_table(void *context, paddr_t table)
{
    (void)table;
    ++*(uint64_t *)context;
}

static mm_status_t ask_about_tables(void)
{
    struct paging_root root = { kernel.root, kernel.levels };
    char text[PAGING_RIGHTS_TEXT];
    uint64_t tables = 0;

    paging_for_each_table(root, count_table, &tables);
    assert_int_equal(tables, kernel.stats.table_frames);
    (void)paging_tables_obstacle(&root, MM_MIB(1), RAM_END);
    paging_rights_text(RW, text);
    return paging_is_canonical(AREA, kernel.levels) ? MM_OK : MM_INVALID_ADDRESS;
}

static bool fill(void *context, struct address_space *space, vaddr_t address, uint64_t error)
{
    (void)context, (void)space, (void)address, (void)error;
    return true;
}

static mm_status_t watch(void)
{
    struct paging_window window = { .base = LOW, .bytes = PAGE_SIZE, .fill = fill };
    mm_status_t status = paging_watch(&kernel, &window);

    assert_true(paging_fault(&kernel, LOW, 0));
    paging_unwatch(&kernel, &window);
    return status;
}

/* What a failed one has mapped goes with the space. */
static mm_status_t map_kernel(void)
{
    static struct address_space space;
    mm_status_t status = paging_init(&space, &machine.pmm, &features);

    if (status == MM_OK) {
        status = kvm_map_kernel(&space, &machine.map, &boot);
        if (status != MM_OK)
            paging_destroy(&space);
    }
    if (status == MM_OK)
        out.space = space;
    return make(status);
}

static mm_status_t init_windows(void)
{
    static struct kvm again;

    return kvm_init(&again, &kernel, windows_taken, COUNT_OF(windows_taken));
}

CALL(release_init, kvm_release_init(&kvm, &boot, &out.bytes))
CALL(seal, kvm_seal(&kvm, &boot))
CALL(commit_step, kvm_heap_commit(&kvm, kvm_heap_window(&kvm).base, MM_KIB(64)))
CALL(commit_2m, kvm_heap_commit(&kvm, kvm_heap_window(&kvm).base, MM_MIB(2)))
CALL(commit_pieces,
     kvm_heap_commit(&kvm, kvm_heap_window(&kvm).base + MM_KIB(1984), MM_MIB(4) + MM_KIB(128)))
CALL(commit_behind, kvm_heap_commit(&kvm, held + MM_MIB(4) + MM_KIB(64), MM_MIB(2)))
CALL(decommit, kvm_heap_decommit(&kvm, held, MM_MIB(4) + MM_KIB(64)))
CALL(decommit_part, kvm_heap_decommit(&kvm, held + MM_MIB(4), MM_KIB(64)))
CALL(move, kvm_heap_move(&kvm, held, held + MM_MIB(8), MM_MIB(4) + MM_KIB(64)))
CALL(move_leaves, kvm_heap_move(&kvm, held, held + MM_MIB(8), MM_MIB(4)))
CALL(move_far, kvm_heap_move(&kvm, held, held + MM_GIB(1), MM_MIB(4)))
CALL(map_heap, kvm_map_heap(&kvm, MM_MIB(2) + MM_KIB(40), &out.address))
CALL(alloc_page, kvm_alloc(&kvm, 1, 0, &out.address))
CALL(alloc_dirty, kvm_alloc(&kvm, MM_KIB(40), KVM_NO_ZERO, &out.address))
CALL(alloc_2m, kvm_alloc(&kvm, MM_MIB(2), 0, &out.address))
CALL(alloc_pieces, kvm_alloc(&kvm, MM_MIB(4) + MM_KIB(24), 0, &out.address))
CALL(alloc_aligned, kvm_alloc_aligned(&kvm, MM_KIB(12), MM_GIB(1), 0, &out.address))
CALL(alloc_aligned_2m, kvm_alloc_aligned(&kvm, MM_MIB(3), MM_MIB(64), 0, &out.address))
WORK(free_block, kvm_free(&kvm, held))
CALL(alloc_stack, kvm_alloc_stack(&kvm, MM_KIB(32), &out.address))
CALL(alloc_longest_stack, kvm_alloc_stack(&kvm, KVM_STACK_MAX_BYTES, &out.address))
WORK(free_stack, kvm_free_stack(&kvm, held))
CALL(map_device, kvm_map_device(&kvm, 2 * ELSEWHERE + 8, 8, PAGING_UNCACHED, &out.address))
CALL(map_large_device, kvm_map_device(&kvm, 2 * ELSEWHERE + MM_MIB(1), MM_MIB(6),
                                      PAGING_WRITE_COMBINING, &out.address))
WORK(unmap_device, kvm_unmap_device(&kvm, held))

static void count_guard(void *context, vaddr_t base, uint64_t bytes)
{
    (void)base, (void)bytes;
    ++*(uint64_t *)context;
}

static mm_status_t ask_windows(void)
{
    uint64_t guards = 0;

    kvm_for_each_guard(&kvm, count_guard, &guards);
    assert_true(guards >= 4);
    assert_int_equal(kvm_peek(&kvm, held).place, KVM_BLOCK);
    assert_int_equal(kvm_place_of(&kvm, held - 1), KVM_BLOCK_GUARD);
    assert_int_equal(kvm_stats(&kvm).blocks, 1);
    return MM_OK;
}

static mm_status_t audit(void)
{
    const struct audit_rules rules = { .map = &machine.map };
    static struct audit_result result;

    return paging_audit(&kernel, &rules, &result);
}

/* ---- The table ---- */

enum takes { NOTHING, FRAMES };

static const struct call {
    const char *names; /* of the functions that it is about; with `where` the name of a test */
    const char *where;
    void (*prepare)(void); /* or NULL */
    mm_status_t (*run)(void);
    enum takes takes; /* NOTHING: it works where no frame can be had */
} calls[] = {
    { "paging_init", "", NULL, init, FRAMES },
    { "paging_create_user", "", NULL, create_user, FRAMES },
    { "paging_destroy", "", user_large_leaves, destroy, NOTHING },
    { "paging_activate", "", NULL, activate, NOTHING },
    { "paging_switch", "", NULL, switch_twice, NOTHING },

    { "paging_map_page", "empty upper half", NULL, map_page, FRAMES },
    { "paging_map_page", "empty lower half", NULL, map_page_low, FRAMES },
    { "paging_map_page", "beside a table", a_neighbour, map_page_beside, FRAMES },
    { "paging_map_page", "in a table", a_neighbour, map_page_in_table, NOTHING },
    { "paging_map_page", "shared space", NULL, map_page_user, FRAMES },
    { "paging_map_range", "4 KiB", NULL, map_range_4k, FRAMES },
    { "paging_map_range", "2 MiB", NULL, map_range_2m, FRAMES },
    { "paging_map_range", "1 GiB", NULL, map_range_1g, FRAMES },
    { "paging_map_range", "4 KiB, 2 MiB, 1 GiB", NULL, map_range_mixed, FRAMES },
    { "paging_map_range", "two entries of the root", NULL, map_range_border, FRAMES },
    { "paging_map_range", "shared space", NULL, map_range_user, FRAMES },
    { "paging_map_frames", "", NULL, map_frames, FRAMES },
    { "paging_map_frames", "shared space", NULL, map_frames_user, FRAMES },

    { "paging_unmap_page", "of the largest leaf", large_leaves, unmap_page, FRAMES },
    { "paging_unmap_page", "of 2 MiB", large_leaves, unmap_page_2m, FRAMES },
    { "paging_unmap_page", "shared space", user_large_leaves, unmap_page_user, FRAMES },
    { "paging_unmap_page", "of 4 KiB", small_leaves, unmap_page, NOTHING },
    { "paging_unmap_range", "all but both ends", large_leaves, unmap_range_cut, FRAMES },
    { "paging_unmap_range", "in the largest leaf", large_leaves, unmap_range_inside, FRAMES },
    { "paging_unmap_range", "ends in leaves of 2 MiB", large_leaves, unmap_range_2m, FRAMES },
    { "paging_unmap_range", "shared space", user_large_leaves, unmap_range_user, FRAMES },
    { "paging_unmap_range", "whole leaves", large_leaves, unmap_range_whole, NOTHING },
    { "paging_unmap_range", "leaves of 4 KiB", small_leaves, unmap_range_small, NOTHING },
    { "paging_unmap_frames", "of the largest leaf", large_leaves, unmap_frames, FRAMES },
    { "paging_unmap_frames", "shared space", user_large_leaves, unmap_frames_user, FRAMES },
    { "paging_unmap_frames", "of 4 KiB", small_leaves, unmap_frames, NOTHING },

    { "paging_protect_page", "of the largest leaf", large_leaves, protect_page, FRAMES },
    { "paging_protect_page", "of 2 MiB", large_leaves, protect_page_2m, FRAMES },
    { "paging_protect_page", "shared space", user_large_leaves, protect_page_user, FRAMES },
    { "paging_protect_page", "of 4 KiB", small_leaves, protect_page, NOTHING },
    { "paging_protect_range", "across leaves", large_leaves, protect_range_cut, FRAMES },
    { "paging_protect_range", "across leaves of 2 MiB", large_leaves, protect_range_2m, FRAMES },
    { "paging_protect_range", "shared space", user_large_leaves, protect_range_user, FRAMES },
    { "paging_protect_range", "whole leaves", large_leaves, protect_range_whole, NOTHING },
    { "paging_remap_range", "in the largest leaf", large_leaves, remap_range_cut, FRAMES },
    { "paging_remap_range", "frames that fit no leaf", large_leaves, remap_range_odd, FRAMES },
    { "paging_remap_range", "shared space", user_large_leaves, remap_range_user, FRAMES },
    { "paging_remap_range", "whole leaves", large_leaves, remap_range_whole, NOTHING },

    { "paging_translate paging_query paging_next_run paging_peek paging_dump", "", large_leaves,
      ask, NOTHING },
    { "paging_is_canonical paging_rights_text paging_tables_obstacle paging_for_each_table", "",
      large_leaves, ask_about_tables, NOTHING },
    { "paging_watch paging_fault paging_unwatch", "", NULL, watch, NOTHING },

    { "kvm_map_kernel", "", NULL, map_kernel, FRAMES },
    { "kvm_init", "", NULL, init_windows, NOTHING },
    { "kvm_release_init", "", NULL, release_init, NOTHING },
    { "kvm_seal", "", NULL, seal, FRAMES },
    { "kvm_heap_window kvm_heap_commit", "a step", NULL, commit_step, FRAMES },
    { "kvm_heap_commit", "2 MiB", NULL, commit_2m, FRAMES },
    { "kvm_heap_commit", "2 MiB, scattered", fragments, commit_2m, FRAMES },
    { "kvm_heap_commit", "four pieces", NULL, commit_pieces, FRAMES },
    { "kvm_heap_commit", "four pieces, scattered", fragments, commit_pieces, FRAMES },
    { "kvm_heap_commit", "behind others", a_heap, commit_behind, FRAMES },
    { "kvm_heap_decommit", "", a_heap, decommit, NOTHING },
    { "kvm_heap_decommit", "a part", a_heap, decommit_part, NOTHING },
    { "kvm_heap_move", "", a_heap, move, FRAMES },
    { "kvm_heap_move", "whole leaves", a_heap, move_leaves, NOTHING },
    { "kvm_heap_move", "to another gigabyte", a_heap, move_far, FRAMES },
    { "kvm_map_heap", "", NULL, map_heap, FRAMES },
    { "kvm_alloc", "a page", NULL, alloc_page, FRAMES },
    { "kvm_alloc", "the second", a_block, alloc_page, FRAMES },
    { "kvm_alloc", "not cleared", NULL, alloc_dirty, FRAMES },
    { "kvm_alloc", "2 MiB", NULL, alloc_2m, FRAMES },
    { "kvm_alloc", "2 MiB, scattered", fragments, alloc_2m, FRAMES },
    { "kvm_alloc", "three pieces", NULL, alloc_pieces, FRAMES },
    { "kvm_alloc", "three pieces, scattered", fragments, alloc_pieces, FRAMES },
    { "kvm_alloc", "three pieces, the second block", a_large_block, alloc_pieces, FRAMES },
    { "kvm_alloc_aligned", "", NULL, alloc_aligned, FRAMES },
    { "kvm_alloc_aligned", "2 MiB", a_block, alloc_aligned_2m, FRAMES },
    { "kvm_free", "", a_block, free_block, NOTHING },
    { "kvm_free", "of several pieces", a_large_block, free_block, NOTHING },
    { "kvm_alloc_stack", "", NULL, alloc_stack, FRAMES },
    { "kvm_alloc_stack", "the second", a_stack, alloc_longest_stack, FRAMES },
    { "kvm_free_stack", "", a_stack, free_stack, NOTHING },
    { "kvm_map_device", "", NULL, map_device, FRAMES },
    { "kvm_map_device", "with large leaves", NULL, map_large_device, FRAMES },
    { "kvm_map_device", "the second", a_device, map_large_device, FRAMES },
    { "kvm_unmap_device", "", a_device, unmap_device, NOTHING },
    { "kvm_peek kvm_place_of kvm_for_each_guard kvm_stats", "", a_block, ask_windows, NOTHING },

    { "paging_audit", "", executable_frames, audit, FRAMES },
};

/* ---- Failing ---- */

struct variant {
    unsigned levels;
    bool huge_pages;
};

static void begin(const struct call *call, struct variant variant)
{
    set_up(variant.levels, variant.huge_pages);
    if (call->prepare != NULL)
        call->prepare();
}

/* Asks `n` times for a frame: was the n-th failure still to come, one of them finds none. */
static bool failure_is_over(uint64_t n)
{
    static paddr_t frames[TRIES_MAX];
    uint64_t count = 0;

    while (count < n && pmm_alloc_frame(&machine.pmm, &frames[count]) == MM_OK)
        count++;
    pmm_fault_inject(&machine.pmm, 0, 0);
    pmm_free_frames(&machine.pmm, frames, count);
    return count == n;
}

/* Runs the call with its n-th request for frames failing, or all from there on. Nothing has changed,
 * or everything is accounted for; then the world is made anew.
 *   Returns: what the call did; *came: it has asked so often. */
static mm_status_t fail_nth(const struct call *call, struct variant variant, uint64_t n,
                            bool from_there_on, bool *came)
{
    static struct state before;
    uint64_t unaccounted = frames_unaccounted();

    look(&before);
    pmm_fault_inject(&machine.pmm, n, from_there_on);
    mm_status_t status = call->run();
    *came = from_there_on || failure_is_over(n);
    pmm_fault_inject(&machine.pmm, 0, 0);
    if (status == MM_OUT_OF_MEMORY) {
        assert_true(*came);
        assert_state(&before);
        return status;
    }
    assert_ok(status);
    assert_int_equal(frames_unaccounted(), unaccounted);
    assert_space_sound(&kernel);
    assert_pmm_sound(&machine.pmm);
    begin(call, variant);
    return status;
}

static void fail_each(const struct call *call, struct variant variant)
{
    uint64_t requests = 0, refused = 0;
    bool came = true;

    begin(call, variant);
    for (uint64_t n = 1; came; n++) {
        assert_true(n < TRIES_MAX);
        refused += fail_nth(call, variant, n, false, &came) != MM_OK;
        requests += came;
    }
    for (uint64_t n = 1; n <= requests; n++) {
        mm_status_t status = fail_nth(call, variant, n, true, &came);

        refused += status != MM_OK;
        if (call->takes == FRAMES && n == 1)
            assert_status(status, MM_OUT_OF_MEMORY);
    }
    if ((refused != 0) != (call->takes == FRAMES))
        fail_msg("%lu of %lu failures were met", refused, requests);
}

/* The test of one row. */
static void nth_frame_fails_and_nothing_changes(void **state)
{
    const struct call *call = *state;

    for (unsigned levels = 4; levels <= 5; levels++)
        for (unsigned huge_pages = 0; huge_pages < 2; huge_pages++)
            fail_each(call, (struct variant){ levels, huge_pages != 0 });
}

/* ---- Nothing is left out ---- */

static bool is_listed(const char *name, size_t bytes)
{
    for (size_t i = 0; i < COUNT_OF(calls); i++)
        for (const char *at = calls[i].names; *at != '\0'; at += strspn(at, " ")) {
            size_t length = strcspn(at, " ");
            if (length == bytes && memcmp(at, name, bytes) == 0)
                return true;
            at += length;
        }
    return false;
}

/* The name of the function that is declared on a line of a header, if there is one. */
static const char *declared(const char *line, const char *prefix, size_t *bytes)
{
    if (strchr("/ *#\n}", line[0]) != NULL)
        return NULL;
    for (const char *at = line; (at = strstr(at, prefix)) != NULL; at += *bytes) {
        *bytes = strspn(at, "abcdefghijklmnopqrstuvwxyz_0123456789");
        if (at[*bytes] == '(')
            return at;
    }
    return NULL;
}

static unsigned check_header(const char *path, const char *prefix)
{
    char line[256];
    unsigned count = 0;
    size_t bytes;
    FILE *file = fopen(path, "r");

    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        const char *name = declared(line, prefix, &bytes);

        count += name != NULL;
        if (name != NULL && !is_listed(name, bytes))
            fail_msg("%s: %.*s is not in the table of calls", path, (int)bytes, name);
    }
    fclose(file);
    return count;
}

static void calls_of_both_headers_are_in_the_table(void **state)
{
    (void)state;
    assert_true(check_header("mm/include/mm/paging.h", "paging_") >= 26);
    assert_true(check_header("mm/include/mm/kvm.h", "kvm_") >= 19);
}

/* "paging_map_page, beside a table" -> "paging_map_page_beside_a_table" */
static void name_test(const struct call *call, char *name, size_t capacity)
{
    size_t used = 0;
    char text[128];

    snprintf(text, sizeof text, "%s %s", call->names, call->where);
    for (const char *at = text; used + 1 < capacity && *(at += strspn(at, " ,")) != '\0';) {
        size_t length = strcspn(at, " ,");
        used += (size_t)snprintf(name + used, capacity - used, "%s%.*s", used == 0 ? "" : "_",
                                 (int)length, at);
        at += length;
    }
}

int main(void)
{
    static struct CMUnitTest tests[COUNT_OF(calls) + 1];
    static char names[COUNT_OF(calls)][128];

    for (size_t i = 0; i < COUNT_OF(calls); i++) {
        name_test(&calls[i], names[i], sizeof names[i]);
        tests[i] = (struct CMUnitTest){ names[i], nth_frame_fails_and_nothing_changes,
                                        support_setup, support_teardown, (void *)&calls[i] };
    }
    tests[COUNT_OF(calls)] = (struct CMUnitTest)TEST(calls_of_both_headers_are_in_the_table);
    return RUN_TESTS(tests);
}
