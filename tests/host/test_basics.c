/* SPDX-License-Identifier: MIT */
/* The small parts: command line words and mm.* keys, the HHDM, CPU features and protection bits
 * with hardware that lacks them or does not keep them. */
#include "support.h"

#include <string.h>

/* ---- Command line ---- */

/* Reads the whole line; each word must be the next "key=value" of `expected` (separated by '|'). */
static void assert_words(const char *line, const char *expected)
{
    struct mm_cmdline_word word;
    char text[512] = "";

    while (mm_cmdline_next(&line, &word)) {
        size_t used = strlen(text);

        mm_format(text + used, sizeof text - used, "%s%.*s=%.*s", used == 0 ? "" : "|",
                  (int)word.key_bytes, word.key, (int)word.value_bytes, word.value);
    }
    assert_string_equal(text, expected);
    assert_false(mm_cmdline_next(&line, &word));
}

static void cmdline_words_are_split_at_spaces_and_the_first_equals_sign(void **state)
{
    (void)state;
    assert_words("", "");
    assert_words("     ", "");
    assert_words("a=b", "a=b");
    assert_words("  a=b   c=d  ", "a=b|c=d");
    assert_words("quiet", "quiet=");
    assert_words("quiet a= =b =", "quiet=|a=|=b|=");
    assert_words("a=b=c", "a=b=c");
    assert_words("loader.map=+0x1000:0x2000:0 x", "loader.map=+0x1000:0x2000:0|x=");
}

static void cmdline_keys_match_whole_words_only(void **state)
{
    const char *line = "mm.log=debug";
    struct mm_cmdline_word word;

    (void)state;
    assert_true(mm_cmdline_next(&line, &word));
    assert_true(mm_cmdline_key_is(&word, "mm.log"));
    assert_false(mm_cmdline_key_is(&word, "mm.lo"));
    assert_false(mm_cmdline_key_is(&word, "mm.logs"));
    assert_false(mm_cmdline_key_is(&word, ""));
    assert_true(mm_cmdline_value_is(&word, "debug"));
    assert_false(mm_cmdline_value_is(&word, "debu"));
    assert_false(mm_cmdline_value_is(&word, "debugs"));
    assert_false(mm_cmdline_value_is(&word, ""));
}

static void cmdline_find_takes_the_last_of_a_key(void **state)
{
    const char *line = "a=1 b=2 a=3 aa=4 a";
    struct mm_cmdline_word word, before;

    (void)state;
    assert_true(mm_cmdline_find(line, "b", &word));
    assert_true(mm_cmdline_value_is(&word, "2"));
    assert_true(mm_cmdline_find(line, "a", &word));
    assert_true(mm_cmdline_value_is(&word, ""));
    assert_true(mm_cmdline_find("a=1 a=3", "a", &word));
    assert_true(mm_cmdline_value_is(&word, "3"));
    before = word;
    assert_false(mm_cmdline_find(line, "c", &word));
    assert_false(mm_cmdline_find("", "a", &word));
    assert_memory_equal(&word, &before, sizeof word);
}

static void assert_options(const char *line, int log_level, bool low_memory, size_t warnings)
{
    struct mm_options options;

    log_clear();
    options = mm_options_read(line);
    assert_int_equal(options.log_level, log_level);
    assert_int_equal(options.low_memory, low_memory);
    if (log_lines() != warnings)
        fail_msg("\"%s\": %zu warnings, expected %zu", line, log_lines(), warnings);
}

static void options_have_defaults(void **state)
{
    (void)state;
    assert_options("", MM_LOG_INFO, false, 0);
    assert_options("mello.exit=qemu quiet mmx=1 loader.la57=1", MM_LOG_INFO, false, 0);
}

static void options_are_read(void **state)
{
    (void)state;
    assert_options("mm.log=error", MM_LOG_ERROR, false, 0);
    assert_options("mm.log=info", MM_LOG_INFO, false, 0);
    assert_options("mm.log=debug mm.lowmem=on", MM_LOG_DEBUG, true, 0);
    assert_options("mm.lowmem=on mm.lowmem=off", MM_LOG_INFO, false, 0);
    assert_options("mm.log=debug mello.color=1 mm.log=error", MM_LOG_ERROR, false, 0);
}

static void options_unknown_keys_and_values_are_one_warning_each(void **state)
{
    (void)state;
    assert_options("mm.lgo=debug", MM_LOG_INFO, false, 1);
    log_expect("[MM] |warning|mm.lgo");
    assert_options("mm.log=loud", MM_LOG_INFO, false, 1);
    log_expect("[MM] |warning|mm.log|loud");
    assert_options("mm.log=", MM_LOG_INFO, false, 1);
    assert_options("mm.log", MM_LOG_INFO, false, 1);
    assert_options("mm.lowmem=yes mm. mm.x=y", MM_LOG_INFO, false, 3);
    assert_options("mm.log=debug mm.log=loud", MM_LOG_DEBUG, false, 1);
}

/* ---- HHDM ---- */

static void hhdm_translates_both_ways(void **state)
{
    static const uint64_t offsets[] = { 0xffff800000000000, 0xff00000000000000, 0xffff9876c0000000,
                                        0x1000 };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(offsets); i++) {
        init_hhdm(offsets[i], MM_GIB(4));
        assert_int_equal(hhdm_offset(), offsets[i]);
        assert_int_equal(hhdm_end(), MM_GIB(4));
        assert_int_equal((uintptr_t)phys_to_virt(0), offsets[i]);
        assert_int_equal((uintptr_t)phys_to_virt(0x123456), offsets[i] + 0x123456);
        assert_int_equal(virt_to_phys((void *)(offsets[i] + MM_GIB(4) - 1)), MM_GIB(4) - 1);
    }
}

#if MM_DEBUG
static void hhdm_addresses_outside_halt_debug_builds(void **state)
{
    uint64_t offset = 0xffff800000000000;

    (void)state;
    init_hhdm(offset, MM_GIB(4));
    EXPECT_HALT("assertion", phys_to_virt(MM_GIB(4)));
    EXPECT_HALT("assertion", phys_to_virt(UINT64_MAX));
    EXPECT_HALT("assertion", virt_to_phys((void *)(offset - 1)));
    EXPECT_HALT("assertion", virt_to_phys((void *)(offset + MM_GIB(4))));
    EXPECT_HALT("assertion", virt_to_phys(NULL));
}
#endif

/* ---- CPU features ---- */

static void cpu_features_of_a_full_cpu(void **state)
{
    struct mm_cpu_features features;

    (void)state;
    for (unsigned levels = 4; levels <= 5; levels++) {
        hosted_cpu_reset(levels);
        features = mm_cpu_features();
        assert_true(features.nx && features.pge && features.pat && features.smep && features.smap &&
                    features.umip && features.huge_pages);
        assert_int_equal(features.la57, levels == 5);
        assert_int_equal(features.levels, levels);
        assert_int_equal(features.physical_bits, 52);
    }
}

/* CPUID says LA57, but the loader left CR4.LA57 off: four levels. */
static void cpu_levels_follow_cr4_not_cpuid(void **state)
{
    (void)state;
    hosted_cpu_reset(5);
    hosted_cpu()->cr4 &= ~((uint64_t)1 << 12);
    assert_true(mm_cpu_features().la57);
    assert_int_equal(mm_cpu_features().levels, 4);
}

static void cpu_each_feature_follows_its_cpuid_bit(void **state)
{
    struct mm_cpu_features features;

    (void)state;
    hosted_cpu()->leaf_1.edx = (uint32_t)1 << 13;
    features = mm_cpu_features();
    assert_true(features.pge && !features.pat);
    hosted_cpu()->leaf_1.edx = (uint32_t)1 << 16;
    features = mm_cpu_features();
    assert_true(!features.pge && features.pat);
    hosted_cpu()->leaf_7 = (struct mm_port_cpuid){ .ebx = (uint32_t)1 << 7 };
    features = mm_cpu_features();
    assert_true(features.smep && !features.smap && !features.umip && !features.la57);
    hosted_cpu()->leaf_7 = (struct mm_port_cpuid){ .ebx = (uint32_t)1 << 20 };
    features = mm_cpu_features();
    assert_true(!features.smep && features.smap && !features.umip);
    hosted_cpu()->leaf_7 = (struct mm_port_cpuid){ .ecx = (uint32_t)1 << 2 };
    features = mm_cpu_features();
    assert_true(!features.smep && !features.smap && features.umip);
    hosted_cpu()->leaf_8000_0001.edx = (uint32_t)1 << 20;
    features = mm_cpu_features();
    assert_true(features.nx && !features.huge_pages);
    hosted_cpu()->leaf_8000_0001.edx = (uint32_t)1 << 26;
    features = mm_cpu_features();
    assert_true(!features.nx && features.huge_pages);
}

/* An old CPU whose highest leaves are low: what is above them counts as absent. */
static void cpu_leaves_above_the_highest_count_as_zero(void **state)
{
    struct mm_cpu_features features;

    (void)state;
    hosted_cpu()->leaf_0.eax = 1;
    hosted_cpu()->leaf_8000_0000.eax = 0x80000001;
    features = mm_cpu_features();
    assert_true(features.nx && features.pge);
    assert_true(!features.smep && !features.smap && !features.umip && !features.la57);
    assert_int_equal(features.physical_bits, 36);
    hosted_cpu()->leaf_8000_0000.eax = 0;
    features = mm_cpu_features();
    assert_true(!features.nx && !features.huge_pages);
    assert_int_equal(features.physical_bits, 36);
}

static void cpu_physical_bits_are_at_most_52(void **state)
{
    (void)state;
    hosted_cpu()->leaf_8000_0008.eax = 48 << 8 | 39;
    assert_int_equal(mm_cpu_features().physical_bits, 39);
    hosted_cpu()->leaf_8000_0008.eax = 57 << 8 | 64;
    assert_int_equal(mm_cpu_features().physical_bits, 52);
}

/* ---- CPU protection ---- */

#define EFER_NXE ((uint64_t)1 << 11)
#define CR0_WP   ((uint64_t)1 << 16)
#define CR4_PGE  ((uint64_t)1 << 7)
#define CR4_UMIP ((uint64_t)1 << 11)
#define CR4_SMEP ((uint64_t)1 << 20)
#define CR4_SMAP ((uint64_t)1 << 21)

/* As a loader may leave it: nothing on. */
static void protection_off(void)
{
    hosted_cpu_reset(4);
    hosted_cpu()->efer &= ~EFER_NXE;
    hosted_cpu()->cr0 &= ~CR0_WP;
}

static void cpu_enable_nx_bit_sets_efer(void **state)
{
    uint64_t before;

    (void)state;
    protection_off();
    before = hosted_cpu()->efer;
    assert_ok(enable_nx_bit());
    assert_int_equal(hosted_cpu()->efer, before | EFER_NXE);
    assert_ok(enable_nx_bit());
}

static void cpu_enable_nx_bit_without_nx_touches_nothing(void **state)
{
    uint64_t before;

    (void)state;
    protection_off();
    hosted_cpu()->leaf_8000_0001.edx &= ~((uint32_t)1 << 20);
    before = hosted_cpu()->efer;
    assert_status(enable_nx_bit(), MM_UNSUPPORTED);
    assert_int_equal(hosted_cpu()->efer, before);
    protection_off();
    hosted_cpu()->leaf_8000_0000.eax = 0x80000000; /* not even the leaf */
    assert_status(enable_nx_bit(), MM_UNSUPPORTED);
}

static void cpu_enable_nx_bit_that_does_not_stick_is_unsupported(void **state)
{
    (void)state;
    protection_off();
    hosted_cpu()->stuck_efer = EFER_NXE;
    assert_status(enable_nx_bit(), MM_UNSUPPORTED);
}

static void cpu_enable_write_protect_sets_cr0(void **state)
{
    uint64_t before;

    (void)state;
    protection_off();
    before = hosted_cpu()->cr0;
    assert_ok(enable_write_protect());
    assert_int_equal(hosted_cpu()->cr0, before | CR0_WP);
    protection_off();
    hosted_cpu()->stuck_cr0 = CR0_WP;
    assert_status(enable_write_protect(), MM_UNSUPPORTED);
}

static void cpu_protection_enables_everything_there_is(void **state)
{
    struct mm_cpu_features features;

    (void)state;
    protection_off();
    features = mm_cpu_features();
    assert_ok(enable_cpu_protection(&features));
    assert_true((hosted_cpu()->efer & EFER_NXE) != 0 && (hosted_cpu()->cr0 & CR0_WP) != 0);
    assert_int_equal(hosted_cpu()->cr4 & (CR4_PGE | CR4_UMIP | CR4_SMEP | CR4_SMAP),
                     CR4_PGE | CR4_UMIP | CR4_SMEP | CR4_SMAP);
    assert_int_equal(hosted_cpu()->pat & 0xffffffffffff, 0x010500070406);
    assert_int_equal(log_lines(), 1);
    log_expect("NX|WP|SMEP|SMAP|UMIP|PGE");
}

/* The fake CPU reports a #GP for any bit that CPUID does not announce. */
static void cpu_protection_touches_nothing_that_is_absent(void **state)
{
    struct mm_cpu_features features;

    (void)state;
    protection_off();
    hosted_cpu()->leaf_1.edx = 0;
    hosted_cpu()->leaf_7 = (struct mm_port_cpuid){ 0 };
    features = mm_cpu_features();
    assert_ok(enable_cpu_protection(&features));
    assert_int_equal(hosted_cpu()->cr4, (uint64_t)1 << 5); /* PAE alone */
    assert_int_equal(log_count("SMEP"), 0);
}

static void cpu_protection_that_does_not_stick_is_one_error(void **state)
{
    static const struct {
        uint64_t efer, cr0, cr4, pat;
        const char *name;
    } stuck[] = {
        { EFER_NXE, 0, 0, 0, "NX" },
        { 0, CR0_WP, 0, 0, "WP" },
        { 0, 0, CR4_SMEP, 0, "SMEP" },
        { 0, 0, CR4_SMAP, 0, "SMAP" },
        { 0, 0, CR4_UMIP, 0, "UMIP" },
        { 0, 0, CR4_PGE, 0, "PGE" },
        { 0, 0, 0, UINT64_MAX, "page attribute table" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(stuck); i++) {
        struct mm_cpu_features features;

        protection_off();
        hosted_cpu()->stuck_efer = stuck[i].efer;
        hosted_cpu()->stuck_cr0 = stuck[i].cr0;
        hosted_cpu()->stuck_cr4 = stuck[i].cr4;
        hosted_cpu()->stuck_pat = stuck[i].pat;
        features = mm_cpu_features();
        log_clear();
        assert_status(enable_cpu_protection(&features), MM_UNSUPPORTED);
        log_expect_count("[MM] ERROR:", 1);
        log_expect(stuck[i].name);
    }
}

static void cpu_protection_without_nx_is_one_error(void **state)
{
    struct mm_cpu_features features;

    (void)state;
    protection_off();
    hosted_cpu()->leaf_8000_0001.edx &= ~((uint32_t)1 << 20);
    features = mm_cpu_features();
    assert_status(enable_cpu_protection(&features), MM_UNSUPPORTED);
    log_expect_count("[MM] ERROR:|NX", 1);
}

/* ---- Units ---- */

static void types_round_and_convert(void **state)
{
    (void)state;
    assert_int_equal(mm_round_down(0x1fff, 0x1000), 0x1000);
    assert_int_equal(mm_round_up(0x1001, 0x1000), 0x2000);
    assert_int_equal(mm_round_up(0, 0x1000), 0);
    assert_int_equal(mm_round_up(UINT64_MAX - 4095, 4096), UINT64_MAX - 4095);
    assert_true(mm_is_aligned(0, 4096) && mm_is_aligned(8192, 4096) && !mm_is_aligned(1, 4096));
    assert_true(mm_is_power_of_two(1) && mm_is_power_of_two((uint64_t)1 << 63));
    assert_false(mm_is_power_of_two(0) || mm_is_power_of_two(3) || mm_is_power_of_two(UINT64_MAX));
    assert_int_equal(paddr_to_pfn(0x12345678).number, 0x12345);
    assert_int_equal(pfn_to_paddr(paddr_to_pfn(0x12345678)), 0x12345000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(cmdline_words_are_split_at_spaces_and_the_first_equals_sign),
        TEST(cmdline_keys_match_whole_words_only),
        TEST(cmdline_find_takes_the_last_of_a_key),
        TEST(options_have_defaults),
        TEST(options_are_read),
        TEST(options_unknown_keys_and_values_are_one_warning_each),
        TEST(hhdm_translates_both_ways),
#if MM_DEBUG
        TEST(hhdm_addresses_outside_halt_debug_builds),
#endif
        TEST(cpu_features_of_a_full_cpu),
        TEST(cpu_levels_follow_cr4_not_cpuid),
        TEST(cpu_each_feature_follows_its_cpuid_bit),
        TEST(cpu_leaves_above_the_highest_count_as_zero),
        TEST(cpu_physical_bits_are_at_most_52),
        TEST(cpu_enable_nx_bit_sets_efer),
        TEST(cpu_enable_nx_bit_without_nx_touches_nothing),
        TEST(cpu_enable_nx_bit_that_does_not_stick_is_unsupported),
        TEST(cpu_enable_write_protect_sets_cr0),
        TEST(cpu_protection_enables_everything_there_is),
        TEST(cpu_protection_touches_nothing_that_is_absent),
        TEST(cpu_protection_that_does_not_stick_is_one_error),
        TEST(cpu_protection_without_nx_is_one_error),
        TEST(types_round_and_convert),
    };

    return RUN_TESTS(tests);
}
