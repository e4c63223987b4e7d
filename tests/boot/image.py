# SPDX-License-Identifier: MIT
"""Images that GRUB starts, machines that boot them, and what is to be seen on their screens.

make_image() calls loader/mkiso.sh, which is also behind `./mello iso`; boot_image() boots the result
on BIOS or UEFI from one of several drives. look() asks a machine's monitor, for a picture of the screen say,
once the first CPU has halted for good, so that nothing is left to be drawn; and read_picture() turns
pixels back into text: every cell is compared with the glyphs of the font package, which the loader's
font was made from.
"""

import gzip
import json
import re
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

from machine import Boot, expect, kill_session, qemu_argv, run_child, shell_text

OVMF = "/usr/share/ovmf/OVMF.fd"
FONT = "/usr/share/consolefonts/spleen-8x16.psfu.gz"
LOOK_SECONDS = 300


# ---- Images

def make_image(view, name="test", kernel=None, line="mello.exit=qemu", keys="", modules=(),
               loader=None, env=None):
    """An image with a kernel and its command line, keys for the loader, and (path, line) modules."""
    folder, build = view.folder(), view.tree.build
    lines, out = folder / f"{name}.line", folder / f"{name}.iso"
    lines.write_text(f"{line}\n{keys}\n")
    argv = [str(view.tree.root / "loader/mkiso.sh"), str(out), str(loader or build / "loader.elf"),
            str(kernel or build / "kernel.elf"), str(lines)]
    for path, text in modules:
        argv += [str(path), text]
    status, text, _ = run_child(argv, env=env)
    expect(status == 0, f"{shell_text(argv)}: exit status {status}\n{text}")
    return out


def make_plain_image(view, config, files):
    """An image with a grub.cfg of its own: what mkiso.sh never makes."""
    folder = view.folder() / "plain"
    (folder / "boot/grub").mkdir(parents=True)
    (folder / "boot/grub/grub.cfg").write_text(config)
    for name, path in files.items():
        shutil.copy(path, folder / "boot" / name)
    out = view.folder() / "plain.iso"
    argv = ["grub-mkrescue", "-o", str(out), "--install-modules=multiboot2 normal iso9660",
            "--fonts=", "--locales=", "--themes=", str(folder)]
    status, text, _ = run_child(argv)
    expect(status == 0, f"{shell_text(argv)}: exit status {status}\n{text}")
    return out


def loader_with_mode(view, width, height, bits):
    """The loader with a Multiboot2 header that asks for this mode; width 0: that asks for none."""
    data = bytearray((view.tree.build / "loader.elf").read_bytes())
    tag = struct.pack("<HHIIII", 5, 1, 20, 1024, 768, 32)
    expect(data.count(tag) == 1, "the loader's header has no such tag")
    at = data.find(tag)
    kind = 5 if width else 0x7FFF  # unknown and optional: GRUB passes over it
    data[at:at + len(tag)] = struct.pack("<HHIIII", kind, 1, 20, width, height, bits)
    path = view.folder() / "mode.elf"
    path.write_bytes(data)
    return path


# ---- Machines

def drive_words(image, drive):
    if drive == "cd":
        return ["-cdrom", str(image)]
    if drive == "disk":
        return ["-drive", f"format=raw,file={image}"]
    return ["-device", "qemu-xhci", "-drive", f"id=stick,if=none,format=raw,file={image}",
            "-device", "usb-storage,drive=stick"]


def image_argv(image, firmware="bios", memory="256M", cpu="max", machine="pc", drive="cd", extra=()):
    words = ["-bios", OVMF] if firmware == "uefi" else []
    return qemu_argv(memory, cpu, machine, [*words, *drive_words(image, drive), *extra])


def boot_image(view, image, until=None, **options):
    view.last_boot = view.tree._boot(image_argv(image, **options), until=until)
    return view.last_boot


def without_firmware(boot):
    """The boot as if only the loader and the kernel had printed: UEFI and GRUB use COM1 too."""
    begin = boot.text.find("[loader] ")
    expect(begin >= 0, "the loader did not start")
    return Boot(boot.status, boot.text[begin:], boot.command, boot.seconds)


# ---- Screens

class Monitor:
    """QEMU's monitor on a socket (QMP); a command has ended when call() returns."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LOOK_SECONDS)
        self._socket.connect(str(path))
        self._answers = self._socket.makefile("r", encoding="utf-8")
        self._answers.readline()  # the greeting
        self.call("qmp_capabilities")

    def call(self, name, **arguments):
        self._socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        for line in self._answers:
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                expect("return" in answer, f"QEMU's monitor: {name}: {answer}")
                return
        expect(False, f"QEMU's monitor: {name}: no answer")

    def ask(self, line):
        """The answer to a line of the human monitor."""
        words = {"execute": "human-monitor-command", "arguments": {"command-line": line}}
        self._socket.sendall(json.dumps(words).encode())
        for answer in map(json.loads, self._answers):
            if "return" in answer:
                return answer["return"]
            expect("error" not in answer, f"QEMU's monitor: {line}: {answer}")
        expect(False, f"QEMU's monitor: {line}: no answer")

    def rests(self):
        """The first CPU is halted, and no interrupt can wake it (bit 9 of RFLAGS). The machine stands
        still then, and while it is asked: the two are of one moment."""
        self.call("stop")
        state = re.search(r"RFL=([0-9a-f]+) .*HLT=(\d)", self.ask("info registers"))
        rests = state is not None and state[2] == "1" and int(state[1], 16) & 0x200 == 0
        if not rests:
            self.call("cont")
        return rests

    def close(self):
        self._answers.close()
        self._socket.close()


def connect(path, child):
    limit = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            return Monitor(path)
        except (FileNotFoundError, ConnectionRefusedError):
            expect(child.poll() is None, "QEMU ended at once")
            expect(time.monotonic() < limit, "QEMU's monitor does not answer")
            time.sleep(0.05)


def look(view, argv, commands):
    """Boots to the end, then calls the monitor: [(name, arguments)]. Whatever was printed is drawn then.

    Without mello.exit=qemu on the kernel's line, so that the machine stays as it is."""
    serial, monitor = view.folder() / "serial", view.folder() / "monitor"
    argv = [f"file:{serial}" if word == "stdio" else word for word in argv]
    argv += ["-qmp", f"unix:{monitor},server=on,wait=off"]
    start = time.monotonic()
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        talk = connect(monitor, child)
        while not talk.rests():
            expect(time.monotonic() < start + LOOK_SECONDS, "the boot does not come to its end")
            time.sleep(0.1)
        for name, arguments in commands:
            talk.call(name, **arguments)
        talk.close()
    finally:
        kill_session(child.pid)
        child.wait()
        shown = serial.read_text("utf-8", "replace").replace("\r", "") if serial.exists() else ""
        view.last_boot = Boot(0, shown, shell_text(argv), time.monotonic() - start)
    return view.last_boot


def read_ppm(path):
    """(width, height, bytes of RGB)."""
    data = Path(path).read_bytes()
    magic, width, height, depth = data.split(maxsplit=4)[:4]
    expect((magic, depth) == (b"P6", b"255"), f"{path}: not a picture of 8-bit colours")
    return int(width), int(height), data[-3 * int(width) * int(height):]


def read_font():
    """{glyph's 16 bytes: character} of the printable ASCII characters, from a PSF1 font."""
    data = gzip.open(FONT).read()
    count = 512 if data[2] & 1 else 256
    glyphs = [data[4 + 16 * i:20 + 16 * i] for i in range(count)]
    rest, found, glyph = data[4 + 16 * count:], {}, 0
    for (code,) in struct.iter_unpack("<H", rest[:len(rest) // 2 * 2]):
        if code == 0xFFFF:
            glyph += 1
        elif 0x20 <= code <= 0x7E:
            found.setdefault(glyphs[glyph], chr(code))
    return found


def read_picture(path, scale=1):
    """Size and lines of text of a picture, which must hold nothing else: unknown cells are '\\0'."""
    width, height, pixels = read_ppm(path)
    font, lines = read_font(), []
    for top in range(0, height - 16 * scale + 1, 16 * scale):
        line = ""
        for left in range(0, width - 8 * scale + 1, 8 * scale):
            cell = bytes(sum((pixels[((top + y * scale) * width + left + x * scale) * 3] > 127)
                             << (7 - x) for x in range(8)) for y in range(16))
            line += font.get(cell, "\0")
        lines.append(line.rstrip())
    return width, height, lines
