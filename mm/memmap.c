/* SPDX-License-Identifier: MIT */
/* Boot memory map of any quality -> normal form.
 *
 * The pointers to the rows are sorted in place by where each row starts once it is clipped and rounded
 * (heap sort: no memory, O(n log n) always). A sweep over the sorted rows then keeps, for each type,
 * only the end of what has been seen of it; between two row starts the strictest type whose end lies
 * ahead rules:
 *
 *      usable    |=================================|            ends: usable
 *      reserved             |======|                            ends: usable, reserved
 *      result    |  usable  |resvd.|     usable    |
 *
 * So one pass needs O(types) state and no memory, whatever the rows are like. It runs three times: to
 * count the ranges, to find usable memory for them, and to write them there. */
#include <mm/hhdm.h>
#include <mm/log.h>
#include <mm/memmap.h>
#include <mm/port.h>

#define PHYSICAL_MAX   ((paddr_t)1 << 52) /* no x86-64 CPU forms more (SDM vol. 3, 4.1.4) */
#define HOME_PREFERRED MM_MIB(16)         /* below it: memory that old DMA needs */
#define LOGGED_RANGES  64u                /* a longer map is shown whole at level debug only */
#define SPARE_RANGES   20u                /* memmap_build and each memmap_take add two at most */

/* Types from the least to the most restrictive: the later one wins. */
static const uint8_t type_of_rank[BOOT_RANGE_TYPES] = {
    BOOT_USABLE,     BOOT_LOADER_RECLAIMABLE, BOOT_ACPI_RECLAIMABLE,
    BOOT_EXECUTABLE, BOOT_FRAMEBUFFER,        BOOT_ACPI_NVS,
    BOOT_METADATA,   BOOT_RESERVED,           BOOT_BAD,
};

static const char *const type_names[BOOT_RANGE_TYPES] = {
    [BOOT_USABLE] = "usable",
    [BOOT_RESERVED] = "reserved",
    [BOOT_ACPI_RECLAIMABLE] = "ACPI reclaimable",
    [BOOT_ACPI_NVS] = "ACPI NVS",
    [BOOT_BAD] = "bad",
    [BOOT_LOADER_RECLAIMABLE] = "loader reclaimable",
    [BOOT_EXECUTABLE] = "executable",
    [BOOT_FRAMEBUFFER] = "framebuffer",
    [BOOT_METADATA] = "metadata",
};

const char *memmap_type_name(uint64_t type)
{
    return type < BOOT_RANGE_TYPES ? type_names[type] : "unknown";
}

bool memmap_type_is_ram(uint64_t type)
{
    return type == BOOT_USABLE || type == BOOT_METADATA || type == BOOT_LOADER_RECLAIMABLE ||
           type == BOOT_EXECUTABLE;
}

/* ---- one row, clipped and rounded ---- */

enum row_repair {
    ROW_FINE,
    ROW_EMPTY,        /* no byte, or no whole frame of usable memory: dropped */
    ROW_BEYOND,       /* starts where no address of this CPU reaches: dropped */
    ROW_WRAPS,        /* base + length passes 2^64: dropped if usable, else clipped */
    ROW_CLIPPED,      /* reaches beyond what this CPU can address */
    ROW_UNKNOWN_TYPE, /* counted as reserved */
    ROW_ROUNDED,      /* usable, and not frame-aligned */
};

struct row {
    struct mm_extent extent; /* empty if dropped */
    unsigned rank;
    enum row_repair repair;
};

static MM_INIT unsigned rank_of_type(uint64_t type)
{
    unsigned rank = 0;

    while (type_of_rank[rank] != type)
        rank++;
    return rank;
}

/* What firmware may call a type: metadata is mm's own, so a row cannot claim it. */
static MM_INIT uint64_t type_of_row(const struct boot_range *range)
{
    return range->type < BOOT_METADATA ? range->type : BOOT_RESERVED;
}

static MM_INIT struct mm_extent round_extent(paddr_t base, paddr_t end, bool usable)
{
    struct mm_extent extent = { mm_round_down(base, FRAME_SIZE), mm_round_up(end, FRAME_SIZE) };

    if (usable)
        extent =
            (struct mm_extent){ mm_round_up(base, FRAME_SIZE), mm_round_down(end, FRAME_SIZE) };
    if (extent.end < extent.base)
        extent.end = extent.base;
    return extent;
}

static MM_INIT struct row row_read(const struct boot_range *range, paddr_t limit)
{
    struct row row = { .rank = rank_of_type(type_of_row(range)), .repair = ROW_FINE };
    bool usable = range->type == BOOT_USABLE;
    paddr_t end = range->base + range->length;

    if (range->type >= BOOT_METADATA)
        row.repair = ROW_UNKNOWN_TYPE;
    if (range->length == 0) {
        row.repair = ROW_EMPTY;
        return row;
    }
    if (range->base >= limit) {
        row.repair = ROW_BEYOND;
        return row;
    }
    if (end < range->base) {
        row.repair = ROW_WRAPS;
        if (usable)
            return row;
        end = limit;
    } else if (end > limit) {
        row.repair = ROW_CLIPPED;
        end = limit;
    }
    row.extent = round_extent(range->base, end, usable);
    if (row.extent.base == row.extent.end)
        row.repair = ROW_EMPTY;
    else if (usable && row.repair == ROW_FINE && !mm_is_aligned(range->base | end, FRAME_SIZE))
        row.repair = ROW_ROUNDED;
    return row;
}

static MM_INIT void row_log_repair(const struct boot_range *range, paddr_t limit)
{
    static const char *const words[] = {
        [ROW_EMPTY] = "holds no frame: dropped",
        [ROW_BEYOND] = "starts beyond what the CPU addresses: dropped",
        [ROW_CLIPPED] = "reaches beyond what the CPU addresses: clipped",
        [ROW_UNKNOWN_TYPE] = "has an unknown type: counted as reserved",
        [ROW_ROUNDED] = "is not frame-aligned: rounded inward",
    };
    enum row_repair repair = row_read(range, limit).repair;
    const char *what = words[repair];

    if (repair == ROW_FINE)
        return;
    if (repair == ROW_WRAPS)
        what = range->type == BOOT_USABLE ? "wraps past 2^64: dropped" : "wraps past 2^64: clipped";
    mm_info("memory map: row base=0x%lx length=0x%lx type=%lu %s", range->base, range->length,
            range->type, what);
}

/* ---- sorting ---- */

/* Dropped rows sort behind all others. */
static MM_INIT paddr_t sort_key(const struct boot_range *range, paddr_t limit)
{
    struct row row = row_read(range, limit);

    return row.extent.base == row.extent.end ? UINT64_MAX : row.extent.base;
}

static MM_INIT void sift_down(struct boot_range **rows, size_t root, size_t count, paddr_t limit)
{
    struct boot_range *moving = rows[root];
    paddr_t key = sort_key(moving, limit);

    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && sort_key(rows[child], limit) < sort_key(rows[child + 1], limit))
            child++;
        if (sort_key(rows[child], limit) <= key)
            break;
        rows[root] = rows[child];
    }
    rows[root] = moving;
}

static MM_INIT void sort_rows(struct boot_range **rows, size_t count, paddr_t limit)
{
    for (size_t root = count / 2; root > 0; root--)
        sift_down(rows, root - 1, count, limit);
    for (size_t last = count; last > 1; last--) {
        struct boot_range *largest = rows[0];
        rows[0] = rows[last - 1];
        rows[last - 1] = largest;
        sift_down(rows, 0, last - 1, limit);
    }
}

/* ---- the sweep ---- */

/* Where the sweep takes its rows from: the map and the kept ranges, each sorted, merged on the fly.
 * Kept ranges are few: the next one is searched for. */
struct source {
    struct boot_range **rows;
    size_t count;
    const struct boot_range *keep;
    size_t keep_count;
    struct mm_extent home; /* of the result: metadata; empty while unknown */
    paddr_t limit;
};

typedef void (*range_fn)(void *context, const struct mm_range *range);

struct sweep {
    paddr_t position;                      /* everything below is decided */
    paddr_t end_of_rank[BOOT_RANGE_TYPES]; /* how far each type is known to reach */
    struct mm_range pending;               /* may still grow; empty if base == end */
    range_fn emit;
    void *context;
};

static MM_INIT void sweep_emit(struct sweep *sweep, paddr_t base, paddr_t end, uint64_t type)
{
    struct mm_range *pending = &sweep->pending;

    if (pending->base != pending->end && pending->end == base && pending->type == type) {
        pending->end = end;
        return;
    }
    if (pending->base != pending->end)
        sweep->emit(sweep->context, pending);
    *pending = (struct mm_range){ base, end, type };
}

/* The strictest rank that reaches beyond the position; BOOT_RANGE_TYPES if there is none. */
static MM_INIT unsigned sweep_ruling_rank(const struct sweep *sweep)
{
    for (unsigned rank = BOOT_RANGE_TYPES; rank > 0; rank--)
        if (sweep->end_of_rank[rank - 1] > sweep->position)
            return rank - 1;
    return BOOT_RANGE_TYPES;
}

/* Decides everything below `next`, where the next row starts. */
static MM_INIT void sweep_to(struct sweep *sweep, paddr_t next)
{
    while (sweep->position < next) {
        unsigned rank = sweep_ruling_rank(sweep);
        if (rank == BOOT_RANGE_TYPES) {
            sweep->position = next;
            return;
        }
        paddr_t end = sweep->end_of_rank[rank] < next ? sweep->end_of_rank[rank] : next;
        sweep_emit(sweep, sweep->position, end, type_of_rank[rank]);
        sweep->position = end;
    }
}

static MM_INIT void sweep_row(struct sweep *sweep, struct row row)
{
    if (row.extent.base == row.extent.end)
        return;
    sweep_to(sweep, row.extent.base);
    if (sweep->end_of_rank[row.rank] < row.extent.end)
        sweep->end_of_rank[row.rank] = row.extent.end;
}

/* Where the walk over the kept ranges stands, in the order (start, index). */
struct keep_cursor {
    paddr_t base;
    size_t index;
    bool started;
};

static MM_INIT struct row source_keep(const struct source *source, size_t index)
{
    if (index < source->keep_count)
        return row_read(&source->keep[index], source->limit);
    return (struct row){ .extent = source->home, .rank = rank_of_type(BOOT_METADATA) };
}

/* The next kept range, or the home; false at the end. */
static MM_INIT bool next_keep(const struct source *source, struct keep_cursor *cursor,
                              struct row *out)
{
    bool found = false;
    struct keep_cursor best = { 0 };

    for (size_t i = 0; i <= source->keep_count; i++) {
        struct row row = source_keep(source, i);
        paddr_t base = row.extent.base;
        if (base == row.extent.end)
            continue;
        if (cursor->started &&
            (base < cursor->base || (base == cursor->base && i <= cursor->index)))
            continue;
        if (!found || base < best.base) {
            best = (struct keep_cursor){ base, i, true };
            *out = row;
            found = true;
        }
    }
    if (found)
        *cursor = best;
    return found;
}

static MM_INIT void sweep_source(const struct source *source, range_fn emit, void *context)
{
    struct sweep sweep = { .emit = emit, .context = context };
    struct keep_cursor cursor = { 0 };
    struct row keep;
    bool has_keep = next_keep(source, &cursor, &keep);

    for (size_t i = 0; i < source->count; i++) {
        struct row row = row_read(source->rows[i], source->limit);
        while (has_keep && keep.extent.base < row.extent.base) {
            sweep_row(&sweep, keep);
            has_keep = next_keep(source, &cursor, &keep);
        }
        sweep_row(&sweep, row);
    }
    while (has_keep) {
        sweep_row(&sweep, keep);
        has_keep = next_keep(source, &cursor, &keep);
    }
    sweep_to(&sweep, source->limit);
    if (sweep.pending.base != sweep.pending.end)
        emit(context, &sweep.pending);
}

/* ---- finding room in usable memory ---- */

struct home_search {
    uint64_t bytes;
    memmap_obstacle_fn obstacle;
    void *obstacle_context;
    bool found_preferred, found_low;
    paddr_t preferred, low; /* at or above 16 MiB; at or above 1 MiB */
};

/* The first place for search->bytes in [base, end) without an obstacle. */
static MM_INIT bool find_place(const struct home_search *search, paddr_t base, paddr_t end,
                               paddr_t *out)
{
    while (base < end && end - base >= search->bytes) {
        paddr_t behind = base;
        if (search->obstacle != NULL)
            behind = search->obstacle(search->obstacle_context, base, base + search->bytes);
        if (behind <= base) {
            *out = base;
            return true;
        }
        base = mm_round_up(behind, FRAME_SIZE);
    }
    return false;
}

static MM_INIT void search_range(void *context, const struct mm_range *range)
{
    struct home_search *search = context;
    paddr_t low = range->base < MM_LOW_MEMORY_END ? MM_LOW_MEMORY_END : range->base;
    paddr_t high = range->base < HOME_PREFERRED ? HOME_PREFERRED : range->base;

    if (range->type != BOOT_USABLE || search->found_preferred)
        return;
    if (!search->found_low)
        search->found_low = find_place(search, low, range->end, &search->low);
    search->found_preferred = find_place(search, high, range->end, &search->preferred);
}

static MM_INIT bool search_result(const struct home_search *search, paddr_t *out)
{
    if (search->found_preferred)
        *out = search->preferred;
    else if (search->found_low)
        *out = search->low;
    return search->found_preferred || search->found_low;
}

/* ---- building ---- */

static MM_INIT void count_range(void *context, const struct mm_range *range)
{
    size_t *count = context;

    (void)range;
    (*count)++;
}

static MM_INIT void store_range(void *context, const struct mm_range *range)
{
    struct memmap *map = context;
    uint64_t bytes = range->end - range->base;

    MM_ASSERT(map->count < map->capacity);
    map->ranges[map->count++] = *range;
    if (memmap_type_is_ram(range->type))
        map->ram_end = range->end;
    if (memmap_type_is_ram(range->type) || range->type == BOOT_FRAMEBUFFER)
        map->end = range->end;
    if (range->type == BOOT_USABLE || range->type == BOOT_METADATA)
        map->usable_bytes += bytes;
    if (memmap_type_is_ram(range->type) || range->type == BOOT_ACPI_RECLAIMABLE ||
        range->type == BOOT_ACPI_NVS)
        map->total_bytes += bytes;
}

/* Rows that overlap another one: the lines for them. A row is compared with the strictest end seen
 * before it in the order of starts. */
static MM_INIT void log_overlaps(const struct source *source)
{
    paddr_t end_of_rank[BOOT_RANGE_TYPES] = { 0 };

    for (size_t i = 0; i < source->count; i++) {
        struct row row = row_read(source->rows[i], source->limit);
        if (row.extent.base == row.extent.end)
            continue;
        for (unsigned above = BOOT_RANGE_TYPES; above > 0; above--) {
            unsigned rank = above - 1;
            if (end_of_rank[rank] <= row.extent.base || (rank == row.rank && rank != 0))
                continue;
            unsigned winner = rank > row.rank ? rank : row.rank;
            mm_info("memory map: %s 0x%lx-0x%lx overlaps %s: counted as %s",
                    type_names[type_of_rank[row.rank]], row.extent.base, row.extent.end,
                    type_names[type_of_rank[rank]], type_names[type_of_rank[winner]]);
            break;
        }
        if (end_of_rank[row.rank] < row.extent.end)
            end_of_rank[row.rank] = row.extent.end;
    }
}

static MM_INIT void log_repairs(const struct source *source)
{
    for (size_t i = 0; i < source->count; i++)
        row_log_repair(source->rows[i], source->limit);
    log_overlaps(source);
}

MM_INIT mm_status_t memmap_build(struct memmap *map, const struct boot_info *boot, paddr_t limit,
                                 memmap_obstacle_fn obstacle, void *context)
{
    struct source source = { boot->map,  boot->map_count,
                             boot->keep, boot->keep_count,
                             { 0, 0 },   limit < PHYSICAL_MAX ? limit : PHYSICAL_MAX };
    size_t count = 0;
    paddr_t home = 0;

    sort_rows(source.rows, source.count, source.limit);
    log_repairs(&source);
    sweep_source(&source, count_range, &count);
    size_t capacity = count + SPARE_RANGES;
    uint64_t bytes = mm_round_up(capacity * sizeof(struct mm_range), FRAME_SIZE);
    struct home_search search = { .bytes = bytes,
                                  .obstacle = obstacle,
                                  .obstacle_context = context };
    sweep_source(&source, search_range, &search);
    if (!search_result(&search, &home))
        return MM_NO_USABLE_MEMORY;
    source.home = (struct mm_extent){ home, home + bytes };
    *map = (struct memmap){ .ranges = phys_to_virt(home), .capacity = capacity };
    sweep_source(&source, store_range, map);
    return MM_OK;
}

/* ---- taking memory out of it ---- */

static MM_INIT void insert_range(struct memmap *map, size_t index, struct mm_range range)
{
    MM_ASSERT(map->count < map->capacity);
    memmove(&map->ranges[index + 1], &map->ranges[index],
            (map->count - index) * sizeof(map->ranges[0]));
    map->ranges[index] = range;
    map->count++;
}

static size_t find_index(const struct memmap *map, paddr_t address)
{
    size_t low = 0, high = map->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (map->ranges[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct mm_range *memmap_find(const struct memmap *map, paddr_t address)
{
    size_t index = find_index(map, address);

    if (index == map->count || map->ranges[index].base > address)
        return NULL;
    return &map->ranges[index];
}

/* Turns [base, end), a part of the usable range `index`, into metadata. */
static MM_INIT void carve(struct memmap *map, size_t index, paddr_t base, paddr_t end)
{
    struct mm_range whole = map->ranges[index];

    if (end < whole.end)
        insert_range(map, index + 1, (struct mm_range){ end, whole.end, BOOT_USABLE });
    if (whole.base < base) {
        map->ranges[index].end = base;
        insert_range(map, index + 1, (struct mm_range){ base, end, BOOT_METADATA });
    } else {
        map->ranges[index] = (struct mm_range){ base, end, BOOT_METADATA };
    }
}

MM_INIT mm_status_t memmap_take(struct memmap *map, uint64_t bytes, memmap_obstacle_fn obstacle,
                                void *context, paddr_t *out)
{
    struct home_search search = { .bytes = mm_round_up(bytes, FRAME_SIZE),
                                  .obstacle = obstacle,
                                  .obstacle_context = context };
    paddr_t base = 0;

    if (bytes == 0 || bytes > PHYSICAL_MAX || map->count + 2 > map->capacity)
        return MM_OUT_OF_MEMORY;
    for (size_t i = 0; i < map->count; i++)
        search_range(&search, &map->ranges[i]);
    if (!search_result(&search, &base))
        return MM_OUT_OF_MEMORY;
    carve(map, find_index(map, base), base, base + search.bytes);
    *out = base;
    return MM_OK;
}

void memmap_merge(struct memmap *map)
{
    size_t last = 0;

    for (size_t i = 1; i < map->count; i++) {
        if (map->ranges[last].end == map->ranges[i].base &&
            map->ranges[last].type == map->ranges[i].type)
            map->ranges[last].end = map->ranges[i].end;
        else
            map->ranges[++last] = map->ranges[i];
    }
    if (map->count > 0)
        map->count = last + 1;
}

MM_INIT void memmap_log(const struct memmap *map)
{
    for (size_t i = 0; i < map->count; i++) {
        const struct mm_range *range = &map->ranges[i];
        mm_log_at(i < LOGGED_RANGES ? MM_LOG_INFO : MM_LOG_DEBUG,
                  "  0x%012lx-0x%012lx %10lu KB  %s", range->base, range->end,
                  (range->end - range->base) >> 10, memmap_type_name(range->type));
    }
    if (map->count > LOGGED_RANGES && mm_log_level < MM_LOG_DEBUG)
        mm_info("  ... and %lu more (all with mm.log=debug)", map->count - LOGGED_RANGES);
}
