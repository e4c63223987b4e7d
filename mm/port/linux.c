/* SPDX-License-Identifier: MIT */
/* Port of mm to a Linux process without any model of a machine: locks, slots, barrier, log, clock.
 *
 *   slots:  one bit for each number     [ 1 1 0 1 0 0 ... ]   lowest free one first, by atomics
 *           mm_port_tls_slot            UNKNOWN -> number * LEVELS -> SHARED (thread is ending)
 *                                               -> SHARED (no number free)
 *   lock:   | 1: somebody may sleep | 1: held |     16 bits each; futex(7)
 *
 * A thread keeps its slot until the last round of destructors of pthread keys; what mm is called for
 * behind that goes without a cache, so that no slot is lost. Interrupts do not exist: a level is
 * always 0, and a signal handler must not call mm, as it must not call malloc.
 *
 * Invariants: no function here allocates, takes another lock or changes errno: system calls are
 * made directly. Paging can be built but never runs: control registers are plain memory, and there
 * is no TLB. */
#include "cpuid.h"

#include <mm/linux.h>
#include <mm/mm.h>
#include <mm/port_slot.h>

#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

__thread unsigned mm_port_tls_slot = MM_PORT_UNKNOWN_SLOT;

/* ---- System calls ---- */

/* The kernel's answer as it is: a negative number is an error, and errno stays. (System V ABI,
 * AMD64 supplement, A.2.1.) */
static long port_syscall(long number, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

static long membarrier(int command)
{
    return port_syscall(SYS_membarrier, command, 0, 0, 0);
}

/* ---- Log, bug, halt, clock ---- */

static struct mm_linux_hooks hooks;

void mm_linux_set_hooks(const struct mm_linux_hooks *new_hooks)
{
    hooks = new_hooks != NULL ? *new_hooks : (struct mm_linux_hooks){ 0 };
}

/* In one write, so that lines of several threads do not mix. */
static void port_print(const char *line)
{
    char text[512];
    size_t bytes = 0;

    while (bytes < sizeof text - 1 && line[bytes] != '\0') {
        text[bytes] = line[bytes];
        bytes++;
    }
    text[bytes++] = '\n';
    (void)port_syscall(SYS_write, STDERR_FILENO, (long)text, (long)bytes, 0);
}

void mm_port_log(enum mm_log_level level, const char *line)
{
    if (hooks.log != NULL)
        hooks.log(level, line);
    else
        port_print(line);
}

void mm_port_bug(const char *line)
{
    if (hooks.bug == NULL)
        abort();
    hooks.bug(line);
}

void mm_port_halt(const char *line)
{
    (void)line;
    abort();
}

/* The vDSO reads the clock without a system call, and does not fail for this clock. */
uint64_t mm_port_time_ns(void)
{
    struct timespec now = { 0, 0 };

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Locks ---- */

/* The halves of a lock's word are written apart, so that letting go takes no locked instruction. */
typedef uint16_t __attribute__((may_alias)) half_t;

static half_t *half_held(struct mm_port_lock *lock)
{
    return (half_t *)&lock->word;
}

static half_t *half_awaited(struct mm_port_lock *lock)
{
    return (half_t *)&lock->word + 1;
}

#define LOCK_HELD_AND_AWAITED 0x10001u

static inline bool port_lock_try(struct mm_port_lock *lock)
{
    uint16_t expected = 0;

    return __atomic_compare_exchange_n(half_held(lock), &expected, 1, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

/* About a microsecond: longer than mm holds a lock, unless the holder was preempted. */
#define LOCK_SPINS    64u
#define LOCK_SLEEP_NS 1000000

/* Who has slept does not know if others do and leaves the mark for them. A mark that is set in the
 * moment in which the holder lets go may be overlooked (mm_port_unlock()): hence the limit. */
static MM_COLD void port_lock_wait(struct mm_port_lock *lock)
{
    static const struct timespec limit = { 0, LOCK_SLEEP_NS };

    for (unsigned i = 0; i < LOCK_SPINS; i++) {
        if (__atomic_load_n(half_held(lock), __ATOMIC_RELAXED) == 0 && port_lock_try(lock))
            return;
        __builtin_ia32_pause();
    }
    do {
        __atomic_store_n(half_awaited(lock), 1, __ATOMIC_SEQ_CST);
        (void)port_syscall(SYS_futex, (long)&lock->word, FUTEX_WAIT_PRIVATE, LOCK_HELD_AND_AWAITED,
                           (long)&limit);
    } while (!port_lock_try(lock));
    __atomic_store_n(half_awaited(lock), 1, __ATOMIC_RELAXED);
}

static MM_COLD void port_lock_wake(struct mm_port_lock *lock)
{
    __atomic_store_n(half_awaited(lock), 0, __ATOMIC_RELAXED);
    (void)port_syscall(SYS_futex, (long)&lock->word, FUTEX_WAKE_PRIVATE, 1, 0);
}

/* One locked instruction, as in a kernel. */
uint64_t mm_port_lock(struct mm_port_lock *lock)
{
    if (__builtin_expect(!port_lock_try(lock), 0))
        port_lock_wait(lock);
    return 0;
}

/* A plain store, then a look at the mark. The CPU may load the mark before the store is seen by others
 * (SDM vol. 3, 8.2.3.4); a locked instruction would keep the order, but cost each call 2 ns for a
 * mark that is set in that moment once in a long time. */
void mm_port_unlock(struct mm_port_lock *lock, uint64_t saved)
{
    (void)saved;
    __atomic_store_n(half_held(lock), 0, __ATOMIC_RELEASE);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (__builtin_expect(__atomic_load_n(half_awaited(lock), __ATOMIC_RELAXED) != 0, 0))
        port_lock_wake(lock);
}

uint64_t mm_port_interrupts_off(void)
{
    return 0;
}

void mm_port_interrupts_restore(uint64_t saved)
{
    (void)saved;
}

/* ---- Slots ---- */

#define NUMBER_WORDS ((MM_PORT_MAX_CPUS + 63u) / 64u)

static uint64_t numbers_taken[NUMBER_WORDS];
static void (*leave_hooks[MM_LINUX_LEAVE_MAX])(unsigned slot);

bool mm_linux_on_thread_exit(void (*leave)(unsigned slot))
{
    for (unsigned i = 0; i < MM_LINUX_LEAVE_MAX; i++) {
        if (leave_hooks[i] == NULL) {
            leave_hooks[i] = leave;
            return true;
        }
    }
    return false;
}

/* The lowest number that nobody has; MM_PORT_MAX_CPUS if there is none. */
static unsigned take_number(void)
{
    for (unsigned i = 0; i < NUMBER_WORDS; i++) {
        uint64_t word = __atomic_load_n(&numbers_taken[i], __ATOMIC_RELAXED);

        while (~word != 0) {
            unsigned bit = (unsigned)__builtin_ctzll(~word);

            if (i * 64 + bit >= MM_PORT_MAX_CPUS)
                break;
            if (__atomic_compare_exchange_n(&numbers_taken[i], &word, word | (uint64_t)1 << bit,
                                            true, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
                return i * 64 + bit;
        }
    }
    return MM_PORT_MAX_CPUS;
}

static void give_slot_back(unsigned slot)
{
    unsigned number = slot / MM_PORT_LEVELS;

    for (unsigned i = 0; i < MM_LINUX_LEAVE_MAX && leave_hooks[i] != NULL; i++)
        leave_hooks[i](slot);
    __atomic_fetch_and(&numbers_taken[number / 64], ~((uint64_t)1 << (number % 64)),
                       __ATOMIC_RELEASE);
}

/* The key's value counts the rounds of destructors that are left; destructors of other keys may call
 * mm in all of them. */
static pthread_key_t exit_key;
static uint32_t exit_key_state; /* 0: none, 1: being made, 2: made, 3: there is no key left */

static void thread_exits(void *value)
{
    uintptr_t rounds = (uintptr_t)value;
    unsigned slot = mm_port_tls_slot;

    if (rounds > 1 && pthread_setspecific(exit_key, (void *)(rounds - 1)) == 0)
        return;
    if (slot < MM_PORT_SLOTS) {
        give_slot_back(slot);
        mm_port_tls_slot = MM_PORT_SHARED_SLOT;
    }
}

/* pthread_once() would do, but who comes second sleeps in it; here it does without a key. The first
 * thread makes the key long before there is a second one. */
static bool has_exit_key(void)
{
    uint32_t state = 0;

    if (__atomic_compare_exchange_n(&exit_key_state, &state, 1, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        state = pthread_key_create(&exit_key, thread_exits) == 0 ? 2 : 3;
        /* quick with one thread; with more the kernel waits for all CPUs, which the barrier would
         * have to do with a lock held */
        (void)membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
        __atomic_store_n(&exit_key_state, state, __ATOMIC_RELEASE);
    }
    return state == 2;
}

/* A thread that could not be told of its end gets no slot: nobody would give it back. The slot is set
 * before pthread_setspecific(), which may call malloc, which may come back here. */
static MM_COLD unsigned enter_thread(void)
{
    unsigned number = has_exit_key() ? take_number() : MM_PORT_MAX_CPUS;

    if (number == MM_PORT_MAX_CPUS)
        return MM_PORT_SHARED_SLOT; /* asked again next time: another thread may end */
    mm_port_tls_slot = number * MM_PORT_LEVELS;
    if (pthread_setspecific(exit_key, (void *)(uintptr_t)PTHREAD_DESTRUCTOR_ITERATIONS) != 0) {
        give_slot_back(mm_port_tls_slot);
        mm_port_tls_slot = MM_PORT_SHARED_SLOT;
    }
    return mm_port_tls_slot;
}

unsigned mm_port_cpu_slot(void)
{
    if (mm_port_tls_slot == MM_PORT_UNKNOWN_SLOT)
        return enter_thread();
    return mm_port_tls_slot;
}

void mm_linux_after_fork(void)
{
    unsigned own = mm_port_tls_slot / MM_PORT_LEVELS;

    for (unsigned number = 0; number < MM_PORT_MAX_CPUS; number++) {
        uint64_t word = __atomic_load_n(&numbers_taken[number / 64], __ATOMIC_RELAXED);

        if ((word >> (number % 64) & 1) != 0 && number != own)
            give_slot_back(number * MM_PORT_LEVELS);
    }
}

/* ---- Barrier ---- */

/* Without membarrier(2): taking the right to write away from a page that was written makes the
 * kernel interrupt every CPU that runs a thread of this process, to flush its TLB. */
static void barrier_by_mprotect(void)
{
    static struct mm_port_lock lock;
    static char page[4096] __attribute__((aligned(4096)));
    uint64_t saved = mm_port_lock(&lock);
    long failed = port_syscall(SYS_mprotect, (long)page, sizeof page, PROT_READ | PROT_WRITE, 0);

    if (failed == 0) {
        __atomic_store_n(&page[0], 1, __ATOMIC_RELAXED);
        failed = port_syscall(SYS_mprotect, (long)page, sizeof page, PROT_READ, 0);
    }
    mm_port_unlock(&lock, saved);
    if (failed != 0)
        abort();
}

/* The registration belongs to the address space, so it is asked for again where it is missing. */
void mm_port_cpu_barrier(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0) {
        if (membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) != 0 ||
            membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0)
            barrier_by_mprotect();
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ---- CPU ---- */

struct mm_port_cpuid mm_port_cpuid(uint32_t leaf, uint32_t subleaf)
{
    return cpuid_or_zero(leaf, subleaf);
}

/* What was written is read back, and does nothing. */
static uint64_t control_registers[5];
static uint64_t msr_efer, msr_pat = 0x0007040600070406u; /* after reset: SDM vol. 3, 12.12.4 */

static uint64_t *msr_word(uint32_t index)
{
    switch (index) {
    case 0xc0000080u:
        return &msr_efer;
    case 0x277u:
        return &msr_pat;
    default:
        __builtin_trap(); /* a register that mm did not touch when this was written */
    }
}

uint64_t mm_port_read_msr(uint32_t index)
{
    return *msr_word(index);
}

void mm_port_write_msr(uint32_t index, uint64_t value)
{
    *msr_word(index) = value;
}

uint64_t mm_port_read_cr(unsigned number)
{
    return control_registers[number];
}

void mm_port_write_cr(unsigned number, uint64_t value)
{
    control_registers[number] = value;
}

void mm_port_invlpg(vaddr_t address)
{
    (void)address;
}

void mm_port_tlb_shootdown(const struct mm_tlb_batch *batch)
{
    (void)batch;
}

/* ---- Start ---- */

static const struct boot_lender *lender;

void mm_linux_set_lender(const struct boot_lender *new_lender)
{
    lender = new_lender;
}

static bool is_usable(const void *base, size_t bytes)
{
    unsigned bits = mm_cpu_features().physical_bits;

    return base != NULL && mm_is_aligned((uintptr_t)base, PAGE_SIZE) &&
           bytes >= MM_LINUX_MIN_BYTES && bytes <= (uint64_t)1 << bits &&
           (uintptr_t)base + bytes > (uintptr_t)base;
}

bool mello_linux_init(void *base, size_t bytes, const char *options)
{
    static char command_line[512];
    static const char defaults[] = "mm.log=error mm.lowmem=on ";
    size_t length = sizeof defaults - 1;
    struct boot_range row = { 0, mm_round_down(bytes, PAGE_SIZE), BOOT_USABLE };
    struct boot_range *rows[] = { &row };
    struct boot_info boot = {
        .map = rows,
        .map_count = 1,
        .hhdm_offset = (uint64_t)(uintptr_t)base,
        .command_line = command_line,
        .paging_is_foreign = true,
        .lender = lender,
    };

    if (!is_usable(base, bytes))
        return false;
    memcpy(command_line, defaults, sizeof defaults);
    for (const char *from = options; from != NULL && *from != '\0'; from++) {
        if (length == sizeof command_line - 1)
            return false;
        command_line[length++] = *from;
    }
    command_line[length] = '\0';
    mm_init(mm_kernel(), &boot);
    kheap_set_default(mm_kernel()->heap);
    mm_kernel()->boot.map = NULL; /* the rows end with this call */
    mm_kernel()->boot.map_count = 0;
    return true;
}
