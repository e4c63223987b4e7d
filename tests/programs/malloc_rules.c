/* SPDX-License-Identifier: MIT */
/* The rules of the C library's malloc interface, checked from outside: run it under any malloc.
 *
 *   malloc_rules            every rule below; one line each, then "N passed, N failed"
 *   malloc_rules misuse K   one wrong free, by name; the malloc is expected to end the program
 *   malloc_rules failing    one malloc and one calloc of FAILING_BYTES, which the malloc was told to refuse
 *
 * The rules are C17 7.22.3, POSIX.1-2017, and what glibc adds (memalign, pvalloc, reallocarray).
 * Built with -fno-builtin: the compiler must not reason about malloc. */
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static unsigned passed, failed;
static bool good;

/* Within a rule: the first expectation that does not hold is told. */
#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (good && !(condition)) {                                                                \
            good = false;                                                                          \
            printf("  line %d: %s\n", __LINE__, #condition);                                       \
        }                                                                                          \
    } while (0)

static bool is_filled(const unsigned char *bytes, size_t count, unsigned char with)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != with)
            return false;
    return true;
}

static bool is_aligned(const void *block, size_t alignment)
{
    return ((uintptr_t)block & (alignment - 1)) == 0;
}

/* The compiler must not see that a size is absurd. */
static size_t hidden(size_t bytes)
{
    volatile size_t value = bytes;

    return value;
}

static const size_t sizes[] = {
    1,    7,    8,    15,   16,   17,    31,    48,    64,     100,     255,     256,
    1000, 1024, 4095, 4096, 4097, 10000, 32768, 65536, 100000, 1 << 20, 1 << 21, (5 << 20) + 3
};

/* ---- the rules ---- */

static void every_size_is_aligned_and_writable(void)
{
    for (size_t i = 0; i < COUNT(sizes); i++) {
        unsigned char *block = malloc(sizes[i]);

        EXPECT(block != NULL);
        EXPECT(is_aligned(block, 16));
        EXPECT(malloc_usable_size(block) >= sizes[i]);
        memset(block, 0xa5, malloc_usable_size(block));
        EXPECT(is_filled(block, sizes[i], 0xa5));
        free(block);
    }
}

static void size_zero_gives_blocks_of_their_own(void)
{
    void *a = malloc(0), *b = malloc(0), *c = calloc(0, 8), *d = calloc(8, 0);

    EXPECT(a != NULL && b != NULL && c != NULL && d != NULL);
    EXPECT(a != b && a != c && a != d && b != c && b != d && c != d);
    free(a);
    free(b);
    free(c);
    free(d);
}

static void free_of_null_does_nothing(void)
{
    errno = 77;
    free(NULL);
    EXPECT(errno == 77);
    EXPECT(malloc_usable_size(NULL) == 0);
}

static void absurd_sizes_are_enomem(void)
{
    const size_t absurd[] = { (size_t)PTRDIFF_MAX + 1, SIZE_MAX, SIZE_MAX - 4096, PTRDIFF_MAX };

    for (size_t i = 0; i < COUNT(absurd); i++) {
        errno = 0;
        EXPECT(malloc(hidden(absurd[i])) == NULL && errno == ENOMEM);
        errno = 0;
        EXPECT(calloc(1, hidden(absurd[i])) == NULL && errno == ENOMEM);
        errno = 0;
        EXPECT(aligned_alloc(64, hidden(absurd[i])) == NULL && errno == ENOMEM);
        errno = 0;
        EXPECT(valloc(hidden(absurd[i])) == NULL && errno == ENOMEM);
        errno = 0;
        EXPECT(pvalloc(hidden(absurd[i])) == NULL && errno == ENOMEM);
    }
}

static void products_that_overflow_are_enomem(void)
{
    void *block = malloc(100);

    errno = 0;
    EXPECT(calloc(hidden(SIZE_MAX / 2), 3) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(calloc(hidden((size_t)1 << 32), (size_t)1 << 32) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(reallocarray(block, hidden(SIZE_MAX / 2), 3) == NULL && errno == ENOMEM);
    free(block);
}

static void calloc_gives_zeroes_also_in_used_memory(void)
{
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (unsigned round = 0; round < 4; round++) {
            unsigned char *dirty = malloc(sizes[i]);

            memset(dirty, 0xff, sizes[i]);
            free(dirty);
            unsigned char *block = calloc(1, sizes[i]);
            EXPECT(block != NULL && is_filled(block, sizes[i], 0));
            memset(block, 0xff, sizes[i]);
            free(block);
        }
    }
}

static void realloc_keeps_the_content(void)
{
    unsigned char *block = NULL;
    size_t before = 0;

    for (size_t i = 0; i < COUNT(sizes); i++) {
        block = realloc(block, sizes[i]);
        EXPECT(block != NULL && is_filled(block, before, 0x5a));
        memset(block, 0x5a, sizes[i]);
        before = sizes[i];
    }
    for (size_t i = COUNT(sizes); i-- > 0;) {
        block = realloc(block, sizes[i]);
        EXPECT(block != NULL && is_filled(block, sizes[i], 0x5a));
    }
    EXPECT(realloc(block, 0) == NULL);
}

static void realloc_that_fails_leaves_the_block(void)
{
    unsigned char *block = malloc(1000);

    memset(block, 0x3c, 1000);
    errno = 0;
    void *other = realloc(block, hidden(PTRDIFF_MAX));
    EXPECT(other == NULL && errno == ENOMEM);
    EXPECT(is_filled(block, 1000, 0x3c));
    free(block);
}

static void aligned_blocks_are_aligned(void)
{
    for (size_t alignment = 1; alignment <= (size_t)64 << 20; alignment *= 2) {
        for (size_t i = 0; i < COUNT(sizes); i += 3) {
            void *out = NULL;
            unsigned char *a = aligned_alloc(alignment, sizes[i]);
            unsigned char *m = memalign(alignment, sizes[i]);

            EXPECT(a != NULL && is_aligned(a, alignment) && m != NULL && is_aligned(m, alignment));
            EXPECT(a != m && malloc_usable_size(a) >= sizes[i]);
            memset(a, 1, sizes[i]);
            memset(m, 2, sizes[i]);
            EXPECT(is_filled(a, sizes[i], 1) && is_filled(m, sizes[i], 2));
            if (alignment >= sizeof(void *)) {
                EXPECT(posix_memalign(&out, alignment, sizes[i]) == 0);
                EXPECT(out != NULL && is_aligned(out, alignment));
                free(out);
            }
            a = realloc(a, sizes[i] * 2);
            EXPECT(a != NULL && is_filled(a, sizes[i], 1));
            free(a);
            free(m);
        }
    }
    void *page = valloc(10), *pages = pvalloc(4097);
    EXPECT(is_aligned(page, 4096) && is_aligned(pages, 4096) && malloc_usable_size(pages) >= 8192);
    free(page);
    free(pages);
}

static void wrong_alignments_are_einval(void)
{
    const size_t wrong[] = { 0, 3, 24, 100, 4095 };
    void *out = &out;

    for (size_t i = 0; i < COUNT(wrong); i++) {
        errno = 77;
        EXPECT(posix_memalign(&out, wrong[i], 64) == EINVAL && out == &out && errno == 77);
    }
    EXPECT(posix_memalign(&out, 4, 64) == EINVAL && out == &out);
    EXPECT(posix_memalign(&out, 64, hidden(SIZE_MAX)) == ENOMEM && out == &out);
    errno = 0;
    EXPECT(memalign(hidden(SIZE_MAX), 1) == NULL && errno == EINVAL);
    void *rounded = memalign(hidden(48), 10);
    EXPECT(rounded != NULL && is_aligned(rounded, 64));
    free(rounded);
}

static void errno_is_left_alone_by_success(void)
{
    void *blocks[200];

    errno = 77;
    for (unsigned round = 0; round < 20; round++) {
        for (size_t i = 0; i < COUNT(blocks); i++)
            blocks[i] = malloc(1 + i * 977 * (round % 7 + 1));
        for (size_t i = 0; i < COUNT(blocks); i++)
            free(blocks[i]);
    }
    free(malloc((size_t)300 << 20));
    EXPECT(errno == 77);
}

static void usable_bytes_are_really_usable(void)
{
    unsigned char *blocks[512];
    size_t usable[512];

    for (size_t i = 0; i < 512; i++) {
        blocks[i] = malloc(1 + i * 37);
        usable[i] = malloc_usable_size(blocks[i]);
        memset(blocks[i], (int)(i & 0xff), usable[i]);
    }
    for (size_t i = 0; i < 512; i++) {
        EXPECT(is_filled(blocks[i], usable[i], (unsigned char)i));
        free(blocks[i]);
    }
}

static size_t resident_bytes(void)
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (file == NULL || fscanf(file, "%ld %ld", &pages, &resident) != 2)
        resident = 0;
    if (file != NULL)
        fclose(file);
    return (size_t)resident * 4096;
}

/* 200 MB of small blocks and 256 MB in one; afterwards most of it is the system's again. The kernel
 * counts resident pages a little late, hence the margin. */
static void freed_memory_goes_back_to_the_system(void)
{
    enum { BLOCKS = 200000, BYTES = 1000, LARGE = 256 << 20 };
    const size_t live = (size_t)LARGE + (size_t)BLOCKS * BYTES;
    void **blocks = malloc(BLOCKS * sizeof(*blocks));
    size_t before = resident_bytes();

    for (size_t i = 0; i < BLOCKS; i++)
        memset(blocks[i] = malloc(BYTES), 1, BYTES);
    void *large = malloc(LARGE);
    memset(large, 1, LARGE);
    EXPECT(resident_bytes() >= live / 8 * 7);
    free(large); /* first: a quarantine may keep what was freed last, whatever its size */
    for (size_t i = 0; i < BLOCKS; i++)
        free(blocks[i]);
    EXPECT(resident_bytes() < before + live / 4);
    free(blocks);
}

static void limited_address_space_is_enomem(void)
{
    size_t count = 0;
    void **chain = NULL;

    errno = 0;
    for (;; count++) {
        void **block = malloc((size_t)1 << 40);

        if (block == NULL || count > 1000)
            break;
        *block = chain;
        chain = block;
    }
    EXPECT(count <= 1000 && errno == ENOMEM);
    while (chain != NULL) {
        void **next = *chain;

        free(chain);
        chain = next;
    }
    void *small = malloc(100);
    EXPECT(small != NULL);
    free(small);
}

/* ---- misuse ---- */

static void misuse_free_twice(void)
{
    void *block = malloc(100);

    free(block);
    free(block);
}

static void misuse_free_twice_large(void)
{
    void *block = malloc((size_t)4 << 20);

    free(block);
    free(block);
}

static void misuse_free_inside(void)
{
    free((char *)malloc(100) + 16);
}

static void misuse_free_of_stack(void)
{
    char here[64] = { 0 };
    void *volatile block = here;

    free(block);
}

static void misuse_realloc_of_a_free_block(void)
{
    void *volatile block = malloc(100);

    free(block);
    free(realloc(block, 200));
}

static void misuse_overflow_by_one(void)
{
    volatile char *block = malloc(100);

    block[100] = 'x';
    free((void *)block);
}

static void misuse_underflow_by_one(void)
{
    volatile char *block = malloc(100);

    block[-1] = 'x';
    free((void *)block);
}

static const struct {
    const char *name;
    void (*run)(void);
} misuses[] = {
    { "free-twice", misuse_free_twice },
    { "free-twice-large", misuse_free_twice_large },
    { "free-inside", misuse_free_inside },
    { "free-of-stack", misuse_free_of_stack },
    { "realloc-of-a-free-block", misuse_realloc_of_a_free_block },
    { "overflow-by-one", misuse_overflow_by_one },
    { "underflow-by-one", misuse_underflow_by_one },
};

/* ---- main ---- */

#define FAILING_BYTES 12345u

static void *ask(void *argument)
{
    (void)argument;
    errno = 0;
    EXPECT(malloc(hidden(FAILING_BYTES)) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(calloc(1, hidden(FAILING_BYTES)) == NULL && errno == ENOMEM);
    return NULL;
}

/* Also as the first thing that a thread does. */
static int ask_for_what_fails(void)
{
    pthread_t thread;

    good = true;
    ask(NULL);
    EXPECT(pthread_create(&thread, NULL, ask, NULL) == 0 && pthread_join(thread, NULL) == 0);
    return good ? 0 : 1;
}

static void run_rule(const char *name, void (*rule)(void))
{
    good = true;
    rule();
    printf("%s: %s\n", good ? "ok" : "FAILED", name);
    good ? passed++ : failed++;
}

#define RUN(rule) run_rule(#rule, rule)

int main(int argc, char **argv)
{
    struct rlimit no_core = { 0, 0 };

    if (argc == 3 && strcmp(argv[1], "misuse") == 0) {
        setrlimit(RLIMIT_CORE, &no_core);
        for (size_t i = 0; i < COUNT(misuses); i++)
            if (strcmp(argv[2], misuses[i].name) == 0)
                misuses[i].run();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "failing") == 0)
        return ask_for_what_fails();
    RUN(every_size_is_aligned_and_writable);
    RUN(size_zero_gives_blocks_of_their_own);
    RUN(free_of_null_does_nothing);
    RUN(absurd_sizes_are_enomem);
    RUN(products_that_overflow_are_enomem);
    RUN(calloc_gives_zeroes_also_in_used_memory);
    RUN(realloc_keeps_the_content);
    RUN(realloc_that_fails_leaves_the_block);
    RUN(aligned_blocks_are_aligned);
    RUN(wrong_alignments_are_einval);
    RUN(errno_is_left_alone_by_success);
    RUN(usable_bytes_are_really_usable);
    RUN(freed_memory_goes_back_to_the_system);
    RUN(limited_address_space_is_enomem);
    printf("%u passed, %u failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
