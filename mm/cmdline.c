/* SPDX-License-Identifier: MIT */
/* Command line words, and the mm.* keys.
 *
 * To add a key: one row in option_keys[] and its function. */
#include <mm/cmdline.h>
#include <mm/log.h>

#define STRESS_SECONDS_MAX 86400u

static size_t length_of(const char *text)
{
    size_t bytes = 0;

    while (text[bytes] != '\0')
        bytes++;
    return bytes;
}

static bool is_text(const char *bytes, size_t count, const char *text)
{
    if (count != length_of(text))
        return false;
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != text[i])
            return false;
    return true;
}

bool mm_cmdline_next(const char **line, struct mm_cmdline_word *word)
{
    const char *at = *line;

    while (*at == ' ')
        at++;
    if (*at == '\0')
        return false;
    word->key = at;
    while (*at != '\0' && *at != ' ' && *at != '=')
        at++;
    word->key_bytes = (size_t)(at - word->key);
    if (*at == '=')
        at++;
    word->value = at;
    while (*at != '\0' && *at != ' ')
        at++;
    word->value_bytes = (size_t)(at - word->value);
    *line = at;
    return true;
}

bool mm_cmdline_key_is(const struct mm_cmdline_word *word, const char *key)
{
    return is_text(word->key, word->key_bytes, key);
}

bool mm_cmdline_value_is(const struct mm_cmdline_word *word, const char *value)
{
    return is_text(word->value, word->value_bytes, value);
}

bool mm_cmdline_find(const char *line, const char *key, struct mm_cmdline_word *word)
{
    struct mm_cmdline_word next;
    bool found = false;

    while (mm_cmdline_next(&line, &next)) {
        if (mm_cmdline_key_is(&next, key)) {
            *word = next;
            found = true;
        }
    }
    return found;
}

static bool read_log_level(const struct mm_cmdline_word *word, struct mm_options *options)
{
    if (mm_cmdline_value_is(word, "error"))
        options->log_level = MM_LOG_ERROR;
    else if (mm_cmdline_value_is(word, "info"))
        options->log_level = MM_LOG_INFO;
    else if (mm_cmdline_value_is(word, "debug"))
        options->log_level = MM_LOG_DEBUG;
    else
        return false;
    return true;
}

static bool read_low_memory(const struct mm_cmdline_word *word, struct mm_options *options)
{
    if (mm_cmdline_value_is(word, "on"))
        options->low_memory = true;
    else if (mm_cmdline_value_is(word, "off"))
        options->low_memory = false;
    else
        return false;
    return true;
}

static bool read_harden(const struct mm_cmdline_word *word, struct mm_options *options)
{
    options->full_harden = mm_cmdline_value_is(word, "full");
    return options->full_harden || mm_cmdline_value_is(word, "default");
}

static unsigned digit_of(char letter)
{
    if (letter >= '0' && letter <= '9')
        return (unsigned)(letter - '0');
    letter = (char)(letter | ('a' ^ 'A'));
    return letter >= 'a' && letter <= 'f' ? (unsigned)(letter - 'a') + 10 : UINT32_MAX;
}

/* Decimal or 0x..., then K, M, G, T or nothing; false if it is anything else, or needs 64 bits. */
static bool read_size(const char **at, const char *end, uint64_t *out)
{
    static const char units[] = "KMGT";
    bool hex = end - *at > 2 && (*at)[0] == '0' && (*at)[1] == 'x';
    uint64_t value = 0;
    const char *first = *at += hex ? 2 : 0;

    for (; *at < end && digit_of(**at) < (hex ? 16u : 10u); (*at)++) {
        if (value >> 58 != 0)
            return false;
        value = value * (hex ? 16u : 10u) + digit_of(**at);
    }
    if (*at == first)
        return false;
    for (unsigned i = 0; i < 4; i++) {
        if (*at < end && **at == units[i]) {
            (*at)++;
            *out = value << 10 * (i + 1);
            return *out >> 10 * (i + 1) == value;
        }
    }
    *out = value;
    return true;
}

static bool read_bad_ram(const struct mm_cmdline_word *word, struct mm_options *options)
{
    const char *at = word->value, *end = word->value + word->value_bytes;
    uint64_t base, bytes;

    if (options->bad_ram_count == MM_BAD_RAM_MAX || !read_size(&at, end, &base) || at == end ||
        *at++ != ':' || !read_size(&at, end, &bytes) || at != end || bytes == 0 ||
        base + bytes < base || base + bytes > UINT64_MAX - FRAME_SIZE)
        return false;
    options->bad_ram[options->bad_ram_count++] =
        (struct mm_extent){ mm_round_down(base, FRAME_SIZE),
                            mm_round_up(base + bytes, FRAME_SIZE) };
    return true;
}

static bool read_dump(const struct mm_cmdline_word *word, struct mm_options *options)
{
    options->dump = mm_cmdline_value_is(word, "on");
    return options->dump || mm_cmdline_value_is(word, "off");
}

/* Digits only, at most a day of seconds. */
static bool read_stress(const struct mm_cmdline_word *word, struct mm_options *options)
{
    uint32_t seconds = 0;

    for (size_t i = 0; i < word->value_bytes; i++) {
        if (word->value[i] < '0' || word->value[i] > '9' || seconds > STRESS_SECONDS_MAX)
            return false;
        seconds = seconds * 10 + (uint32_t)(word->value[i] - '0');
    }
    if (word->value_bytes == 0 || seconds > STRESS_SECONDS_MAX)
        return false;
    options->stress_seconds = seconds;
    return true;
}

static bool read_bench(const struct mm_cmdline_word *word, struct mm_options *options)
{
    static const struct {
        const char *name;
        unsigned bits;
    } suites[] = {
        { "frames", MM_BENCH_FRAMES },
        { "paging", MM_BENCH_PAGING },
        { "heap", MM_BENCH_HEAP },
        { "all", MM_BENCH_FRAMES | MM_BENCH_PAGING | MM_BENCH_HEAP },
    };

    for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++) {
        if (mm_cmdline_value_is(word, suites[i].name)) {
            options->bench = suites[i].bits;
            return true;
        }
    }
    return false;
}

static bool read_leaks(const struct mm_cmdline_word *word, struct mm_options *options)
{
    options->record_sites = mm_cmdline_value_is(word, "on");
    return options->record_sites || mm_cmdline_value_is(word, "off");
}

static bool read_fail(const struct mm_cmdline_word *word, struct mm_options *options)
{
    if (word->value_bytes == 0)
        return false;
    options->fail = word->value;
    options->fail_bytes = word->value_bytes;
    return true;
}

static const struct {
    const char *key;
    const char *values;
    bool (*read)(const struct mm_cmdline_word *word, struct mm_options *options);
} option_keys[] = {
    { "mm.log", "error, info or debug", read_log_level },
    { "mm.lowmem", "on or off", read_low_memory },
    { "mm.badram", "a base and a length, such as 0x1000000:64K, 8 times at most", read_bad_ram },
    { "mm.dump", "on or off", read_dump },
    { "mm.stress", "a number of seconds, at most 86400", read_stress },
    { "mm.bench", "frames, paging, heap or all", read_bench },
    { "mm.harden", "default or full", read_harden },
    { "mm.leaks", "on or off", read_leaks },
    { "mm.fail", "conditions", read_fail },
};

#define KNOWN_BYTES 256u

/* "mm.log, mm.lowmem, ..." as far as it fits. */
static void known_keys(char text[KNOWN_BYTES])
{
    size_t used = 0;

    for (size_t i = 0; i < sizeof(option_keys) / sizeof(option_keys[0]); i++) {
        size_t bytes = length_of(option_keys[i].key);

        if (used + bytes + 3 > KNOWN_BYTES)
            break;
        if (i > 0) {
            text[used++] = ',';
            text[used++] = ' ';
        }
        memcpy(text + used, option_keys[i].key, bytes);
        used += bytes;
    }
    text[used] = '\0';
}

static void read_option(const struct mm_cmdline_word *word, struct mm_options *options)
{
    char known[KNOWN_BYTES];

    for (size_t i = 0; i < sizeof(option_keys) / sizeof(option_keys[0]); i++) {
        if (!mm_cmdline_key_is(word, option_keys[i].key))
            continue;
        if (!option_keys[i].read(word, options))
            mm_info("warning: %s takes %s, not '%.*s': ignored", option_keys[i].key,
                    option_keys[i].values, (int)word->value_bytes, word->value);
        return;
    }
    known_keys(known);
    mm_info("warning: unknown key '%.*s' on the command line: ignored (known: %s)",
            (int)word->key_bytes, word->key, known);
}

struct mm_options mm_options_read(const char *line)
{
    struct mm_options options = { .log_level = MM_LOG_INFO };
    struct mm_cmdline_word word;

    while (mm_cmdline_next(&line, &word))
        if (word.key_bytes >= 3 && is_text(word.key, 3, "mm."))
            read_option(&word, &options);
    return options;
}
