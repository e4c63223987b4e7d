/* SPDX-License-Identifier: MIT */
/* The MMU and the TLB of the fake CPU, written from SDM vol. 3, 4.5 (tables), 4.6 (rights), 4.9
 * (memory types) and 4.10 (caches), and from nothing in mm/paging.c.
 *
 *   tlb[hash] -> entry -> entry      is_leaf:  a translation: what the TLB keeps
 *                                    else:     an entry that refers to a table: what the
 *                                              paging-structure caches keep
 *   key of an entry: (shift, is_leaf, address >> shift); shift 12, 21, 30, 39, 48
 *
 * Nothing is ever evicted, so a flush that somebody forgot is seen at the next use. Each access
 * walks the tables too and compares every cached entry that covers the address with what stands
 * there now. Translations of a page that was not present are not cached (SDM vol. 3, 4.10.2.3).
 *
 * A walk and what comes of it are one step under the lock of hosted_smp.c: a shootdown comes before
 * it or after it. A cached entry that differs may be in the middle of another CPU's change; mm makes
 * changes under a lock, so the access waits until those that hold one now have released it, and
 * looks again: the same entry, if it still differs, was left out by a change that is over. */
#include "hosted_parts.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY_P         ((uint64_t)1 << 0)
#define ENTRY_RW        ((uint64_t)1 << 1)
#define ENTRY_US        ((uint64_t)1 << 2)
#define ENTRY_PWT       ((uint64_t)1 << 3)
#define ENTRY_PCD       ((uint64_t)1 << 4)
#define ENTRY_A         ((uint64_t)1 << 5)
#define ENTRY_D         ((uint64_t)1 << 6)
#define ENTRY_PS        ((uint64_t)1 << 7)
#define ENTRY_G         ((uint64_t)1 << 8)
#define ENTRY_PAT_4K    ((uint64_t)1 << 7)
#define ENTRY_PAT_LARGE ((uint64_t)1 << 12)
#define ENTRY_XD        ((uint64_t)1 << 63)
#define ENTRY_ADDRESS   0x000ffffffffff000u
#define ENTRY_IGNORED   0x7ff0000000000e00u /* in an entry that refers to a table */

struct hosted_tlb_entry {
    struct hosted_tlb_entry *next;
    uint64_t serial; /* no other entry, earlier or later, has the same */
    uint64_t prefix; /* address >> shift */
    unsigned shift;
    bool is_leaf;
    bool global;  /* is_leaf: survives a load of CR3 */
    uint64_t raw; /* else: the entry without its accessed bit and what the CPU ignores */
    struct hosted_translation leaf_view; /* is_leaf: with the address of the leaf's first byte */
};

/* One walk: what stood at each level. Index 1 (PT) to 5 (PML5); unreached levels are 0. */
struct walk {
    enum hosted_outcome outcome;
    uint64_t raw[6];
    uint64_t *place[6];
    unsigned leaf_level;
    unsigned lost_level; /* the table of this level lies outside of the RAM; 0: none */
    struct hosted_translation leaf_view;
};

static unsigned level_shift(unsigned level)
{
    return 12 + 9 * (level - 1);
}

/* ---- The walk ---- */

static bool is_canonical(vaddr_t address, unsigned levels)
{
    unsigned unused = 64 - level_shift(levels) - 9;

    return (uint64_t)((int64_t)(address << unused) >> unused) == address;
}

/* Reserved bits of a present entry (SDM vol. 3, 4.5, tables 4-14 to 4-20). */
static bool has_reserved_bit(const struct hosted_cpu *cpu, uint64_t raw, unsigned level)
{
    uint64_t reserved = ENTRY_ADDRESS & ~(((uint64_t)1 << hosted_cpu_physical_bits()) - 1);

    if ((cpu->efer & EFER_NXE) == 0)
        reserved |= ENTRY_XD;
    if (level >= 4 || (level == 3 && !hosted_cpu_has_1gb_pages()))
        reserved |= ENTRY_PS;
    if (level == 3 && (raw & ENTRY_PS) != 0)
        reserved |= 0x3fffe000;
    if (level == 2 && (raw & ENTRY_PS) != 0)
        reserved |= 0x1fe000;
    return (raw & reserved) != 0;
}

static uint8_t memory_type(const struct hosted_cpu *cpu, uint64_t raw, unsigned level)
{
    uint64_t pat_bit = level == 1 ? ENTRY_PAT_4K : ENTRY_PAT_LARGE;
    unsigned index = ((raw & pat_bit) != 0 ? 4u : 0u) | ((raw & ENTRY_PCD) != 0 ? 2u : 0u) |
                     ((raw & ENTRY_PWT) != 0 ? 1u : 0u);

    return (uint8_t)(cpu->pat >> (8 * index));
}

static void walk_finish(const struct hosted_cpu *cpu, struct walk *walk, uint64_t raw,
                        unsigned level)
{
    uint64_t leaf_bytes = (uint64_t)1 << level_shift(level);

    walk->leaf_level = level;
    walk->leaf_view.address = raw & ENTRY_ADDRESS & ~(leaf_bytes - 1);
    walk->leaf_view.leaf_bytes = leaf_bytes;
    walk->leaf_view.global = (raw & ENTRY_G) != 0;
    walk->leaf_view.memory_type = memory_type(cpu, raw, level);
    walk->outcome = HOSTED_OK;
}

/* Tables are read and marked as the page-walk hardware does it, which the memory model of C does not
 * bind: ThreadSanitizer does not see it. */
__attribute__((noinline, no_sanitize("thread"))) static uint64_t entry_read(const uint64_t *place)
{
    return *(const volatile uint64_t *)place;
}

/* Sets bits in an entry that still is `old` (SDM vol. 3, 4.8 and 8.1.2.1: a locked update); false if
 * it is another one. */
static bool entry_mark(uint64_t *place, uint64_t old, uint64_t bits)
{
    bool done;

    __asm__ volatile("lock cmpxchgq %3, %1"
                     : "=@ccz"(done), "+m"(*place), "+a"(old)
                     : "r"(old | bits)
                     : "memory");
    return done;
}

/* Follows the tables; rights are what all levels allow together (SDM vol. 3, 4.6). */
static struct walk walk_tables(const struct hosted_cpu *cpu, vaddr_t address)
{
    unsigned levels = (cpu->cr4 & CR4_LA57) != 0 ? 5 : 4;
    struct walk walk = { .outcome = HOSTED_NOT_CANONICAL };
    paddr_t table = cpu->cr3 & ENTRY_ADDRESS;

    if (!is_canonical(address, levels))
        return walk;
    walk.leaf_view.write = walk.leaf_view.execute = walk.leaf_view.user = true;
    for (unsigned level = levels;; level--) {
        uint64_t *entries = hosted_ram_at(table);
        uint64_t raw;

        walk.outcome = HOSTED_NOT_PRESENT;
        if (entries == NULL) {
            walk.lost_level = level;
            return walk;
        }
        walk.place[level] = &entries[address >> level_shift(level) & 511];
        walk.raw[level] = raw = entry_read(walk.place[level]);
        if ((raw & ENTRY_P) == 0)
            return walk;
        walk.outcome = HOSTED_RESERVED_BIT;
        if (has_reserved_bit(cpu, raw, level))
            return walk;
        walk.leaf_view.write &= (raw & ENTRY_RW) != 0;
        walk.leaf_view.user &= (raw & ENTRY_US) != 0;
        walk.leaf_view.execute &= (raw & ENTRY_XD) == 0;
        if (level == 1 || (level <= 3 && (raw & ENTRY_PS) != 0)) {
            walk_finish(cpu, &walk, raw, level);
            return walk;
        }
        table = raw & ENTRY_ADDRESS;
    }
}

/* SDM vol. 3, 4.6.1; RFLAGS.AC is clear. */
static bool is_allowed(const struct hosted_cpu *cpu, const struct hosted_translation *view,
                       unsigned access)
{
    bool by_user = (access & HOSTED_USER) != 0;

    if (by_user && !view->user)
        return false;
    if ((access & HOSTED_EXECUTE) != 0)
        return view->execute && (by_user || !view->user || (cpu->cr4 & CR4_SMEP) == 0);
    if (!by_user && view->user && (cpu->cr4 & CR4_SMAP) != 0)
        return false;
    if ((access & HOSTED_WRITE) != 0)
        return view->write || (!by_user && (cpu->cr0 & CR0_WP) == 0);
    return true;
}

/* ---- The caches ---- */

static struct hosted_tlb_entry **tlb_bucket(struct hosted_cpu *cpu, uint64_t prefix, unsigned shift)
{
    uint64_t hash = (prefix + shift) * 0x9e3779b97f4a7c15u;

    return &cpu->tlb[(hash >> 32) % HOSTED_TLB_BUCKETS];
}

static struct hosted_tlb_entry *tlb_find(struct hosted_cpu *cpu, vaddr_t address, unsigned shift,
                                         bool is_leaf)
{
    uint64_t prefix = address >> shift;
    struct hosted_tlb_entry *entry = *tlb_bucket(cpu, prefix, shift);

    while (entry != NULL &&
           (entry->prefix != prefix || entry->shift != shift || entry->is_leaf != is_leaf))
        entry = entry->next;
    return entry;
}

static struct hosted_tlb_entry *tlb_add(struct hosted_cpu *cpu, vaddr_t address, unsigned shift,
                                        bool is_leaf)
{
    static uint64_t last_serial;
    struct hosted_tlb_entry **bucket = tlb_bucket(cpu, address >> shift, shift);
    struct hosted_tlb_entry *entry = calloc(1, sizeof *entry);

    if (entry == NULL)
        abort();
    entry->serial = ++last_serial;
    entry->prefix = address >> shift;
    entry->shift = shift;
    entry->is_leaf = is_leaf;
    entry->next = *bucket;
    *bucket = entry;
    return entry;
}

enum drop { DROP_PAGE, DROP_LOCAL, DROP_ALL };

static bool is_dropped(const struct hosted_tlb_entry *entry, enum drop drop, vaddr_t address)
{
    if (drop == DROP_ALL || !entry->is_leaf)
        return true; /* INVLPG drops all paging-structure caches too (SDM vol. 3, 4.10.4.1) */
    if (drop == DROP_LOCAL)
        return !entry->global;
    return entry->prefix == address >> entry->shift;
}

static void tlb_drop(struct hosted_cpu *cpu, enum drop drop, vaddr_t address)
{
    for (size_t i = 0; i < HOSTED_TLB_BUCKETS; i++) {
        struct hosted_tlb_entry **link = &cpu->tlb[i];

        while (*link != NULL) {
            struct hosted_tlb_entry *entry = *link;

            if (!is_dropped(entry, drop, address)) {
                link = &entry->next;
                continue;
            }
            *link = entry->next;
            free(entry);
        }
    }
}

void hosted_tlb_drop_page_locked(struct hosted_cpu *cpu, vaddr_t address)
{
    tlb_drop(cpu, DROP_PAGE, address);
}

void hosted_tlb_drop_all_locked(struct hosted_cpu *cpu)
{
    tlb_drop(cpu, DROP_ALL, 0);
}

static void tlb_drop_own(struct hosted_cpu *self, enum drop drop, vaddr_t address)
{
    bool saved = hosted_smp_lock(self);

    tlb_drop(self, drop, address);
    hosted_smp_unlock(self, saved);
}

void hosted_tlb_drop_page(struct hosted_cpu *self, vaddr_t address)
{
    tlb_drop_own(self, DROP_PAGE, address);
}

void hosted_tlb_drop_local(struct hosted_cpu *self)
{
    tlb_drop_own(self, DROP_LOCAL, 0);
}

void hosted_tlb_drop_all(struct hosted_cpu *self)
{
    tlb_drop_own(self, DROP_ALL, 0);
}

/* Caches what a walk has found, unless it is cached already. An entry that refers to a table may be
 * cached although the table holds no translation (SDM vol. 3, 4.10.3.1). */
static void tlb_fill(struct hosted_cpu *cpu, vaddr_t address, const struct walk *walk)
{
    for (unsigned level = 5; level >= 2; level--) {
        bool refers = walk->place[level] != NULL && walk->place[level - 1] != NULL;

        if (refers && tlb_find(cpu, address, level_shift(level), false) == NULL)
            tlb_add(cpu, address, level_shift(level), false)->raw =
                walk->raw[level] & ~(ENTRY_A | ENTRY_IGNORED);
    }
    if (walk->outcome == HOSTED_OK &&
        tlb_find(cpu, address, level_shift(walk->leaf_level), true) == NULL) {
        struct hosted_tlb_entry *entry = tlb_add(cpu, address, level_shift(walk->leaf_level), true);

        entry->leaf_view = walk->leaf_view;
        entry->global = walk->leaf_view.global && (cpu->cr4 & CR4_PGE) != 0;
    }
}

static void report_lost_table(const struct walk *walk, vaddr_t address)
{
    if (walk->lost_level != 0)
        hosted_violation("the table of level %u for 0x%llx lies outside of the RAM",
                         walk->lost_level, (unsigned long long)address);
}

void hosted_tlb_speculate(struct hosted_cpu *self)
{
    if (!self->speculate)
        return;
    for (size_t i = 0; i < HOSTED_RECENT; i++) {
        vaddr_t address = self->recent[i];
        struct walk walk;
        bool saved;

        if (address == 0)
            continue;
        saved = hosted_smp_lock(self);
        walk = walk_tables(self, address);
        tlb_fill(self, address, &walk);
        hosted_smp_unlock(self, saved);
        report_lost_table(&walk, address);
    }
}

/* ---- The comparison ---- */

static bool same_view(const struct hosted_translation *a, const struct hosted_translation *b)
{
    return a->address == b->address && a->leaf_bytes == b->leaf_bytes && a->write == b->write &&
           a->execute == b->execute && a->user == b->user && a->global == b->global &&
           a->memory_type == b->memory_type;
}

#define COUNT_STALE 7 /* entries that one access uses: levels 5 to 2, then leaves of level 3 to 1 */

/* A cached entry that is not what the tables give. */
struct stale {
    uint64_t serial;
    unsigned shift;
    bool is_leaf;
};

/* One access, tried again while what it meets may still change. */
struct access {
    vaddr_t address;
    unsigned kind;
    struct hosted_translation *out;
    enum hosted_outcome outcome;
    struct walk walk;
    struct stale stale[COUNT_STALE]; /* of the last try */
    unsigned stale_count;
    struct hosted_changes changes; /* under way when the last try met something new */
};

static void report_stale(struct hosted_cpu *cpu, const struct access *access)
{
    for (unsigned i = 0; i < access->stale_count; i++) {
        cpu->stale_uses++;
        hosted_violation("stale %s used for 0x%llx (shift %u)",
                         access->stale[i].is_leaf ? "translation" : "paging-structure entry",
                         (unsigned long long)access->address, access->stale[i].shift);
    }
}

/* Adds the entry to those that differ; says if the try before has not met it. */
static bool note_stale(struct access *access, const struct hosted_tlb_entry *entry,
                       const struct stale *before, unsigned before_count)
{
    access->stale[access->stale_count++] =
        (struct stale){ entry->serial, entry->shift, entry->is_leaf };
    while (before_count > 0)
        if (before[--before_count].serial == entry->serial)
            return false;
    return true;
}

/* The translation that the CPU uses: the cached one, if there is one. *fresh tells whether an entry
 * differs that did not in the try before. */
static const struct hosted_translation *tlb_look_up(struct hosted_cpu *cpu, struct access *access,
                                                    bool *fresh)
{
    const struct walk *walk = &access->walk;
    const struct hosted_translation *view = walk->outcome == HOSTED_OK ? &walk->leaf_view : NULL;
    struct stale before[COUNT_STALE];
    unsigned before_count = access->stale_count;

    memcpy(before, access->stale, sizeof before);
    access->stale_count = 0;
    *fresh = false;
    for (unsigned level = 5; level >= 2; level--) {
        const struct hosted_tlb_entry *entry =
            tlb_find(cpu, access->address, level_shift(level), false);

        if (entry != NULL && entry->raw != (walk->raw[level] & ~(ENTRY_A | ENTRY_IGNORED)))
            *fresh |= note_stale(access, entry, before, before_count);
    }
    for (unsigned level = 3; level >= 1; level--) {
        const struct hosted_tlb_entry *entry =
            tlb_find(cpu, access->address, level_shift(level), true);

        if (entry == NULL)
            continue;
        if (walk->outcome != HOSTED_OK || !same_view(&entry->leaf_view, &walk->leaf_view))
            *fresh |= note_stale(access, entry, before, before_count);
        view = &entry->leaf_view;
    }
    return view;
}

static void remember(struct hosted_cpu *cpu, vaddr_t address)
{
    for (size_t i = 0; i < HOSTED_RECENT; i++)
        if (cpu->recent[i] == address)
            return;
    cpu->recent[cpu->recent_next] = address;
    cpu->recent_next = (cpu->recent_next + 1) % HOSTED_RECENT;
}

/* Accessed and dirty bits (SDM vol. 3, 4.8); false if an entry is no longer what the walk has read. */
static bool mark_used(const struct walk *walk, bool written)
{
    for (unsigned level = 5; level >= walk->leaf_level; level--) {
        uint64_t bits = ENTRY_A | (written && level == walk->leaf_level ? ENTRY_D : 0);

        if (walk->place[level] != NULL && (walk->raw[level] & bits) != bits &&
            !entry_mark(walk->place[level], walk->raw[level], bits))
            return false;
    }
    return true;
}

static enum hosted_outcome judge(const struct hosted_cpu *cpu, vaddr_t address, unsigned access,
                                 const struct hosted_translation *view,
                                 struct hosted_translation *out)
{
    if (!is_allowed(cpu, view, access))
        return HOSTED_FORBIDDEN;
    if (out != NULL) {
        *out = *view;
        out->address += address & (view->leaf_bytes - 1);
    }
    return HOSTED_OK;
}

/* One try; false if it has to be repeated. */
static bool access_locked(struct hosted_cpu *self, struct access *access)
{
    const struct hosted_translation *view;
    bool fresh;

    access->walk = walk_tables(self, access->address);
    access->outcome = access->walk.outcome;
    if (access->outcome == HOSTED_NOT_CANONICAL)
        return true;
    remember(self, access->address);
    view = tlb_look_up(self, access, &fresh);
    if (fresh && self->locks_held == 0) {
        hosted_smp_note_changes_locked(self, &access->changes);
        if (access->changes.end != 0)
            return false;
    }
    if (view != NULL)
        access->outcome = judge(self, access->address, access->kind, view, access->out);
    if (access->outcome == HOSTED_OK && access->walk.outcome == HOSTED_OK &&
        !mark_used(&access->walk, (access->kind & HOSTED_WRITE) != 0))
        return false;
    tlb_fill(self, access->address, &access->walk);
    return true;
}

/* Until the changes that the last try has noted are over. */
static void wait_for_changes(struct hosted_cpu *self, const struct hosted_changes *changes)
{
    bool over = changes->end == 0;

    while (!over) {
        bool saved;

        sched_yield();
        saved = hosted_smp_lock(self);
        over = hosted_smp_are_over_locked(changes);
        hosted_smp_unlock(self, saved);
    }
}

enum hosted_outcome hosted_cpu_access(vaddr_t address, unsigned access,
                                      struct hosted_translation *out)
{
    struct hosted_cpu *cpu = hosted_cpu();
    struct access this = { .address = address, .kind = access, .out = out };
    bool done;

    do {
        bool saved = hosted_smp_lock(cpu);

        this.changes.end = 0;
        done = access_locked(cpu, &this);
        hosted_smp_unlock(cpu, saved);
        if (!done)
            wait_for_changes(cpu, &this.changes);
    } while (!done);
    report_lost_table(&this.walk, address);
    report_stale(cpu, &this);
    return this.outcome;
}

enum hosted_outcome hosted_cpu_walk(vaddr_t address, unsigned access,
                                    struct hosted_translation *out)
{
    const struct hosted_cpu *cpu = hosted_cpu();
    struct walk walk = walk_tables(cpu, address);

    report_lost_table(&walk, address);
    if (walk.outcome != HOSTED_OK)
        return walk.outcome;
    return judge(cpu, address, access, &walk.leaf_view, out);
}
