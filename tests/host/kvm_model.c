/* SPDX-License-Identifier: MIT */
/* See kvm_model.h.
 *
 *      things[]   block | stack | heap range | device: first byte of its first page, pages, a tag
 *
 * The first and the last word of each page of memory hold the thing's tag and the page's number, so that
 * a frame that has two owners is seen. Now and then the n-th frame of a call cannot be had: then the
 * page tables must be bit for bit as they were, and no frame may be missing. */
#include "kvm_model.h"

#include "mm/vrange.h"

#include <string.h>

#define THINGS     40u
#define RAM_BYTES  MM_MIB(24)
#define HEAP_STEPS 96u /* of 64 KiB, at the beginning of the heap's window */

struct thing {
    enum kvm_place place; /* KVM_BLOCK, KVM_STACK, KVM_HEAP, KVM_DEVICE; KVM_NOWHERE: none */
    vaddr_t base;
    uint64_t pages;
    vaddr_t address; /* that the caller holds */
    paddr_t phys;    /* of a device's first page */
    unsigned type;   /* of its memory, as the MMU has it */
    uint64_t tag;
};

static struct thing things[THINGS];
static kvm_model_choose choose;
static uint64_t next_tag, step_number;
static struct pmm_stats at_first;

static vaddr_t end_of(const struct thing *thing)
{
    return thing->base + thing->pages * PAGE_SIZE;
}

/* ---- Comparing ---- */

/* The words that say whose page it is. */
static uint64_t *page_words(const struct thing *thing, uint64_t page)
{
    struct hosted_translation seen;
    vaddr_t address = thing->base + page * PAGE_SIZE;

    if (hosted_cpu_access(address, HOSTED_WRITE, &seen) != HOSTED_OK)
        fail_msg("step %lu: 0x%lx is not mapped", step_number, address);
    if (!seen.global || seen.user || seen.execute || seen.memory_type != thing->type)
        fail_msg("step %lu: 0x%lx has wrong rights or type %u", step_number, address,
                 seen.memory_type);
    if (thing->place == KVM_DEVICE) {
        assert_int_equal(seen.address, thing->phys + page * PAGE_SIZE);
        return NULL;
    }
    assert_int_equal(pmm_frame_state(&machine.pmm, seen.address), PMM_FRAME_USED);
    return phys_to_virt(seen.address);
}

static void check_unmapped(vaddr_t address)
{
    if (hosted_cpu_access(address, HOSTED_READ, NULL) != HOSTED_NOT_PRESENT)
        fail_msg("step %lu: 0x%lx is mapped", step_number, address);
}

static void check_page(const struct thing *thing, uint64_t page)
{
    const uint64_t *words = page_words(thing, page);

    if (words != NULL && (words[0] != (thing->tag ^ page) || words[511] != (thing->tag ^ page)))
        fail_msg("step %lu: page %lu at 0x%lx belongs to another", step_number, page, thing->base);
}

static const struct thing *thing_at(vaddr_t address)
{
    for (size_t i = 0; i < THINGS; i++)
        if (things[i].place != KVM_NOWHERE && address >= things[i].base &&
            address < end_of(&things[i]))
            return &things[i];
    return NULL;
}

/* The pages at both ends, the guards (in the heap: what is not another's), and what kvm says of it. */
static void check_thing(const struct thing *thing)
{
    vaddr_t base = thing->base, end = end_of(thing);
    struct kvm_peek peek = kvm_peek(&kvm, base + choose(end - base));

    check_page(thing, 0);
    check_page(thing, thing->pages - 1);
    check_page(thing, choose(thing->pages));
    if (thing_at(base - 1) == NULL)
        check_unmapped(base - 1);
    if (thing_at(end) == NULL)
        check_unmapped(end);
    assert_int_equal(peek.place, thing->place);
    if (thing->place == KVM_HEAP)
        return;
    assert_true(thing_at(base - 1) == NULL && thing_at(end) == NULL);
    assert_true(peek.base == base && peek.end == end);
}

/* Nothing else stands there; beside blocks, stacks and devices there is a guard for each of two. */
static void check_apart(const struct thing *thing)
{
    uint64_t guards = thing->place == KVM_HEAP ? 0 : 2 * PAGE_SIZE;

    if (thing->place == KVM_STACK)
        guards = PAGE_SIZE; /* one page may be the guard of two */
    for (size_t i = 0; i < THINGS; i++) {
        const struct thing *other = &things[i];

        if (other == thing || other->place != thing->place)
            continue;
        if (thing->base < end_of(other) + guards && other->base < end_of(thing) + guards)
            fail_msg("step %lu: 0x%lx meets 0x%lx", step_number, thing->base, other->base);
    }
}

static void check_counters(void)
{
    struct kvm_stats stats = kvm_stats(&kvm);
    uint64_t count[KVM_UNUSED + 1] = { 0 }, pages[KVM_UNUSED + 1] = { 0 };

    for (size_t i = 0; i < THINGS; i++) {
        count[things[i].place]++;
        pages[things[i].place] += things[i].pages;
    }
    assert_int_equal(stats.blocks, count[KVM_BLOCK]);
    assert_int_equal(stats.block_bytes, pages[KVM_BLOCK] * PAGE_SIZE);
    assert_int_equal(stats.stacks, count[KVM_STACK]);
    assert_int_equal(stats.stack_bytes, pages[KVM_STACK] * PAGE_SIZE);
    assert_int_equal(stats.heap_bytes, pages[KVM_HEAP] * PAGE_SIZE);
    assert_int_equal(stats.devices, count[KVM_DEVICE]);
    uint64_t mapped = pages[KVM_BLOCK] + pages[KVM_STACK] + pages[KVM_HEAP] + pages[KVM_DEVICE];
    assert_int_equal(space.stats.leaves[0] + 512 * space.stats.leaves[1] +
                         512 * 512 * space.stats.leaves[2],
                     mapped);
    /* A frame is a thing's, a table's or a node's; none is lost. */
    assert_int_equal(pmm_stats(&machine.pmm).used_frames - at_first.used_frames,
                     mapped - pages[KVM_DEVICE] + space.stats.table_frames - 1 + stats.node_frames);
}

/* What must be unmapped meets nothing that stands. */
static void check_run(void *context, vaddr_t base, uint64_t bytes)
{
    (void)context;
    for (size_t i = 0; i < THINGS; i++)
        if (things[i].place != KVM_NOWHERE && things[i].base < base + bytes &&
            base < end_of(&things[i]))
            fail_msg("step %lu: the guards 0x%lx-0x%lx meet 0x%lx", step_number, base, base + bytes,
                     things[i].base);
    check_unmapped(base);
    check_unmapped(base + bytes - 1);
}

void kvm_model_check(void)
{
    for (size_t i = 0; i < THINGS; i++) {
        if (things[i].place == KVM_NOWHERE)
            continue;
        check_thing(&things[i]);
        for (uint64_t page = 0; page < things[i].pages; page++)
            check_page(&things[i], page);
    }
    kvm_for_each_guard(&kvm, check_run, NULL);
    assert_true(vrange_is_sound(&kvm.block_ranges) && vrange_is_sound(&kvm.device_ranges));
    assert_space_sound(&space);
}

/* ---- Calls ---- */

static struct walker_snapshot before;
static bool is_short;

static void begin_call(void)
{
    is_short = choose(24) == 0;
    if (!is_short)
        return;
    before = walker_snapshot(&space);
    pmm_fault_inject(&machine.pmm, 1 + choose(6), choose(2));
}

/* True if the call has done its work. No memory may be the answer of a large call at any time. */
static bool end_call(mm_status_t status, mm_status_t expected)
{
    if (is_short)
        pmm_fault_inject(&machine.pmm, 0, 0);
    if (status != MM_OUT_OF_MEMORY || expected != MM_OK)
        assert_status(status, expected);
    if (is_short && status != MM_OK) {
        struct walker_snapshot now = walker_snapshot(&space);

        assert_memory_equal(&now.tables, &before.tables, sizeof now.tables);
        assert_memory_equal(&now.stats, &before.stats, sizeof now.stats);
    }
    is_short = false;
    return status == MM_OK;
}

/* Looks at all of a new thing and signs it. */
static void adopt(struct thing *slot, struct thing made, bool is_zero_wanted)
{
    made.tag = ++next_tag << 20;
    *slot = made;
    check_apart(slot);
    for (uint64_t page = 0; page < made.pages; page++) {
        uint64_t *words = page_words(slot, page);

        if (words == NULL)
            continue;
        if (is_zero_wanted && (made.pages > 64 ? (words[0] | words[511] | words[choose(512)]) != 0
                                               : !is_zero(words, PAGE_SIZE)))
            fail_msg("step %lu: page %lu of 0x%lx is not zero", step_number, page, made.base);
        words[0] = words[511] = made.tag ^ page;
    }
}

static uint64_t choose_bytes(void)
{
    if (choose(16) == 0)
        return MM_MIB(2) + choose(3) * PAGE_SIZE * 3;
    return 1 + choose(choose(4) == 0 ? 40 * PAGE_SIZE : 3 * PAGE_SIZE);
}

static void make_block(struct thing *slot)
{
    uint64_t bytes = choose_bytes(), align = PAGE_SIZE << (choose(4) == 0 ? choose(12) : 0);
    uint32_t flags = choose(4) == 0 ? KVM_NO_ZERO : 0;
    vaddr_t block = 0;

    begin_call();
    if (!end_call(kvm_alloc_aligned(&kvm, bytes, align, flags, &block), MM_OK))
        return;
    assert_int_equal(block % align, 0);
    adopt(slot,
          (struct thing){ .place = KVM_BLOCK,
                          .base = block,
                          .pages = mm_round_up(bytes, PAGE_SIZE) / PAGE_SIZE,
                          .address = block,
                          .type = 6 },
          flags == 0);
}

static void make_stack(struct thing *slot)
{
    uint64_t bytes = 1 + choose(KVM_STACK_MAX_BYTES);
    vaddr_t top = 0;

    begin_call();
    if (!end_call(kvm_alloc_stack(&kvm, bytes, &top), MM_OK))
        return;
    bytes = mm_round_up(bytes, PAGE_SIZE);
    adopt(slot,
          (struct thing){ .place = KVM_STACK,
                          .base = top - bytes,
                          .pages = bytes / PAGE_SIZE,
                          .address = top,
                          .type = 6 },
          true);
}

static void make_device(struct thing *slot)
{
    static const paging_rights_t types[] = { 0, PAGING_UNCACHED, PAGING_WRITE_COMBINING };
    static const unsigned seen[] = { 6, 0, 1 };
    size_t type = choose(3);
    paddr_t phys = MM_GIB(3) + choose(MM_MIB(4));
    uint64_t bytes = choose_bytes();
    vaddr_t device = 0;

    begin_call();
    if (!end_call(kvm_map_device(&kvm, phys, bytes, types[type], &device), MM_OK))
        return;
    vaddr_t base = mm_round_down(device, PAGE_SIZE);
    assert_int_equal(device - base, phys % PAGE_SIZE);
    adopt(slot,
          (struct thing){ .place = KVM_DEVICE,
                          .base = base,
                          .pages = (mm_round_up(device + bytes, PAGE_SIZE) - base) / PAGE_SIZE,
                          .address = device,
                          .phys = mm_round_down(phys, PAGE_SIZE),
                          .type = seen[type] },
          false);
}

static void make_heap(struct thing *slot)
{
    uint64_t first = choose(HEAP_STEPS), steps = 1 + choose(choose(4) == 0 ? 40 : 4);
    vaddr_t base = kvm_heap_window(&kvm).base + first * KVM_HEAP_STEP_BYTES;
    mm_status_t expected = MM_OK;

    if (steps > HEAP_STEPS - first)
        steps = HEAP_STEPS - first;
    for (uint64_t i = 0; i < steps; i++)
        if (thing_at(base + i * KVM_HEAP_STEP_BYTES) != NULL)
            expected = MM_ALREADY_MAPPED;
    begin_call();
    if (!end_call(kvm_heap_commit(&kvm, base, steps * KVM_HEAP_STEP_BYTES), expected))
        return;
    adopt(slot,
          (struct thing){ .place = KVM_HEAP,
                          .base = base,
                          .pages = steps * KVM_HEAP_STEP_BYTES / PAGE_SIZE,
                          .address = base,
                          .type = 6 },
          true);
}

static void take_away(struct thing *thing)
{
    struct thing was = *thing;

    check_thing(thing);
    begin_call(); /* nothing that frees needs memory */
    switch (was.place) {
    case KVM_BLOCK:
        kvm_free(&kvm, was.address);
        break;
    case KVM_STACK:
        kvm_free_stack(&kvm, was.address);
        break;
    case KVM_DEVICE:
        kvm_unmap_device(&kvm, was.address);
        break;
    default:
        assert_ok(kvm_heap_decommit(&kvm, was.address, was.pages * PAGE_SIZE));
        break;
    }
    (void)end_call(MM_OK, MM_OK);
    *thing = (struct thing){ .place = KVM_NOWHERE };
    check_unmapped(was.base);
    check_unmapped(was.base + choose(was.pages) * PAGE_SIZE);
    check_unmapped(end_of(&was) - 1);
}

/* An address in a thing that is not the one to free it by. */
static void free_wrongly(const struct thing *thing)
{
    vaddr_t wrong = thing->address + 1 + choose(PAGE_SIZE - 1);

    if (thing->place == KVM_BLOCK)
        EXPECT_BUG("kvm_free", kvm_free(&kvm, wrong));
    else if (thing->place == KVM_STACK)
        EXPECT_BUG("no allocated stack", kvm_free_stack(&kvm, wrong));
    else if (thing->place == KVM_DEVICE)
        EXPECT_BUG("kvm_unmap_device", kvm_unmap_device(&kvm, wrong));
    else
        assert_status(kvm_heap_decommit(&kvm, wrong, KVM_HEAP_STEP_BYTES), MM_NOT_ALIGNED);
    check_thing(thing);
}

void kvm_model_step(void)
{
    static void (*const makers[])(struct thing *) = { make_block, make_stack, make_heap,
                                                      make_device };
    struct thing *slot = &things[choose(THINGS)];

    step_number++;
    if (slot->place == KVM_NOWHERE)
        makers[choose(4)](slot);
    else if (choose(16) == 0)
        free_wrongly(slot);
    else
        take_away(slot);
    if (slot->place != KVM_NOWHERE)
        check_thing(slot);
    slot = &things[choose(THINGS)];
    if (slot->place != KVM_NOWHERE)
        check_thing(slot);
    check_counters();
}

/* ---- Beginning and end ---- */

void kvm_model_set_up(kvm_model_choose chooser)
{
    choose = chooser;
    step_number = next_tag = 0;
    memset(things, 0, sizeof things);
    kvm_set_up(4 + (unsigned)choose(2), RAM_BYTES);
    hosted_cpu()->pat = 0x0000010500070406u;
    if (choose(4) == 0)
        kvm_fragment(RAM_BYTES);
    at_first = pmm_stats(&machine.pmm);
}

void kvm_model_finish(void)
{
    kvm_model_check();
    for (size_t i = 0; i < THINGS; i++)
        if (things[i].place != KVM_NOWHERE)
            take_away(&things[i]);
    check_counters();
    kvm_model_check();
    assert_int_equal(kvm_stats(&kvm).node_frames, 0);
    assert_int_equal(space.stats.table_frames, 1);
    assert_int_equal(pmm_stats(&machine.pmm).used_frames, at_first.used_frames);
    assert_pmm_sound(&machine.pmm);
}
