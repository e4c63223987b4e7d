/* SPDX-License-Identifier: MIT */
/* What every host test shares: cmocka, fake RAM with a memory map, captured log lines, expected
 * bugs and halts, a seeded random source.
 *
 * Each test starts from the same state (support_setup): a reset fake CPU, no RAM, no captured line,
 * mm.log at info. A bug, a halt or a violation that the test did not expect fails it; so does one
 * that it expected and that did not come. */
#ifndef TESTS_HOST_SUPPORT_H
#define TESTS_HOST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <mm/hosted.h>
#include <mm/mm.h>

/* ---- Running ---- */

int support_setup(void **state);
int support_teardown(void **state);
const struct hosted_hooks *support_hooks(void); /* what support_setup() installs */
void support_choose(void);                      /* MELLO_TEST=NAME: runs that test alone */

#define TEST(name)       cmocka_unit_test_setup_teardown(name, support_setup, support_teardown)
#define RUN_TESTS(tests) (support_choose(), cmocka_run_group_tests((tests), NULL, NULL))
#define COUNT_OF(array)  (sizeof(array) / sizeof((array)[0]))

/* True where a sanitizer's shadow makes fake RAM of terabytes impossible or slow. */
bool support_is_sanitized(void);
bool support_is_short(void); /* sanitized, or MELLO_SHORT is set: random campaigns do a part */

/* ---- Log ---- */

void log_clear(void);
size_t log_lines(void);              /* captured lines since log_clear() */
const char *log_line(size_t index);  /* "" if there is none */
size_t log_count(const char *words); /* lines that hold all the words, separated by '|' */
void log_expect(const char *words);  /* fails, and prints the log, if there is no such line */
void log_expect_count(const char *words, size_t count);

/* ---- Bugs, halts, violations ---- */

/* Runs `call`, which must report exactly one bug whose line starts "[MM] ERROR:" and holds all
 * words (separated by '|'); one error line is logged, not more. */
#define EXPECT_BUG(words, call)                                                                    \
    do {                                                                                           \
        bug_begin();                                                                               \
        call;                                                                                      \
        bug_end((words), __FILE__, __LINE__);                                                      \
    } while (0)
void bug_begin(void);
void bug_end(const char *words, const char *file, int line);

/* From now on bugs are counted, of any thread, and fail no test; until bugs_count_end(). Both tell how
 * many came since the beginning. The last one's line stays until the next beginning. */
void bugs_count_begin(void);
unsigned bugs_counted(void);
unsigned bugs_count_end(void);
const char *bug_last(void);

/* Runs `call`, which must end in mm_port_halt() after exactly one error line, which holds all
 * words. */
#define EXPECT_HALT(words, call)                                                                   \
    do {                                                                                           \
        halt_begin();                                                                              \
        if (setjmp(halt_escape) == 0) {                                                            \
            call;                                                                                  \
            fail_msg("%s returned: no halt", #call);                                               \
        }                                                                                          \
        halt_end((words), __FILE__, __LINE__);                                                     \
    } while (0)
extern jmp_buf halt_escape;
void halt_begin(void);
void halt_cancel(void); /* no halt is expected any more */
void halt_end(const char *words, const char *file, int line);

/* From now on violations are counted, not failures; returns how many came since the last call. */
void violations_count(void);
unsigned violations_take(void);
const char *violation_last(void);

/* Runs `call`, which must be one violation; they are counted already. */
#define EXPECT_VIOLATION(call)                                                                     \
    do {                                                                                           \
        call;                                                                                      \
        if (violations_take() != 1)                                                                \
            fail_msg("%s: no violation", #call);                                                   \
    } while (0)

/* A status, with names instead of numbers in the message. */
#define assert_status(call, expected)                                                              \
    do {                                                                                           \
        mm_status_t got_status = (call);                                                           \
        if (got_status != (expected))                                                              \
            fail_msg("%s: \"%s\", expected \"%s\"", #call, mm_status_name(got_status),             \
                     mm_status_name(expected));                                                    \
    } while (0)
#define assert_ok(call) assert_status(call, MM_OK)

/* ---- Random ---- */

uint64_t random_u64(void);
uint64_t random_below(uint64_t bound); /* 0 .. bound - 1 */
bool random_chance(unsigned percent);
void random_seed(uint64_t seed);

/* A loop over seeds, `for (seeds_begin(usual); seeds_next();)`: `usual` of them, or as many as
 * MELLO_SEEDS says if that is more. A test that fails prints the seed that it was at. */
void seeds_begin(unsigned usual);
bool seeds_next(void);

/* ---- Maps ---- */

#define ROWS_MAX 64

struct rows {
    struct boot_range row[ROWS_MAX];
    struct boot_range *pointer[ROWS_MAX];
    struct boot_info boot;
};

#define ROW(base_value, end_value, type_value)                                                     \
    {                                                                                              \
        (base_value), (uint64_t)(end_value) - (uint64_t)(base_value), (type_value)                 \
    }

/* Makes a boot_info of these rows; without command line, keep ranges and kernel. */
void rows_set(struct rows *rows, const struct boot_range *list, size_t count);

/* ---- A machine: RAM, map and frame allocator ---- */

struct machine {
    struct rows rows;
    struct memmap map;
    struct pmm pmm;
    void *metadata;
};

/* Creates RAM up to `end`, and init_hhdm() over it. */
void ram_set_up(paddr_t end);

/* RAM up to the last row's end, the normal form, its metadata, and a pmm on it. Holes of the map
 * and rows that the HHDM does not hold (Limine protocol, base revision 3) become inaccessible. */
void machine_set_up(struct machine *machine, const struct boot_range *list, size_t count,
                    bool low_memory);

/* The same with a config of the pmm's own. */
void machine_set_up_config(struct machine *machine, const struct boot_range *list, size_t count,
                           const struct pmm_config *config);

/* The usual small machine: usable [1 MiB, 1 MiB + bytes), reserved [0xf0000, 1 MiB). */
void machine_set_up_simple(struct machine *machine, uint64_t bytes);

struct mm_cpu_features features_of(unsigned levels, unsigned physical_bits, bool huge_pages);

/* Takes frames until `left` are free. Returns how many it took; they go to `taken` if not NULL. */
size_t pmm_drain_to(struct pmm *pmm, uint64_t left, paddr_t *taken, size_t taken_max);

void assert_pmm_stats_equal(struct pmm_stats a, struct pmm_stats b);
void assert_pmm_sound(struct pmm *pmm);
void assert_frame_state(struct pmm *pmm, paddr_t address, enum pmm_frame_state expected);

bool is_zero(const void *start, size_t bytes);

#endif
