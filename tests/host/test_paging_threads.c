/* SPDX-License-Identifier: MIT */
/* paging_translate() and paging_query() against threads that change the space.
 *
 * Page p of the region leads to frame p + SHIFT or is not mapped, whatever leaves it is mapped by, so any
 * answer can be judged without knowing when it was given. Two threads map, split, unmap and map again, so
 * that tables leave all the time; a third takes them and fills them with what would be entries that lead far
 * away: a reader that followed a table that has left would answer that, or touch memory that is not
 * there. */
#include "walker.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#define REGION ((vaddr_t)0xffffa00000000000)
#define PAGES  (4 * 512u)
#define SHIFT  MM_GIB(4)
#define RW     (PAGING_READ | PAGING_WRITE)
#define POISON 0x0000123456789067u /* present, a table or a leaf, at an address outside of RAM */
#define STOPS  400u

static struct machine machine;
static struct address_space space, user;
static uint32_t stop;
static uint64_t answers, misses;

static bool is_stopped(void)
{
    return __atomic_load_n(&stop, __ATOMIC_RELAXED) != 0;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A few pages in a table of their own, and back: the table comes and goes. */
static void use_pages(vaddr_t table, uint64_t *state)
{
    uint64_t first = next_random(state) % 4, count = 1 + next_random(state) % 4;
    vaddr_t page = table + first * PAGE_SIZE;

    for (uint64_t i = 0; i < count; i++)
        assert_ok(paging_map_page(&space, page + i * PAGE_SIZE,
                                  page + i * PAGE_SIZE - REGION + SHIFT, RW));
    for (uint64_t i = 0; i < count; i++)
        assert_ok(paging_unmap_page(&space, page + i * PAGE_SIZE, NULL));
}

/* A large leaf is split around a page, and goes in three parts. */
static void use_leaf(vaddr_t table, uint64_t *state)
{
    uint64_t bytes = (1 + next_random(state) % 510) * PAGE_SIZE;

    assert_ok(paging_map_range(&space, table, table - REGION + SHIFT, LARGE_PAGE_SIZE, RW));
    assert_ok(paging_unmap_page(&space, table + bytes, NULL));
    assert_ok(paging_unmap_range(&space, table, bytes));
    assert_ok(
        paging_unmap_range(&space, table + bytes + PAGE_SIZE, LARGE_PAGE_SIZE - PAGE_SIZE - bytes));
}

/* Each changer has half of the region, two tables; now and then none is left and all levels go. */
static void *change(void *argument)
{
    uint64_t state = 88172645463325252u + (uintptr_t)argument;

    while (!is_stopped()) {
        vaddr_t table = REGION + ((uintptr_t)argument * 2 + next_random(&state) % 2) * MM_MIB(2);

        if (next_random(&state) % 3 == 0)
            use_leaf(table, &state);
        else
            use_pages(table, &state);
    }
    return NULL;
}

/* Takes the tables that have left, which the pmm hands out as the next ones: whoever still reads one
 * meets this. */
static void *poison(void *argument)
{
    (void)argument;
    while (!is_stopped()) {
        paddr_t tables[8];
        size_t count = 0;

        while (count < COUNT_OF(tables) && pmm_alloc_table(&machine.pmm, &tables[count]) == MM_OK) {
            uint64_t *entry = phys_to_virt(tables[count++]);

            for (size_t i = 0; i < PAGING_ENTRIES; i++)
                entry[i] = POISON;
        }
        while (count > 0) {
            memset(phys_to_virt(tables[--count]), 0, FRAME_SIZE);
            pmm_free_table(&machine.pmm, tables[count]);
        }
    }
    return NULL;
}

/* Stops a reader for a while, wherever it is: between two loads, most of all. */
static void stand_still(int signal)
{
    (void)signal;
    (void)poll(NULL, 0, 1);
}

/* The answer is the page's own, or that there is none. */
static void judge(mm_status_t status, paddr_t frame, uint64_t offset, uint64_t *found)
{
    if (status == MM_OK && frame == offset + SHIFT)
        ++*found;
    else if (status != MM_NOT_MAPPED)
        fail_msg("0x%lx: %s, 0x%lx", REGION + offset, mm_status_name(status), frame);
}

static void *ask(void *argument)
{
    struct address_space *asked = argument;
    uint64_t state = 362436069u, found = 0, asks = 0;

    while (!is_stopped()) {
        uint64_t random = next_random(&state);
        uint64_t offset = random % 4 * MM_MIB(2) + random / 4 % (8 * PAGE_SIZE);
        paddr_t frame = 0;
        mm_status_t status = paging_translate(asked, REGION + offset, &frame);

        judge(status, frame, offset, &found);
        if (++asks % 256 != 0)
            continue;
        struct paging_mapping mapping = { 0 };
        status = paging_query(asked, REGION + offset, &mapping);
        judge(status, mapping.frame + (offset & (mapping.leaf_bytes - 1)), offset, &found);
    }
    __atomic_fetch_add(&answers, found, __ATOMIC_RELAXED);
    __atomic_fetch_add(&misses, asks - found, __ATOMIC_RELAXED);
    return NULL;
}

/* Nobody uses the spaces through a TLB here: test_smp.c does. */
static void translate_without_a_lock_is_never_wrong(void **state)
{
    struct mm_cpu_features features = features_of(4, 46, true);
    struct sigaction action = { .sa_handler = stand_still };
    pthread_t thread[5];
    uint64_t tables;

    (void)state;
    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
    machine_set_up_simple(&machine, MM_MIB(1));
    assert_ok(paging_init(&space, &machine.pmm, &features));
    assert_ok(paging_create_user(&user, &space));
    tables = pmm_stats(&machine.pmm).table_frames;
    assert_int_equal(pthread_create(&thread[0], NULL, change, (void *)0), 0);
    assert_int_equal(pthread_create(&thread[1], NULL, change, (void *)1), 0);
    assert_int_equal(pthread_create(&thread[2], NULL, poison, NULL), 0);
    assert_int_equal(pthread_create(&thread[3], NULL, ask, &space), 0);
    assert_int_equal(pthread_create(&thread[4], NULL, ask, &user), 0);
    for (unsigned i = 0; i < STOPS; i++) {
        (void)poll(NULL, 0, 1);
        pthread_kill(thread[3 + i % 2], SIGUSR1);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (size_t i = 0; i < COUNT_OF(thread); i++)
        pthread_join(thread[i], NULL);
    assert_true(answers > 10 && misses > 10);
    assert_true(space.unhooked > 10);
    assert_space_sound(&space);
    assert_int_equal(pmm_stats(&machine.pmm).table_frames - tables, space.stats.table_frames - 1);
    paging_destroy(&user);
    paging_destroy(&space);
    assert_pmm_sound(&machine.pmm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(translate_without_a_lock_is_never_wrong),
    };

    return RUN_TESTS(tests);
}
