/* SPDX-License-Identifier: MIT */
/* Whole spaces: the kernel half that several share, switching, the end; runs and the dump; windows that
 * are filled on a page fault; and that the n-th missing table undoes any call. */
#define _GNU_SOURCE 1 /* REG_EFL */
#include "walker.h"

#include <signal.h>
#include <string.h>
#include <ucontext.h>

static struct machine machine;
static struct address_space kernel, users[3];
static struct mm_cpu_features features;

#define RW     (PAGING_READ | PAGING_WRITE)
#define V_LOW  ((vaddr_t)0x40000000)
#define V_HIGH ((vaddr_t)0xffffa00000000000)

static void set_up(unsigned levels)
{
    features = features_of(levels, 46, true);
    hosted_cpu_reset(levels);
    hosted_cpu()->leaf_8000_0008.eax = 46;
    machine_set_up_simple(&machine, MM_MIB(16));
    assert_ok(paging_init(&kernel, &machine.pmm, &features));
    paging_activate(&kernel, &features);
}

static void make_users(void)
{
    for (size_t i = 0; i < COUNT_OF(users); i++)
        assert_ok(paging_create_user(&users[i], &kernel));
}

/* The page is seen by every space, through the MMU as through translate and query. */
static void assert_all_see(vaddr_t page, paddr_t frame)
{
    struct address_space *all[] = { &kernel, &users[0], &users[1], &users[2] };

    for (size_t i = 0; i < COUNT_OF(all); i++) {
        struct hosted_translation seen;
        struct paging_mapping mapping;
        paddr_t found = 0;

        walker_use(all[i]);
        assert_int_equal(hosted_cpu_walk(page, 0, &seen), HOSTED_OK);
        assert_int_equal(seen.address, frame);
        assert_ok(paging_translate(all[i], page + 5, &found));
        assert_int_equal(found, frame + 5);
        assert_ok(paging_query(all[i], page, &mapping));
        assert_int_equal(mapping.frame, frame);
    }
}

static void assert_none_sees(vaddr_t page)
{
    struct address_space *all[] = { &kernel, &users[0], &users[1], &users[2] };

    for (size_t i = 0; i < COUNT_OF(all); i++) {
        paddr_t found;

        walker_use(all[i]);
        assert_int_equal(hosted_cpu_walk(page, 0, NULL), HOSTED_NOT_PRESENT);
        assert_status(paging_translate(all[i], page, &found), MM_NOT_MAPPED);
    }
}

/* ---- Sharing ---- */

static void space_shares_what_the_kernel_maps_before_and_later(void **state)
{
    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        set_up(levels);
        assert_ok(paging_map_page(&kernel, V_HIGH, 0x5000, RW));
        make_users();
        assert_all_see(V_HIGH, 0x5000);
        /* A table of its own in the root, which did not exist when the spaces were made. */
        assert_ok(paging_map_page(&kernel, V_HIGH + MM_GIB(1024), 0x6000, RW));
        assert_ok(paging_map_range(&kernel, 0 - MM_GIB(2), MM_GIB(1), MM_GIB(1), PAGING_EXECUTE));
        assert_all_see(V_HIGH + MM_GIB(1024), 0x6000);
        assert_all_see(0 - MM_GIB(2), MM_GIB(1));
        assert_ok(paging_remap_range(&kernel, V_HIGH, 0x7000, PAGE_SIZE, RW));
        assert_all_see(V_HIGH, 0x7000);
        /* The last page below a root entry: the entry goes in all roots. */
        assert_ok(paging_unmap_page(&kernel, V_HIGH + MM_GIB(1024), NULL));
        assert_none_sees(V_HIGH + MM_GIB(1024));
        assert_ok(paging_map_page(&kernel, V_HIGH + MM_GIB(1024), 0x8000, RW));
        assert_all_see(V_HIGH + MM_GIB(1024), 0x8000);
        /* User access through a root entry that had none: in all roots. */
        assert_ok(paging_map_page(&kernel, V_HIGH + PAGE_SIZE, 0x9000, PAGING_USER));
        walker_use(&users[1]);
        assert_int_equal(hosted_cpu_walk(V_HIGH + PAGE_SIZE, HOSTED_USER, NULL), HOSTED_OK);
    }
}

static void space_has_a_lower_half_of_its_own(void **state)
{
    paddr_t found;

    (void)state;
    set_up(4);
    make_users();
    assert_ok(paging_map_page(&users[0], V_LOW, 0x5000, RW | PAGING_USER));
    assert_ok(paging_map_page(&users[1], V_LOW, 0x6000, RW | PAGING_USER));
    assert_ok(paging_translate(&users[0], V_LOW, &found));
    assert_int_equal(found, 0x5000);
    assert_ok(paging_translate(&users[1], V_LOW, &found));
    assert_int_equal(found, 0x6000);
    assert_status(paging_translate(&users[2], V_LOW, &found), MM_NOT_MAPPED);
    assert_status(paging_translate(&kernel, V_LOW, &found), MM_NOT_MAPPED);
}

static void space_that_shares_does_not_change_the_kernel_half(void **state)
{
    struct walker_snapshot before;
    paddr_t frame = 0x1234;

    (void)state;
    set_up(4);
    assert_ok(paging_map_page(&kernel, V_HIGH, 0x5000, RW));
    make_users();
    before = walker_snapshot(&kernel);
    assert_status(paging_map_page(&users[0], V_HIGH + PAGE_SIZE, 0x6000, RW), MM_INVALID_ADDRESS);
    assert_status(paging_unmap_page(&users[0], V_HIGH, &frame), MM_INVALID_ADDRESS);
    assert_status(paging_protect_page(&users[0], V_HIGH, PAGING_READ), MM_INVALID_ADDRESS);
    assert_status(paging_remap_range(&users[0], V_HIGH, 0, PAGE_SIZE, RW), MM_INVALID_ADDRESS);
    assert_status(paging_map_page(&users[0], V_LOW, 0x6000, RW | PAGING_GLOBAL),
                  MM_INVALID_ARGUMENT);
    assert_status(paging_create_user(&users[1], &users[0]), MM_INVALID_ARGUMENT);
    assert_snapshot_equal(&kernel, &before);
    assert_int_equal(frame, 0x1234);
    assert_int_equal(users[0].stats.table_frames, 1);
}

static void space_destroy_gives_its_own_tables_back(void **state)
{
    struct walker_snapshot before;

    (void)state;
    set_up(5);
    assert_ok(paging_map_page(&kernel, V_HIGH, 0x5000, RW));
    before = walker_snapshot(&kernel);
    make_users();
    for (size_t i = 0; i < COUNT_OF(users); i++)
        assert_ok(paging_map_range(&users[i], MM_GIB(512) - MM_MIB(1), 0x1000, MM_MIB(2), RW));
    paging_destroy(&users[1]);
    assert_ok(paging_map_page(&kernel, V_HIGH + MM_GIB(1024), 0x6000, RW)); /* the others see it */
    walker_use(&users[2]);
    assert_int_equal(hosted_cpu_walk(V_HIGH + MM_GIB(1024), 0, NULL), HOSTED_OK);
    walker_use(&users[0]);
    assert_int_equal(hosted_cpu_walk(V_HIGH + MM_GIB(1024), 0, NULL), HOSTED_OK);
    walker_use(&kernel);
    assert_ok(paging_unmap_page(&kernel, V_HIGH + MM_GIB(1024), NULL));
    paging_destroy(&users[2]);
    paging_destroy(&users[0]);
    assert_snapshot_equal(&kernel, &before);
    assert_pmm_sound(&machine.pmm);
}

static void space_destroy_reports_what_must_not_go(void **state)
{
    struct walker_snapshot before;

    (void)state;
    set_up(4);
    assert_ok(paging_map_page(&kernel, V_HIGH, 0x5000, RW));
    assert_ok(paging_create_user(&users[0], &kernel));
    before = walker_snapshot(&kernel);
    EXPECT_BUG("destruction of address space|which this CPU uses", paging_destroy(&kernel));
    paging_switch(&users[0]);
    EXPECT_BUG("destruction of address space|which this CPU uses", paging_destroy(&users[0]));
    EXPECT_BUG("destruction of address space|lends its upper half", paging_destroy(&kernel));
    paging_switch(&kernel);
    assert_snapshot_equal(&kernel, &before);
    paging_destroy(&users[0]);
    EXPECT_BUG("destruction of address space|which is none", paging_destroy(&users[0]));
    EXPECT_BUG("destruction of address space|which is none", paging_destroy(NULL));
}

static void space_create_without_frames_is_out_of_memory(void **state)
{
    struct address_space before;

    (void)state;
    set_up(4);
    pmm_drain_to(&machine.pmm, 0, NULL, 0);
    memset(&users[0], 0x77, sizeof users[0]);
    before = users[0];
    assert_status(paging_create_user(&users[0], &kernel), MM_OUT_OF_MEMORY);
    assert_memory_equal(&users[0], &before, sizeof before);
    assert_null(kernel.shared);
}

/* Global translations of the kernel half survive, those of the lower half go. */
static void space_switch_changes_the_lower_half(void **state)
{
    struct hosted_translation seen;
    uint64_t loads;

    (void)state;
    set_up(4);
    assert_ok(paging_map_page(&kernel, V_HIGH, 0x5000, RW | PAGING_GLOBAL));
    make_users();
    for (size_t i = 0; i < 2; i++)
        assert_ok(paging_map_page(&users[i], V_LOW, 0x6000 + i * 0x1000, RW));
    for (size_t i = 0; i < 6; i++) {
        paging_switch(&users[i % 2]);
        assert_int_equal(hosted_cpu_access(V_LOW, HOSTED_READ, &seen), HOSTED_OK);
        assert_int_equal(seen.address, 0x6000 + i % 2 * 0x1000);
        assert_int_equal(hosted_cpu_access(V_HIGH, HOSTED_READ, &seen), HOSTED_OK);
        assert_int_equal(seen.address, 0x5000);
    }
    loads = hosted_cpu()->cr3_loads;
    paging_switch(&users[1]);
    assert_int_equal(hosted_cpu()->cr3_loads, loads);
    assert_int_equal(hosted_cpu()->stale_uses, 0);
}

/* ---- Runs and the dump ---- */

static void next_run_merges_what_goes_on(void **state)
{
    struct paging_run run;

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        set_up(levels);
        assert_false(paging_next_run(&kernel, 0, &run));
        /* 4 KiB, 2 MiB and 1 GiB leaves that go on in both addresses: one run. */
        assert_ok(paging_map_range(&kernel, MM_GIB(1) - MM_MIB(2) - PAGE_SIZE,
                                   MM_GIB(5) - MM_MIB(2) - PAGE_SIZE,
                                   MM_GIB(1) + MM_MIB(2) + 2 * PAGE_SIZE, RW));
        assert_ok(paging_map_page(&kernel, MM_GIB(2) + PAGE_SIZE, 0x7000, RW)); /* elsewhere */
        assert_ok(paging_map_page(&kernel, MM_GIB(2) + 2 * PAGE_SIZE, 0x8000, PAGING_EXECUTE));
        assert_ok(paging_map_page(&kernel, 0 - PAGE_SIZE, 0x9000, RW));
        assert_true(paging_next_run(&kernel, 0, &run));
        assert_int_equal(run.begin, MM_GIB(1) - MM_MIB(2) - PAGE_SIZE);
        assert_int_equal(run.last, MM_GIB(2) + PAGE_SIZE - 1);
        assert_int_equal(run.frame, MM_GIB(5) - MM_MIB(2) - PAGE_SIZE);
        assert_int_equal(run.rights, RW);
        assert_int_equal(run.leaves[0], 2);
        assert_int_equal(run.leaves[1], 1);
        assert_int_equal(run.leaves[2], 1);
        assert_true(paging_next_run(&kernel, run.last + 1, &run));
        assert_int_equal(run.begin, MM_GIB(2) + PAGE_SIZE);
        assert_int_equal(run.frame, 0x7000);
        assert_int_equal(run.last, MM_GIB(2) + 2 * PAGE_SIZE - 1);
        assert_true(paging_next_run(&kernel, run.last + 1, &run));
        assert_int_equal(run.rights, PAGING_EXECUTE);
        assert_true(paging_next_run(&kernel, run.last + 1, &run));
        assert_int_equal(run.begin, 0 - PAGE_SIZE);
        assert_int_equal(run.last, UINT64_MAX);
        /* From inside a leaf on. */
        assert_true(paging_next_run(&kernel, MM_GIB(1) + MM_MIB(3), &run));
        assert_int_equal(run.begin, MM_GIB(1) + MM_MIB(3));
        assert_int_equal(run.frame, MM_GIB(5) + MM_MIB(3));
        assert_int_equal(run.last, MM_GIB(2) + PAGE_SIZE - 1);
    }
}

/* Each page that the walker finds is in exactly one run, with its frame and rights. */
struct run_check {
    struct paging_run run[512];
    size_t count;
    uint64_t bytes;
};

static void check_leaf(void *context, const struct walker_leaf *leaf)
{
    struct run_check *check = context;

    for (size_t i = 0; i < check->count; i++) {
        const struct paging_run *run = &check->run[i];

        if (leaf->page < run->begin || leaf->page > run->last)
            continue;
        assert_true(leaf->page + (leaf->bytes - 1) <= run->last);
        assert_int_equal(leaf->frame, run->frame + (leaf->page - run->begin));
        assert_int_equal(leaf->write, (run->rights & PAGING_WRITE) != 0);
        assert_int_equal(leaf->execute, (run->rights & PAGING_EXECUTE) != 0);
        check->bytes -= leaf->bytes;
        return;
    }
    fail_msg("0x%lx is in no run", leaf->page);
}

static void next_run_tells_all_of_a_random_space(void **state)
{
    static struct run_check check;

    (void)state;
    for (seeds_begin(20); seeds_next();) {
        vaddr_t from = 0;

        set_up(4 + (unsigned)random_below(2));
        for (unsigned i = 0; i < 60; i++) {
            vaddr_t page = (random_chance(50) ? V_LOW : V_HIGH) +
                           mm_round_down(random_below(MM_MIB(6)), PAGE_SIZE);

            mm_status_t status = paging_map_range(&kernel, page, page & 0xffffffff,
                                                  PAGE_SIZE * (1 + random_below(700)),
                                                  random_chance(70) ? RW : PAGING_EXECUTE);

            assert_true(status == MM_OK || status == MM_ALREADY_MAPPED);
        }
        check.count = 0;
        check.bytes = 0;
        while (paging_next_run(&kernel, from, &check.run[check.count])) {
            struct paging_run *run = &check.run[check.count++];

            check.bytes += run->last - run->begin + 1;
            from = run->last + 1;
        }
        walker_for_each_leaf(&kernel, check_leaf, &check);
        assert_int_equal(check.bytes, 0);
    }
}

static void dump_logs_each_run(void **state)
{
    (void)state;
    set_up(4);
    assert_ok(
        paging_map_range(&kernel, MM_GIB(1), MM_MIB(4), MM_MIB(2) + PAGE_SIZE, RW | PAGING_USER));
    assert_ok(paging_map_page(&kernel, V_HIGH, 0x5000, PAGING_EXECUTE | PAGING_GLOBAL));
    assert_ok(paging_map_page(&kernel, V_HIGH + PAGE_SIZE, 0x6000, RW | PAGING_UNCACHED));
    assert_ok(paging_map_page(&kernel, 0 - PAGE_SIZE, 0, PAGING_WRITE_COMBINING));
    log_clear();
    paging_dump(&kernel);
    assert_int_equal(log_lines(), 4);
    assert_string_equal(log_line(0), "[MM] map 0x40000000-0x40201000 rw-u- 4K+2M -> 0x400000");
    assert_string_equal(log_line(1),
                        "[MM] map 0xffffa00000000000-0xffffa00000001000 r-x-g 4K -> 0x5000");
    assert_string_equal(log_line(2),
                        "[MM] map 0xffffa00000001000-0xffffa00000002000 rw----uc 4K -> 0x6000");
    assert_string_equal(log_line(3),
                        "[MM] map 0xfffffffffffff000-0x10000000000000000 r-----wc 4K -> 0x0");
}

static void peek_shows_each_level(void **state)
{
    struct paging_level way[PAGING_LEVELS_MAX];

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        set_up(levels);
        assert_int_equal(paging_peek(&kernel, V_HIGH, way), 1);
        assert_false(way[0].present);
        assert_ok(paging_map_page(&kernel, V_HIGH, 0x5000, RW | PAGING_GLOBAL));
        assert_int_equal(paging_peek(&kernel, V_HIGH + 8, way), levels);
        for (size_t i = 0; i < levels; i++) {
            assert_int_equal(way[i].level, levels - i);
            assert_true(way[i].present);
            assert_int_equal(way[i].leaf, i == levels - 1);
            if (i > 0)
                assert_int_equal(way[i].table, way[i - 1].entry & 0xffffffffff000);
        }
        assert_int_equal(way[0].rights, PAGING_WRITE | PAGING_EXECUTE);
        assert_int_equal(way[levels - 1].rights, RW | PAGING_GLOBAL);
        assert_int_equal(paging_peek(&kernel, (vaddr_t)1 << 62, way), 0);
        /* An entry that leads nowhere is shown and not followed. */
        *(uint64_t *)phys_to_virt(kernel.root) = MM_GIB(64) | 3;
        assert_int_equal(paging_peek(&kernel, 0, way), 1);
        *(uint64_t *)phys_to_virt(kernel.root) = 0;
    }
}

/* ---- Page faults ---- */

struct fill {
    unsigned calls;
    vaddr_t address;
    uint64_t error;
    struct address_space *space;
    paddr_t frame; /* 0: refuses */
};

static bool fill_page(void *context, struct address_space *space, vaddr_t address, uint64_t error)
{
    struct fill *fill = context;

    fill->calls++;
    fill->address = address;
    fill->error = error;
    fill->space = space;
    return fill->frame != 0 &&
           paging_map_page(space, mm_round_down(address, PAGE_SIZE), fill->frame, RW) == MM_OK;
}

static void fault_in_a_window_is_handled(void **state)
{
    struct fill fill = { .frame = 0x5000 }, other = { .frame = 0x6000 };
    struct paging_window window = { V_HIGH, MM_MIB(4), fill_page, &fill, NULL };
    struct paging_window top = { 0 - PAGE_SIZE, PAGE_SIZE, fill_page, &other, NULL };

    (void)state;
    set_up(4);
    make_users();
    assert_false(paging_fault(&kernel, V_HIGH, 2));
    assert_ok(paging_watch(&kernel, &window));
    assert_ok(paging_watch(&kernel, &top));
    assert_true(paging_fault(&kernel, V_HIGH + MM_MIB(4) - 1, 2));
    assert_int_equal(fill.calls, 1);
    assert_int_equal(fill.address, V_HIGH + MM_MIB(4) - 1);
    assert_int_equal(fill.error, 2);
    assert_int_equal(hosted_cpu_access(V_HIGH + MM_MIB(4) - 8, HOSTED_WRITE, NULL), HOSTED_OK);
    assert_false(paging_fault(&kernel, V_HIGH + MM_MIB(4), 0));
    assert_false(paging_fault(&kernel, V_HIGH - 1, 0));
    assert_true(paging_fault(&kernel, UINT64_MAX, 0));
    assert_int_equal(other.calls, 1);
    fill.frame = 0;
    assert_false(paging_fault(&kernel, V_HIGH, 0)); /* asked, and refused */
    assert_int_equal(fill.calls, 2);
    /* The kernel half of a space that shares it: the kernel's window, in the kernel's space. */
    fill.frame = 0x7000;
    assert_true(paging_fault(&users[0], V_HIGH + PAGE_SIZE, 0));
    assert_ptr_equal(fill.space, &kernel);
    assert_all_see(V_HIGH + PAGE_SIZE, 0x7000);
    paging_unwatch(&kernel, &window);
    assert_false(paging_fault(&kernel, V_HIGH + 2 * PAGE_SIZE, 0));
    assert_int_equal(fill.calls, 3);
    EXPECT_BUG("does not watch the window", paging_unwatch(&kernel, &window));
}

static void watch_refuses_bad_windows(void **state)
{
    struct fill fill = { .frame = 0 };
    struct paging_window window = { V_HIGH, MM_MIB(4), fill_page, &fill, NULL };
    struct paging_window bad;

    (void)state;
    set_up(4);
    assert_ok(paging_watch(&kernel, &window));
    bad = (struct paging_window){ V_LOW + 1, PAGE_SIZE, fill_page, &fill, NULL };
    assert_status(paging_watch(&kernel, &bad), MM_NOT_ALIGNED);
    bad = (struct paging_window){ V_LOW, 0, fill_page, &fill, NULL };
    assert_status(paging_watch(&kernel, &bad), MM_INVALID_ARGUMENT);
    bad = (struct paging_window){ V_LOW, PAGE_SIZE, NULL, &fill, NULL };
    assert_status(paging_watch(&kernel, &bad), MM_INVALID_ARGUMENT);
    bad = (struct paging_window){ 0 - PAGE_SIZE, 2 * PAGE_SIZE, fill_page, &fill, NULL };
    assert_status(paging_watch(&kernel, &bad), MM_INVALID_ADDRESS);
    bad = (struct paging_window){ (vaddr_t)1 << 60, PAGE_SIZE, fill_page, &fill, NULL };
    assert_status(paging_watch(&kernel, &bad), MM_INVALID_ADDRESS);
    bad =
        (struct paging_window){ V_HIGH + MM_MIB(4) - PAGE_SIZE, MM_MIB(1), fill_page, &fill, NULL };
    assert_status(paging_watch(&kernel, &bad), MM_ALREADY_MAPPED);
    bad.base = V_HIGH + MM_MIB(4);
    assert_ok(paging_watch(&kernel, &bad));
    /* Faults there are the kernel's: nobody would ever ask a space that shares the half. */
    make_users();
    bad = (struct paging_window){ V_HIGH + MM_MIB(8), PAGE_SIZE, fill_page, &fill, NULL };
    assert_status(paging_watch(&users[0], &bad), MM_INVALID_ADDRESS);
    bad.base = V_LOW;
    assert_ok(paging_watch(&users[0], &bad));
}

/* ---- A table leaves while translate reads ---- */

#define RFLAGS_TF 0x100               /* a trap after each instruction (SDM vol. 3, 2.3) */
#define POISON    0x0000123456789067u /* present, leads far outside of RAM */

static unsigned instructions; /* until the change; 0: it has happened */
static paddr_t poisoned[8];
static size_t poisoned_count;

/* The page goes, its tables with it, and what they were becomes something else. */
static void change_behind_the_readers_back(void)
{
    assert_ok(paging_unmap_page(&kernel, V_HIGH, NULL));
    for (poisoned_count = 0; poisoned_count < COUNT_OF(poisoned); poisoned_count++) {
        uint64_t *entry;

        assert_ok(pmm_alloc_table(&machine.pmm, &poisoned[poisoned_count]));
        entry = phys_to_virt(poisoned[poisoned_count]);
        for (size_t i = 0; i < PAGING_ENTRIES; i++)
            entry[i] = POISON;
    }
}

static void after_an_instruction(int signal, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;

    (void)signal;
    (void)info;
    if (instructions > 0 && --instructions > 0)
        return;
    interrupted->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)RFLAGS_TF;
    change_behind_the_readers_back();
}

__attribute__((noinline)) static mm_status_t translate_in_steps(paddr_t *out)
{
    mm_status_t status;

    __asm__ volatile("pushfq\n\torq %0, (%%rsp)\n\tpopfq" : : "i"(RFLAGS_TF) : "memory", "cc");
    status = paging_translate(&kernel, V_HIGH + 0x123, out);
    __asm__ volatile("pushfq\n\tandq %0, (%%rsp)\n\tpopfq" : : "i"(~RFLAGS_TF) : "memory", "cc");
    return status;
}

/* The change comes after the first instruction, after the second, ... until none is left: the answer is
 * that of before or that of after, and no table that has left is followed. */
static void translate_meets_a_change_after_any_instruction(void **state)
{
    struct sigaction action = { .sa_sigaction = after_an_instruction, .sa_flags = SA_SIGINFO };
    struct sigaction before;
    unsigned answers[2] = { 0, 0 };

    (void)state;
    assert_int_equal(sigaction(SIGTRAP, &action, &before), 0);
    for (unsigned levels = 4; levels <= 5; levels++) {
        for (unsigned n = 1;; n++) {
            paddr_t found = 0x77;
            mm_status_t status;

            set_up(levels);
            assert_ok(paging_map_page(&kernel, V_HIGH, 0x5000, RW));
            instructions = n;
            status = translate_in_steps(&found);
            if (instructions > 0)
                break;
            if (status == MM_OK ? found != 0x5123 : status != MM_NOT_MAPPED || found != 0x77)
                fail_msg("after %u instructions: %s, 0x%lx", n, mm_status_name(status), found);
            answers[status == MM_OK]++;
        }
    }
    assert_int_equal(sigaction(SIGTRAP, &before, NULL), 0);
    assert_true(answers[0] > 10 && answers[1] > 0);
}

/* ---- The n-th table is missing ---- */

static paddr_t scattered[1100];

static mm_status_t do_map_frames(struct address_space *space)
{
    return paging_map_frames(space, V_LOW - 3 * PAGE_SIZE, scattered, 1100, RW);
}

static mm_status_t do_unmap_page(struct address_space *space)
{
    return paging_unmap_page(space, V_HIGH + MM_MIB(8), NULL);
}

static mm_status_t do_unmap_range(struct address_space *space)
{
    return paging_unmap_range(space, V_HIGH + MM_MIB(3), MM_GIB(1));
}

static mm_status_t do_unmap_frames(struct address_space *space)
{
    return paging_unmap_frames(space, V_HIGH + MM_GIB(1) - 5 * PAGE_SIZE, scattered, 10);
}

static mm_status_t do_protect(struct address_space *space)
{
    return paging_protect_range(space, V_HIGH + MM_MIB(3), MM_GIB(1), PAGING_EXECUTE);
}

static mm_status_t do_remap(struct address_space *space)
{
    return paging_remap_range(space, V_HIGH + MM_GIB(1) - MM_MIB(2), PAGE_SIZE, MM_MIB(6), RW);
}

static void any_call_without_its_nth_table_changes_nothing(void **state)
{
    static const struct {
        const char *name;
        mm_status_t (*run)(struct address_space *space);
        uint64_t tables; /* that it takes at the most at once */
    } calls[] = {
        { "map_frames", do_map_frames, 7 },   { "unmap_page", do_unmap_page, 2 },
        { "unmap_range", do_unmap_range, 4 }, { "unmap_frames", do_unmap_frames, 4 },
        { "protect_range", do_protect, 4 },   { "remap_range", do_remap, 5 },
    };
    static paddr_t taken[8192];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(calls); i++) {
        uint64_t left = 0;
        size_t count;
        mm_status_t status;

        set_up(4);
        for (size_t j = 0; j < COUNT_OF(scattered); j++)
            scattered[j] = (j * 7 + 1) * FRAME_SIZE;
        assert_ok(paging_map_range(&kernel, V_HIGH, MM_GIB(1), MM_GIB(2), RW | PAGING_GLOBAL));
        count = pmm_drain_to(&machine.pmm, 0, taken, COUNT_OF(taken));
        for (;;) {
            struct walker_snapshot before = walker_snapshot(&kernel);

            status = calls[i].run(&kernel);
            if (status == MM_OK)
                break;
            assert_status(status, MM_OUT_OF_MEMORY);
            assert_snapshot_equal(&kernel, &before);
            assert_pmm_sound(&machine.pmm);
            pmm_free_frame(&machine.pmm, taken[--count]);
            left++;
        }
        if (left != calls[i].tables)
            fail_msg("%s took %lu tables", calls[i].name, left);
        assert_space_sound(&kernel);
        assert_pmm_sound(&machine.pmm);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(space_shares_what_the_kernel_maps_before_and_later),
        TEST(space_has_a_lower_half_of_its_own),
        TEST(space_that_shares_does_not_change_the_kernel_half),
        TEST(space_destroy_gives_its_own_tables_back),
        TEST(space_destroy_reports_what_must_not_go),
        TEST(space_create_without_frames_is_out_of_memory),
        TEST(space_switch_changes_the_lower_half),
        TEST(next_run_merges_what_goes_on),
        TEST(next_run_tells_all_of_a_random_space),
        TEST(dump_logs_each_run),
        TEST(peek_shows_each_level),
        TEST(fault_in_a_window_is_handled),
        TEST(watch_refuses_bad_windows),
        TEST(translate_meets_a_change_after_any_instruction),
        TEST(any_call_without_its_nth_table_changes_nothing),
    };

    return RUN_TESTS(tests);
}
