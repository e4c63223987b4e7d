/* SPDX-License-Identifier: MIT */
/* Several CPUs on one address space: numbers and slots, and the TLB shootdown. Each thread is a CPU
 * with a TLB of its own that forgets nothing, so a shootdown that misses a CPU is seen there.
 *
 *   the test's thread      maps ....... | changes, shoots | ......... | judges
 *   the other CPUs         .... touch   | ............... |  probe    | exit
 *                                    barrier           barrier
 *
 * Every scenario runs as it is (no stale use) and with the IPI to one CPU left out (that CPU, and no
 * other, must use a stale entry). ThreadSanitizer runs this program too: threads only count. */
#include "threads.h"
#include "walker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OTHERS 3u
#define V      ((vaddr_t)0xffffa00000000000)
#define RW     (PAGING_READ | PAGING_WRITE)

static struct machine machine;
static struct address_space space;
static struct mm_cpu_features features;
static unsigned violations, wrong;

static void on_violation(const char *what)
{
    (void)what;
    count(&violations);
}

/* A machine, a space that this CPU uses, and violations that are counted. */
static void set_up(void)
{
    struct hosted_hooks hooks = *support_hooks();

    hosted_cpu_reset(4);
    features = features_of(4, 52, true);
    machine_set_up_simple(&machine, MM_MIB(16));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    paging_activate(&space, &features);
    violations = wrong = 0;
    hooks.violation = on_violation;
    hosted_set_hooks(&hooks);
}

/* ---- Slots ---- */

static unsigned slots[MM_PORT_MAX_CPUS];

static void *slot_body(void *argument)
{
    slots[(size_t)argument - 1] = mm_port_cpu_slot();
    threads_meet();
    return NULL;
}

/* All of them live at once, so the lowest numbers are taken, each once. */
static void slots_of_threads_differ(void **state)
{
    bool seen[9 * MM_PORT_LEVELS] = { false };

    (void)state;
    assert_int_equal(mm_port_cpu_slot(), 0);
    threads_run(8, slot_body);
    seen[0] = true;
    for (size_t i = 0; i < 8; i++) {
        assert_true(slots[i] < 9 * MM_PORT_LEVELS && slots[i] % MM_PORT_LEVELS == 0);
        assert_false(seen[slots[i]]);
        seen[slots[i]] = true;
    }
}

static void slots_are_given_back_at_exit(void **state)
{
    pthread_t thread;

    (void)state;
    threads_meet_begin(1);
    for (size_t i = 0; i < 3 * MM_PORT_MAX_CPUS; i++) {
        threads_start(&thread, 1, slot_body);
        threads_join(&thread, 1);
        assert_int_equal(slots[0], MM_PORT_LEVELS);
    }
    threads_meet_end();
}

/* In a process of its own: as many threads as there may be, then one more, which ends it. */
static void start_too_many(void)
{
    pthread_t thread;

    (void)mm_port_cpu_slot();
    threads_meet_begin(MM_PORT_MAX_CPUS);
    for (size_t i = 1; i < MM_PORT_MAX_CPUS; i++)
        if (pthread_create(&thread, NULL, slot_body, (void *)i) != 0)
            _exit(2);
    while (hosted_cpu_count() < MM_PORT_MAX_CPUS)
        usleep(1000);
    (void)!write(STDERR_FILENO, "all are there\n", 14);
    (void)pthread_create(&thread, NULL, slot_body, (void *)MM_PORT_MAX_CPUS);
    pthread_join(thread, NULL);
    _exit(3);
}

static void slots_beyond_the_last_are_refused(void **state)
{
    char text[512] = "";
    size_t length = 0;
    ssize_t got;
    int status, ends[2];
    pid_t child;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka has a handler that goes on with the next test */
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        start_too_many();
    }
    assert_true(child > 0);
    close(ends[1]);
    while ((got = read(ends[0], text + length, sizeof text - 1 - length)) > 0)
        length += (size_t)got;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_non_null(strstr(text, "all are there\nhosted port: more than 256 threads"));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void *reset_body(void *argument)
{
    (void)argument;
    slots[0] = mm_port_cpu_slot();
    hosted_cpu_reset(5);
    slots[1] = mm_port_cpu_slot();
    return NULL;
}

static void slots_survive_a_reset(void **state)
{
    pthread_t thread;

    (void)state;
    threads_start(&thread, 1, reset_body);
    threads_join(&thread, 1);
    assert_int_equal(slots[0], MM_PORT_LEVELS);
    assert_int_equal(slots[1], MM_PORT_LEVELS);
}

/* ---- Shootdown: scenarios ---- */

struct scenario {
    const char *name;
    vaddr_t first;
    uint64_t bytes, step; /* what the other CPUs touch and probe */
    unsigned access;      /* of the probe */
    void (*map)(void);
    void (*change)(void);
};

static void map_two_pages(void)
{
    assert_ok(paging_map_range(&space, V, MM_MIB(4), 2 * PAGE_SIZE, RW | PAGING_GLOBAL));
}

static void unmap_one_page(void)
{
    assert_ok(paging_unmap_page(&space, V, NULL));
}

static void map_pages(void)
{
    assert_ok(paging_map_range(&space, V, MM_MIB(4) + PAGE_SIZE, 100 * PAGE_SIZE, RW));
}

static void unmap_a_few_pages(void)
{
    assert_ok(paging_unmap_range(&space, V + 4 * PAGE_SIZE, 20 * PAGE_SIZE));
}

static void unmap_more_than_a_batch(void)
{
    assert_ok(paging_unmap_range(&space, V, (MM_TLB_BATCH_MAX + 8) * PAGE_SIZE));
}

/* The table goes too; its frame becomes somebody's data before the others look. */
static void unmap_the_whole_table(void)
{
    paddr_t frame;

    assert_ok(paging_unmap_range(&space, V, 100 * PAGE_SIZE));
    for (unsigned i = 0; i < 4; i++) {
        assert_ok(pmm_alloc_frame(&machine.pmm, &frame));
        memset(phys_to_virt(frame), 0xff, FRAME_SIZE);
    }
}

static void map_a_large_leaf(void)
{
    assert_ok(paging_map_range(&space, V, MM_MIB(4), MM_MIB(4), RW | PAGING_GLOBAL));
}

static void unmap_a_large_leaf(void)
{
    assert_ok(paging_unmap_range(&space, V, MM_MIB(2)));
}

static void map_elsewhere(void)
{
    unmap_one_page();
    assert_ok(paging_map_page(&space, V, MM_MIB(8), PAGING_READ));
}

/* The upper entries gain U/S: a CPU that kept them as they were would refuse a user's access. */
static void map_user_beside_supervisor(void)
{
    assert_ok(paging_map_page(&space, MM_GIB(1) + PAGE_SIZE, MM_MIB(8), RW | PAGING_USER));
}

static void map_supervisor_page(void)
{
    assert_ok(paging_map_page(&space, MM_GIB(1), MM_MIB(4), RW));
}

static const struct scenario scenarios[] = {
    { "one page", V, 2 * PAGE_SIZE, PAGE_SIZE, 0, map_two_pages, unmap_one_page },
    { "a few pages", V, 100 * PAGE_SIZE, PAGE_SIZE, 0, map_pages, unmap_a_few_pages },
    { "everything", V, 100 * PAGE_SIZE, PAGE_SIZE, 0, map_pages, unmap_more_than_a_batch },
    { "a table", V, 100 * PAGE_SIZE, PAGE_SIZE, 0, map_pages, unmap_the_whole_table },
    { "a large leaf", V, MM_MIB(4), MM_MIB(1), 0, map_a_large_leaf, unmap_a_large_leaf },
    { "another frame", V, 2 * PAGE_SIZE, PAGE_SIZE, 0, map_two_pages, map_elsewhere },
    { "user access", MM_GIB(1), 2 * PAGE_SIZE, PAGE_SIZE, HOSTED_USER, map_supervisor_page,
      map_user_beside_supervisor },
};

static const struct scenario *scenario;
static size_t left_out; /* the CPU that the IPI does not reach; OTHERS: it reaches all */
static uint64_t stale_uses[OTHERS], served[OTHERS];

static void touch_all(unsigned access)
{
    for (uint64_t at = 0; at < scenario->bytes; at += scenario->step)
        (void)hosted_cpu_access(scenario->first + at, access, NULL);
}

static void *scenario_body(void *argument)
{
    size_t self = (size_t)argument - 1;

    hosted_cpu()->ignore_shootdown = self == left_out;
    paging_activate(&space, &features);
    touch_all(HOSTED_READ);
    if (hosted_cpu()->stale_uses != 0)
        count(&wrong);
    threads_meet();
    threads_meet();
    touch_all(scenario->access);
    stale_uses[self] = hosted_cpu()->stale_uses;
    served[self] = hosted_cpu()->shootdowns_served;
    return NULL;
}

static void run_scenario(const struct scenario *which, size_t leave_out)
{
    pthread_t threads[OTHERS];

    set_up();
    scenario = which;
    left_out = leave_out;
    scenario->map();
    touch_all(HOSTED_READ);
    threads_meet_begin(OTHERS + 1);
    threads_start(threads, OTHERS, scenario_body);
    threads_meet();
    scenario->change();
    touch_all(scenario->access);
    threads_meet();
    threads_join(threads, OTHERS);
    threads_meet_end();
    assert_int_equal(counted(&wrong), 0);
    assert_int_equal(hosted_cpu()->stale_uses, 0);
}

static void shootdown_reaches_every_cpu(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(scenarios); i++) {
        run_scenario(&scenarios[i], OTHERS);
        if (counted(&violations) != 0)
            fail_msg("%s: %u violations", scenarios[i].name, counted(&violations));
        for (size_t cpu = 0; cpu < OTHERS; cpu++)
            assert_true(served[cpu] >= 1 && served[cpu] == hosted_cpu()->shootdown_count);
    }
}

static void shootdown_without_the_ipi_is_caught(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(scenarios); i++) {
        for (size_t missed = 0; missed < OTHERS; missed++) {
            run_scenario(&scenarios[i], missed);
            assert_int_equal(served[missed], 0);
            for (size_t cpu = 0; cpu < OTHERS; cpu++)
                if ((stale_uses[cpu] != 0) != (cpu == missed))
                    fail_msg("%s: CPU %zu, IPI to %zu left out: %lu stale uses", scenarios[i].name,
                             cpu, missed, stale_uses[cpu]);
            assert_int_equal(counted(&violations), stale_uses[missed]);
        }
    }
}

/* ---- Shootdown: what a batch drops ---- */

#define PAGES 40u

static uint64_t stale_pages[PAGES];

/* The leaf's entry in the tables, found by hand: 4 levels, 4 KiB pages. */
static uint64_t *leaf_entry_of(vaddr_t page)
{
    paddr_t table = space.root;

    for (unsigned shift = 39; shift > 12; shift -= 9) {
        const uint64_t *entries = phys_to_virt(table);

        table = entries[page >> shift & 511] & 0x000ffffffffff000u;
    }
    return (uint64_t *)phys_to_virt(table) + (page >> 12 & 511);
}

static void *batch_body(void *argument)
{
    (void)argument;
    paging_activate(&space, &features);
    for (unsigned i = 0; i < PAGES; i++)
        (void)hosted_cpu_access(V + i * PAGE_SIZE, HOSTED_READ, NULL);
    threads_meet();
    threads_meet();
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t before = hosted_cpu()->stale_uses;

        (void)hosted_cpu_access(V + i * PAGE_SIZE, HOSTED_READ, NULL);
        stale_pages[i] = hosted_cpu()->stale_uses - before;
    }
    return NULL;
}

/* Takes the right to write from all pages behind mm's back and shoots at what `batch` says: the
 * other CPU has exactly the other pages left. */
static void shoot_at(const struct mm_tlb_batch *batch)
{
    pthread_t thread;
    uint64_t saved;

    set_up();
    assert_ok(paging_map_range(&space, V, MM_MIB(4), PAGES * PAGE_SIZE, RW | PAGING_GLOBAL));
    threads_meet_begin(2);
    threads_start(&thread, 1, batch_body);
    threads_meet();
    saved = mm_port_lock(&space.lock);
    for (unsigned i = 0; i < PAGES; i++)
        *leaf_entry_of(V + i * PAGE_SIZE) &= ~(uint64_t)2;
    mm_port_tlb_shootdown(batch);
    mm_port_unlock(&space.lock, saved);
    threads_meet();
    threads_join(&thread, 1);
    threads_meet_end();
}

static void shootdown_drops_the_pages_of_the_batch(void **state)
{
    struct mm_tlb_batch batch = { .count = 3,
                                  .pages = { V, V + 7 * PAGE_SIZE, V + 39 * PAGE_SIZE } };

    (void)state;
    shoot_at(&batch);
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(stale_pages[i], i == 0 || i == 7 || i == 39 ? 0 : 1);
}

static void shootdown_of_everything_drops_all(void **state)
{
    struct mm_tlb_batch batch = { .everything = true, .count = MM_TLB_BATCH_MAX };

    (void)state;
    shoot_at(&batch);
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(stale_pages[i], 0);
    assert_int_equal(counted(&violations), 0);
}

static void shootdown_of_nothing_drops_nothing(void **state)
{
    struct mm_tlb_batch batch = { .count = 0 };

    (void)state;
    shoot_at(&batch);
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(stale_pages[i], 1);
}

static void shootdown_out_of_contract_is_a_violation(void **state)
{
    struct mm_tlb_batch batch = { .count = MM_TLB_BATCH_MAX + 1 };
    struct mm_port_lock lock = { 0 };
    uint64_t saved;

    (void)state;
    violations_count();
    saved = mm_port_lock(&lock);
    mm_port_tlb_shootdown(&batch);
    mm_port_unlock(&lock, saved);
    assert_int_equal(violations_take(), 1);
    assert_non_null(strstr(violation_last(), "a batch of 33 pages"));
    batch.count = 1;
    mm_port_tlb_shootdown(&batch);
    assert_int_equal(violations_take(), 1);
    assert_non_null(strstr(violation_last(), "with interrupts on"));
}

/* ---- Random: two CPUs change, two use, CPUs come and go ---- */

#define CHANGERS  2u
#define USERS     2u
#define WINDOWS   6u /* each of 2 MiB, so that tables come and go */
#define POOL      64u
#define POOL_BASE MM_MIB(8)

static unsigned changers_left, ok_accesses;
static uint64_t seed;

static vaddr_t page_of(uint64_t index)
{
    return V + index / 4 % WINDOWS * MM_MIB(2) + index % 4 * PAGE_SIZE;
}

/* The frame says which page it stands for: POOL_BASE + index * POOL frames + a random one. */
static void change_one(uint64_t *random)
{
    uint64_t index = next_random(random) % (4 * WINDOWS);
    paddr_t frame = POOL_BASE + (index * POOL + next_random(random) % POOL) * FRAME_SIZE;
    paging_rights_t rights = next_random(random) % 2 != 0 ? RW : PAGING_EXECUTE | PAGING_USER;
    mm_status_t status;

    if (next_random(random) % 8 == 0)
        status = paging_unmap_range(&space, page_of(index / 4 * 4), 4 * PAGE_SIZE);
    else if (next_random(random) % 2 == 0)
        status = paging_unmap_page(&space, page_of(index), NULL);
    else
        status = paging_map_page(&space, page_of(index), frame, rights);
    if (status != MM_OK && status != MM_NOT_MAPPED && status != MM_ALREADY_MAPPED)
        count(&wrong);
}

static void use_one(uint64_t index, unsigned access)
{
    struct hosted_translation seen;
    enum hosted_outcome outcome = hosted_cpu_access(page_of(index), access, &seen);

    if (outcome == HOSTED_OK)
        count(&ok_accesses);
    if (outcome == HOSTED_OK ? (seen.address - POOL_BASE) / FRAME_SIZE / POOL != index
                             : outcome != HOSTED_NOT_PRESENT && outcome != HOSTED_FORBIDDEN)
        count(&wrong);
}

static void *changer_body(void *argument)
{
    uint64_t random = seed * 100 + (uintptr_t)argument;
    unsigned rounds = support_is_sanitized() ? 1000 : 4000;

    paging_activate(&space, &features);
    threads_meet();
    for (unsigned i = 0; i < rounds; i++) {
        change_one(&random);
        use_one(next_random(&random) % (4 * WINDOWS), HOSTED_WRITE);
    }
    __atomic_fetch_sub(&changers_left, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void *user_body(void *argument)
{
    uint64_t random = seed * 100 + 50 + (uintptr_t)argument;
    size_t self = (uintptr_t)argument - 1 - CHANGERS;

    hosted_cpu()->ignore_shootdown = self == left_out;
    paging_activate(&space, &features);
    for (uint64_t i = 0; i < 4 * WINDOWS; i++)
        use_one(i, HOSTED_READ);
    threads_meet();
    while (__atomic_load_n(&changers_left, __ATOMIC_ACQUIRE) != 0)
        use_one(next_random(&random) % (4 * WINDOWS), next_random(&random) % 2);
    for (uint64_t i = 0; i < 4 * WINDOWS; i++)
        use_one(i, HOSTED_READ);
    stale_uses[self] = hosted_cpu()->stale_uses;
    return NULL;
}

/* CPUs that start, use, and go with a full TLB while others shoot at them. */
static void *passing_body(void *argument)
{
    (void)argument;
    paging_activate(&space, &features);
    for (uint64_t i = 0; i < 4 * WINDOWS; i++)
        use_one(i, HOSTED_READ);
    return NULL;
}

static void unmap_all(void)
{
    for (uint64_t i = 0; i < 4 * WINDOWS; i++)
        (void)!paging_unmap_page(&space, page_of(i), NULL);
}

static void *random_body(void *argument)
{
    return (size_t)argument <= CHANGERS ? changer_body(argument) : user_body(argument);
}

static void run_random(size_t leave_out)
{
    pthread_t threads[CHANGERS + USERS], passing;

    left_out = leave_out;
    changers_left = CHANGERS;
    ok_accesses = 0;
    for (uint64_t i = 0; i < 4 * WINDOWS; i++)
        assert_ok(paging_map_page(&space, page_of(i), POOL_BASE + i * POOL * FRAME_SIZE, RW));
    threads_meet_begin(CHANGERS + USERS);
    threads_start(threads, CHANGERS + USERS, random_body);
    while (__atomic_load_n(&changers_left, __ATOMIC_ACQUIRE) != 0) {
        threads_start(&passing, 1, passing_body);
        threads_join(&passing, 1);
    }
    threads_join(threads, CHANGERS + USERS);
    threads_meet_end();
    assert_true(counted(&ok_accesses) > 4 * WINDOWS);
    assert_space_sound(&space);
    unmap_all();
    assert_int_equal(space.stats.leaves[0], 0);
}

static void shootdown_random_changes_leave_nothing_stale(void **state)
{
    struct pmm_stats before;

    (void)state;
    for (seeds_begin(8); seeds_next();) {
        set_up();
        seed = random_u64();
        before = pmm_stats(&machine.pmm);
        run_random(USERS);
        assert_int_equal(counted(&violations), 0);
        assert_int_equal(counted(&wrong), 0);
        assert_pmm_stats_equal(pmm_stats(&machine.pmm), before);
    }
}

/* The users have touched every page before the first change, so the CPU that is left out keeps
 * pages of which many are gone or elsewhere at the end. */
static void shootdown_random_without_the_ipi_is_caught(void **state)
{
    (void)state;
    for (seeds_begin(8); seeds_next();) {
        set_up();
        seed = random_u64();
        run_random(1);
        assert_true(stale_uses[1] > 0);
        assert_int_equal(stale_uses[0], 0);
        assert_int_equal(counted(&violations), stale_uses[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(slots_of_threads_differ),
        TEST(slots_are_given_back_at_exit),
        TEST(slots_beyond_the_last_are_refused),
        TEST(slots_survive_a_reset),
        TEST(shootdown_reaches_every_cpu),
        TEST(shootdown_without_the_ipi_is_caught),
        TEST(shootdown_drops_the_pages_of_the_batch),
        TEST(shootdown_of_everything_drops_all),
        TEST(shootdown_of_nothing_drops_nothing),
        TEST(shootdown_out_of_contract_is_a_violation),
        TEST(shootdown_random_changes_leave_nothing_stale),
        TEST(shootdown_random_without_the_ipi_is_caught),
    };

    return RUN_TESTS(tests);
}
