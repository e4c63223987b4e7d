# SPDX-License-Identifier: MIT
"""mm.badram=BASE:LENGTH: memory that is never used again, wherever it lies.

The bad frames hold a pattern before the machine starts (QEMU loads it). After self-tests, stress on all
CPUs and the end of the boot QEMU reads them: nobody may have written there. What is free is less by
just these frames.
"""

import re

from cases_audit import Machine
from cases_smp import extra_of
from log import HELLO, LOW_MEMORY_END, Log, check_numbers, check_story, size_of
from machine import expect
from suite import add

PATTERN = 0xA5
LINE = r"\[MM\] bad RAM 0x([0-9a-f]+)-0x([0-9a-f]+): (\d+) KB taken out of service"
TOOK = r"\[MM\] loader memory: (\d+) KB given back"


def words_at(machine, base, end):
    """All 8-byte words of physical memory there."""
    text = machine.ask(f"xp /{(end - base) // 8}gx {base:#x}")
    return [int(word, 16) for word in re.findall(r"0x([0-9a-f]{16})", text)]


def untouched(view, bad, keys="", cpus=2):
    """Frames in the middle of usable memory: a boot with stress writes none of them."""
    words = " ".join(f"mm.badram={base:#x}:{size}" for base, size, _ in bad)
    extra = list(extra_of(cpus))
    for number, (_, _, (base, end)) in enumerate(bad):
        file = view.folder() / f"pattern-{number}"
        file.write_bytes(bytes([PATTERN]) * (end - base))
        extra += ["-device", f"loader,file={file},addr={base:#x},force-raw=on"]
    machine = Machine(view, "64M", "qemu64", f"{words} {keys}".strip(), extra)
    try:
        log = Log(machine.boot)
        said = [(int(match[1], 16), int(match[2], 16)) for match in log.find(LINE)]
        expect(said == [frames for _, _, frames in bad], f"taken out of service: {said}")
        for base, end in said:
            wrong = [f"{word:#x}" for word in words_at(machine, base, end)
                     if word != PATTERN * 0x0101010101010101]
            expect(not wrong, f"{len(wrong)} words of {base:#x}-{end:#x} were written: {wrong[:3]}")
        expect(not log.errors() and not log.warnings(), f"trouble: {log.errors() + log.warnings()}")
    finally:
        machine.close()


def counted(view):
    """The boot is as good as any, with less free; the second word lies in a frame of the first."""
    before = view.qemu("64M")
    free = Log(before).ready()["free_kb"]
    boot = view.qemu("64M", "mm.badram=0x2800000:64K mm.badram=0x280ffff:1 mm.badram=0x1800000:4K")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    log = Log(boot)
    check_story(log)
    got = log.ready()["free_kb"]
    expect(free - got == 68, f"{free} KB are free without and {got} KB with 68 KB of bad RAM")


def in_loader_memory(view):
    """Bad frames of the loader's memory do not come back with the rest; they are not filled either."""
    loaders = [(base, end) for base, end in Log(view.qemu("64M")).extents({"loader reclaimable"})
               if base >= LOW_MEMORY_END]
    base = max(loaders, key=lambda extent: extent[1] - extent[0])[0] + 0x4000
    boot = view.qemu("64M", f"mello.fill=loader mm.badram={base:#x}:12K mm.stress=1")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    log = Log(boot)
    all_of_it = size_of((max(low, LOW_MEMORY_END), max(high, LOW_MEMORY_END))
                        for low, high in log.extents({"loader reclaimable"})) >> 10
    expect(int(log.only(TOOK)[1]) == all_of_it - 12, f"{log.only(TOOK)[0]}, of {all_of_it} KB")
    expect(HELLO in log.lines, "no Hello")


def refused(view, value):
    boot = view.qemu("64M", f"mm.badram={value}")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    log = Log(boot)
    check_story(log)
    check_numbers(log)
    expect(len(log.warnings()) == 1 and "mm.badram" in log.warnings()[0], f"warnings: {log.warnings()}")
    expect(not log.find(LINE), "something was taken out of service")


def beside_ram(view):
    """Where no RAM is, nothing is taken; a range that reaches beyond it is no trouble."""
    boot = view.qemu("64M", "mm.badram=0x8000000:1M mm.badram=0x100000000:1G")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    check_story(Log(boot))


MIDDLE = (0x2800000, "8K", (0x2800000, 0x2802000))
PART = (0x3000800, "1", (0x3000000, 0x3001000))
LARGE = (0x1C00000, "2M", (0x1C00000, 0x1E00000))
METADATA = (0x1000000, "16K", (0x1000000, 0x1004000))  # where mm would put its own bookkeeping
add("badram/untouched", untouched, [MIDDLE, PART], "mm.stress=2")
add("badram/untouched-fill", untouched, [MIDDLE, PART], "mello.fill=loader mm.stress=1", 4)
add("badram/untouched-large", untouched, [LARGE], "mm.stress=1")
add("badram/untouched-where-metadata-would-be", untouched, [METADATA], "mm.stress=1")
add("badram/counted", counted)
add("badram/in-loader-memory", in_loader_memory)
add("badram/beside-ram", beside_ram)
for _value in ("", "0x1000000", "0x1000000:", ":4K", "nonsense:4K", "0x1000000:4X", "0x1000000:0"):
    add(f"badram/refused-{_value or 'empty'}", refused, _value)
