# SPDX-License-Identifier: MIT
"""Every wrong use of heap and frames is reported, on a real machine (mello.test=misuse).

The kernel makes the wrong calls at both levels of the heap, in blocks of every size, and goes on after
each report. It says itself whether each call made one report that names the address; here, from the
lines alone, each row's reports are counted once more, and each text must say what was wrong. The kernels
of broken/misuse/ are wrong about wrong uses, and must be found out.
"""

import re
from pathlib import Path

from cases_broken import build_broken
from log import HELLO, Log, check_success
from machine import expect
from suite import add

BROKEN = Path(__file__).resolve().parent / "broken" / "misuse"
MEMORY = "128M"
SIZES = {"64 bytes": 64, "4 KB": 4096, "256 KB": 256 << 10, "4 MB": 4 << 20}
ROW = re.compile(r"\[MM\] ✓ misuse: (.+?)(?:, (\d+ \w+))?, (default|full) level: (\d+) reports")

CALL = r"(kfree|size|krealloc) of 0x[0-9a-f]+, which is "
SITE = r"0x[0-9a-f]+ \(misuse_\w+(\.\w+)* \+ 0x[0-9a-f]+\)"  # a function of the test
ALLOCATED_BY = rf"; neighbours: \w+, \w+; allocated by {SITE}"  # full level: who asked for it
SITES = rf"{ALLOCATED_BY}(, freed by {SITE})?"
IN_BLOCK = r"(; neighbours: \w+, \w+.*)"
FREED = {
    "default": CALL + r"(free( \(by another CPU\))? \(a block of \d+ bytes at 0x[0-9a-f]+\): double free\?"
                      rf"{IN_BLOCK}|free \(in no block\): double free\?|outside the heap's blocks)",
    "full": CALL + r"free( \(in quarantine\)| \(by another CPU\)) \(a block of \d+ bytes at 0x[0-9a-f]+\): "
                   rf"double free\?{ALLOCATED_BY}, freed by {SITE}",
}
FORGOTTEN = CALL + r"(free \(in no block\): double free\?|outside the heap's blocks)"
INSIDE = CALL + r"\d+ bytes inside the allocated block of \d+ bytes at 0x[0-9a-f]+"
OUTSIDE = CALL + r"outside the heap's blocks"
BY_TWO = r"kfree of 0x[0-9a-f]+, which is free: double free by two CPUs.*"
WRITE = r" the block of \d+ bytes at 0x[0-9a-f]+: byte -?\d+ of it, 0x[0-9a-f]+, is 0x[0-9a-f]+" + SITES
OTHER_SIZE = r"kfree_sized of 0x[0-9a-f]+ with \d+ bytes, which is a block of \d+"
NO_MEMORY = r"kmalloc of \d+ bytes: .*\(largest free block: \d+ bytes\)"


def both(text):
    return {"default": text, "full": text}


# Each row: how many reports it makes, what each says, and how many lines tell of no memory.
HEAP_ROWS = {
    "freed twice": (12, FREED, 0),
    "freed twice with a drain between": (4, both(FORGOTTEN), 0),
    "freed twice, another handed out between": ({"default": (0, 4), "full": (4,)}, FREED, 0),
    "free inside a block": (20, {"default": INSIDE + IN_BLOCK, "full": INSIDE + SITES}, 0),
    "free behind a forged header": (8, {"default": INSIDE + IN_BLOCK, "full": INSIDE + SITES}, 0),
    "free of no block": (48, both(OUTSIDE), 0),
    "free of what was never handed out": (32, both(FORGOTTEN), 0),
    "free with another size": (None, {level: f"{OTHER_SIZE}|{text}" for level, text in FREED.items()}, 0),
    "freed by all CPUs at once": (None, {level: f"{BY_TWO}|{FORGOTTEN}|{text}"  # quarantine holds not all
                                         for level, text in FREED.items()}, 0),
    "written behind its end": (11, both("write behind the end of" + WRITE), 0),
    "written before its beginning": (2, both("write before the beginning of" + WRITE), 0),
    "written after its free": (4, both("write after the free of" + WRITE), 0),
    "free blocks overwritten": (0, both("none"), 0),
    "old content": (0, both("none"), 0),
    "senseless arguments": (0, both("none"), 0),
    "larger than all memory": (0, both("none"), 3),
    "out of memory": (0, both("none"), 2),
}
ONLY = {"written behind its end": "full", "written before its beginning": "full",
        "written after its free": "full", "free blocks overwritten": "default"}
LARGE_IS_UNMAPPED = "free blocks overwritten"

SO_MANY = "free of {} contiguous frames at 0x[0-9a-f]+: "
MANY = SO_MANY.format(r"\d+")
FRAME = "free of a {0} frame 0x[0-9a-f]+ .*|" + MANY + "frame 0x[0-9a-f]+ is {0}"
FRAME_ROWS = {
    "frame freed twice": (12, FRAME.format("free")),
    "free of a reserved frame": (12, FRAME.format("reserved")),
    "free of a page table": (4, FRAME.format("page-table")),
    "free of a frame outside RAM": (12, "free of address 0x[0-9a-f]+, which is outside RAM|" + MANY +
                                    "frame 0x[0-9a-f]+ is outside RAM"),
    "free of an unaligned frame": (12, "free of unaligned frame address 0x[0-9a-f]+|" + MANY +
                                   "the address is not aligned"),
    "free of frames of which one is free": (3, "|".join([
        SO_MANY.format(8) + "frame 0x[0-9a-f]+ is free", SO_MANY.format(0) + "the count is 0",
        SO_MANY.format(2**64 - 1) + "frame 0x[0-9a-f]+ is free"])),
    "frames freed by all CPUs at once": (None, r"free of a free frame 0x[0-9a-f]+(: it was freed twice, "
                                               r"on two CPUs| \(.*\))"),
    "senseless counts and alignments": (0, "none"),
}


def expected_rows(boot_level):
    rows = [(row, size, level) for level in ("default", "full") for size in SIZES for row in HEAP_ROWS
            if ONLY.get(row, level) == level and (row != LARGE_IS_UNMAPPED or size != "4 MB")]
    return rows + [(row, None, boot_level) for row in FRAME_ROWS]


def wanted_reports(row, size, level, cpus):
    """The numbers of reports that are right."""
    if row == "free with another size":
        return (4,) if level == "full" else (3,) if SIZES[size] <= 4096 else (1,)
    if row == "frames freed by all CPUs at once":
        return ((cpus - 1) * 40,)
    if row == "freed by all CPUs at once":
        return ((cpus - 1) * (40 if SIZES[size] <= 256 << 10 else 4),)
    wanted = HEAP_ROWS[row][0] if size else FRAME_ROWS[row][0]
    wanted = wanted[level] if isinstance(wanted, dict) else wanted
    return wanted if isinstance(wanted, tuple) else (wanted,)


def rows_of(log):
    """[((row, size, level), reports as the kernel counted, its lines of errors)] in order."""
    rows, errors = [], []
    for line in log.lines:
        if line.startswith("[MM] ERROR: "):
            errors.append(line.removeprefix("[MM] ERROR: "))
        elif match := ROW.fullmatch(line):
            rows.append(((match[1], match[2], match[3]), int(match[4]), errors))
            errors = []
    expect(not errors, f"errors behind the last row: {errors}")
    return rows


def check_row(key, said, errors, cpus):
    row, size, level = key
    text = HEAP_ROWS[row][1][level] if size else FRAME_ROWS[row][1]
    no_memory = HEAP_ROWS[row][2] if size else 0
    reports = [line for line in errors if not re.fullmatch(NO_MEMORY, line)]
    wanted = wanted_reports(row, size, level, cpus)
    expect(said == len(reports) and said in wanted,
           f"{key}: {len(reports)} reports in the log, the kernel says {said}, right is {wanted}")
    expect(len(errors) - len(reports) == no_memory,
           f"{key}: {len(errors) - len(reports)} lines about no memory, not {no_memory}")
    for line in reports:
        expect(re.fullmatch(text, line), f"{key}: this report does not say what was wrong: {line}")


def misuse(view, level, cpus):
    boot = view.qemu(MEMORY, f"mello.test=misuse mm.harden={level}", extra=("-smp", str(cpus)))
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    done = log.only(rf"\[MM\] ✓ misuse: {cpus} CPUs misused heap and frames, and every .*")[0]
    rows = rows_of(log)
    expect([key for key, _, _ in rows] == expected_rows(level), f"rows: {[key for key, _, _ in rows]}")
    for key, said, errors in rows:
        check_row(key, said, errors, cpus)
    boot.text = "\n".join(line for line in boot.lines() if line != done and not ROW.fullmatch(line) and
                          not line.startswith("[MM] ERROR: "))
    check_success(boot)


def is_seen(view, path):
    """A kernel that is wrong about wrong uses: the first failure, status 1, and no greeting."""
    pattern = re.search(r"^ \* seen as: (.+) \*/$", path.read_text(), re.M)
    expect(pattern, f"{path.name} has no line 'seen as:'")
    boot = view.qemu(MEMORY, "mello.test=misuse", kernel=build_broken(view, f"misuse/{path.stem}"),
                     extra=("-smp", "2"))
    log = Log(boot)
    expect(boot.status == 1, f"exit status {boot.status}, not 1")
    expect(HELLO not in log.lines, "it says Hello all the same")
    failure = log.only(r"\[MM\] ✗ misuse: (.*)")[1]
    expect(re.fullmatch(pattern[1], failure), f"another failure: {failure}")


add("misuse/default", misuse, "default", 2)
add("misuse/full", misuse, "full", 2)
add("misuse/4-cpus", misuse, "full", 4)
for _path in sorted(BROKEN.glob("*.c")):
    add(f"misuse/sees-{_path.stem}", is_seen, _path)
