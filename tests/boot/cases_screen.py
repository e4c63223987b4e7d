# SPDX-License-Identifier: MIT
"""What stands on the screen, pixel by pixel, and the ways to it: loader.mode, `./mello screenshot`,
the window of `./mello run`.

Pictures are taken when the first CPU has halted for good, so nothing is left to be drawn. Text is
looked for with the glyphs that tools/mkfont.c has made (the host tests compare these with the font
packages) in the very colours of kernel/screen/palette.h; what it must say comes from the serial log.
The bar is measured along two of its lines and compared with the logged memory map by a reckoning of
its own: only the lengths of breaks and of the smallest segments are taken from kernel/screen.
"""

import dataclasses
import re
import struct
import subprocess
import zlib

from cases_command import Programs
from cases_iso import own_build, refuse_image
from image import image_argv, loader_with_mode, look, make_image, read_ppm, without_firmware
from log import CASES, HELLO, LOW_MEMORY_END, Log, check_halt
from machine import QEMU, expect, qemu_argv
from suite import add

# What is drawn with which font, by the size of the screen: (width, height, scale) of a cell of the
# summary, of its greeting, and of the log.
FACES = {
    (640, 480): ((8, 16, 1), (16, 32, 1), (8, 16, 1)),
    (800, 600): ((8, 16, 1), (16, 32, 1), (8, 16, 1)),
    (1000, 700): ((12, 24, 1), (12, 24, 2), (8, 16, 1)),
    (1024, 768): ((12, 24, 1), (12, 24, 2), (8, 16, 1)),
    (1920, 1080): ((16, 32, 1), (32, 64, 1), (16, 32, 1)),
    (3840, 2160): ((32, 64, 1), (32, 64, 2), (32, 64, 1)),
}

# The log's names of types: (name in the legend, colour).
TYPES = {
    "usable": ("usable", "USABLE"),
    "executable": ("kernel", "KERNEL"),
    "metadata": ("frame bitmaps", "METADATA"),
    "loader reclaimable": ("boot loader", "LOADER"),
    "ACPI reclaimable": ("ACPI tables", "ACPI"),
    "ACPI NVS": ("ACPI NVS", "ACPI_NVS"),
    "reserved": ("reserved", "RESERVED"),
    "framebuffer": ("framebuffer", "FRAMEBUFFER"),
    "bad memory": ("bad", "BAD_MEMORY"),
    "hole": (None, "PANEL"),
}
NO_MEMORY = ("reserved", "framebuffer", "hole")
SPARKLES = "✨"


# ---- Taking pictures

def take(view, argv):
    """Boots to the end: (Boot of what came on the serial port, Picture)."""
    dump = view.folder() / "screen.ppm"
    boot = look(view, argv, [("screendump", {"filename": str(dump)})])
    return boot, Picture(view, *read_ppm(dump))


def direct_argv(view, mode, memory="512M", line=""):
    """The loader in that mode; -display none, so what counts is the display's own memory."""
    build = view.tree.build
    argv = qemu_argv(memory, "max", "pc", ["-vga", "std", "-global", "VGA.vgamem_mb=64"])
    return argv + ["-kernel", str(build / "loader.elf"), "-initrd", str(build / "kernel.elf"),
                   "-append", f"loader.mode={mode} {line}".strip()]


# ---- Pictures and glyphs

class Picture:
    """Pixels, and the colours {name: RGB} of palette.h as this screen shows them: the picture's own,
    since tests run beside each other and a screen of 16 bits changes them."""

    def __init__(self, view, width, height, pixels):
        self.width, self.height, self.pixels = width, height, pixels
        self.colours = read_palette(view)

    def line(self, y, left, right):
        """The colours of the pixels [left, right) of line y."""
        at, end = (y * self.width + left) * 3, (y * self.width + right) * 3
        data = self.pixels[at:end]
        return [data[i] << 16 | data[i + 1] << 8 | data[i + 2] for i in range(0, len(data), 3)]

    def bytes_of(self, name):
        return self.colours[name].to_bytes(3, "big")

    def holds(self, x, y, data):
        at = (y * self.width + x) * 3
        return self.pixels[at:at + len(data)] == data


class Face:
    """Glyphs of one font at one scale: dots of {character: rows}, a row of dots in an integer."""

    def __init__(self, view, width, height, scale):
        self.dots, self.rows, self.scale = width, height, scale
        self.cell, self.row = width * scale, height * scale
        self.glyphs = read_glyphs(view, width, height)

    def cells(self, text):
        return sum(self.glyphs[c][0] // self.dots for c in text)

    def lines(self, picture, text, rgb, ground):
        """The text as lines of pixels; each stands `scale` times below itself."""
        result, ground = [], picture.bytes_of(ground)
        for y in range(self.rows):
            data = b""
            for char in text:
                width, rows = self.glyphs[char]
                ink = picture.bytes_of("SPARK" if char == SPARKLES else rgb)
                data += b"".join((ink if rows[y] >> (width - 1 - x) & 1 else ground) * self.scale
                                 for x in range(width))
            result.append(data)
        return result

    def find(self, picture, text, rgb, ground="GROUND"):
        """[(x, y)] of every place where the text stands, to the pixel."""
        lines = self.lines(picture, text, rgb, ground)
        key = max(range(self.rows), key=lambda y: sum(lines[y][i:i + 3] != lines[y][i + 3:i + 6]
                                                      for i in range(0, len(lines[y]) - 3, 3)))
        found, at = [], picture.pixels.find(lines[key])
        while at >= 0:
            y, x = divmod(at // 3, picture.width)
            y -= key * self.scale
            if at % 3 == 0 and y >= 0 and x * 3 + len(lines[0]) <= picture.width * 3 and all(
                    picture.holds(x, y + i, lines[i // self.scale]) for i in range(self.row)):
                found.append((x, y))
            at = picture.pixels.find(lines[key], at + 1)
        return found


def read_glyphs(view, width, height):
    """{character: (dots, rows)} of the tables that were built into the kernel."""
    text = (view.tree.build / "font" / "font_data.c").read_text()
    glyphs = {}
    for kind, dots in (("narrow", width), ("wide", 2 * width)):
        table = re.search(rf"font_{width}x{height}_{kind}\[\] = {{(.*?)^}};", text, re.S | re.M)
        expect(table, f"no {kind} glyphs of {width} x {height}")
        for point, numbers in re.findall(r"/\* U\+([0-9A-F]{4}) \*/([^/]*)", table[1]):
            data = bytes(int(number, 16) for number in re.findall(r"0x[0-9a-f]{2}", numbers))
            size = (dots + 7) // 8
            expect(len(data) == size * height, f"U+{point}: {len(data)} bytes")
            rows = [int.from_bytes(data[i:i + size], "big") >> (8 * size - dots)
                    for i in range(0, len(data), size)]
            glyphs[chr(int(point, 16))] = (dots, rows)
    return glyphs


def read_palette(view):
    text = (view.tree.root / "kernel/screen/palette.h").read_text()
    return {name: int(value, 16) for name, value in
            re.findall(r"#define PALETTE_(\w+) +0x([0-9a-f]{6})u", text)}


def faces(view, picture):
    return [Face(view, *face) for face in FACES[picture.width, picture.height]]


def only(places, what):
    expect(len(places) == 1, f"'{what}' stands on the screen {len(places)} times")
    return places[0]


# ---- The summary

def size_text(size):
    """As on the screen: the unit that suits, cut to a tenth."""
    unit, number = 1024, 0
    while number < 3 and (size >= unit * 10000 or (size >= unit * 1024 and size % (unit * 1024) == 0)):
        unit, number = unit * 1024, number + 1
    tenth = size % unit * 10 // unit
    part = "" if tenth == 0 or size // unit >= 100 else f".{tenth}"
    return f"{size // unit}{part} {('KB', 'MB', 'GB', 'TB')[number]}"


def check_card(picture, small, large, label, values, detail, detail_rgb="DIM"):
    """A card: label, one of these values, detail, below each other."""
    x, y = only(small.find(picture, label, "DIM", "PANEL"), label)
    expect(any((x, y + small.row) in large.find(picture, value, "TEXT", "PANEL")
               for value in values), f"{label}: not {' or '.join(values)}")
    places = small.find(picture, detail, detail_rgb, "PANEL")
    expect((x, y + small.row + large.row) in places, f"{label}: not '{detail}'")


def check_cards(picture, small, large, log):
    ready = log.ready()
    total, usable, free = (ready[key] << 10 for key in ("total_kb", "usable_kb", "free_kb"))
    usable, free = usable + given_back(log), free + given_back(log)
    ranges = f"in {ready['ranges']} range" + ("" if ready["ranges"] == 1 else "s")
    part = usable // (total // 1000)
    check_card(picture, small, large, "Total memory", [size_text(total)], ranges)
    check_card(picture, small, large, "Usable", [size_text(usable)],
               f"{part // 10}.{part % 10} % of all")
    # Between READY and the summary the kernel takes some frames for its CPUs.
    free = sorted({size_text(free - taken * 4096) for taken in range(65)})
    x, y = only(small.find(picture, "Free", "DIM", "PANEL"), "Free")
    expect(any((x, y + small.row) in large.find(picture, text, "TEXT", "PANEL") for text in free),
           f"Free: not {' or '.join(free)}")
    check_card(picture, small, large, "Self-tests", [f"{len(CASES)}/{len(CASES)}"], "✓ all passed",
               "GOOD")


def given_back(log):
    """Bytes of the loader's memory, which is usable when the picture is drawn."""
    return int(log.only(r"\[MM\] loader memory: (\d+) KB given back")[1]) << 10


def ranges_of(log):
    """The memory map with the frame bitmaps, for which room is found after it was logged, and with the
    loader's memory as usable, as it is by then."""
    match = log.only(r"\[MM\] Frames: .*; (\d+) KB of bitmaps at 0x([0-9a-f]+)")
    first = int(match[2], 16)
    last, rows = first + (int(match[1]) << 10), []
    for base, end, kind in log.ranges():
        if base <= first and last <= end:
            expect(kind == "usable", f"the bitmaps lie in {kind}")
            parts = [(base, first, kind), (first, last, "metadata"), (last, end, kind)]
            rows += [part for part in parts if part[0] < part[1]]
        else:
            rows.append((base, end, kind))
    return joined((base, end, "usable" if kind == "loader reclaimable" and base >= LOW_MEMORY_END
                   else kind) for base, end, kind in rows)


def joined(rows):
    """Neighbours of one type are one range, as in mm once the loader's memory came back."""
    result = []
    for base, end, kind in rows:
        if result and result[-1][1:] == (base, kind):
            base = result.pop()[0]
        result.append((base, end, kind))
    return result


def segments_of(log):
    """The bar: the map up to its last memory, holes included; neighbours of one type are one."""
    rows, at = [], 0
    for base, end, kind in ranges_of(log):
        rows += [Segment(base - at, "hole")] if at < base else []
        if rows and rows[-1].kind == kind:
            rows[-1].size, rows[-1].pieces = rows[-1].size + end - base, rows[-1].pieces + 1
        else:
            rows.append(Segment(end - base, kind))
        at = end
    while rows[-1].kind in NO_MEMORY:
        rows.pop()
    memory = sum(row.size for row in rows if row.kind not in NO_MEMORY)
    for row in rows:
        row.is_break = row.kind in NO_MEMORY and row.size > memory // 64
    return rows


@dataclasses.dataclass
class Segment:
    size: int
    kind: str
    pieces: int = 1
    is_break: bool = False


def measure(line, segments, break_pixels, colours):
    """The lengths of the segments along a line of the bar, which must show them and nothing else."""
    widths, at = [], 0
    for number, segment in enumerate(segments):
        begin, kind = at, segment.kind
        colour = colours[TYPES[kind][1]]
        if segment.is_break:
            stroke = colours["EDGE"] if kind == "hole" else colour
            at += break_pixels
            expect(set(line[begin:at]) == {stroke, colours["GROUND"]},
                   f"segment {number}, {kind}, is no break")
        else:
            while at < len(line) and line[at] == colour:
                at += 1
            expect(at > begin, f"segment {number}, {kind}, is not on the bar: {line[at:at + 1]}")
        widths.append(at - begin)
    expect(at == len(line), f"{len(line) - at} pixels of the bar are none of the map's")
    return widths


def check_bar(picture, small, log):
    x, y = only(small.find(picture, "PHYSICAL MEMORY", "ACCENT"), "PHYSICAL MEMORY")
    top, height, segments = y + small.row * 3 // 2, 2 * small.row, segments_of(log)
    least, both = small.row // 8, []
    for line in (top + height // 4, top + height * 3 // 4):
        pixels = picture.line(line, x, picture.width - x)
        both.append(measure(pixels, segments, 3 * small.cell, picture.colours))
    expect(both[0] == both[1], "the bar is another one further down")
    check_lengths([pair for pair in zip(segments, both[0]) if not pair[0].is_break], least)
    return segments


def check_lengths(solid, least):
    """In proportion to each other, but for those that would be too small to be seen."""
    shared = [(segment, width) for segment, width in solid if width > least * segment.pieces]
    rate = sum(width for _, width in shared) / sum(segment.size for segment, _ in shared)
    for segment, width in solid:
        right = segment.size * rate
        if width > least * segment.pieces:
            expect(abs(width - right) <= 1.5, f"{segment} has {width} pixels, not {right:.2f}")
        else:
            expect(width == least * segment.pieces and right < width + 1,
                   f"{segment} has {width} pixels, {right:.2f} in proportion, the least is {least}")


def check_legend(picture, small, segments):
    """Swatch, name and size of each type on the bar, and of no other."""
    side = small.row // 2
    for kind, (name, colour) in TYPES.items():
        size = sum(segment.size for segment in segments if segment.kind == kind)
        if name is None:
            continue
        text = size_text(size)
        places = [(x, y) for x, y in small.find(picture, name, "TEXT")
                  if (x + (len(name) + 1) * small.cell, y) in small.find(picture, text, "DIM")]
        expect(len(places) == (size > 0), f"the legend has {len(places)} times '{name} {text}'")
        for x, y in places:
            left = x - 2 * small.cell
            swatch = picture.line(y + small.row // 2, left, left + side)
            expect(set(swatch) == {picture.colours[colour]}, f"the colour of {name}: {swatch[0]:06x}")


def check_windows(picture, small, boot):
    only(small.find(picture, "KERNEL ADDRESS SPACE", "ACCENT"), "KERNEL ADDRESS SPACE")
    offset = re.search(r"HHDM at (0x[0-9a-f]+)", boot.text)[1]
    for name, begin, rights in (("HHDM", offset, "RW-"), ("kernel .text", "0xffffffff80000000", "R-X")):
        _, y = only(small.find(picture, name, "TEXT"), name)
        expect(y in [at for _, at in small.find(picture, begin, "TEXT")], f"{name}: not at {begin}")
        expect(y in [at for _, at in small.find(picture, rights, "DIM")], f"{name}: not {rights}")


def check_summary(view, boot, picture):
    boot = without_firmware(boot)
    log = Log(boot)
    expect(HELLO in log.lines, "no Hello on the serial port")
    small, large, _ = faces(view, picture)
    x, _ = only(large.find(picture, HELLO, "TEXT"), HELLO)
    expect(x == picture.width // 32, f"the greeting begins at {x}")
    check_cards(picture, small, large, log)
    check_legend(picture, small, check_bar(picture, small, log))
    check_windows(picture, small, boot)


def show_direct(view, mode, memory="512M", line=""):
    boot, picture = take(view, direct_argv(view, mode, memory, line))
    expect(mode.startswith(f"{picture.width}x{picture.height}x"),
           f"a screen of {picture.width} x {picture.height}")
    check_summary(view, boot, picture)


def show_image(view, firmware, mode):
    loader = loader_with_mode(view, *mode) if mode else None
    argv = image_argv(make_image(view, line="", loader=loader), firmware)
    check_summary(view, *take(view, argv))


def show_sixteen_bits(view):
    """Colours lose their low bits; letters stay what they are."""
    boot, picture = take(view, direct_argv(view, "800x600x16", "64M"))
    _, large, _ = faces(view, picture)
    for name, value in picture.colours.items():
        red, green, blue = value >> 19, value >> 10 & 63, value >> 3 & 31
        picture.colours[name] = ((red << 3 | red >> 2) << 16 | (green << 2 | green >> 4) << 8 |
                                 blue << 3 | blue >> 2)
    only(large.find(picture, HELLO, "TEXT"), HELLO)
    expect(HELLO in Log(boot).lines, "no Hello on the serial port")


# ---- The log

def wrapped(face, lines, columns):
    """Rows of a screen that show these lines: a long one goes on in the next row, indented."""
    rows = []
    for line in lines:
        row, used = "", 0
        for char in line:
            cells = face.cells(char)
            if used + cells > columns:
                rows.append(row.rstrip())
                row, used = " " * 5, 5
            row, used = row + char, used + cells
        rows.append(row.rstrip())
    return rows


def read_log(picture, face):
    """[(text, colours)] of every row of letters on the screen."""
    table = {}
    for char, (dots, rows) in face.glyphs.items():
        parts = dots // face.dots
        for part in range(parts):  # the right half of a wide glyph stands for no further character
            shift = dots - face.dots * (part + 1)
            key = tuple(row >> shift & (1 << face.dots) - 1 for row in rows)
            if any(key):
                table.setdefault(key, char if part == 0 else "")
    margin, result = face.cell // 2, []
    for top in range(margin, picture.height - margin - face.row + 1, face.row):
        lines = [picture.line(top + y * face.scale, margin, picture.width - margin)
                 for y in range(face.rows)]
        text, colours = "", set()
        for left in range(0, len(lines[0]) - face.cell + 1, face.cell):
            cell = [line[left:left + face.cell:face.scale] for line in lines]
            inks = {colour for line in cell for colour in line} - {picture.colours["GROUND"]}
            expect(len(inks) <= 1, f"a letter of {len(inks)} colours")
            key = tuple(sum((colour in inks) << (face.dots - 1 - x) for x, colour in enumerate(line))
                        for line in cell)
            text += table.get(key, "\0") if inks else " "
            colours |= inks
        result.append((text.rstrip(), colours))
    return result


def show_panic(view, mode):
    """A panic after the greeting: the log is back, and says what the serial port says."""
    boot, picture = take(view, direct_argv(view, mode, "64M", "mello.fault=null"))
    _, large, face = faces(view, picture)
    lines = [line for line in boot.lines()][:-1]  # the text ends with a newline
    report = next(number for number, line in enumerate(lines) if line.startswith("PANIC: "))
    first = next(number for number, line in enumerate(lines) if line.startswith("MelloOS "))
    columns = (picture.width - 2 * (face.cell // 2)) // face.cell
    expected = wrapped(face, lines[first:], columns)
    shown = read_log(picture, face)
    while not shown[-1][0]:
        shown.pop()
    texts = [text for text, _ in shown]
    expect(texts == expected[-len(texts):], "the screen says " + "\n".join(
        f"'{text}', not '{other}'" for text, other in zip(texts, expected[-len(texts):])
        if text != other))
    expect(len(texts) >= len(wrapped(face, lines[report:], columns)), "the report is cut off")
    head = texts.index(wrapped(face, lines[report:], columns)[0])
    expect(shown[head][1] == {picture.colours["BAD"]}, "the first line of the report is not red")
    expect(not large.find(picture, HELLO, "TEXT"), "the summary is still there")


# ---- loader.mode

MODES_REFUSED = {
    "words": ("wide", "not a mode such as"),
    "two-numbers": ("800x600", "not a mode such as"),
    "more": ("800x600x32x1", "not a mode such as"),
    "no-height": ("800x0x32", "not a mode such as"),
    "too-wide": ("65536x600x32", "not a mode such as"),
    "8-bits": ("800x600x8", "15, 16, 24 or 32 bits"),
    "odd-width": ("1001x700x24", "multiples of 8"),
    "no-room": ("3840x2160x32", r"takes 32400 KB and the display has 16384 KB"),
    "over-the-display": ("16008x8x16", "the display took 16000 x 8 x 16 for 16008 x 8 x 16"),
}


def refuse_mode(view, mode, pattern, line="", extra=()):
    boot = view.qemu("64M", f"loader.mode={mode} {line}".strip(), extra=extra)
    check_halt(boot, r"\[loader\] ERROR: .*(" + pattern + ")", mm=False)


# ---- ./mello screenshot

def read_png(view, path):
    """A Picture of a PNG of eight-bit RGB without interlace (PNG specification, 5 and 9)."""
    data, at, body = path.read_bytes(), 8, b""
    expect(data[:8] == b"\x89PNG\r\n\x1a\n", f"{path}: no PNG")
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at + 8:at + 8 + size]
        expect(zlib.crc32(kind + chunk) == struct.unpack_from(">I", data, at + 8 + size)[0],
               f"{path}: {kind} is damaged")
        if kind == b"IHDR":
            width, height, *rest = struct.unpack(">IIBBBBB", chunk)
            expect(rest == [8, 2, 0, 0, 0], f"{path}: {rest}")
        body += chunk if kind == b"IDAT" else b""
        at += size + 12
    expect(kind == b"IEND" and at == len(data), f"{path}: it does not end")
    return Picture(view, width, height, unfilter(zlib.decompress(body), width * 3, height))


def unfilter(body, stride, height):
    above, result = bytearray(stride), bytearray()
    for y in range(height):
        kind, line = body[y * (stride + 1)], bytearray(body[y * (stride + 1) + 1:][:stride])
        for i in range(stride) if kind else ():
            left, up, corner = (line[i - 3], above[i], above[i - 3]) if i >= 3 else (0, above[i], 0)
            if kind == 4:
                guess = left + up - corner
                _, _, value = min((abs(guess - left), 0, left), (abs(guess - up), 1, up),
                                  (abs(guess - corner), 2, corner))
            else:
                value = (0, left, up, (left + up) // 2)[kind]
            line[i] = line[i] + value & 255
        result += line
        above = line
    return bytes(result)


def screenshot(view):
    """A whole picture under an odd name, and nothing beside it; made again, it is replaced."""
    folder = view.folder() / 'a "b\\ c, d'
    folder.mkdir()
    path = folder / "odd, 'name.png"
    path.write_text("old")
    boot = view.mello("screenshot", str(path), "--memory", "64M", "--cmdline",
                      "loader.mode=640x480x32")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    expect([entry.name for entry in folder.iterdir()] == [path.name], "something is left beside it")
    picture = read_png(view, path)
    small, large, _ = faces(view, picture)
    only(large.find(picture, HELLO, "TEXT"), HELLO)
    only(small.find(picture, "✓ all passed", "GOOD", "PANEL"), "all passed")


def screenshot_firmware(view):
    path = view.folder() / "bios.png"
    boot = view.mello("screenshot", "--firmware", "bios", str(path), "--memory", "64M")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    picture = read_png(view, path)
    only(faces(view, picture)[1].find(picture, HELLO, "TEXT"), HELLO)


def screenshot_of_panic(view):
    """A failed boot has a picture too, and its own exit status."""
    path = view.folder() / "panic.png"
    boot = view.mello("screenshot", str(path), "--memory", "64M", "--cmdline",
                      "mello.fault=ud loader.mode=640x480x32")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    expect("PANIC: #UD" in boot.text, "it does not say what happened")
    picture = read_png(view, path)
    expect("PANIC: #UD invalid opcode (vector 6), no error code" in
           [text for text, _ in read_log(picture, faces(view, picture)[2])], "not on the picture")


def screenshot_fails(view, words, qemuflags, status):
    """Without a picture an older one stays what it is, and nothing half is left."""
    settings = {**own_build(view), "QEMUFLAGS": qemuflags}
    folder = view.folder() / "pictures"
    folder.mkdir()
    path = folder / "old.png"
    path.write_text("old")
    boot = view.mello_of(view.tree.root, "screenshot", str(path), "--memory", "64M", *words,
                         settings=settings)
    expect(boot.status == status, f"exit status {boot.status}, not {status}")
    expect(path.read_text() == "old", "the old picture is gone")
    expect(len(list(folder.iterdir())) == 1, "something is left beside it")
    left = [entry.name for entry in (view.folder() / "build").glob("screenshot*")]
    expect(not left, f"left in the build folder: {left}")


PICTURES_REFUSED = {
    "no-name": ([], "name of the picture is missing"),
    "no-png": (["{}/a.jpg"], "ends with .png"),
    "no-folder": (["{}/none/a.png"], "no folder"),
    "folder": (["{}/folder.png"], "not a file"),
    "pipe": (["{}/pipe.png"], "not a file"),
    "two": (["{}/a.png", "{}/b.png"], "unknown argument"),
    "exit": (["{}/a.png", "--cmdline", "mello.exit=qemu"], "would end QEMU"),
    "headless": (["{}/a.png", "--headless"], "no such option"),
    "window": (["{}/a.png", "--window"], "no such option"),
    "mode-in-image": (["{}/a.png", "--firmware", "bios", "--cmdline", "loader.mode=640x480x32"],
                      "need --firmware direct"),
}


def refuse_picture(view, words, pattern):
    folder = view.folder()
    (folder / "folder.png").mkdir()
    subprocess.run(["mkfifo", str(folder / "pipe.png")], check=True)
    programs = Programs(view)
    programs.script(QEMU, "echo QEMU was started; exit 1\n")
    boot = view.mello("screenshot", *(word.format(folder) for word in words), path=programs.path)
    expect(boot.status == 2, f"exit status {boot.status}, not 2")
    expect(re.search(pattern, boot.text), f"it does not say '{pattern}'")
    expect("QEMU was started" not in boot.text, "it boots first")
    expect(not list(folder.glob("?.png")), "it leaves a file")


# ---- The window, by a script that stands in for QEMU

STAND_IN = """case "$*" in
    '-display help') echo none; cat '{kinds}' 2>/dev/null; exit 0 ;;
esac
printf '%s\\n' "$@" >'{called}'
"""


def open_window(view, words, display, kinds, expected, says, apt="exit 100\n", status=0):
    """`display`: variables that are set; `kinds`: of windows that QEMU has; `expected`: the one that
    it is called with, None: it is not called."""
    folder = view.folder()
    programs = Programs(view, without=("apt-get", "sudo"))
    called, has = folder / "called", folder / "kinds"
    has.write_text("".join(f"{kind}\n" for kind in kinds))
    programs.script(QEMU, STAND_IN.format(kinds=has, called=called))
    programs.script("apt-get", apt.format(kinds=has))
    settings = {**view.tree.settings(), "DISPLAY": "", "WAYLAND_DISPLAY": "", **display}
    boot = view.mello_of(view.tree.root, "run", *words, settings=settings, seconds=120,
                         path=programs.path)
    expect(boot.status == status, f"exit status {boot.status}, not {status}")
    for text in says:
        expect(text in boot.text, f"it does not say '{text}'")
    argv = called.read_text().splitlines() if called.exists() else None
    got = argv and [argv[i + 1] for i, word in enumerate(argv) if word == "-display"]
    expect(got == (expected and [expected]), f"-display {got}, not {expected}")
    if argv and "--headless" not in words:
        expect("mon:stdio" in argv, "the serial console is not in the terminal")


X, WAYLAND, NOWHERE = {"DISPLAY": ":7"}, {"WAYLAND_DISPLAY": "wayland-7"}, {}
CLOSE, TERMINAL, PACKAGE = "close the window", "to quit: Ctrl-A, then X", "qemu-system-gui"
INSTALLS = "case \" $* \" in *\" -s \"*) ;; *install*) echo gtk >'{kinds}' ;; esac\n"
WINDOWS = {
    "x": ([], X, ["gtk", "sdl"], "gtk", [CLOSE]),
    "wayland": ([], WAYLAND, ["gtk"], "gtk", [CLOSE]),
    "sdl": ([], X, ["sdl"], "sdl", [CLOSE]),
    "no-display": ([], NOWHERE, ["gtk"], "none", [TERMINAL]),
    "not-wanted": (["--no-window"], X, ["gtk"], "none", [TERMINAL]),
    "wanted": (["--window"], X, ["gtk"], "gtk", [CLOSE]),
    "wanted-no-display": (["--window"], NOWHERE, ["gtk"], None, ["WAYLAND_DISPLAY"], "", 5),
    "headless": (["--headless"], X, [], "none", [], "", 3),  # the stand-in ends with status 0
    "package": ([], X, [], "gtk", [PACKAGE, CLOSE], INSTALLS),
    "no-package": ([], X, [], "none", [PACKAGE, "without a window", TERMINAL]),
    "wanted-no-package": (["--window"], X, [], None, [PACKAGE], "exit 100\n", 5),
    "both": (["--window", "--headless"], X, ["gtk"], None, ["exclude each other"], "", 2),
    "large-mode": (["--cmdline", "loader.mode=3840x2160x32"], X, ["gtk"], "gtk", [CLOSE]),
}

for _mode in ("640x480x32", "1024x768x32", "1920x1080x32", "3840x2160x32", "1000x700x24"):
    add(f"screen/{_mode}", show_direct, _mode)
add("screen/1024x768x24-5G", show_direct, "1024x768x24", "5G")
add("screen/800x600x16", show_sixteen_bits)
add("screen/bios-1920x1080x24", show_image, "bios", (1920, 1080, 24))
add("screen/uefi", show_image, "uefi", None)
for _mode in ("1024x768x32", "1920x1080x24"):
    add(f"screen/panic-{_mode}", show_panic, _mode)
for _name, (_mode, _pattern) in MODES_REFUSED.items():
    add(f"screen/mode-{_name}", refuse_mode, _mode, _pattern)
add("screen/mode-no-display", refuse_mode, "800x600x32", "no display", "", ("-vga", "none"))
add("screen/mode-no-request", refuse_mode, "800x600x32", "no framebuffer", "loader.omit=framebuffer")
add("screen/mode-under-grub", refuse_image, "loader.mode=800x600x32: GRUB", "loader.mode=800x600x32")
add("screen/screenshot", screenshot)
add("screen/screenshot-bios", screenshot_firmware)
add("screen/screenshot-panic", screenshot_of_panic)
add("screen/screenshot-timeout", screenshot_fails, ["--timeout", "2"], "-S", 4, waits=True)
add("screen/screenshot-bad-flag", screenshot_fails, [], "-no-such-option", 5)
for _name, (_words, _pattern) in PICTURES_REFUSED.items():
    add(f"screen/screenshot-{_name}", refuse_picture, _words, _pattern)
for _name, _arguments in WINDOWS.items():
    add(f"screen/window-{_name}", open_window, *_arguments)
