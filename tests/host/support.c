/* SPDX-License-Identifier: MIT */
/* The shared part of the host tests; see support.h. Hooks of the hosted port lead here: lines are
 * kept in a ring, bugs and halts are matched with what the test expects.
 *
 * Only the thread that runs the test may fail it, so that threads' tests collect results and judge
 * them after the join; lines are captured under a lock of their own. */
#include "support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_LINES 4096
#define LOG_WIDTH MM_LOG_LINE_MAX

jmp_buf halt_escape;

static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static char log_ring[LOG_LINES][LOG_WIDTH];
static size_t log_total;

static bool bug_expected, bugs_only_counted, halt_expected, violations_counted;
static unsigned bug_count, violation_count;
static char bug_text[LOG_WIDTH], halt_text[LOG_WIDTH], violation_text[LOG_WIDTH];
static uint64_t random_state, seed_current, seed_last;

static void copy_text(char *to, const char *from)
{
    snprintf(to, LOG_WIDTH, "%s", from);
}

/* ---- Hooks ---- */

static void on_log(enum mm_log_level level, const char *line)
{
    (void)level;
    pthread_mutex_lock(&log_mutex);
    copy_text(log_ring[log_total++ % LOG_LINES], line);
    pthread_mutex_unlock(&log_mutex);
}

static void log_print(void)
{
    size_t first = log_total > 40 ? log_total - 40 : 0;

    for (size_t i = first; i < log_total; i++)
        print_error("    %s\n", log_ring[i % LOG_LINES]);
}

static void on_bug(const char *line)
{
    if (!bug_expected && !bugs_only_counted) {
        log_print();
        fail_msg("unexpected bug report: %s", line);
    }
    pthread_mutex_lock(&log_mutex);
    bug_count++;
    copy_text(bug_text, line);
    pthread_mutex_unlock(&log_mutex);
}

static void on_halt(const char *line)
{
    if (!halt_expected) {
        log_print();
        fail_msg("unexpected halt: %s", line);
    }
    copy_text(halt_text, line);
    longjmp(halt_escape, 1);
}

static void on_violation(const char *what)
{
    if (!violations_counted)
        fail_msg("violation: %s", what);
    violation_count++;
    copy_text(violation_text, what);
}

static const struct hosted_hooks test_hooks = {
    .log = on_log,
    .bug = on_bug,
    .halt = on_halt,
    .violation = on_violation,
};

const struct hosted_hooks *support_hooks(void)
{
    return &test_hooks;
}

int support_setup(void **state)
{
    (void)state;
    hosted_cpu_reset(4);
    hosted_set_hooks(&test_hooks);
    hosted_ram_destroy();
    log_clear();
    bug_expected = bugs_only_counted = halt_expected = violations_counted = false;
    bug_count = violation_count = 0;
    seed_current = seed_last = 0;
    random_seed(1);
    mm_log_level = MM_LOG_INFO;
    kheap_set_default(NULL);
    return 0;
}

int support_teardown(void **state)
{
    (void)state;
    if (seed_current != 0)
        print_message("(it was at seed %lu)\n", seed_current);
    hosted_cpu_reset(4);
    hosted_ram_destroy();
    hosted_set_hooks(NULL);
    return 0;
}

void support_choose(void)
{
    const char *name = getenv("MELLO_TEST");

    if (name != NULL)
        cmocka_set_test_filter(name);
}

bool support_is_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return true;
#else
    return false;
#endif
#else
    return false;
#endif
}

bool support_is_short(void)
{
    return support_is_sanitized() || getenv("MELLO_SHORT") != NULL;
}

/* ---- Log ---- */

void log_clear(void)
{
    log_total = 0;
}

size_t log_lines(void)
{
    return log_total;
}

const char *log_line(size_t index)
{
    return index < log_total && index + LOG_LINES >= log_total ? log_ring[index % LOG_LINES] : "";
}

static bool has_words(const char *line, const char *words)
{
    char word[LOG_WIDTH];

    while (*words != '\0') {
        size_t bytes = strcspn(words, "|");

        snprintf(word, sizeof word, "%.*s", (int)bytes, words);
        if (strstr(line, word) == NULL)
            return false;
        words += bytes + (words[bytes] == '|');
    }
    return true;
}

size_t log_count(const char *words)
{
    size_t count = 0;

    for (size_t i = log_total > LOG_LINES ? log_total - LOG_LINES : 0; i < log_total; i++)
        count += has_words(log_line(i), words);
    return count;
}

void log_expect(const char *words)
{
    if (log_count(words) != 0)
        return;
    log_print();
    fail_msg("no log line with \"%s\"", words);
}

void log_expect_count(const char *words, size_t count)
{
    if (log_count(words) == count)
        return;
    log_print();
    fail_msg("%zu log lines with \"%s\", expected %zu", log_count(words), words, count);
}

/* ---- Bugs, halts, violations ---- */

void bug_begin(void)
{
    log_clear();
    bug_count = 0;
    bug_text[0] = '\0';
    bug_expected = true;
}

void bug_end(const char *words, const char *file, int line)
{
    bug_expected = false;
    if (bug_count != 1)
        fail_msg("%s:%d: %u bugs reported, expected one with \"%s\"", file, line, bug_count, words);
    if (strncmp(bug_text, "[MM] ERROR: ", 12) != 0 || !has_words(bug_text, words))
        fail_msg("%s:%d: bug \"%s\", expected \"%s\"", file, line, bug_text, words);
    if (log_count("[MM] ERROR:") != 1 || log_count(bug_text) != 1) {
        log_print();
        fail_msg("%s:%d: the bug must be one error line", file, line);
    }
}

void bugs_count_begin(void)
{
    bug_count = 0;
    bug_text[0] = '\0';
    bugs_only_counted = true;
}

unsigned bugs_counted(void)
{
    pthread_mutex_lock(&log_mutex);
    unsigned count = bug_count;
    pthread_mutex_unlock(&log_mutex);
    return count;
}

unsigned bugs_count_end(void)
{
    bugs_only_counted = false;
    return bugs_counted();
}

const char *bug_last(void)
{
    return bug_text;
}

void halt_begin(void)
{
    log_clear();
    halt_text[0] = '\0';
    halt_expected = true;
}

void halt_cancel(void)
{
    halt_expected = false;
}

void halt_end(const char *words, const char *file, int line)
{
    char error_words[LOG_WIDTH];

    snprintf(error_words, sizeof error_words, "[MM] ERROR:|%s", words);
    halt_expected = false;
    if (log_count("[MM] ERROR:") == 1 && log_count(error_words) == 1)
        return;
    log_print();
    fail_msg("%s:%d: halt \"%s\", expected one error line with \"%s\"", file, line, halt_text,
             words);
}

void violations_count(void)
{
    violations_counted = true;
    violation_count = 0;
}

unsigned violations_take(void)
{
    unsigned count = violation_count;

    violation_count = 0;
    return count;
}

const char *violation_last(void)
{
    return violation_text;
}

/* ---- Random: splitmix64 ---- */

void random_seed(uint64_t seed)
{
    random_state = seed;
}

uint64_t random_u64(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t random_below(uint64_t bound)
{
    return random_u64() % bound;
}

bool random_chance(unsigned percent)
{
    return random_below(100) < percent;
}

void seeds_begin(unsigned usual)
{
    const char *wanted = getenv("MELLO_SEEDS");
    uint64_t count = wanted != NULL ? strtoull(wanted, NULL, 10) : 0;

    seed_current = 0;
    seed_last = count > usual ? count : usual;
}

bool seeds_next(void)
{
    if (seed_current == seed_last) {
        seed_current = 0;
        return false;
    }
    random_seed(++seed_current);
    return true;
}

/* ---- Maps and machines ---- */

void rows_set(struct rows *rows, const struct boot_range *list, size_t count)
{
    assert_true(count <= ROWS_MAX);
    memset(rows, 0, sizeof *rows);
    for (size_t i = 0; i < count; i++) {
        rows->row[i] = list[i];
        rows->pointer[i] = &rows->row[i];
    }
    rows->boot.map = rows->pointer;
    rows->boot.map_count = count;
    rows->boot.hhdm_offset = hhdm_offset();
    rows->boot.command_line = "";
    rows->boot.paging_is_foreign = true;
}

void ram_set_up(paddr_t end)
{
    void *base = hosted_ram_create(end);

    assert_non_null(base);
    init_hhdm((uint64_t)(uintptr_t)base, end);
}

/* The HHDM of base revision 3 holds usable, reclaimable, executable and framebuffer memory. */
static bool is_in_hhdm(const struct mm_range *range)
{
    return memmap_type_is_ram(range->type) || range->type == BOOT_FRAMEBUFFER;
}

static void make_holes(const struct memmap *map, paddr_t end)
{
    paddr_t done = 0;

    for (size_t i = 0; i < map->count; i++) {
        if (!is_in_hhdm(&map->ranges[i]))
            continue;
        hosted_ram_make_hole(done, map->ranges[i].base);
        done = map->ranges[i].end;
    }
    hosted_ram_make_hole(done, end);
}

void machine_set_up_config(struct machine *machine, const struct boot_range *list, size_t count,
                           const struct pmm_config *config)
{
    paddr_t end = 0, metadata;
    uint64_t metadata_bytes;

    for (size_t i = 0; i < count; i++)
        if (list[i].type != BOOT_RESERVED && list[i].base + list[i].length > end)
            end = list[i].base + list[i].length;
    hosted_ram_destroy();
    ram_set_up(mm_round_up(end, PAGE_SIZE));
    rows_set(&machine->rows, list, count);
    assert_ok(memmap_build(&machine->map, &machine->rows.boot, (paddr_t)1 << 52, NULL, NULL));
    metadata_bytes = pmm_metadata_bytes(&machine->map);
    assert_ok(memmap_take(&machine->map, metadata_bytes, NULL, NULL, &metadata));
    machine->metadata = phys_to_virt(metadata);
    memset(machine->metadata, 0xa5, metadata_bytes); /* "any content" */
    make_holes(&machine->map, mm_round_up(end, PAGE_SIZE));
    memset(&machine->pmm, 0, sizeof machine->pmm);
    pmm_init(&machine->pmm, &machine->map, machine->metadata, config);
    log_clear();
}

void machine_set_up(struct machine *machine, const struct boot_range *list, size_t count,
                    bool low_memory)
{
    const struct pmm_config config = { .low_memory = low_memory };

    machine_set_up_config(machine, list, count, &config);
}

void machine_set_up_simple(struct machine *machine, uint64_t bytes)
{
    const struct boot_range list[] = {
        ROW(0, 0x9fc00, BOOT_USABLE),
        ROW(0xf0000, 0x100000, BOOT_RESERVED),
        ROW(MM_MIB(1), MM_MIB(1) + bytes, BOOT_USABLE),
    };

    machine_set_up(machine, list, COUNT_OF(list), false);
}

struct mm_cpu_features features_of(unsigned levels, unsigned physical_bits, bool huge_pages)
{
    return (struct mm_cpu_features){
        .nx = true,
        .pge = true,
        .pat = true,
        .smep = true,
        .smap = true,
        .umip = true,
        .huge_pages = huge_pages,
        .la57 = levels == 5,
        .physical_bits = physical_bits,
        .levels = levels,
    };
}

size_t pmm_drain_to(struct pmm *pmm, uint64_t left, paddr_t *taken, size_t taken_max)
{
    size_t count = 0;
    paddr_t frame;

    while (pmm_stats(pmm).free_frames > left) {
        assert_ok(pmm_alloc_frame(pmm, &frame));
        if (taken != NULL) {
            assert_true(count < taken_max);
            taken[count] = frame;
        }
        count++;
    }
    return count;
}

void assert_pmm_stats_equal(struct pmm_stats a, struct pmm_stats b)
{
    assert_int_equal(a.total_frames, b.total_frames);
    assert_int_equal(a.used_frames, b.used_frames);
    assert_int_equal(a.table_frames, b.table_frames);
    /* A cache or a table of the pmm itself may have been made meanwhile: free became reserved. */
    assert_int_equal(a.free_frames + a.reserved_frames, b.free_frames + b.reserved_frames);
    assert_int_equal(a.retired_frames, b.retired_frames);
    assert_int_equal(a.range_count, b.range_count);
}

void assert_pmm_sound(struct pmm *pmm)
{
    struct pmm_stats stats = pmm_stats(pmm);

    assert_true(pmm_verify(pmm));
    assert_int_equal(stats.free_frames + stats.used_frames + stats.reserved_frames,
                     stats.total_frames);
    assert_true(stats.table_frames <= stats.used_frames);
}

bool is_zero(const void *start, size_t bytes)
{
    const unsigned char *at = start;

    return bytes == 0 || (at[0] == 0 && memcmp(at, at + 1, bytes - 1) == 0);
}

void assert_frame_state(struct pmm *pmm, paddr_t address, enum pmm_frame_state expected)
{
    if (pmm_frame_state(pmm, address) != expected)
        fail_msg("frame 0x%lx is in state %d, expected %d", address,
                 (int)pmm_frame_state(pmm, address), (int)expected);
}
