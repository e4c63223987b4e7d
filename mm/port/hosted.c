/* SPDX-License-Identifier: MIT */
/* Port of mm to a Linux process, the kernel's part: log, bug, halt, clock, locks, memory hooks,
 * fake RAM, and mello_host_init(). The fake CPU is in hosted_cpu.c and hosted_mmu.c.
 *
 *   fake RAM:  physical 0 ........................ ram.end
 *              ram.base ....... in this process .. ram.base + ram.end      HHDM offset = ram.base
 *
 * Invariants that are checked here because mm promises them in port.h: no lock of mm is held, and no
 * interrupts are switched off by it, across log, bug, halt and clock; a lock is not taken twice by one
 * thread; only its owner releases it. A lock's word holds the number of the thread that owns it, 0 if
 * none. */
#include <mm/mm.h>

#include "hosted_parts.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__)
#define HOSTED_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HOSTED_ASAN 1
#endif
#endif
#ifndef HOSTED_ASAN
#define HOSTED_ASAN 0
#endif

static struct hosted_hooks hooks;

/* Set while mello_host_init() runs in this thread: where a halt goes. */
static __thread jmp_buf *halt_escape;

void hosted_set_hooks(const struct hosted_hooks *new_hooks)
{
    hooks = new_hooks != NULL ? *new_hooks : (struct hosted_hooks){ 0 };
}

void hosted_violation(const char *format, ...)
{
    char what[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (hooks.violation != NULL) {
        hooks.violation(what);
        return;
    }
    fprintf(stderr, "hosted port: violation: %s\n", what);
    abort();
}

static void check_no_lock(const char *call)
{
    /* An NMI comes whatever is held, and mm reports what its handler does wrong. */
    if (hosted_cpu()->locks_held != 0 && hosted_cpu()->nmi_depth == 0)
        hosted_violation("%s is called with %u locks held", call, hosted_cpu()->locks_held);
}

/* ---- Log, bug, halt, clock ---- */

void mm_port_log(enum mm_log_level level, const char *line)
{
    struct hosted_cpu *cpu = hosted_cpu();
    bool saved;

    check_no_lock("mm_port_log");
    saved = hosted_interrupts_off(cpu); /* a handler must not meet a lock of the hook or of stdio */
    if (hooks.log != NULL)
        hooks.log(level, line);
    else
        fprintf(stderr, "%s\n", line);
    hosted_interrupts_restore(cpu, saved);
}

void mm_port_bug(const char *line)
{
    check_no_lock("mm_port_bug");
    if (hooks.bug == NULL)
        abort();
    hooks.bug(line);
}

void mm_port_halt(const char *line)
{
    check_no_lock("mm_port_halt");
    if (halt_escape != NULL)
        longjmp(*halt_escape, 1);
    if (hooks.halt != NULL)
        hooks.halt(line);
    abort();
}

uint64_t mm_port_time_ns(void)
{
    struct timespec now;

    check_no_lock("mm_port_time_ns");
    if (hooks.time_ns != NULL)
        return hooks.time_ns();
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Locks ---- */

/* A small number for each thread that ever took a lock; never 0. */
static uint32_t thread_number(void)
{
    static uint32_t last_number;
    static __thread uint32_t number;

    if (number == 0)
        number = __atomic_add_fetch(&last_number, 1, __ATOMIC_RELAXED);
    return number;
}

uint64_t mm_port_lock(struct mm_port_lock *lock)
{
    struct hosted_cpu *cpu = hosted_cpu();
    uint64_t saved = hosted_interrupts_off(cpu);
    uint32_t self = thread_number(), owner = 0;

    while (!__atomic_compare_exchange_n(&lock->word, &owner, self, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED)) {
        if (owner == self) {
            hosted_violation("deadlock: a lock is taken twice by one thread");
            return saved; /* a test's hook came back: it goes on without the lock */
        }
        owner = 0;
        sched_yield();
    }
    if (cpu->locks_held++ == 0)
        hosted_smp_change_section(cpu);
    return saved;
}

void mm_port_unlock(struct mm_port_lock *lock, uint64_t saved)
{
    struct hosted_cpu *cpu = hosted_cpu();

    if (__atomic_load_n(&lock->word, __ATOMIC_RELAXED) != thread_number()) {
        hosted_violation("a lock is released by a thread that does not hold it");
        return;
    }
    if (--cpu->locks_held == 0)
        hosted_smp_change_section(cpu);
    __atomic_store_n(&lock->word, 0, __ATOMIC_RELEASE);
    hosted_interrupts_restore(cpu, saved != 0);
}

/* Counts as a lock, so that what must not be called under one is not called here either. */
uint64_t mm_port_interrupts_off(void)
{
    struct hosted_cpu *cpu = hosted_cpu();
    bool saved = hosted_interrupts_off(cpu);

    if (cpu->locks_held++ == 0)
        hosted_smp_change_section(cpu);
    return saved;
}

void mm_port_interrupts_restore(uint64_t saved)
{
    struct hosted_cpu *cpu = hosted_cpu();

    if (cpu->locks_held == 0) {
        hosted_violation("interrupts are restored that were not switched off");
        return;
    }
    if (--cpu->locks_held == 0)
        hosted_smp_change_section(cpu);
    hosted_interrupts_restore(cpu, saved != 0);
}

/* ---- Memory hooks ---- */

#if MM_MEMORY_HOOKS
#if HOSTED_ASAN
/* ASan's shadow takes an eighth of what is marked: one call over this size (the free frames of a
 * huge fake machine) is left unmarked. */
#define POISON_MAX_BYTES MM_GIB(1)

/* From <sanitizer/asan_interface.h>, which a compiler without its runtime's headers lacks. */
void __asan_poison_memory_region(void const volatile *start, size_t bytes);
void __asan_unpoison_memory_region(void const volatile *start, size_t bytes);
void __asan_get_shadow_mapping(size_t *scale, size_t *offset);

void mm_port_memory_freed(void *start, size_t bytes)
{
    if (bytes <= POISON_MAX_BYTES)
        __asan_poison_memory_region(start, bytes);
}

void mm_port_memory_allocated(void *start, size_t bytes)
{
    if (bytes <= POISON_MAX_BYTES)
        __asan_unpoison_memory_region(start, bytes);
}
#else
void mm_port_memory_freed(void *start, size_t bytes)
{
    (void)start;
    (void)bytes;
}

void mm_port_memory_allocated(void *start, size_t bytes)
{
    (void)start;
    (void)bytes;
}
#endif
#endif

/* Takes the marks off RAM that goes away, so that whatever is mapped there next starts without. The
 * shadow's pages are given back: it reads as "not poisoned" then, and untouched RAM costs nothing. */
static void unmark_all(void *start, size_t bytes)
{
#if MM_MEMORY_HOOKS && HOSTED_ASAN
    size_t scale, offset;

    __asan_get_shadow_mapping(&scale, &offset);
    madvise((void *)(((uintptr_t)start >> scale) + offset), bytes >> scale, MADV_DONTNEED);
#else
    (void)start;
    (void)bytes;
#endif
}

/* Where all of a small RAM is marked, its shadow comes by large pages: a thousand page faults less for each
 * machine, which is most of what many tests take. */
static void expect_marks(void *start, size_t bytes)
{
#if MM_MEMORY_HOOKS && HOSTED_ASAN
    size_t scale, offset;

    if (bytes > MM_MIB(256))
        return;
    __asan_get_shadow_mapping(&scale, &offset);
    (void)madvise((void *)(((uintptr_t)start >> scale) + offset), bytes >> scale, MADV_HUGEPAGE);
#else
    (void)start;
    (void)bytes;
#endif
}

/* ---- Fake RAM ---- */

static struct {
    char *base;
    paddr_t end;
    void *mapping; /* NULL if the memory belongs to somebody else */
    size_t mapping_bytes;
} ram;

/* Addresses up to 4 GiB, where devices lie, are reserved always, so that the HHDM address of a
 * device is never in the hole of the canonical addresses. What is no RAM is not accessible. */
void *hosted_ram_create(paddr_t end)
{
    size_t bytes = (size_t)mm_round_up(end, PAGE_SIZE);
    size_t mapping_bytes = (bytes < MM_GIB(4) ? MM_GIB(4) : bytes) + HUGE_PAGE_SIZE;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *mapping;
    char *base;

    if (ram.base != NULL || bytes == 0 || mapping_bytes < bytes)
        return NULL;
    mapping = mmap(NULL, mapping_bytes, PROT_NONE, flags, -1, 0);
    if (mapping == MAP_FAILED)
        return NULL;
    base = (char *)mapping + (-(uintptr_t)mapping & (HUGE_PAGE_SIZE - 1));
    if (mprotect(base, bytes, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapping, mapping_bytes);
        return NULL;
    }
    expect_marks(base, bytes);
    ram.mapping = mapping;
    ram.mapping_bytes = mapping_bytes;
    ram.base = base;
    ram.end = bytes;
    return base;
}

void hosted_ram_destroy(void)
{
    if (ram.mapping != NULL) {
        /* From the aligned base: the shadow of the mapping's beginning is no page of its own. */
        unmark_all(ram.base, ram.mapping_bytes - HUGE_PAGE_SIZE);
        munmap(ram.mapping, ram.mapping_bytes);
    }
    memset(&ram, 0, sizeof ram);
}

void hosted_ram_use(void *base, paddr_t end)
{
    hosted_ram_destroy();
    ram.base = base;
    ram.end = end;
}

void hosted_ram_make_hole(paddr_t base, paddr_t end)
{
    if (end > ram.end)
        end = ram.end;
    if (base < end && mprotect(ram.base + base, end - base, PROT_NONE) != 0) {
        perror("hosted_ram_make_hole: mprotect");
        abort();
    }
}

void *hosted_ram_at(paddr_t address)
{
    return address < ram.end ? ram.base + address : NULL;
}

/* ---- Start ---- */

/* Runs mm_init() on the fake RAM; a halt on the way ends up as false. */
static bool start_mm(struct mm *mm, struct boot_info *boot)
{
    jmp_buf escape;

    if (setjmp(escape) != 0) {
        halt_escape = NULL;
        return false;
    }
    halt_escape = &escape;
    mm_init(mm, boot);
    halt_escape = NULL;
    return true;
}

bool mello_host_init(void *base, size_t bytes)
{
    struct boot_range row = { 0, mm_round_down(bytes, PAGE_SIZE), BOOT_USABLE };
    struct boot_range *rows[] = { &row };
    struct boot_info boot = {
        .map = rows,
        .map_count = 1,
        .hhdm_offset = (uint64_t)(uintptr_t)base,
        .command_line = "mm.log=error mm.lowmem=on",
        .paging_is_foreign = true,
    };
    struct mm before = *mm_kernel();
    struct kheap *heap_before = kheap_default();
    uint64_t offset_before = hhdm_offset();
    paddr_t end_before = hhdm_end();
    enum mm_log_level level_before = mm_log_level;

    if (base == NULL || !mm_is_aligned((uintptr_t)base, PAGE_SIZE) || bytes < HOSTED_MIN_BYTES ||
        (uintptr_t)base + bytes < (uintptr_t)base)
        return false;
    if (start_mm(mm_kernel(), &boot)) {
        kheap_set_default(mm_kernel()->heap);
        mm_kernel()->boot.map = NULL; /* the rows end with this call */
        mm_kernel()->boot.map_count = 0;
        return true;
    }
    *mm_kernel() = before;
    kheap_set_default(heap_before);
    init_hhdm(offset_before, end_before);
    mm_log_level = level_before;
    return false;
}
