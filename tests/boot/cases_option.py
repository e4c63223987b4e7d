# SPDX-License-Identifier: MIT
"""The kernel's command line: log levels, unknown keys, bad values, hostile lines.

A level must show exactly its own lines: error nothing of a good boot, debug every allocation. A
wrong key or value is one warning and changes nothing.
"""

import re

from log import HELLO, TESTS_BEGIN, Log, check_numbers, check_story, check_success
from machine import expect
from suite import add

ALLOCATION = re.compile(r"\[MM\] (pmm|heap): (allocated|freed) .*\b0x[0-9a-f]+\b.*")


def boot_ok(view, cmdline, memory="64M"):
    boot = view.mello("run", "--headless", "--memory", memory, "--cmdline", cmdline,
                      "--timeout", "120", qemuflags="-cpu qemu64")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    log = Log(boot)
    expect(not log.errors(), f"error lines: {log.errors()}")
    return log


def allocation_lines(log):
    return [line for line in log.mm if ALLOCATION.fullmatch(line)]


def log_info(view):
    log = boot_ok(view, "mm.log=info")
    check_story(log)
    expect(not allocation_lines(log), f"at level info: {allocation_lines(log)[:1]}")
    default = boot_ok(view, "")
    shape = [re.sub(r"\d+", "N", line) for line in log.mm]
    expect(shape == [re.sub(r"\d+", "N", line) for line in default.mm],
           "mm.log=info is not the default")


def log_debug(view, memory="64M"):
    """Every allocation and free of frames and heap blocks, with address and size."""
    log = boot_ok(view, "mm.log=debug", memory)
    check_story(log)
    check_numbers(log)
    inside = allocation_lines(log)
    inside = [line for line in inside if log.lines.index(line) > log.lines.index(TESTS_BEGIN)]
    for words in (r"pmm: allocated .*frame", r"pmm: freed .*frame",
                  r"heap: allocated 1024 bytes at", r"heap: allocated 64 bytes at",
                  r"heap: freed \d+ bytes at"):
        expect(any(re.search(words, line) for line in inside), f"no line at debug like: {words}")


def log_error(view):
    log = boot_ok(view, "mm.log=error")
    expect(not log.mm, f"at level error: {log.mm[:1]}")
    expect(HELLO in log.lines, "no Hello")


def one_warning(view, cmdline, word):
    log = boot_ok(view, cmdline)
    check_story(log)
    check_numbers(log)
    warnings = log.warnings()
    expect(len(warnings) == 1, f"{len(warnings)} warnings, not one: {warnings}")
    expect(word in warnings[0], f"the warning does not name '{word}': {warnings[0]}")


def no_warning(view, cmdline):
    boot = view.mello("run", "--headless", "--memory", "64M", "--cmdline", cmdline,
                      qemuflags="-cpu qemu64")
    check_success(boot, view.tree.firmware_map("64M"))


def low_memory(view):
    """mm.lowmem=on gives the frames below 1 MiB, and not frame 0."""
    before = boot_ok(view, "", "128M").ready()  # enough for the heap to begin with the same size
    after = boot_ok(view, "mm.lowmem=on", "128M")
    check_story(after)
    gained = after.ready()["free_kb"] - before["free_kb"]
    expect(gained == (0x9F000 - 0x1000) >> 10, f"free_kb grew by {gained}")


def long_line(view):
    """A line of nearly 4000 characters: cut with a warning or read whole, never a crash."""
    filler = " ".join(f"k{number:03}=value" for number in range(360))
    log = boot_ok(view, filler)
    check_story(log)
    expect(len(log.warnings()) <= 1, f"warnings: {log.warnings()}")


def colours(view):
    """mello.color=1: each level in its own colour, and the same text with the colours taken out."""
    boot = view.qemu("64M", "mello.color=1 mm.log=debug mm.nonsense=1")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    lines = [line for line in boot.lines() if "[MM] " in line]
    shapes = {re.fullmatch(r"\033\[(\d+)m\[MM\] .*\033\[0m", line) for line in lines}
    expect(None not in shapes, "an [MM] line without its colour around it")
    expect({shape[1] for shape in shapes} == {"32", "90"}, "info is not green, or debug not grey")
    boot.text = re.sub(r"\033\[\d+m", "", boot.text)
    check_story(Log(boot))


def colours_of_errors(view):
    boot = view.qemu("64M", "mello.color=1 loader.omit=memmap")
    expect(any(line.startswith("\033[31m[MM] ERROR: ") for line in boot.lines()), "no red line")


add("option/log-info", log_info)
add("option/colours", colours)
add("option/colours-of-errors", colours_of_errors)
add("option/log-debug", log_debug)
add("option/log-error", log_error)
add("option/log-nonsense", one_warning, "mm.log=nonsense", "nonsense")
add("option/log-empty", one_warning, "mm.log=", "mm.log")
add("option/unknown-key", one_warning, "mm.nonsense=1", "mm.nonsense")
add("option/unknown-key-without-value", one_warning, "mm.nonsense", "mm.nonsense")
add("option/last-value-counts", no_warning, "mm.log=error mm.log=info")
add("option/foreign-keys", no_warning, "root=/dev/sda1 quiet mmx.log=debug == = a=b=c   x=")
add("option/low-memory", low_memory)
add("option/long-line", long_line)
for _memory in ("8M", "64M", "512M", "5G", "64G", "1T"):
    add(f"campaign/log-debug-{_memory}", log_debug, _memory, slow=True)
