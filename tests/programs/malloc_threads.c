/* SPDX-License-Identifier: MIT */
/* Threads, fork and exec over malloc, from outside: run it under any malloc.
 *
 *   malloc_threads exchange   blocks are freed by other threads than they were allocated by
 *   malloc_threads exits      many short threads, more than there are per-CPU slots, some at once
 *   malloc_threads fork       forks while other threads allocate; each child allocates and forks too
 *   malloc_threads exec       the same program again, by exec, from a thread
 *
 * Every block holds its own address and size from end to end as long as it lives; a difference ends
 * the program with a message. The output does not depend on the malloc. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8u
#define SHELVES 4096u

static void die(const char *what)
{
    fprintf(stderr, "malloc_threads: %s\n", what);
    _exit(1);
}

/* ---- stamped blocks ---- */

struct block {
    size_t bytes;
    uintptr_t self;
    unsigned char rest[];
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static struct block *make_block(uint64_t *random)
{
    uint64_t draw = next_random(random);
    size_t rest = draw % 100 < 90 ? (draw >> 8) % 500 : (draw >> 8) % 100000;
    struct block *block =
        draw & 128 ? malloc(sizeof(*block) + rest) : calloc(1, sizeof(*block) + rest);

    if (block == NULL)
        die("out of memory");
    *block = (struct block){ .bytes = rest, .self = (uintptr_t)block };
    if (rest > 0) {
        block->rest[0] = (unsigned char)(uintptr_t)block->self;
        block->rest[rest - 1] = (unsigned char)rest;
    }
    return block;
}

static void end_block(struct block *block)
{
    if (block == NULL)
        return;
    if (block->self != (uintptr_t)block)
        die("a block has lost its stamp");
    if (block->bytes > 1 && (block->rest[0] != (unsigned char)block->self ||
                             block->rest[block->bytes - 1] != (unsigned char)block->bytes))
        die("a block's content has changed");
    block->self = 0;
    free(block);
}

/* ---- exchange ---- */

static _Atomic(struct block *) shelves[SHELVES];
static atomic_bool stop;

static void exchange(uint64_t seed, unsigned steps)
{
    uint64_t random = seed * 0x9e3779b97f4a7c15u + 1;

    for (unsigned i = 0; i < steps; i++) {
        struct block *block = next_random(&random) % 4 == 0 ? NULL : make_block(&random);

        end_block(atomic_exchange(&shelves[next_random(&random) % SHELVES], block));
    }
}

static void *exchange_thread(void *seed)
{
    exchange((uintptr_t)seed, 10000);
    return NULL;
}

static void *exchange_shortly(void *seed)
{
    exchange((uintptr_t)seed, 1000);
    return NULL;
}

static void *exchange_until_stopped(void *seed)
{
    for (uintptr_t round = 1; !atomic_load(&stop); round++)
        exchange((uintptr_t)seed * 1000003 + round, 500);
    return NULL;
}

static void start(pthread_t *thread, void *(*run)(void *), uintptr_t argument)
{
    if (pthread_create(thread, NULL, run, (void *)argument) != 0)
        die("no thread");
}

static void clear_shelves(void)
{
    for (unsigned i = 0; i < SHELVES; i++)
        end_block(atomic_exchange(&shelves[i], NULL));
}

static void run_exchange(void)
{
    pthread_t threads[THREADS];

    for (uintptr_t i = 0; i < THREADS; i++)
        start(&threads[i], exchange_thread, i + 1);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    clear_shelves();
    puts("exchange: every block had its own content");
}

/* ---- exits ---- */

static pthread_key_t key;
static pthread_barrier_t barrier;

/* Destructors run when the thread's own malloc may already have packed up: they allocate too. */
static void destructor(void *value)
{
    uint64_t random = (uintptr_t)value;

    free(value);
    end_block(make_block(&random));
}

static void *short_thread(void *seed)
{
    pthread_setspecific(key, malloc(50));
    exchange((uintptr_t)seed, 50);
    return NULL;
}

static void *waiting_thread(void *seed)
{
    uint64_t random = (uintptr_t)seed + 1;
    struct block *block = make_block(&random);

    pthread_barrier_wait(&barrier);
    end_block(block);
    return short_thread(seed);
}

static void run_exits(void)
{
    enum { AT_ONCE = 300, ONE_BY_ONE = 1000 };
    static pthread_t threads[AT_ONCE];
    pthread_attr_t small;

    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 * 1024);
    pthread_key_create(&key, destructor);
    pthread_barrier_init(&barrier, NULL, AT_ONCE);
    for (uintptr_t i = 0; i < ONE_BY_ONE; i++) {
        start(&threads[0], short_thread, i + 1);
        pthread_join(threads[0], NULL);
    }
    for (uintptr_t i = 0; i < AT_ONCE; i++)
        if (pthread_create(&threads[i], &small, waiting_thread, (void *)(i + 1)) != 0)
            die("no thread");
    for (unsigned i = 0; i < AT_ONCE; i++)
        pthread_join(threads[i], NULL);
    clear_shelves();
    puts("exits: all threads came and went");
}

/* ---- fork ---- */

/* The exit status of a child; -1 if there was none. */
static int status_of(pid_t pid)
{
    int status = -1;

    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return status;
}

/* In the child: works, with a thread of its own too, and forks in turn. */
static void child(unsigned depth)
{
    for (;; depth--) {
        pthread_t thread;

        alarm(60); /* a lock that a missing thread holds shows as a child that never ends */
        exchange(depth + 7, 1000);
        start(&thread, exchange_shortly, depth + 11);
        pthread_join(thread, NULL);
        if (depth == 0)
            break;
        pid_t pid = fork();
        if (pid == 0)
            continue;
        if (status_of(pid) != 0)
            die("the child of a child failed");
        break;
    }
    clear_shelves();
    _exit(0);
}

static void run_fork(void)
{
    pthread_t threads[4];

    for (uintptr_t i = 0; i < 4; i++)
        start(&threads[i], exchange_until_stopped, i + 1);
    for (unsigned i = 0; i < 12; i++) {
        pid_t pid = fork();

        if (pid == 0)
            child(i % 3);
        exchange(i, 1000);
        int status = status_of(pid);
        if (status != 0)
            die(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "a child hangs"
                                                                   : "a child failed");
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    clear_shelves();
    puts("fork: parents and children went on");
}

/* ---- exec ---- */

static void *exec_thread(void *self)
{
    char *arguments[] = { self, "exchange", NULL };

    exchange(5, 1000);
    execv(self, arguments);
    die("exec failed");
    return NULL;
}

static void run_exec(char *self)
{
    pthread_t threads[2];

    start(&threads[0], exchange_until_stopped, 1);
    exchange(3, 1000);
    puts("exec: again");
    fflush(stdout);
    start(&threads[1], exec_thread, (uintptr_t)self);
    pthread_join(threads[1], NULL);
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";

    if (strcmp(what, "exchange") == 0)
        run_exchange();
    else if (strcmp(what, "exits") == 0)
        run_exits();
    else if (strcmp(what, "fork") == 0)
        run_fork();
    else if (strcmp(what, "exec") == 0)
        run_exec(argv[0]);
    else
        return 2;
    return 0;
}
