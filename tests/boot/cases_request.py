# SPDX-License-Identifier: MIT
"""The loader as other loaders are: base revision 2, other HHDM offsets and kernel places,
five-level paging, requests that stay unanswered, and loader keys that make no sense.

A kernel that leans on more than the protocol promises fails here. Offsets are random but seeded, so
that every run tests the same ones; the report of a failure names the command line.
"""

import random

from log import HELLO, Log, check_clean, check_halt, check_success
from machine import GIB, MIB, bytes_of, expect
from suite import add

# Optional requests, and a line that a boot must not have when the request stays unanswered.
OPTIONAL = {"executable-file": None, "executable-cmdline": None, "stack-size": None,
            "paging-mode": None, "entry-point": None,
            "rsdp": r"Firmware: .*ACPI root pointer.*",
            "bootloader-info": r"Boot loader: MelloOS loader .*",
            "firmware-type": r"Firmware: BIOS.*",
            "framebuffer": r"\[MM\] .*framebuffer"}
REQUIRED = {"hhdm": "HHDM|hhdm|direct map", "memmap": "memory map|memmap",
            "executable-address": "executable.address|kernel.address"}

HIGHER_HALF = 0xFFFF_8000_0000_0000
HHDM_END = 0xFFFF_FFFF_0000_0000  # below the kernel's 2 GiB, with room to spare


def boot_with(view, memory, keys, cpu="qemu64", base_revision=3, extra=""):
    """A whole success with these loader.* keys."""
    boot = view.mello("run", "--headless", "--memory", memory, "--timeout", "120",
                      "--cmdline", f"{keys} {extra}".strip(), qemuflags=f"-cpu {cpu}")
    return check_success(boot, view.tree.firmware_map(memory, cpu), base_revision)


# ---- Base revision

def boot_base_revision(view, memory, cpu, number, said):
    log = boot_with(view, memory, f"loader.baserev={number}", cpu, number)
    log.only(f"Boot loader: .*, base revision {said}")


# ---- Direct map and place of the kernel

def random_hhdm(seed, alignment, memory):
    room = HHDM_END - HIGHER_HALF - bytes_of(memory) - 8 * GIB
    return HIGHER_HALF + random.Random(seed).randrange(room // alignment) * alignment


def boot_hhdm(view, memory, offset, cpu="qemu64", extra=""):
    log = boot_with(view, memory, f"loader.hhdm={offset:#x}", cpu, extra=extra)
    log.only(rf"\[MM\] HHDM offset: {offset:#x}")


def boot_slide(view, memory, address, cpu="qemu64"):
    log = boot_with(view, memory, f"loader.slide={address:#x}", cpu)
    places = [base for base, end, kind in log.ranges() if kind == "executable"]
    expect(address in places, f"no executable range starts at {address:#x}: {places}")


# ---- Paging mode

def boot_levels(view, memory, keys, levels):
    log = boot_with(view, memory, keys, "max")
    log.only(rf"\[MM\] Page tables: {levels} levels, .*")


def refuse_five_levels(view):
    boot = view.qemu("64M", "loader.la57=1", cpu="qemu64")
    check_halt(boot, r"\[loader\] ERROR: .*(la57|LA57)", mm=False)


# ---- Requests without an answer

def omit_required(view, name, words):
    log = check_halt(view.qemu("64M", f"loader.omit={name}"), rf"\[MM\] ERROR: .*({words})")
    expect(len([line for line in log.mm if "ERROR" not in line]) < 5, "it went on without it")


def omit_optional(view, name):
    log = boot_with(view, "64M", f"loader.omit={name}")
    for other, line in OPTIONAL.items():
        if line is not None:
            expect(len(log.find(line)) == (0 if other == name else 1), f"the answer to {other}")


def omit_command_lines(view):
    """Nobody tells the kernel its command line: it boots, and knows nothing of mello.exit."""
    boot = view.qemu("64M", "loader.omit=executable-file,executable-cmdline", until=HELLO)
    expect(boot.status == 0, f"it does not come to Hello: {boot.status}")
    log = Log(boot)
    check_clean(log)


def hang_without_command_line(view):
    """Without mello.exit=qemu nothing is written to isa-debug-exit, so ./mello times out; a machine
    that was too slow for Hello gets more time."""
    for seconds in (5, 20, 80):
        boot = view.mello("run", "--headless", "--memory", "64M", "--timeout", str(seconds),
                          "--cmdline", "loader.omit=executable-file,executable-cmdline",
                          qemuflags="-cpu qemu64")
        expect(boot.status == 4, f"exit status {boot.status}, not 4")
        if Log(boot).has(HELLO):
            return
    expect(False, "it did not say Hello")


def omit_all_optional(view):
    names = [name for name in OPTIONAL if name != "executable-cmdline"]
    boot_with(view, "64M", "loader.omit=" + ",".join(names))


# ---- Keys that make no sense

def refuse_key(view, keys, pattern):
    check_halt(view.qemu("64M", keys), r"\[loader\] ERROR: .*" + pattern, mm=False)


BAD_KEYS = {
    "unknown-key": ("loader.nonsense=1", "loader.nonsense.*loader.baserev"),
    "unknown-request": ("loader.omit=nonsense", "nonsense.*hhdm"),
    "empty-request": ("loader.omit=hhdm,", "loader.omit"),
    "baserev-1": ("loader.baserev=1", "baserev"),
    "baserev-4": ("loader.baserev=4", "baserev"),
    "hhdm-not-a-number": ("loader.hhdm=0xzz", "hhdm"),
    "hhdm-lower-half": ("loader.hhdm=0x100000000000", "HHDM.*higher half"),
    "hhdm-not-canonical": ("loader.hhdm=0xf000000000000000", "HHDM.*higher half"),
    "hhdm-unaligned": ("loader.hhdm=0xffff900000000800", "hhdm"),
    "hhdm-meets-kernel": ("loader.hhdm=0xfffffffe83000000", "HHDM.*meets the kernel"),
    "hhdm-wraps": ("loader.hhdm=0xffffffff7f000000", "HHDM.*no room"),
    "slide-unaligned": ("loader.slide=0x2000800", "slide"),
    "slide-not-ram": ("loader.slide=0xf0000000", "slide"),
    "slide-beyond-end": ("loader.slide=0x3fd0000", "slide"),
    "slide-on-loader": ("loader.slide=0x100000", "slide"),
    "la57-2": ("loader.la57=2", "la57"),
    "map-not-a-row": ("loader.map=+0x1000:1", "loader.map"),
    "map-no-module": ("loader.map=rows.map", "rows.map"),
    "value-missing": ("loader.hhdm", "hhdm"),
}


for _memory, _cpu in (("64M", "qemu64"), ("5G", "max"), ("64G", "qemu64")):
    add(f"request/baserev2-{_memory}-{_cpu}", boot_base_revision, _memory, _cpu, 2, "2 or older")
add("request/baserev3", boot_base_revision, "64M", "max", 3, "3")
add("request/hhdm-2M-aligned", boot_hhdm, "512M", random_hhdm("large", 2 * MIB, "512M"))
add("request/hhdm-4K-aligned", boot_hhdm, "512M", random_hhdm("small", 4096, "512M"))
add("request/hhdm-4K-aligned-5G-max", boot_hhdm, "5G", random_hhdm("small 5G", 4096, "5G"), "max")
add("request/hhdm-near-kernel", boot_hhdm, "64M", 0xFFFF_FFFE_8000_0000)
add("request/slide-low", boot_slide, "512M", 0x200_0000)
add("request/slide-odd-page", boot_slide, "512M", 0x123_5000)
add("request/slide-above-4G", boot_slide, "5G", 0x1_1000_0000)
add("request/slide-above-4G-max", boot_slide, "5G", 0x1_3FE0_1000, "max")
add("request/la57", boot_levels, "512M", "loader.la57=1", 5)
add("request/la57-5G-hhdm", boot_levels, "5G", "loader.la57=1 loader.hhdm=0xff12345678901000", 5)
add("request/la57-off", boot_levels, "64M", "loader.la57=0", 4)
add("request/la57-missing", refuse_five_levels)
for _name, _words in REQUIRED.items():
    add(f"request/omit-{_name}", omit_required, _name, _words)
for _name in OPTIONAL:
    add(f"request/omit-{_name}", omit_optional, _name)
add("request/omit-all-optional", omit_all_optional)
add("request/omit-command-lines", omit_command_lines)
add("request/omit-command-lines-times-out", hang_without_command_line, waits=True)
for _name, (_keys, _pattern) in BAD_KEYS.items():
    add(f"request/bad-{_name}", refuse_key, _keys, _pattern)
