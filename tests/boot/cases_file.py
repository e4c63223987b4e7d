# SPDX-License-Identifier: MIT
"""Kernel files that the loader must refuse, each by its own sentence, and machines too small.

Every file is the real kernel with one thing broken (elf.py). The loader must stop before the kernel
runs, with one line that names the defect and exit status 3; a file that is unusual but allowed must
boot.
"""

from elf import PF_W, PF_X, PT_INTERP, PT_NULL, Elf
from log import HELLO, check_halt, check_success
from machine import expect
from suite import add


def cut(elf, length):
    del elf.bytes[length:]


def no_elf(elf):
    elf.bytes[:] = b"#!/bin/sh\necho this is not a kernel\n" * 400


def only_zeroes(elf):
    elf.bytes[:] = bytes(65536)


def cut_in_program_headers(elf):
    cut(elf, elf.get("phoff") + 10)


def cut_in_segment(elf):
    last = max(elf.loads(), key=lambda segment: segment.get("offset") + segment.get("filesz"))
    cut(elf, last.get("offset") + last.get("filesz") - 1)


def no_load(elf):
    for segment in elf.loads():
        segment.set(type=PT_NULL)


def overlap(elf):
    first, second = elf.loads()[:2]
    second.set(vaddr=first.get("vaddr") + (second.get("vaddr") & 0xFFF))


def share_page(elf):
    """The data begins in the last page of the text."""
    text, data = elf.load(PF_X), elf.load(PF_W)
    text.set(memsz=text.get("memsz") // 4096 * 4096 + 2048)
    text.set(filesz=min(text.get("filesz"), text.get("memsz")))
    for segment in elf.loads():
        if segment.get("vaddr") > text.get("vaddr"):
            segment.set(type=PT_NULL)
    data.set(type=1, vaddr=text.end() + 64)


def write_and_execute(elf):
    elf.load(PF_X).set(flags=7)


def lower_half(elf):
    for segment in elf.loads():
        segment.set(vaddr=segment.get("vaddr") - 0xFFFF_FFFF_8000_0000 + 0x40_0000)


def far_below(elf):
    for segment in elf.loads():
        segment.set(vaddr=segment.get("vaddr") - 0x1000_0000_0000)


def memory_below_file(elf):
    text = elf.load(PF_X)
    text.set(memsz=text.get("filesz") - 1)


def offset_wraps(elf):
    elf.load(PF_X).set(offset=0xFFFF_FFFF_FFFF_F000)


def address_wraps(elf):
    elf.loads()[-1].set(vaddr=0xFFFF_FFFF_FFFF_F000)


def memory_absurd(elf):
    elf.load(PF_W).set(memsz=0x4000_0000)


def interpreter(elf):
    for segment in elf.segments():
        if segment.get("type") != 1:
            segment.set(type=PT_INTERP)
            return
    elf.loads()[0].set(type=PT_INTERP)


# name: (how to break it, what the message must say)
BROKEN = {
    "no-elf": (no_elf, "not an ELF"),
    "zeroes": (only_zeroes, "not an ELF"),
    "one-byte": (lambda elf: cut(elf, 1), "not an ELF"),
    "header-cut": (lambda elf: cut(elf, 40), "truncated.*header"),
    "32-bit": (lambda elf: elf.set(**{"class": 1}), "64-bit"),
    "big-endian": (lambda elf: elf.set(data=2), "little-endian"),
    "arm64": (lambda elf: elf.set(machine=183), "x86-64"),
    "i386": (lambda elf: elf.set(machine=3), "x86-64"),
    "version-9": (lambda elf: elf.set(version=9), "version.*9"),
    "object-file": (lambda elf: elf.set(type=1), "not an executable"),
    "position-independent": (lambda elf: elf.set(type=3), "ET_DYN|position independent"),
    "dynamically-linked": (interpreter, "dynamically linked"),
    "no-program-headers": (lambda elf: elf.set(phnum=0), "no program headers|no loadable segment"),
    "program-headers-cut": (cut_in_program_headers, "truncated.*program headers"),
    "program-headers-far": (lambda elf: elf.set(phoff=0xFFFF_FFFF_FFFF_FFF0), "program headers"),
    "program-header-size": (lambda elf: elf.set(phentsize=32), "program headers"),
    "segment-cut": (cut_in_segment, "truncated.*segment"),
    "segment-offset-wraps": (offset_wraps, "segment"),
    "no-load": (no_load, "no loadable segment"),
    "overlap": (overlap, "overlap"),
    "shared-page": (share_page, "share"),
    "lower-half": (lower_half, "address 0x.* below"),
    "below-minus-2G": (far_below, "address 0x.* below"),
    "memsz-below-filesz": (memory_below_file, "memory size.*file size"),
    "address-wraps": (address_wraps, "address space"),
    "memory-absurd": (memory_absurd, "out of memory|no room|does not fit"),
    "align-odd": (lambda elf: elf.loads()[0].set(align=0x1800), "alignment"),
    "request-twice": (lambda elf: elf.rename_request("firmware-type", "bootloader-info"), "twice"),
    "required-request-twice": (lambda elf: elf.rename_request("firmware-type", "hhdm"), "twice"),
    "base-revision-2": (lambda elf: elf.set_base_revision(2), "base revision 2"),
    "base-revision-0": (lambda elf: elf.set_base_revision(0), "base revision 0"),
    "base-revision-missing": (lambda elf: elf.drop_base_tag(), "base revision"),
}


def write_broken(view, change):
    elf = Elf((view.tree.build / "kernel.elf").read_bytes())
    change(elf)
    path = view.folder() / "broken.elf"
    path.write_bytes(elf.bytes)
    return path


def refuse_file(view, change, pattern):
    boot = view.qemu("64M", kernel=write_broken(view, change))
    check_halt(boot, r"\[loader\] ERROR: .*(" + pattern + ")", mm=False)


def boot_file(view, change, keys="", base_revision=3):
    boot = view.qemu("64M", keys, kernel=write_broken(view, change))
    check_success(boot, view.tree.firmware_map("64M"), base_revision)


def asks_for_three(view):
    """What the tests above change is there to be changed."""
    elf = Elf((view.tree.build / "kernel.elf").read_bytes())
    expect(elf.base_revision() == 3, f"the kernel asks for base revision {elf.base_revision()}")
    rights = [segment.get("flags") for segment in elf.loads()]
    expect(all(not (flags & PF_W and flags & PF_X) for flags in rights), f"W and X: {rights}")


def no_file(view):
    check_halt(view.qemu("64M", initrd=False), r"\[loader\] ERROR: .*(no kernel file|initrd)",
               mm=False)


def too_small(view, memory):
    """One clear message, or a success: nothing in between."""
    if memory.endswith("K"):
        boot = view.qemu(memory)
    else:
        boot = view.mello("run", "--headless", "--memory", memory, "--timeout", "60",
                          qemuflags="-cpu qemu64")
    if boot.status == 0:
        check_success(boot, view.tree.firmware_map(memory))
        return
    log = check_halt(boot, r"ERROR: .*memory")
    expect(not log.has(HELLO), "it says Hello")


def least_memory(view):
    """The least that ./mello help promises, as a user starts it."""
    boot = view.mello("run", "--headless", "--memory", "5M", "--timeout", "60", qemuflags="-cpu qemu64")
    check_success(boot, view.tree.firmware_map("5M"))


def one_byte_more(elf):
    elf.bytes += b"\0"


for _name, (_change, _pattern) in BROKEN.items():
    add(f"file/{_name}", refuse_file, _change, _pattern)
add("file/sound", asks_for_three)
add("file/missing", no_file)
add("file/base-revision-2-by-key", boot_file, lambda elf: elf.set_base_revision(2),
    "loader.baserev=2", 2)
add("file/base-revision-9", boot_file, lambda elf: elf.set_base_revision(9))
add("file/longer-than-needed", boot_file, one_byte_more)
add("memory/least", least_memory)
for _memory in ("4M", "6M", *(f"{kb}K" for kb in range(3648, 4608, 64))):
    add(f"memory/{_memory}", too_small, _memory)
