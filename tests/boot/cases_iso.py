# SPDX-License-Identifier: MIT
"""Boots from an image by GRUB: BIOS and UEFI, CD, disk and USB stick, with modules and without.

The kernel must tell the same story as under direct boot. What the loader answers is read by a small
kernel (answers.c) that prints all of it, on each path the same way, and compared with what the test
put into the image and with the maps of the firmware. Failures must be seen on the serial port and,
letter by letter, on the screen.
"""

import os
import re
import shutil
import struct

from cases_file import cut_in_segment, write_broken
from elf import PF_W, Elf
from image import (boot_image, image_argv, loader_with_mode, look, make_image, make_plain_image,
                   read_picture, without_firmware)
from log import HELLO, RANGE_LINE, Log, check_halt, check_success
from machine import MIB, expect, qemu_argv, run_child, shell_text
from model import normal_form, without_owner
from suite import add

FIRMWARE_NAME = {"bios": "BIOS", "uefi": "UEFI (64-bit)", "direct": "BIOS"}
QEMU_MAX_LIMIT = 1 << 40  # MAXPHYADDR of -cpu max


# ---- The real kernel

def shape_of(boot):
    """The kernel's lines with the numbers taken out, without the memory map's own."""
    lines = [line for line in Log(boot).lines if line and not line.startswith("mello: ")]
    lines = [line for line in lines[lines.index(next(filter(is_first, lines))):]
             if not re.fullmatch(RANGE_LINE, line) and not line.startswith("Firmware: ")]
    return [re.sub(r"0x[0-9a-f]+|\d+", "N", line) for line in lines]


def is_first(line):
    return line.startswith("MelloOS ")


def boot_firmware(view, firmware, memory, machine="pc"):
    """By ./mello; the story, the firmware's name, and the lines of a direct boot."""
    boots = {}
    for kind in ("direct", firmware):
        boots[kind] = view.mello("run", "--headless", "--memory", memory, "--timeout", "140",
                                 "--firmware", kind,
                                 qemuflags="" if machine == "pc" else f"-machine {machine}")
    boot = without_firmware(boots[firmware])
    ram = view.tree.firmware_map(memory, "max", machine) if firmware == "bios" else None
    log = check_success(boot, ram)
    expect(log.find(re.escape(f"Firmware: {FIRMWARE_NAME[firmware]}") + ", ACPI root .*"),
           "the firmware's name")
    expect(shape_of(boot) == shape_of(boots["direct"]), "other lines than under direct boot: " +
           str(set(shape_of(boot)) ^ set(shape_of(boots["direct"]))))


def boot_drive(view, firmware, drive, machine="pc"):
    image = make_image(view)
    boot = boot_image(view, image, firmware=firmware, drive=drive, machine=machine)
    check_success(without_firmware(boot))


def boot_map_module(view, firmware):
    """loader.map names the second of two modules; its rows arrive as if the firmware had them."""
    rows = [(0x300_0800, 0x400, 1), (0x400_0000, 0x3_0000, 1), (0x500_0000, 0x1800, 2),
            (0x600_0000, 0x10_0000, 6), (0x700_0123, 1, 4)]
    folder = view.folder()
    (folder / "rows").write_text("# base length type\n" + "".join(
        f"{base:#018x} {length:#018x} {kind:#x}\n" for base, length, kind in rows))
    (folder / "other").write_bytes(b"not rows\n" * 1000)
    modules = [(folder / "other", "other"), (folder / "rows", "odd.map with words behind")]
    ranges = []
    for keys in ("", "loader.map=odd.map"):
        image = make_image(view, f"map{len(keys)}", keys=keys, modules=modules)
        boot = boot_image(view, image, firmware=firmware, memory="512M")
        ranges.append(check_success(without_firmware(boot)).ranges())
    expected = without_owner(normal_form(ranges[0], rows, QEMU_MAX_LIMIT))
    expect(without_owner(ranges[1]) == expected, f"{without_owner(ranges[1])}, not {expected}")


def boot_like_limine(view):
    """What Limine 8.2 does: revision 2, memory in many pieces, unaligned rows, a kernel row that is
    larger than the image, the kernel low, the direct map elsewhere."""
    islands = [(0x400_0800 + 0x40_0000 * i, 0x400 + 0x333 * i, 1) for i in range(13)]
    rows = [(0x1F0_0000, 0x40_0000, 6), (0x9_FC00, 0x400, 1), *islands]
    keys = ["loader.baserev=2", "loader.hhdm=0xffff938000000000", "loader.slide=0x2000000"]
    keys += [f"loader.map=+{base:#x}:{length:#x}:{kind}" for base, length, kind in rows]
    boot = view.qemu("128M", " ".join(["mm.log=debug", *keys]), cpu="max")
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    ranges = log.ranges()
    expect((0x1F0_0000, 0x230_0000, "executable") in ranges, f"the kernel's row: {ranges}")
    usable = [row for row in ranges if row[2] == "usable"]
    expect(len(usable) >= 14, f"{len(usable)} pieces of usable memory")
    for base, length, _ in islands:
        expect(all(end <= base or base + length <= low for low, end, _ in usable),
               f"{base:#x} is usable")


# ---- Memory that is not zero at the start

def dirty_loader(view):
    """The loader with a bss that the file fills with 0xa5."""
    elf = Elf((view.tree.build / "loader.elf").read_bytes())
    data = elf.load(PF_W)
    start, size = data.get("offset"), data.get("filesz")
    body = elf.bytes[start:start + size] + b"\xa5" * (data.get("memsz") - size)
    place = -(-len(elf.bytes) // 4096) * 4096 + data.get("vaddr") % 4096
    elf.bytes += bytes(place - len(elf.bytes)) + body
    data.set(offset=place, filesz=len(body))
    path = view.folder() / "dirty.elf"
    path.write_bytes(elf.bytes)
    return path


def dirty_words(view, end):
    """QEMU options that fill [16 MiB, end) with 0xa5 at reset."""
    place, dirt = 0x100_0000, view.folder() / f"dirt-{end:x}"
    dirt.write_bytes(b"\xa5" * (end - place))
    return ["-device", f"loader,file={dirt},addr={place:#x},force-raw=on"]


def boot_dirty(view, firmware):
    """The loader's bss, and the memory that kernel, tables and answers go to, hold 0xa5 at first.

    The loader takes the top of memory, under direct boot below the kernel file, which QEMU puts
    0x28000 bytes below the end; the kernel goes into the middle."""
    loader, keys, top = dirty_loader(view), "loader.slide=0x1800000", 64 * MIB - 0x28000
    answers = build_answers(view)
    for kernel in (view.tree.build / "kernel.elf", answers):
        if firmware == "direct":
            end = (top - kernel.stat().st_size) & ~0xFFF
            argv = qemu_argv("64M", "max", "pc", dirty_words(view, end))
            argv += ["-kernel", str(loader), "-initrd", str(kernel), "-append",
                     f"mello.exit=qemu {keys}"]
            boot = view.last_boot = view.tree._boot(argv)
        else:
            image = make_image(view, kernel.stem, kernel, keys=keys, loader=loader)
            boot = boot_image(view, image, firmware=firmware, memory="64M",
                              extra=dirty_words(view, top))
        boot = without_firmware(boot)
        if kernel == answers:
            check_cpu(Answers(boot))  # and the kernel's bss
        else:
            check_success(boot)


# ---- The answers

def build_answers(view):
    out = view.folder() / "answers.elf"
    if out.exists():
        return out
    argv = [view.tree.compiler()[0], "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror",
            "-ffreestanding", "-fno-pic", "-fno-pie", "-mcmodel=kernel", "-mno-red-zone",
            "-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none",
            "-fno-asynchronous-unwind-tables", "-nostdlib", "-static",
            "-Wl,-Ttext-segment=0xffffffff80000000", "-Wl,-z,max-page-size=4096",
            "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-e,answers_entry", "-o", str(out),
            str(view.tree.root / "tests/boot/answers.c")]
    status, text, _ = run_child(argv)
    expect(status == 0, f"{shell_text(argv)}: exit status {status}\n{text}")
    return out


class Answers:
    """What answers.c printed."""

    def __init__(self, boot):
        self.boot = boot
        self.lines = [line for line in boot.lines() if line]
        expect(boot.status == 0 and "end" in self.lines, f"exit status {boot.status}, no end")

    def all(self, name):
        return [line[len(name) + 1:] for line in self.lines if line.split(" ")[0] == name]

    def numbers(self, name):
        found = self.all(name)
        expect(len(found) == 1, f"{len(found)} lines of '{name}'")
        return [int(word, 16) for word in found[0].split()]

    def rows(self, name):
        return [tuple(int(word, 16) for word in line.split()) for line in self.all(name)]

    def map(self):
        return [(base, base + length, kind) for base, length, kind in self.rows("map")]

    def type_of(self, base, size):
        """The one type that all of [base, base + size) has."""
        end = base + max(size, 1)
        kinds = [kind for low, high, kind in self.map() if low <= base and end <= high]
        expect(len(kinds) == 1, f"[{base:#x}, {end:#x}) lies in no row of the map")
        return kinds[0]

    def files(self, name):
        """[(path, string, base, bytes, sum)]"""
        found = []
        for line in self.all(name):
            match = re.fullmatch(r'"(.*)" "(.*)" ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)', line)
            expect(match, f"not a file: {line}")
            found.append((match[1], match[2], *(int(match[i], 16) for i in (3, 4, 5))))
        return found


def sum_of(data):
    total = 0
    for byte in data:
        total = ((total << 1 | total >> 63) & (1 << 64) - 1) ^ byte
    return total


def check_cpu(answers):
    """CR0, CR4, EFER, PAT; CS, SS, IF and DF, RSP, the return address; whoever started us."""
    expect(answers.numbers("cpu") == [0x80010011, 0x20, 0xD00, 0x0000010500070406],
           f"the CPU's state: {answers.all('cpu')}")
    expect(answers.numbers("entry") == [0x28, 0x30, 0, 8, 0], f"entry: {answers.all('entry')}")
    expect(answers.numbers("bss") == [0], "the kernel's bss is not zero")


def check_map(answers):
    rows = answers.map()
    expect(rows == sorted(rows), "the memory map is not sorted")
    for (_, end, _), (base, _, _) in zip(rows, rows[1:]):
        expect(end <= base, f"the memory map overlaps at {base:#x}")
    base, _ = answers.numbers("address")
    expect(answers.type_of(base, 4096) == 6, "the kernel is not in executable memory")


def check_files(answers, kernel, line, modules):
    ((path, string, base, size, total),) = answers.files("file")
    data = kernel.read_bytes()
    expect((path, string) == ("/kernel.elf", line), f"the kernel file: {path}, {string}")
    expect((size, total) == (len(data), sum_of(data)), "the kernel file has changed")
    expect(answers.type_of(base, size) == 5, "the kernel file is not in loader memory")
    expect(answers.all("line") == [f'"{line}"'], f"the command line: {answers.all('line')}")
    found = answers.files("module")
    expect(len(found) == len(modules), f"{len(found)} modules, not {len(modules)}")
    for (path, string, base, size, total), (name, words, data) in zip(found, modules):
        expect((path, string) == (name, words), f"module {name}: {path}, {string}")
        expect((size, total) == (len(data), sum_of(data)), f"module {name} has changed")
        expect(base % 4096 == 0, f"module {name} is not aligned: {base:#x}")
        expect(answers.type_of(base, size) == 6, f"module {name} is in memory of another type")


def check_tables(answers, firmware, revision):
    """Firmware tables: physical in revision 3, and in 2 what they point at can be read."""
    (hhdm,), (rsdp,), smbios = (answers.numbers(name) for name in ("hhdm", "rsdp", "smbios"))
    expect(any(smbios), "no SMBIOS entry point")
    expect(answers.numbers("firmware") == [{"uefi": 2}.get(firmware, 0)], "the firmware's type")
    expect(len(answers.all("efi")) == len(answers.all("efi-map")) == (firmware == "uefi"),
           "EFI's system table and memory map")
    pointers = [rsdp, *filter(None, smbios), *(answers.rows("efi") or [()])[0]]
    expect(all((pointer >= hhdm) == (revision == 2) for pointer in pointers),
           f"pointers: {[hex(pointer) for pointer in pointers]}")
    if revision == 2:
        read = struct.pack("<Q", answers.numbers("rsdp-bytes")[0])
        expect(read == b"RSD PTR ", f"the RSDP begins with {read}")
        anchors = [struct.pack("<Q", answers.numbers(f"smbios{bits}-bytes")[0])[:4]
                   for bits, entry in zip((32, 64), smbios) if entry]
        expect(all(anchor in (b"_SM_", b"_SM3") for anchor in anchors), f"SMBIOS: {anchors}")
        if firmware == "uefi":
            expect(answers.numbers("efi-bytes") == [0x5453595320494249], "EFI's system table")


def check_efi_map(answers, revision):
    """The loader's map against EFI's own: what is free after the boot services, and ACPI's two. In
    revision 2 frame 0 is never free."""
    least = 0 if revision >= 3 else 0x1000
    pointer, size, row_bytes, version = answers.numbers("efi-map")
    (hhdm,) = answers.numbers("hhdm")
    expect(answers.type_of(pointer - hhdm, size) == 5, "EFI's map is not in loader memory")
    expect(version == 1 and row_bytes >= 40, f"EFI's map: version {version}, rows of {row_bytes}")
    rows = answers.rows("efi-row")
    expect(len(rows) == size // row_bytes, f"{len(rows)} rows of EFI's map")
    for wanted, kinds in (({0, 5, 6}, {1, 2, 3, 4, 7}), ({2}, {9}), ({3}, {10})):
        ours = join((base, end) for base, end, kind in answers.map() if kind in wanted)
        theirs = join((max(base, least), base + pages * 4096) for base, pages, kind in rows
                      if kind in kinds and base + pages * 4096 > least)
        expect(ours == theirs, f"types {wanted}: {ours}, but EFI's {kinds}: {theirs}")


def join(extents):
    result = []
    for base, end in sorted(extents):
        if result and result[-1][1] == base:
            result[-1] = (result[-1][0], end)
        else:
            result.append((base, end))
    return [(hex(base), hex(end)) for base, end in result]


def check_screen(answers):
    base, width, height, pitch, *pixel = answers.numbers("screen")
    expect((width, height, pitch) == (1024, 768, 4096), f"the screen: {answers.all('screen')}")
    expect(pixel == [32, 0, 1, 8, 16, 8, 8, 8, 0], f"the pixels: {pixel}")
    expect(answers.type_of(base, pitch * height) == 7, "the screen is in memory of another type")


def answer_everything(view, firmware, revision=3, machine="pc"):
    kernel, line = build_answers(view), "mello.exit=qemu a=1  b=x"
    keys = f"loader.baserev={revision}"
    files = [] if firmware == "direct" else [
        ("one", "", b"hello\n"), ("two.bin", "some more text", bytes(range(256)) * 40 + b"end")]
    modules = []
    for name, words, data in files:
        (view.folder() / name).write_bytes(data)
        modules.append((view.folder() / name, f"{name} {words}".strip()))
    if firmware == "direct":
        boot = view.qemu("512M", line.removeprefix("mello.exit=qemu ") + " " + keys, kernel=kernel,
                         cpu="max", machine=machine)
    else:
        line = " ".join(line.split())  # GRUB parts lines at runs of spaces
        image = make_image(view, "answers", kernel, line, keys, modules)
        boot = boot_image(view, image, firmware=firmware, memory="512M", machine=machine)
    answers = Answers(without_firmware(boot))
    check_cpu(answers)
    check_map(answers)
    check_files(answers, kernel, line, files)
    check_tables(answers, firmware, revision)
    check_screen(answers)
    if firmware == "uefi":
        check_efi_map(answers, revision)


# ---- Failures

def shown_error(boot, pattern):
    errors = [line for line in without_firmware(boot).lines() if "ERROR" in line]
    expect(len(errors) == 1 and re.search(pattern, errors[0]), f"errors: {errors}")
    return errors[0]


def refuse_on_screen(view, firmware, change, pattern, mode=None, scale=1):
    """The message stands on the serial port and, the same, on the screen, with nothing else."""
    loader = loader_with_mode(view, *mode) if mode else None
    image = make_image(view, kernel=write_broken(view, change), line="", loader=loader)
    picture = view.folder() / "screen.ppm"
    boot = look(view, image_argv(image, firmware), [("screendump", {"filename": str(picture)})])
    error = shown_error(boot, pattern)
    width, height, lines = read_picture(picture, scale)
    expect((width, height) == (mode or (1024, 768))[:2], f"a screen of {width} x {height}")
    text = "".join(line[1:] if line else "" for line in lines)
    expect(text == error, f"the screen says '{text}', the serial port '{error}'")


def refuse_on_text_screen(view):
    """A header that asks for no mode: VGA text, read from its memory."""
    image = make_image(view, keys="loader.nonsense", line="", loader=loader_with_mode(view, 0, 0, 0))
    memory = view.folder() / "text"
    boot = look(view, image_argv(image),
                [("pmemsave", {"val": 0xB8000, "size": 4000, "filename": str(memory)})])
    error = shown_error(boot, "unknown key loader.nonsense")
    cells = memory.read_bytes()[::2].decode("latin-1")
    text = "".join(cells[i + 1:i + 79] for i in range(0, 2000, 80)).strip()
    expect(text == error, f"the screen says '{text}', the serial port '{error}'")


def refuse_image(view, pattern, keys="", line="mello.exit=qemu", modules=()):
    boot = boot_image(view, make_image(view, keys=keys, line=line, modules=modules))
    check_halt(without_firmware(boot), r"\[loader\] ERROR: .*(" + pattern + ")", mm=False)


def refuse_without_kernel(view):
    config = "set timeout=0\nmultiboot2 /boot/loader.elf\nboot\n"
    image = make_plain_image(view, config, {"loader.elf": view.tree.build / "loader.elf"})
    boot = boot_image(view, image, until="module2")
    shown_error(boot, "no kernel file")


def refuse_many_modules(view):
    path = view.folder() / "module"
    path.write_bytes(b"x")
    refuse_image(view, "more than 16 files", modules=[(path, f"m{i}") for i in range(16)])


def refuse_long_name(view):
    path = view.folder() / "module"
    path.write_bytes(b"x")
    refuse_image(view, "file name longer", modules=[(path, "n" * 70)])


# ---- ./mello

def own_build(view):
    """A copy of the products, so that no other test makes the same image."""
    build = view.folder() / "build"
    shutil.copytree(view.tree.build / "obj", build / "obj")
    for path in view.tree.build.iterdir():
        if path.is_file() and path.suffix != ".iso":
            shutil.copy2(path, build)
    return {**view.tree.settings(), "BUILD": str(build)}


def make_iso(view):
    """`./mello iso`: an image that does not talk to QEMU's test device, made again when it must be."""
    settings = own_build(view)
    path = view.folder() / "build" / "mello.iso"
    times = []
    for line in ("", "", "mm.log=debug a=$HOME;`ls`", "mm.log=debug a=$HOME;`ls`"):
        words = ["--cmdline", line] if line else []
        boot = view.tree.mello_of(view.tree.root, "iso", *words, settings=settings, seconds=400)
        view.last_boot = boot
        expect(boot.status == 0, f"exit status {boot.status}, not 0")
        times.append(path.stat().st_mtime_ns)
        words = b"".join(b" '" + word.encode() + b"'" for word in line.split())
        data = path.read_bytes()
        expect(b"module2 /boot/kernel.elf" + words + b"\n" in data, "the command line is not in it")
        expect(b"mello.exit" not in data.split(b"module2 /boot/kernel.elf")[1][:200], "mello.exit")
    expect(times[0] == times[1] and times[2] == times[3], "it is made again without need")
    expect(times[1] != times[2], "it is not made again for another line")
    expect(len(data) < 8 * MIB, f"{len(data)} bytes")
    boot = boot_image(view, path, until=HELLO)
    expect(HELLO in without_firmware(boot).text, "no Hello")


def make_iso_with_limine(view):
    """LIMINE_DIR: stand-ins for Limine's files; the image has its layout and its configuration."""
    limine = view.folder() / "limine"
    limine.mkdir()
    for name in ("limine-bios.sys", "limine-bios-cd.bin", "limine-uefi-cd.bin", "BOOTX64.EFI"):
        (limine / name).write_bytes(name.encode() * 400)
    called = view.folder() / "called"
    (limine / "limine").write_text(f"#!/bin/sh\necho \"$1\" >'{called}'\n")
    (limine / "limine").chmod(0o755)
    environment = {**os.environ, "LIMINE_DIR": str(limine)}
    image = make_image(view, line="mm.log=debug x=1", env=environment)
    data = image.read_bytes()
    expect(b"protocol: limine\n    path: boot():/boot/kernel.elf\n    cmdline: mm.log=debug x=1\n"
           in data, "limine.conf")
    expect(b"multiboot2" not in data[:200000] and b"limine-bios.sys" in data, "its files")
    expect(called.read_text() == "bios-install\n", "limine bios-install was not called")


REFUSED = {
    "unknown": (["run", "--firmware", "coreboot"], "coreboot"),
    "debug": (["debug", "--firmware", "bios"], "no such option"),
    "uefi-63M": (["run", "--headless", "--firmware", "uefi", "--memory", "63M"], "OVMF.*64M"),
    "bios-5M": (["run", "--headless", "--firmware", "bios", "--memory", "5M"], "GRUB.*6M"),
    "quote": (["run", "--headless", "--firmware", "bios", "--cmdline", "a='b'"], "quotes"),
    "iso-quote": (["iso", "--cmdline", 'a="b"'], "quotes"),
    "iso-argument": (["iso", "disk"], "disk"),
}


def refuse_usage(view, words, pattern):
    boot = view.mello(*words)
    expect(boot.status == 2, f"exit status {boot.status}, not 2")
    expect(re.search(pattern, boot.text), f"it does not say '{pattern}'")


for _size in ("8M", "512M", "5G"):
    add(f"iso/bios-{_size}", boot_firmware, "bios", _size)
for _size in ("64M", "5G"):
    add(f"iso/uefi-{_size}", boot_firmware, "uefi", _size)
for _size in ("6M", "64M", "64G", "1T", "4T"):
    add(f"iso/bios-{_size}", boot_firmware, "bios", _size, slow=True)
for _size in ("512M", "64G", "512G", "1T"):
    add(f"iso/uefi-{_size}", boot_firmware, "uefi", _size, slow=True)
for _firmware in ("bios", "uefi"):
    add(f"iso/{_firmware}-q35-3G", boot_firmware, _firmware, "3G", "q35", slow=True)
    add(f"iso/{_firmware}-stick", boot_drive, _firmware, "usb")
    add(f"iso/{_firmware}-disk", boot_drive, _firmware, "disk", slow=_firmware == "uefi")
    add(f"iso/{_firmware}-map-module", boot_map_module, _firmware, slow=_firmware == "uefi")
    add(f"iso/{_firmware}-answers", answer_everything, _firmware)
    add(f"iso/{_firmware}-answers-q35", answer_everything, _firmware, 3, "q35", slow=True)
add("iso/direct-answers", answer_everything, "direct")
add("iso/direct-answers-revision-2", answer_everything, "direct", 2)
add("iso/bios-answers-revision-2", answer_everything, "bios", 2)
add("iso/uefi-answers-revision-2", answer_everything, "uefi", 2, slow=True)
add("iso/like-limine", boot_like_limine)
add("iso/direct-dirty", boot_dirty, "direct")
add("iso/bios-dirty", boot_dirty, "bios")
add("iso/uefi-dirty", boot_dirty, "uefi", slow=True)
add("iso/screen-bios", refuse_on_screen, "bios", lambda elf: elf.set(machine=183), "x86-64")
add("iso/screen-uefi", refuse_on_screen, "uefi", cut_in_segment, "truncated")
for _name, _mode, _scale in (("640x480x24", (640, 480, 24), 1), ("800x600x16", (800, 600, 16), 1),
                             ("1920x1080x32", (1920, 1080, 32), 3)):
    add(f"iso/screen-{_name}", refuse_on_screen, "bios", lambda elf: elf.set(data=2),
        "little-endian", _mode, _scale)
add("iso/screen-text", refuse_on_text_screen)
add("iso/no-kernel", refuse_without_kernel)
add("iso/kernel-words-for-the-loader", refuse_image, "only loader", "mm.log=debug")
add("iso/unknown-key", refuse_image, "unknown key loader.x", "loader.x=1")
add("iso/no-such-module", refuse_image, "no module of that name",
    "loader.map=x")
add("iso/many-modules", refuse_many_modules)
add("iso/long-name", refuse_long_name)
add("iso/long-line", refuse_image, "longer than 4095", "", "mello.exit=qemu " + "x" * 4090)
add("iso/mello-iso", make_iso)
add("iso/limine", make_iso_with_limine)
for _name, (_words, _pattern) in REFUSED.items():
    add(f"iso/refuse-{_name}", refuse_usage, _words, _pattern)
