# SPDX-License-Identifier: MIT
"""What the serial output of a boot says, and what it must say.

A Log holds the lines of one boot and finds things in them. check_success() is the whole contract of
a boot that works: the lines in their order, the exit status, no line of trouble, and numbers that
agree with each other and with the firmware's map (which a program that shares no code with the
loader or the kernel has read). Memory is compared as extents, lists of (base, end) that are sorted,
disjoint and merged.
"""

import re

from machine import GIB, expect

HELLO = "Hello from MelloOS ✨"
TESTS_BEGIN = "[MM] ========== Memory Tests =========="
TESTS_PASSED = "[MM] All tests passed! ✨"
TESTS_END = "[MM] =========="
READY_KEYS = ["total_kb", "usable_kb", "free_kb", "ranges", "pmm_us", "total_us"]

# What a good boot never prints. (A repair of the memory map is not trouble: it is expected where
# the map is bad, and the map tests name each.)
TROUBLE = re.compile(r"error|warning|✗|panic|not trapped|assert|failed", re.I)

MAKE_LINE = re.compile(r"  (CC|AS|LD|AR) +\S+")  # of a build before the boot

RANGE_LINE = re.compile(r"\[MM\]\s+0x([0-9a-f]+)-0x([0-9a-f]+)\s+(\d+) KB\s+(.+)")
RAM = {"usable", "metadata", "loader reclaimable", "executable"}
USABLE = {"usable", "metadata"}

# The cases of mm/selftest.c in their order; some say more in parentheses.
CASES = [
    "pmm: a frame is valid",
    "pmm: frames are different",
    "pmm: a freed frame comes back",
    "pmm: a frame is zeroed",
    "pmm: contiguous frames are aligned, below their limit, and freed",
    "pmm: lowest and highest frame of each range keep what is written",
    "pmm: counters and bitmaps agree",
    "paging: a mapped page translates",
    "paging: a second mapping and a writable executable one are refused",
    "paging: an unmapped page is gone, and its tables",
    "paging: a 2 MB leaf is made, and never written into",
    "paging: what is written through a page arrives in its frame",
    "paging: an unmapped page leaves no translation",
    "paging: text is R-X, rodata R--, data and heap RW-, their aliases never executable",
    "paging: guard pages are not mapped",
    "paging: the lower half is empty",
    "paging: a kernel stack stands between guard pages",
    "paging: a block of scattered frames stands between guard pages",
    "heap: kmalloc(1024) gives an aligned block",
    "heap: a block is zeroed",
    "heap: a block keeps what is written",
    "heap: kfree gives all of it back",
    "heap: 10 blocks of 64 bytes do not overlap",
    "heap: 0 bytes, NULL and the largest block",
    "heap: a block's physical address",
    "heap: blocks and counters agree",
]
# The classes of mm/audit.c in their order, each with the number of what was looked at.
AUDIT = {
    "exclusive": "no frame is writable and executable, in any two mappings",
    "user": "no user access to the kernel half",
    "free": "no mapping of a free frame",
    "pagetables": "page tables are tables, reached through the HHDM alone",
    "reserved": "no reserved bit is set",
    "guards": "guard pages are not mapped",
    "image": "pages of the kernel image are as linked",
    "aliases": "no writable mapping of a constant",
    "hhdm": "the HHDM shows RAM, in its place, not executable",
}
ENDS_CASE = CASES[5]
LOW_MEMORY_END = 0x100000  # kept back: the self-tests do not reach below
WORD_BYTES = 64 * 0x1000  # of a word of the bitmap of frames

def merged(extents):
    """Sorted, disjoint extents in which neighbours that touch are one."""
    result = []
    for base, end in sorted(extents):
        if base < end and result and base <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif base < end:
            result.append((base, end))
    return result


def size_of(extents):
    return sum(end - base for base, end in extents)


def text_of(extents):
    return " ".join(f"{base:#x}-{end:#x}" for base, end in extents)


def firmware_ram(rows, base_revision=3):
    """The frames of RAM in an E820 map; a loader of base revision 2 keeps frame 0 back."""
    up, down = 0xFFF, ~0xFFF
    least = 0 if base_revision >= 3 else 0x1000
    return merged((max((base + up) & down, least), end & down)
                  for base, end, kind in rows if kind == 1)


class Log:
    def __init__(self, boot):
        self.boot = boot
        self.lines = [line for line in boot.lines() if not MAKE_LINE.fullmatch(line)]
        self.mm = [line for line in self.lines if line.startswith("[MM] ")]

    def find(self, pattern):
        """All matches of a regular expression that covers a whole line."""
        return [match for line in self.lines if (match := re.fullmatch(pattern, line))]

    def only(self, pattern):
        """The one match; a failure if there is none or more."""
        found = self.find(pattern)
        expect(found, f"no line like: {pattern}")
        expect(len(found) == 1, f"{len(found)} lines like: {pattern}")
        return found[0]

    def has(self, text):
        return any(text in line for line in self.lines)

    def trouble(self):
        return [line for line in self.lines if TROUBLE.search(line)]

    def warnings(self):
        return [line for line in self.mm if "warning" in line.lower()]

    def errors(self):
        return [line for line in self.lines if "ERROR:" in line]

    def ranges(self):
        """[(base, end, type)] as the kernel logged its normal form (all of it: level debug)."""
        rows = []
        for match in self.find(RANGE_LINE):
            base, end = int(match[1], 16), int(match[2], 16)
            expect((end - base) >> 10 == int(match[3]), f"the size is wrong: {match[0]}")
            rows.append((base, end, match[4]))
        count = self.only(r"\[MM\] Memory map: (\d+) ranges from \d+ rows")[1]
        expect(len(rows) == int(count), f"{len(rows)} of {count} ranges are logged (mm.log=debug?)")
        return rows

    def extents(self, types):
        return merged((base, end) for base, end, kind in self.ranges() if kind in types)

    def ready(self):
        match = self.only(r"\[MM\] READY " + " ".join(rf"{key}=(\d+)" for key in READY_KEYS))
        return {key: int(text) for key, text in zip(READY_KEYS, match.groups())}

    def cases(self):
        """The self-test lines as (passed, text) in order."""
        return [(match[1] == "✓", match[2]) for match in self.find(r"\[MM\] (✓|✗) (?!audit: )(.+)")]

    def audit(self):
        """The lines of the audit as (passed, text) in order."""
        return [(match[1] == "✓", match[2]) for match in self.find(r"\[MM\] (✓|✗) audit: (.+)")]

    def verdict(self, which="AUDIT"):
        """The audit's last line, by key; "AUDIT AGAIN": of the end of the boot."""
        keys = ["ok", "violations", "leaves", "tables", "us", *AUDIT]
        match = self.only(rf"\[MM\] {which} " + " ".join(rf"{key}=(\d+)" for key in keys))
        return dict(zip(keys, map(int, match.groups())))


def check_order(log, expected):
    """Each of these lines stands there exactly once, and in this order."""
    last = -1
    for text in expected:
        places = [number for number, line in enumerate(log.lines) if line == text]
        expect(len(places) == 1, f"{len(places)} lines say exactly: {text}")
        expect(places[0] > last, f"this line stands too early: {text}")
        last = places[0]


def check_story(log):
    """Exact lines in exact order, from the map to Hello."""
    total, usable = memory_lines(log)
    ready = log.only(r"\[MM\] READY .*")[0]
    tests = [f"[MM] ✓ {text}" for _, text in log.cases()]
    check_order(log, [total, usable, TESTS_BEGIN, *tests, TESTS_PASSED, TESTS_END, ready, HELLO])
    begin, end = log.lines.index(TESTS_BEGIN), log.lines.index(TESTS_PASSED)
    inside = [line for line in log.lines[begin + 1:end] if line.startswith("[MM] ✓ ")]
    expect(inside == tests, "a self-test line stands outside of the tests' own block")
    check_cases(log)
    check_audit(log)


def check_audit(log):
    """Every class of mm/audit.c was looked at, nothing is wrong, and the verdict says so."""
    lines = log.audit()
    expect(len(lines) == len(AUDIT), f"{len(lines)} lines of the audit, not {len(AUDIT)}")
    for (passed, text), name in zip(lines, AUDIT.values()):
        expect(passed and re.fullmatch(re.escape(name) + r": [1-9]\d*", text), f"audit: {text}")
    for which in ["AUDIT", "AUDIT AGAIN"]:
        verdict = log.verdict(which)
        expect(verdict["ok"] == 1 and verdict["leaves"] > 0 and verdict["tables"] > 4, f"{verdict}")
        expect(all(verdict[key] == 0 for key in ["violations", *AUDIT]), f"{which}: {verdict}")


def memory_lines(log):
    return (log.only(r"\[MM\] Total memory: \d+ MB")[0],
            log.only(r"\[MM\] Usable memory: \d+ MB")[0])


def check_cases(log):
    """Every case of mm/selftest.c passed, in its order, and no other."""
    shown = [text for _, text in log.cases()]
    for text, name in zip(shown, CASES):
        expect(text == name or text.startswith(name + " ("), f"self-test '{text}', not '{name}'")
    expect(len(shown) == len(CASES), f"{len(shown)} self-test cases, not {len(CASES)}")


def check_numbers(log):
    """READY, the two memory lines and the logged ranges tell one story."""
    ready, rows = log.ready(), log.ranges()
    expect(rows == sorted(rows), "the logged ranges are not sorted")
    for (_, end, _), (base, _, _) in zip(rows, rows[1:]):
        expect(end <= base, f"the logged ranges overlap at {base:#x}")
    for base, end, _ in rows:
        expect(base % 4096 == 0 and end % 4096 == 0 and base < end, f"range {base:#x}-{end:#x}")
    total, usable = (int(re.search(r"(\d+) MB", line)[1]) for line in memory_lines(log))
    expect(total == ready["total_kb"] >> 10, f"Total memory {total} MB, but {ready}")
    expect(usable == ready["usable_kb"] >> 10, f"Usable memory {usable} MB, but {ready}")
    of_usable = size_of(log.extents(USABLE)) >> 10
    expect(ready["usable_kb"] == of_usable, f"usable_kb is not the ranges' {of_usable}: {ready}")
    of_ram = size_of(log.extents(RAM | {"ACPI reclaimable", "ACPI NVS"})) >> 10
    expect(ready["total_kb"] == of_ram, f"total_kb is not the ranges' {of_ram}: {ready}")
    check_frames(log, ready)
    check_loader_memory(log)
    log.only(r"\[MM\] kernel image: [1-9]\d* KB of \.init given back, [1-9]\d* KB read-only from here on")
    expect(ready["pmm_us"] <= ready["total_us"] < 120_000_000, f"times: {ready}")
    return ready


def check_frames(log, ready):
    """What READY calls free is what was free at first, less page tables and heap."""
    frames = log.only(r"\[MM\] Frames: (\d+) free, (\d+) reserved, in (\d+) ranges; .*")
    tables = log.only(r"\[MM\] Page tables: \d levels, (\d+) KB, .*")
    heap = log.only(r"\[MM\] Heap: (\d+) (MB|KB) at 0x[0-9a-f]+, (\d+) KB of state beside it")
    heap_kb = int(heap[1]) * (1024 if heap[2] == "MB" else 1) + int(heap[3])
    total = (int(frames[1]) + int(frames[2])) * 4
    expect(total == size_of(log.extents(RAM)) >> 10, f"{frames[0]}: {total} KB in all")
    runs = len(log.extents(RAM))
    expect(ready["ranges"] == int(frames[3]) == runs, f"{runs} ranges: {frames[0]}, {ready}")
    left = int(frames[1]) * 4 - int(tables[1]) - heap_kb - ready["free_kb"]
    state = 96 + (8 * ready["total_kb"] >> 20)  # the heap's table of 2 MiB places: 8 KB for 1 GiB
    expect(0 <= left <= state, f"{left} KB are neither free nor page tables nor heap: {ready}")


def check_loader_memory(log):
    """All that the map calls the loader's came back, but for what lies below 1 MiB. (A map that
    calls the loader's page tables usable lets more come back: none of these boots has one.)"""
    given = int(log.only(r"\[MM\] loader memory: (\d+) KB given back")[1])
    loaders = size_of((max(base, LOW_MEMORY_END), max(end, LOW_MEMORY_END))
                      for base, end in log.extents({"loader reclaimable"})) >> 10
    expect(given == loaders > 0, f"{given} KB of the loader's {loaders} KB came back")


def check_firmware(log, firmware, base_revision=3):
    """The kernel's RAM is the firmware's RAM, to the frame; the loader only took parts of it."""
    expected = firmware_ram(firmware, base_revision)
    got = log.extents(RAM)
    expect(got == expected, f"RAM is {text_of(got)}, the firmware's is {text_of(expected)}")
    for base, end, kind in log.ranges():
        for row_base, row_end, row_kind in firmware:
            if kind in RAM and row_kind != 1:
                expect(end <= row_base or row_end <= base,
                       f"{kind} {base:#x}-{end:#x} meets the firmware's {row_base:#x}-{row_end:#x}")


def check_ends(log, firmware):
    """The self-tests wrote and read the lowest and the highest free frame of each run of RAM.

    The highest one of all is known: above 4 GiB nothing but the RAM's end limits it; below, the
    loader has taken the top. If the frames at the top are no whole word of the bitmap, they may be
    the first that page tables are made of."""
    note = log.only(r"\[MM\] ✓ " + re.escape(ENDS_CASE) + r" \((\d+) frames, up to 0x([0-9a-f]+)\)")
    runs = [(base, end) for base, end in firmware_ram(firmware) if end > LOW_MEMORY_END]
    expect(int(note[1]) == 2 * len(runs), f"{note[1]} frames in {len(runs)} runs of RAM")
    top = runs[-1][1] if runs[-1][0] >= 4 * GIB else log.extents({"usable"})[-1][1]
    highest = {top - 0x1000, top // WORD_BYTES * WORD_BYTES - 0x1000}
    expect(int(note[2], 16) in highest, f"up to 0x{note[2]}, not {top - 0x1000:#x}")


def check_clean(log):
    trouble = log.trouble()
    expect(not trouble, f"line of trouble: {trouble[0] if trouble else ''}")


def check_success(boot, firmware=None, base_revision=3):
    """The whole contract of a boot that works; returns its Log."""
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    check_clean(log)
    check_story(log)
    check_numbers(log)
    if firmware is not None:
        check_firmware(log, firmware, base_revision)
        check_ends(log, firmware)
    return log


def check_halt(boot, pattern, mm=None):
    """One clear message and status 3: exactly one ERROR line, and it is like `pattern`.

    `mm`: whether the kernel may have begun (True), or the loader must have stopped it (False)."""
    log = Log(boot)
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    errors = log.errors()
    expect(len(errors) == 1, f"{len(errors)} ERROR lines, not one: {errors}")
    expect(re.search(pattern, errors[0]), f"the message does not say '{pattern}': {errors[0]}")
    expect(not log.has(HELLO), "it says Hello all the same")
    if mm is False:
        expect(not log.mm, f"the kernel ran: {log.mm[:1]}")
    return log
