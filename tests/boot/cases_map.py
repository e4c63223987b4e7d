# SPDX-License-Identifier: MIT
"""Memory maps that lie: rows added to the loader's map by loader.map.

Each test boots the same machine once without and once with the rows. The kernel's normal form must
be what the reference model (model.py) makes of the first one and the rows, to the frame; the repair
must be said in one line; and the self-tests, which write and read memory, must pass.
"""

import threading

from log import (CASES, ENDS_CASE, HELLO, TESTS_BEGIN, TESTS_END, Log, check_halt, check_numbers,
                 check_order, check_story, check_success)
from machine import expect
from model import normal_form, without_owner
from suite import add

MEMORY = "512M"
QEMU64_LIMIT = 1 << 40  # MAXPHYADDR of the default CPU
RAM_END = 0x1FFE_0000   # of 512M: above it is the firmware's
VGA_BYTES = 0x5_0000    # from 0xa0000 on, where the firmware's map has a hole
FEW_ROWS = 8            # with more, the ranges may be too many for level info
LIES = "[MM] memory does not keep what is written: the other tests are left out"

USABLE, RESERVED, ACPI, NVS, BAD, LOADER, EXECUTABLE, FRAMEBUFFER = range(8)

_baseline = {}
_lock = threading.Lock()


def baseline_ranges(view):
    """The normal form of the machine whose map is left alone; booted once."""
    with _lock:
        if "ranges" not in _baseline:
            boot = view.qemu(MEMORY)
            log = check_success(boot, view.tree.firmware_map(MEMORY))
            _baseline["ranges"] = log.ranges()
        return _baseline["ranges"]


def map_keys(rows):
    return " ".join(f"loader.map=+{base:#x}:{length:#x}:{kind}" for base, length, kind in rows)


def check_model(view, log, rows):
    expected = without_owner(normal_form(baseline_ranges(view), rows, QEMU64_LIMIT))
    got = without_owner(log.ranges())
    for ours, theirs in zip(got, expected):
        expect(ours == theirs, "the kernel has {:#x}-{:#x} {}, ".format(*ours) +
               "the rules give {:#x}-{:#x} {}".format(*theirs))
    expect(len(got) == len(expected), f"{len(got)} ranges, the rules give {len(expected)}")


def boot_lie(view, rows, repair=None):
    """Boots with the rows; `repair`: what the lines about them must say."""
    base = baseline_ranges(view)
    level = "mm.log=debug " if len(rows) > FEW_ROWS else ""
    boot = view.qemu(MEMORY, level + map_keys(rows))
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    expect(not log.errors() and not log.warnings(), "a line of trouble")
    check_story(log)
    check_numbers(log)
    check_model(view, log, rows)
    if repair is not None:
        said = [line for line in log.mm if line.startswith("[MM] memory map: ")]
        expect(any(repair in line for line in said), f"no line about '{repair}': {said}")
    return base, log


def boot_island(view, rows, lost_bytes, repair):
    """As boot_lie; memory falls by exactly that much (whoever owns it: see without_owner)."""
    before, log = boot_lie(view, rows, repair)
    sizes = [sum(end - base for base, end, name in without_owner(ranges) if name == "memory")
             for ranges in (before, log.ranges())]
    expect(sizes[0] - sizes[1] == lost_bytes,
           f"memory fell by {sizes[0] - sizes[1]} bytes, not by {lost_bytes}")


def boot_false_ram(view):
    """Usable memory where there is no RAM: the self-tests write there, notice, and end with one line:
    what mm itself keeps in such memory is lost, so nothing that they found afterwards would be true."""
    boot = view.qemu(MEMORY, map_keys([(0x4000_0000, 0x10_0000, USABLE)]))
    log = Log(boot)
    expect(boot.status == 1, f"exit status {boot.status}, not 1")
    expect(not log.has(HELLO) and not log.has("PANIC"), "the boot goes on")
    cases = log.cases()
    number = CASES.index(ENDS_CASE) + 1
    expect([passed for passed, _ in cases] == [True] * (number - 1) + [False], f"cases: {cases}")
    expect(cases[-1][1].startswith(ENDS_CASE + ": expected 0x"), f"the last case: {cases[-1]}")
    check_order(log, [TESTS_BEGIN, LIES, f"[MM] 1 of {number} tests failed", TESTS_END])


def boot_nothing_usable(view):
    check_halt(view.qemu(MEMORY, map_keys([(0, 1 << 36, RESERVED)])), r"\[MM\] ERROR: .*usable")


def boot_tiny_usable(view):
    """Only 8 frames are left: no room for metadata or page tables. One clear message."""
    rows = [(0, 0x100_0000, RESERVED), (0x100_8000, 1 << 36, RESERVED)]
    check_halt(view.qemu(MEMORY, map_keys(rows)), r"\[MM\] ERROR: .*(memory|usable)")


ISLANDS = {
    "reserved-island": ([(0x800_0000, 0x1_0000, RESERVED)], 0x1_0000, "overlaps"),
    "one-frame-island": ([(0x800_0000, 0x1000, RESERVED)], 0x1000, "overlaps"),
    "one-byte-island": ([(0x800_0fff, 1, RESERVED)], 0x1000, "overlaps"),
    "unaligned-island": ([(0x800_0800, 0x1000, RESERVED)], 0x2000, "overlaps"),
    "overlapping-islands": ([(0x800_0000, 0x3000, RESERVED), (0x800_1000, 0x4000, BAD),
                             (0x800_2000, 0x1000, NVS)], 0x5000, "overlaps"),
    "bad-inside-reserved": ([(0x900_0000, 0x8000, RESERVED), (0x900_2000, 0x1000, BAD)], 0x8000,
                            "overlaps"),
    "nvs-island": ([(0x900_0000, 0x2000, NVS)], 0x2000, "overlaps"),
    "acpi-island": ([(0x900_0000, 0x2000, ACPI)], 0x2000, "overlaps"),
    "executable-island": ([(0x900_0000, 0x2000, EXECUTABLE)], 0x2000, "overlaps"),
    "framebuffer-island": ([(0x900_0000, 0x2000, FRAMEBUFFER)], 0x2000, "overlaps"),
    "unknown-type": ([(0x900_0000, 0x1000, 77)], 0x1000, "unknown type"),
    "unknown-huge-type": ([(0x900_0000, 0x1000, 2954887168)], 0x1000, "unknown type"),
    "metadata-type": ([(0x900_0000, 0x1000, 8)], 0x1000, "unknown type"),
}

HARMLESS = {
    "usable-over-reserved": ([(RAM_END, 0x2_0000, USABLE)], "overlaps"),
    "usable-twice": ([(0x100_0000, 0x100_0000, USABLE)], "overlaps"),
    "usable-unaligned": ([(0x100_0800, 0x1800, USABLE)], "rounded"),
    "usable-no-whole-frame": ([(0x100_0800, 0x900, USABLE)], "dropped"),
    "loader-over-usable": ([(0x900_0000, 0x4000, LOADER)], "overlaps"),
    "reserved-over-screen-head": ([(0xFD00_0000, 0x10_0000, RESERVED)], "overlaps"),
    "reserved-over-screen-tail": ([(0xFD20_0000, 0x10_0000, RESERVED)], "overlaps"),
    "reserved-page-in-screen": ([(0xFD10_0000, 0x1000, RESERVED)], "overlaps"),
    "zero-length": ([(0x800_0000, 0, RESERVED)], "dropped"),
    "zero-length-usable": ([(0x800_0000, 0, USABLE)], "dropped"),
    "wrapping": ([(0xFFFF_FFFF_FFFF_F000, 0x2000, RESERVED)], "dropped"),
    "wrapping-usable": ([(0xFFFF_FFFF_FFFF_F000, 0x2000, USABLE)], "dropped"),
    "wrapping-usable-low": ([(0x100_0000, 0xFFFF_FFFF_FFFF_FFFF, USABLE)], "dropped"),
    "above-2^52": ([(1 << 52, 0x1000, USABLE)], "dropped"),
    "above-cpu": ([(1 << 40, 0x10_0000, USABLE)], "dropped"),
    "reserved-to-2^64": ([(0xFD_0000_0000, 0xFFFF_FF03_0000_0000 - 1, RESERVED)], "clipped"),
}


def many_islands(count):
    """Single frames, every other one taken, in an order that is far from sorted."""
    return [(0x800_0000 + (number * 37 % count) * 0x2000, 0x1000, RESERVED)
            for number in range(count)]


for _name, (_rows, _lost, _repair) in ISLANDS.items():
    add(f"map/{_name}", boot_island, _rows, _lost, _repair)
for _name, (_rows, _repair) in HARMLESS.items():
    add(f"map/{_name}", boot_island, _rows, 0, _repair)
add("map/usable-over-everything", boot_island, [(0, RAM_END + 0x2_0000, USABLE)],
    -VGA_BYTES, "overlaps")
add("map/100-islands", boot_island, many_islands(100), 100 * 0x1000, "overlaps")
add("map/ram-that-is-not-there", boot_false_ram)
add("map/nothing-usable", boot_nothing_usable)
add("map/eight-frames", boot_tiny_usable)
