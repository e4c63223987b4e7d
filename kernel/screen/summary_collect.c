/* SPDX-License-Identifier: MIT */
/* Owns what the summary says about a memory manager; draws nothing.
 *
 *   struct mm: map, counters, windows, features  -->  struct summary: numbers and short texts
 *
 * Invariant: windows are sorted by address; all texts end. */
#include "kernel/screen/palette.h"
#include "kernel/screen/summary.h"

void summary_format_size(char *text, uint64_t bytes)
{
    static const char *const units[] = { "KB", "MB", "GB", "TB" };
    uint64_t unit = 1024;
    unsigned i = 0;

    while (i < 3 &&
           (bytes >= unit * 10000 || (bytes >= unit * 1024 && bytes % (unit * 1024) == 0))) {
        unit *= 1024;
        i++;
    }
    if (bytes % unit * 10 / unit == 0 || bytes / unit >= 100)
        (void)mm_format(text, SUMMARY_SIZE_MAX, "%llu %s", (unsigned long long)(bytes / unit),
                        units[i]);
    else
        (void)mm_format(text, SUMMARY_SIZE_MAX, "%llu.%llu %s", (unsigned long long)(bytes / unit),
                        (unsigned long long)(bytes % unit * 10 / unit), units[i]);
}

static struct summary_window *summary_add(struct summary *summary, const char *name,
                                          const char *rights, uint32_t rgb, vaddr_t base,
                                          vaddr_t end)
{
    size_t at = summary->window_count;

    if (base == end || at == SUMMARY_WINDOWS_MAX)
        return NULL;
    for (; at > 0 && summary->windows[at - 1].base > base; at--)
        summary->windows[at] = summary->windows[at - 1];
    summary->windows[at] = (struct summary_window){
        .name = name, .rights = rights, .note = "", .base = base, .end = end, .rgb = rgb
    };
    summary->window_count++;
    return &summary->windows[at];
}

static void summary_add_noted(struct summary *summary, const char *name, const char *rights,
                              uint32_t rgb, vaddr_t base, vaddr_t end, const char *note)
{
    struct summary_window *window = summary_add(summary, name, rights, rgb, base, end);

    if (window != NULL)
        (void)mm_format(window->note, sizeof(window->note), "%s", note);
}

static void summary_collect_windows(struct summary *summary, const struct mm *mm)
{
    const struct boot_info *boot = &mm->boot;
    vaddr_t direct = boot->hhdm_offset, screen = direct + boot->framebuffer_base;
    char size[SUMMARY_SIZE_MAX], note[32];

    summary_add_noted(summary, "HHDM", "RW-", PALETTE_USABLE, direct, direct + mm->map.ram_end,
                      "all memory");
    summary_add_noted(summary, "framebuffer", mm->cpu.pat ? "RW- WC" : "RW-", PALETTE_FRAMEBUFFER,
                      screen, screen + boot->framebuffer_bytes, "in the HHDM");
    summary_format_size(size, mm->kvm.heap_bytes);
    (void)mm_format(note, sizeof(note), "%s mapped", size);
    summary_add_noted(summary, "heap", "RW-", PALETTE_HEAP, mm->kvm.heap.base, mm->kvm.heap.end,
                      note);
    summary_add_noted(summary, "stacks", "RW-", PALETTE_STACKS, mm->kvm.stacks.base,
                      mm->kvm.stacks.end, "on demand");
    summary_add_noted(summary, "kernel .text", "R-X", PALETTE_KERNEL, boot->text.begin,
                      boot->text.end, "code");
    summary_add_noted(summary, "kernel .rodata", "R--", PALETTE_KERNEL, boot->rodata.begin,
                      boot->rodata.end, "constants");
    summary_add_noted(summary, "kernel .data", "RW-", PALETTE_KERNEL, boot->data.begin,
                      boot->data.end, "data, boot stacks");
}

static void summary_collect_facts(struct summary *summary, const struct mm *mm, unsigned cpus)
{
    const struct mm_cpu_features *cpu = &mm->cpu;
    char size[SUMMARY_SIZE_MAX];

    (void)mm_format(summary->facts[0], SUMMARY_FACT_MAX, "MelloOS " MM_VERSION);
    (void)mm_format(summary->facts[1], SUMMARY_FACT_MAX, "up in %llu.%llu ms",
                    (unsigned long long)(mm->total_ns / 1000000),
                    (unsigned long long)(mm->total_ns / 100000 % 10));
    (void)mm_format(summary->facts[2], SUMMARY_FACT_MAX, "%u CPU%s, %u-level paging", cpus,
                    cpus == 1 ? "" : "s", cpu->levels);
    (void)mm_format(summary->facts[3], SUMMARY_FACT_MAX, "NX WP%s%s%s%s", cpu->pge ? " PGE" : "",
                    cpu->smep ? " SMEP" : "", cpu->smap ? " SMAP" : "", cpu->umip ? " UMIP" : "");
    summary_format_size(size, mm->loader_bytes);
    summary->facts[4][0] = '\0';
    if (mm->loader_bytes > 0)
        (void)mm_format(summary->facts[4], SUMMARY_FACT_MAX, "%s back from the loader", size);
}

void summary_collect(struct summary *summary, struct mm *mm, struct mm_test_result tests,
                     unsigned cpus)
{
    struct pmm_stats stats = pmm_stats(&mm->pmm);

    summary->total_bytes = mm->map.total_bytes;
    summary->usable_bytes = mm->map.usable_bytes;
    summary->free_bytes = stats.free_frames * FRAME_SIZE;
    summary->free_frames = stats.free_frames;
    summary->range_count = stats.range_count;
    summary->ranges = mm->map.ranges;
    summary->ranges_count = mm->map.count;
    summary->tests = tests;
    summary->window_count = 0;
    summary_collect_windows(summary, mm);
    summary_collect_facts(summary, mm, cpus);
}
