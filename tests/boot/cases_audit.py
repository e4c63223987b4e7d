# SPDX-License-Identifier: MIT
"""What the CPU really has: page tables and control registers of the finished kernel, read by QEMU.

The kernel boots without mello.exit and then idles; QEMU's monitor prints every leaf of the live
page tables ("info tlb") and the registers. Nothing of mm takes part in the reading, so this judges
what paging.c and kvm.c have built: no page is writable and executable through any of its mappings,
the direct map holds the machine's RAM and the framebuffer and nothing else, guard pages are not
there.
"""

import re
import socket
import subprocess
import time

from elf import PF_W, PF_X, Elf
from log import HELLO, RAM, Log, merged, text_of
from machine import BOOT_SECONDS, Boot, expect, kill_session, qemu_argv, shell_text
from suite import add

# "VIRTUAL: PHYSICAL FLAGS": X is NO-execute here, P a large leaf, then dirty, accessed, PCD, PWT.
LEAF = re.compile(r"([0-9a-f]{16}): ([0-9a-f]{16}) "
                  r"([X-])([G-])([P-])[D-][A-]([C-])([T-])([U-])([W-])")
PAGE, LARGE, HUGE = 1 << 12, 1 << 21, 1 << 30
HIGHER_HALF = 1 << 63
LOCAL_APIC = 0xFEE00000
GUARDS = 5  # pages between the boot stacks
CR0_WP, EFER_NXE = 1 << 16, 1 << 11
CR4_PGE, CR4_UMIP, CR4_LA57, CR4_SMEP, CR4_SMAP = 1 << 7, 1 << 11, 1 << 12, 1 << 20, 1 << 21
PROMPT = b"(qemu) "


class Leaf:
    def __init__(self, match, size):
        self.virt, self.phys = int(match[1], 16), int(match[2], 16)
        self.size = size
        self.executable, self.writable = match[3] == "-", match[9] == "W"
        self.global_, self.user = match[4] == "G", match[8] == "U"
        self.uncached, self.write_through = match[6] == "C", match[7] == "T"

    def __str__(self):
        rights = ("w" if self.writable else "-") + ("x" if self.executable else "-")
        return f"{self.virt:#x} -> {self.phys:#x} ({self.size >> 10} KB, {rights})"


class Machine:
    """A booted kernel and the monitor of its QEMU."""

    def __init__(self, view, memory, cpu, keys, extra=()):
        self._socket = view.folder() / "monitor"
        serial = view.folder() / "serial"
        argv = qemu_argv(memory, cpu, extra=("-monitor", f"unix:{self._socket},server=on,wait=off",
                                             *extra))
        argv[argv.index("stdio")] = f"file:{serial}"
        argv += ["-kernel", str(view.tree.build / "loader.elf"),
                 "-initrd", str(view.tree.build / "kernel.elf"), "-append", keys]
        self._child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        self.boot = view.last_boot = Boot(0, "", shell_text(argv), 0)
        limit = time.monotonic() + BOOT_SECONDS
        while HELLO not in self.boot.text:
            if time.monotonic() > limit or self._child.poll() is not None:
                self.close()
                expect(False, "no Hello")
            time.sleep(0.1)
            if serial.exists():
                self.boot.text = serial.read_bytes().decode("utf-8", "replace").replace("\r", "")
        self._monitor = socket.socket(socket.AF_UNIX)
        self._monitor.settimeout(BOOT_SECONDS)
        self._monitor.connect(str(self._socket))
        self._read()

    def _read(self):
        data = b""
        while not data.endswith(PROMPT):
            part = self._monitor.recv(1 << 16)
            expect(part, "QEMU's monitor is gone")
            data += part
        return data.decode("utf-8", "replace").replace("\r", "")

    def ask(self, command):
        self._monitor.sendall(command.encode() + b"\n")
        return self._read()

    def word(self, address):
        """8 bytes of physical memory."""
        answer = self.ask(f"xp /1gx {address:#x}")
        return int(re.search(r"^[0-9a-f]+: 0x([0-9a-f]+)", answer, re.M)[1], 16)

    def register(self, name):
        return int(re.search(rf"\b{name}\s*=([0-9a-f]+)", self.ask("info registers"))[1], 16)

    def leaves(self):
        """All leaves. QEMU prints P for a large one, and not how large: leaf_bytes() looks."""
        leaves = []
        for line in self.ask("info tlb").split("\n"):
            if match := LEAF.fullmatch(line.strip()):
                size = self.leaf_bytes(int(match[1], 16)) if match[5] == "P" else PAGE
                leaves.append(Leaf(match, size))
        return leaves

    def leaf_bytes(self, virt):
        """2 MiB or 1 GiB: whether the walk ends at level 3."""
        if virt % HUGE != 0:
            return LARGE
        return HUGE if self.entry(virt, 3) & 1 << 7 else LARGE

    def entry(self, virt, level):
        """The raw entry at a level of the page tables (1: of a 4 KiB page)."""
        table = self.register("CR3") & ~0xFFF
        for at in range(5 if self.register("CR4") & CR4_LA57 else 4, 0, -1):
            entry = self.word(table + 8 * (virt >> (3 + 9 * at) & 511))
            if at == level or entry & 1 == 0 or (at < 4 and entry & 1 << 7):
                return entry
            table = entry & 0x000F_FFFF_FFFF_F000
        return 0

    def close(self):
        kill_session(self._child.pid)
        self._child.wait()


def audit(view, memory, cpu, keys=""):
    machine = Machine(view, memory, cpu, keys)
    try:
        log = Log(machine.boot)
        leaves = machine.leaves()
        expect(len(leaves) > 100, f"{len(leaves)} leaves only")
        check_registers(machine, cpu, "la57" in keys)
        check_all(leaves)
        image = check_image(view, log, leaves)
        heap = check_heap(log, leaves)
        direct = check_direct_map(machine, log, leaves, image)
        device = check_device(log, leaves)
        known = {leaf.virt for leaf in image + heap + direct + device}
        rest = [leaf for leaf in leaves if leaf.virt not in known]
        expect(not rest, f"mapped for no reason: {', '.join(map(str, rest[:5]))}")
    finally:
        machine.close()


def check_registers(machine, cpu, five_levels):
    wanted = CR4_PGE | (CR4_SMEP | CR4_SMAP | CR4_UMIP if cpu == "max" else 0)
    wanted |= CR4_LA57 if five_levels else 0
    cr4 = machine.register("CR4")
    expect(cr4 & wanted == wanted, f"CR4 is {cr4:#x}, wanted {wanted:#x}")
    expect(machine.register("CR0") & CR0_WP, "CR0.WP is off")
    expect(machine.register("EFER") & EFER_NXE, "EFER.NXE is off")


def check_all(leaves):
    """W^X, also through aliases; supervisor only; global; lower half empty."""
    for leaf in leaves:
        expect(leaf.virt >= HIGHER_HALF, f"in the lower half: {leaf}")
        expect(not (leaf.writable and leaf.executable), f"writable and executable: {leaf}")
        expect(not leaf.user, f"open to user mode: {leaf}")
        expect(leaf.global_, f"not global: {leaf}")
    executable = [leaf for leaf in leaves if leaf.executable]
    writable = merged((leaf.phys, leaf.phys + leaf.size) for leaf in leaves if leaf.writable)
    for leaf in executable:
        for base, end in writable:
            expect(end <= leaf.phys or leaf.phys + leaf.size <= base,
                   f"executable, and writable elsewhere: {leaf}")


def bounds(view, name):
    """[begin, end) of a part of the image, by the symbols of the kernel file."""
    text = subprocess.run(["nm", str(view.tree.build / "kernel.elf")], check=True, capture_output=True,
                          text=True).stdout
    return [int(re.search(rf"^([0-9a-f]+) . __{name}_{end}$", text, re.M)[1], 16)
            for end in ("begin", "end")]


def check_image(view, log, leaves):
    """Every page of the kernel file's segments with just its rights, but for the guard pages, what
    only the boot needed, and what is read-only after it."""
    gone = [bounds(view, "init"), bounds(view, "init_data")]
    sealed_begin, sealed_end = bounds(view, "ro_after_init")
    elf = Elf((view.tree.build / "kernel.elf").read_bytes())
    base = elf.loads()[0].get("vaddr") & ~0xFFF
    phys = int(log.only(r"\[loader\] kernel at .*physical 0x([0-9a-f]+).*")[1], 16)
    pages = {leaf.virt: leaf for leaf in leaves if base <= leaf.virt < base + HUGE}
    missing, found = 0, []
    for segment in elf.loads():
        flags = segment.get("flags")
        for virt in range(segment.get("vaddr") & ~0xFFF, segment.end(), PAGE):
            leaf = pages.get(virt)
            if any(begin <= virt < end for begin, end in gone):
                expect(leaf is None, f"is mapped after the boot: {leaf}")
                continue
            if sealed_begin <= virt < sealed_end:
                flags &= ~PF_W
            else:
                flags = segment.get("flags")
            if leaf is None:
                missing += 1
                expect(flags & PF_W, f"{virt:#x} is not mapped")
                continue
            expect(leaf.phys == phys + virt - base, f"not the kernel's frame: {leaf}")
            expect(leaf.writable == bool(flags & PF_W) and leaf.executable == bool(flags & PF_X),
                   f"segment rights {flags}: {leaf}")
            found.append(leaf)
    expect(missing == GUARDS, f"{missing} pages of the data are not mapped, not {GUARDS} guards")
    return found


def check_device(log, leaves):
    """The local APIC's page, uncached, where the kernel runs its timer."""
    device = [leaf for leaf in leaves if leaf.phys == LOCAL_APIC]
    expect(len(device) == len(log.find(r"CPUs: .*xAPIC.*timer.*")), f"{len(device)} APIC pages")
    for leaf in device:
        expect(leaf.size == PAGE and leaf.writable and not leaf.executable, f"not RW-: {leaf}")
        expect(leaf.uncached and leaf.write_through, f"not uncached (PAT entry 3): {leaf}")
    return device


def check_heap(log, leaves):
    """The heap's pages: as many as it says, RW-, in memory that is the allocator's to give."""
    match = log.only(r"\[MM\] Heap: (\d+) (MB|KB) at 0x([0-9a-f]+), .*")
    base, size = int(match[3], 16), int(match[1]) << (20 if match[2] == "MB" else 10)
    heap = [leaf for leaf in leaves if base <= leaf.virt < base + size]
    expect(merged((leaf.virt, leaf.virt + leaf.size) for leaf in heap) == [(base, base + size)],
           "the heap is not mapped in one piece")
    usable = log.extents({"usable"})
    frames = merged((leaf.phys, leaf.phys + leaf.size) for leaf in heap)
    expect(sum(end - start for start, end in frames) == size, "two heap pages share a frame")
    for start, end in frames:
        expect(any(low <= start and end <= high for low, high in usable),
               f"heap frames {start:#x}-{end:#x} are not usable memory")
    for leaf in heap:
        expect(leaf.writable and not leaf.executable, f"not RW-: {leaf}")
    return heap


def check_direct_map(machine, log, leaves, image):
    """Exactly the RAM and the framebuffer; read-only where the image is; never executable."""
    offset = int(log.only(r"\[MM\] HHDM offset: 0x([0-9a-f]+)")[1], 16)
    mapped = [leaf for leaf in leaves if leaf.virt - leaf.phys == offset]
    got = merged((leaf.phys, leaf.phys + leaf.size) for leaf in mapped)
    expected = log.extents(RAM | {"framebuffer"})
    expect(got == expected, f"the direct map holds {text_of(got)}, not {text_of(expected)}")
    constant = {leaf.phys for leaf in image if not leaf.writable}
    screen = log.extents({"framebuffer"})
    for leaf in mapped:
        expect(not leaf.executable, f"executable: {leaf}")
        expect(leaf.writable == (leaf.phys not in constant), f"wrong rights: {leaf}")
        if any(base <= leaf.phys < end for base, end in screen):
            check_write_combining(machine, leaf)
        else:
            expect(not leaf.uncached and not leaf.write_through, f"not write-back: {leaf}")
    return mapped


def check_write_combining(machine, leaf):
    """PAT entry 5: PAT 1, PCD 0, PWT 1; the PAT bit is 7 in a 4 KiB leaf, 12 in a larger one."""
    entry = machine.entry(leaf.virt, 1)
    pat = entry >> (7 if leaf.size == PAGE else 12) & 1
    expect(pat and not leaf.uncached and leaf.write_through,
           f"not write-combining: {leaf}, {entry:#x}")


# ---- What mm says about its tables

DUMP = re.compile(r"\[MM\] map 0x([0-9a-f]+)-0x([0-9a-f]+) (r)([w-])([x-])([u-])([g-])(-wc|-uc|-wt)? "
                  r"([124][KMG](?:\+[124][KMG])*) -> 0x([0-9a-f]+)")
SIZES = {"4K": PAGE, "2M": LARGE, "1G": HUGE}


def runs_of(leaves):
    """[(begin, end, frame, rights, sizes)]: leaves that go on in both addresses with the same rights."""
    runs = []
    for leaf in sorted(leaves, key=lambda leaf: leaf.virt):
        rights = ("w" if leaf.writable else "-", "x" if leaf.executable else "-",
                  "u" if leaf.user else "-", "g" if leaf.global_ else "-", leaf.uncached,
                  leaf.write_through)
        begin, frame, sizes = leaf.virt, leaf.phys, set()
        if runs and runs[-1][1] == leaf.virt and runs[-1][3] == rights \
                and runs[-1][2] + leaf.virt - runs[-1][0] == leaf.phys:
            begin, _, frame, _, sizes = runs.pop()
        runs.append((begin, leaf.virt + leaf.size, frame, rights, sizes | {leaf.size}))
    return runs


def dumped(log):
    """The same from the lines of paging_dump(). A write-combining leaf has PWT and the PAT bit, which
    QEMU does not print; an uncached one has PCD and PWT."""
    runs = []
    for match in log.find(DUMP.pattern):
        begin, end, frame = (int(match[number], 16) for number in (1, 2, 10))
        kind = match[8] or ""
        rights = (match[4], match[5], match[6], match[7], kind == "-uc", kind != "")
        runs.append((begin, end, frame, rights, {SIZES[size] for size in match[9].split("+")}))
    return runs


def same_as_dump(view, memory, cpu, keys="", extra=()):
    """Range by range, right by right: what QEMU finds in the tables is what mm says of them."""
    machine = Machine(view, memory, cpu, f"mello.dump=tables {keys}".strip(), extra)
    try:
        log = Log(machine.boot)
        found, said = runs_of(machine.leaves()), dumped(log)
        expect(len(said) > 10, f"{len(said)} lines of a dump")
        for run in found:
            expect(run in said, f"not in the dump: {text_of_run(run)}")
        for run in said:
            expect(run in found, f"in the dump alone: {text_of_run(run)}")
        check_aliases(said)
    finally:
        machine.close()


def text_of_run(run):
    begin, end, frame, rights, sizes = run
    return f"{begin:#x}-{end:#x} {rights} {sorted(sizes)} -> {frame:#x}"


def check_aliases(runs):
    """No frame is writable in one run and executable in another, nor both in one."""
    for begin, end, frame, rights, _ in runs:
        expect(rights[:2] != ("w", "x"), f"{begin:#x} is writable and executable")
        for other, other_end, other_frame, other_rights, _ in runs:
            if rights[1] == "x" and other_rights[0] == "w":
                expect(other_frame >= frame + end - begin or other_frame + other_end - other <= frame,
                       f"{begin:#x} is executable, and writable at {other:#x}")


add("audit/64M-qemu64", audit, "64M", "qemu64")
add("audit/64M-max", audit, "64M", "max")
add("audit/5G-qemu64", audit, "5G", "qemu64")
add("audit/5G-max", audit, "5G", "max")
add("audit/la57", audit, "64M", "max", "loader.la57=1")
add("audit/other-hhdm-and-slide", audit, "64M", "max",
    "loader.hhdm=0xffff9a8765433000 loader.slide=0x2345000")
add("audit/baserev2", audit, "64M", "qemu64", "loader.baserev=2")
add("audit/islands", audit, "64M", "qemu64", "loader.map=+0x2800000:0x3000:1 "
    "loader.map=+0x2a00800:0x100:4 loader.map=+0x2c00000:0x200000:3 loader.map=+0x300000:0x1000:77")
add("audit/no-framebuffer", audit, "64M", "qemu64", "loader.omit=framebuffer")
add("audit/dump-64M", same_as_dump, "64M", "qemu64")
add("audit/dump-64M-max", same_as_dump, "64M", "max", "", ("-smp", "4"))
add("audit/dump-5G-max", same_as_dump, "5G", "max")
add("audit/dump-la57", same_as_dump, "64M", "max", "loader.la57=1", ("-smp", "2"))
add("audit/dump-other-hhdm", same_as_dump, "64M", "qemu64",
    "loader.hhdm=0xffff9a8765433000 loader.slide=0x2345000")
add("audit/dump-after-stress", same_as_dump, "64M", "qemu64", "mm.stress=2", ("-smp", "2"))
