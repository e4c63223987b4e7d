/* SPDX-License-Identifier: MIT */
/* The lean Linux port: slots of threads, locks, the barrier, fork, and mm's start on it.
 *
 * A program of its own, as it links another port than the other host tests. */
#include <mm/linux.h>
#include <mm/mm.h>
#include <mm/port_slot.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MANY_THREADS (MM_PORT_MAX_CPUS + 40u)

static unsigned left_slots[4096];
static unsigned left_count;

static void remember_leaving(unsigned slot)
{
    unsigned place = __atomic_fetch_add(&left_count, 1, __ATOMIC_RELAXED);

    if (place < sizeof left_slots / sizeof left_slots[0])
        left_slots[place] = slot;
}

static void linux_slot_before_the_first_call_is_unknown(void **state)
{
    (void)state;
    assert_int_equal(mm_port_slot(), MM_PORT_UNKNOWN_SLOT);
    assert_int_equal(mm_port_cpu_slot(), 0);
    assert_int_equal(mm_port_slot(), 0);
    assert_true(mm_linux_on_thread_exit(remember_leaving));
}

/* ---- Many threads ---- */

static pthread_barrier_t all_there, all_looked;

static void *take_slot(void *argument)
{
    unsigned *slot = argument;

    *slot = mm_port_cpu_slot();
    pthread_barrier_wait(&all_there);
    pthread_barrier_wait(&all_looked);
    return NULL;
}

static void linux_more_threads_than_slots_share(void **state)
{
    static pthread_t threads[MANY_THREADS];
    static unsigned slots[MANY_THREADS];
    static bool seen[MM_PORT_MAX_CPUS];
    unsigned shared = 0;

    (void)state;
    left_count = 0;
    pthread_barrier_init(&all_there, NULL, MANY_THREADS + 1);
    pthread_barrier_init(&all_looked, NULL, MANY_THREADS + 1);
    for (unsigned i = 0; i < MANY_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_slot, &slots[i]), 0);
    pthread_barrier_wait(&all_there);
    seen[0] = true; /* ours */
    for (unsigned i = 0; i < MANY_THREADS; i++) {
        if (slots[i] == MM_PORT_SHARED_SLOT) {
            shared++;
            continue;
        }
        assert_int_equal(slots[i] % MM_PORT_LEVELS, 0);
        assert_true(slots[i] < MM_PORT_SLOTS);
        assert_false(seen[slots[i] / MM_PORT_LEVELS]);
        seen[slots[i] / MM_PORT_LEVELS] = true;
    }
    assert_int_equal(shared, MANY_THREADS - (MM_PORT_MAX_CPUS - 1));
    pthread_barrier_wait(&all_looked);
    for (unsigned i = 0; i < MANY_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(left_count, MM_PORT_MAX_CPUS - 1);
}

/* ---- The end of a thread ---- */

static pthread_key_t late_key;
static unsigned late_slot;

/* Runs in the first round of destructors, as those of a C++ program's thread_local objects do. */
static void late_destructor(void *value)
{
    (void)value;
    late_slot = mm_port_cpu_slot();
}

static void *leave_with_destructor(void *argument)
{
    *(unsigned *)argument = mm_port_cpu_slot();
    pthread_setspecific(late_key, &late_key);
    return NULL;
}

static void linux_ending_thread_keeps_its_slot_for_destructors(void **state)
{
    pthread_t thread;
    unsigned first, second;

    (void)state;
    assert_int_equal(pthread_key_create(&late_key, late_destructor), 0);
    left_count = 0;
    pthread_create(&thread, NULL, leave_with_destructor, &first);
    pthread_join(thread, NULL);
    assert_int_equal(late_slot, first);
    assert_int_equal(left_count, 1);
    assert_int_equal(left_slots[0], first);
    pthread_create(&thread, NULL, leave_with_destructor, &second);
    pthread_join(thread, NULL);
    assert_int_equal(second, first);
    pthread_key_delete(late_key);
}

/* ---- Locks and the barrier ---- */

static struct mm_port_lock lock;
static uint64_t guarded;

static void *count_under_lock(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < 200000; i++) {
        uint64_t saved = mm_port_lock(&lock);
        guarded++;
        if (i % 50000 == 0)
            usleep(3000); /* the others fall asleep, and look again by themselves */
        mm_port_unlock(&lock, saved);
    }
    return NULL;
}

static void linux_lock_excludes_and_leaves_errno(void **state)
{
    pthread_t threads[4];

    (void)state;
    errno = 12345;
    for (unsigned i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, count_under_lock, NULL);
    count_under_lock(NULL);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    mm_port_cpu_barrier();
    assert_int_equal(errno, 12345);
    assert_int_equal(guarded, 1000000);
    assert_int_equal(lock.word & 0xffff, 0); /* the upper half may still tell of who slept */
}

/* The two sides of the protocol that the barrier exists for (Dekker): the owner has only a compiler
 * barrier between its store and its load, the thief has mm_port_cpu_barrier(). Never may both miss
 * the store of the other. Both start at the same tick of the time-stamp counter, give or take a few,
 * as their stores must still be on their way when they load. */
#define DEKKER_ROUNDS 20000u
struct line_word {
    uint64_t value;
} __attribute__((aligned(128)));
static struct line_word owner_wants, thief_wants, start_tick, round_ended;
static uint64_t owner_saw;

static void wait_for_tick(uint64_t tick)
{
    while (__builtin_ia32_rdtsc() < tick)
        ;
}

static void *dekker_owner(void *argument)
{
    uint64_t tick, last = 0;

    (void)argument;
    for (uint64_t i = 1; i <= DEKKER_ROUNDS; i++, last = tick) {
        while ((tick = __atomic_load_n(&start_tick.value, __ATOMIC_ACQUIRE)) == last)
            __builtin_ia32_pause();
        wait_for_tick(tick);
        __atomic_store_n(&owner_wants.value, i, __ATOMIC_RELAXED);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        owner_saw = __atomic_load_n(&thief_wants.value, __ATOMIC_RELAXED);
        __atomic_store_n(&round_ended.value, i, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void linux_barrier_orders_other_threads(void **state)
{
    pthread_t thread;

    (void)state;
    pthread_create(&thread, NULL, dekker_owner, NULL);
    for (uint64_t i = 1; i <= DEKKER_ROUNDS; i++) {
        uint64_t tick = __builtin_ia32_rdtsc() + 3000, thief_saw;

        __atomic_store_n(&start_tick.value, tick, __ATOMIC_RELEASE);
        wait_for_tick(tick - 100 + i % 200);
        __atomic_store_n(&thief_wants.value, i, __ATOMIC_RELAXED);
        mm_port_cpu_barrier();
        thief_saw = __atomic_load_n(&owner_wants.value, __ATOMIC_RELAXED);
        while (__atomic_load_n(&round_ended.value, __ATOMIC_ACQUIRE) < i)
            __builtin_ia32_pause();
        assert_true(owner_saw == i || thief_saw == i);
    }
    pthread_join(thread, NULL);
}

/* ---- Fork ---- */

static void *stay(void *argument)
{
    take_slot(argument);
    return NULL;
}

static int child_of_fork(unsigned other_slot)
{
    left_count = 0;
    mm_linux_after_fork();
    if (left_count != 1 || left_slots[0] != other_slot)
        return 1;
    mm_port_cpu_barrier();
    pthread_t thread;
    unsigned slot = MM_PORT_SLOTS;
    if (pthread_create(&thread, NULL, leave_with_destructor, &slot) != 0)
        return 2;
    pthread_join(thread, NULL);
    return slot == other_slot ? 0 : 3;
}

static void linux_child_takes_slots_of_missing_threads_back(void **state)
{
    pthread_t thread;
    unsigned slot;
    int status;

    (void)state;
    assert_int_equal(pthread_key_create(&late_key, late_destructor), 0);
    pthread_barrier_init(&all_there, NULL, 2);
    pthread_barrier_init(&all_looked, NULL, 2);
    pthread_create(&thread, NULL, stay, &slot);
    pthread_barrier_wait(&all_there);
    pid_t child = fork();
    if (child == 0)
        _exit(child_of_fork(slot));
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    pthread_barrier_wait(&all_looked);
    pthread_join(thread, NULL);
}

/* ---- The whole ---- */

static unsigned bugs;

static void count_bug(const char *line)
{
    (void)line;
    bugs++;
}

static void silent(enum mm_log_level level, const char *line)
{
    (void)level;
    (void)line;
}

static void *churn(void *argument)
{
    struct pmm *pmm = &mm_kernel()->pmm;
    paddr_t frames[64];
    void *blocks[64];

    (void)argument;
    for (unsigned round = 0; round < 200; round++) {
        for (unsigned i = 0; i < 64; i++) {
            if (pmm_alloc_frame(pmm, &frames[i]) != MM_OK)
                return "no frame";
            blocks[i] = kmalloc(64 + i * 32);
            if (blocks[i] == NULL)
                return "no block";
        }
        for (unsigned i = 0; i < 64; i++) {
            pmm_free_frame(pmm, frames[i]);
            kfree(blocks[i]);
        }
    }
    return NULL;
}

static void linux_start_gives_a_working_mm(void **state)
{
    const size_t bytes = 64u << 20;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct mm_linux_hooks hooks = { .bug = count_bug, .log = silent };
    pthread_t threads[3];
    paddr_t frame;
    void *failure;

    (void)state;
    assert_false(mello_linux_init(NULL, bytes, NULL));
    assert_false(mello_linux_init(memory + 1, bytes - 4096, NULL));
    assert_false(mello_linux_init(memory, 4096, NULL));
    assert_true(mello_linux_init(memory, bytes, NULL));
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, churn, NULL);
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], &failure);
        assert_null(failure);
    }
    assert_true(pmm_verify(&mm_kernel()->pmm));
    assert_true(kheap_verify(mm_kernel()->heap));

    assert_int_equal(pmm_alloc_frame(&mm_kernel()->pmm, &frame), MM_OK);
    pmm_free_frame(&mm_kernel()->pmm, frame);
    mm_linux_set_hooks(&hooks);
    pmm_free_frame(&mm_kernel()->pmm, frame);
    mm_linux_set_hooks(NULL);
    assert_int_equal(bugs, 1);
    munmap(memory, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linux_slot_before_the_first_call_is_unknown),
        cmocka_unit_test(linux_more_threads_than_slots_share),
        cmocka_unit_test(linux_ending_thread_keeps_its_slot_for_destructors),
        cmocka_unit_test(linux_lock_excludes_and_leaves_errno),
        cmocka_unit_test(linux_barrier_orders_other_threads),
        cmocka_unit_test(linux_child_takes_slots_of_missing_threads_back),
        cmocka_unit_test(linux_start_gives_a_working_mm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
