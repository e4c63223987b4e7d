# SPDX-License-Identifier: MIT
"""Boots: ./mello and QEMU as child processes, and what the firmware of a machine reports.

A Boot is one finished child: its exit status in the numbering of ./mello (0 success, 1 a self-test
failed, 2 usage, 3 panic or error, 4 time-out, 5 trouble), what it printed, and the command that
repeats it. Children run in sessions of their own and only those sessions are ever killed.
A Tree is the source tree with its build products; it builds the firmware probe (probe.c) once and
remembers the memory map of each machine that it was asked for, and the folders that tests share.
"""

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

QEMU = "qemu-system-x86_64"
BOOT_SECONDS = 300  # the machine may be shared: a boot takes about one second when it is idle

# isa-debug-exit turns the kernel's value v into the process status 2v + 1.
STATUS_OF_QEMU = {2 * 0x10 + 1: 0, 2 * 0x11 + 1: 1, 2 * 0x12 + 1: 3}
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
PLAIN_LIMIT = 16 * GIB  # beyond: memory without a host reservation
AMD_LIMIT = 1009 * GIB  # beyond: more than the 40 physical bits of QEMU's CPU models


class Failure(Exception):
    """A test's expectation was not met; the text says which."""


def expect(condition, why):
    if not condition:
        raise Failure(why)


def bytes_of(size):
    """'64M' -> 67108864."""
    return int(size[:-1]) * {"K": KIB, "M": MIB, "G": GIB, "T": TIB}[size[-1]]


@dataclasses.dataclass
class Boot:
    status: int
    text: str
    command: str
    seconds: float

    def lines(self):
        return [line.rstrip() for line in self.text.split("\n")]

    def tail(self, count=25):
        return [line for line in self.lines() if line][-count:]


_running = set()  # sessions of children that have not ended yet


def kill_session(session):
    """Ends every process of one of our sessions (timeout(1) leaves its parent's process group)."""
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.getsid(int(entry)) == session:
                os.kill(int(entry), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def kill_running():
    """For an interrupted run: no child stays behind."""
    for session in list(_running):
        kill_session(session)


def run_child(argv, seconds=BOOT_SECONDS, env=None, cwd=None, until=None, linger=0):
    """Runs a child to its end, to `until` (a text in its output) or to the time limit; with `linger`,
    it has so many seconds more once the text has come.

    Returns (its exit status, or "time" or "until"; output; seconds)."""
    start = time.monotonic()
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, env=env, cwd=cwd, start_new_session=True)
    _running.add(child.pid)
    ended, timers = [], []

    def end(why):
        ended.append(why)
        kill_session(child.pid)

    def end_later(after, why):
        timers.append(threading.Timer(after, end, [why]))
        timers[-1].start()

    end_later(seconds, "time")
    output = bytearray()
    try:
        while chunk := child.stdout.read1(65536):
            output += chunk
            if until is not None and not ended and until.encode() in output:
                if linger == 0:
                    end("until")
                elif len(timers) == 1:
                    end_later(linger, "until")
        status = child.wait()
    finally:
        for timer in timers:
            timer.cancel()
        child.stdout.close()
        _running.discard(child.pid)
    text = output.decode("utf-8", "replace").replace("\r", "")
    return ended[0] if ended else status, text, time.monotonic() - start


def qemu_argv(memory, cpu=None, machine="pc", extra=()):
    """QEMU with serial output on stdout, without anything that is not needed."""
    size = bytes_of(memory)
    argv = [QEMU, "-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none",
            "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-m", memory]
    if size > PLAIN_LIMIT:
        argv += ["-object", f"memory-backend-ram,id=ram,size={memory},reserve=off"]
        machine += ",memory-backend=ram"
    cpu = cpu or "qemu64"
    if size > AMD_LIMIT and "phys-bits" not in cpu:
        cpu += ",phys-bits=46"
    return argv + ["-machine", machine, "-cpu", cpu, *extra]


def plain_environment(settings):
    """Our environment without what would change a build or a boot, with these settings."""
    foreign = ("BUILD", "CC", "DEBUG", "BREAK", "V", "WERROR", "QEMUFLAGS", "MAKEFLAGS", "MFLAGS",
               "MAKELEVEL", "CMDLINE", "ISO", "LIMINE_DIR", "NO_COLOR", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {key: value for key, value in os.environ.items() if key not in foreign}
    return {**environment, **settings}


def shell_text(argv, settings=()):
    return " ".join([*settings, *(shlex.quote(str(word)) for word in argv)])


class Tree:
    """The sources at `root` and the build products in `build`."""

    def __init__(self, root, build):
        self.root = Path(root)
        self.build = Path(build)
        self.scratch = Path(tempfile.mkdtemp(prefix="mello-boot-"))
        self._lock = threading.Lock()
        self._maps = {}
        self._made = {}  # what tests share: made by the first that asks

    # ---- Building

    def compiler(self):
        """The compiler and MM_DEBUG that the products in `build` were made with."""
        stamp = self.build / "obj" / "kernel.stamp"
        text = stamp.read_text() if stamp.exists() else ""
        debug = re.search(r"-DMM_DEBUG=(\d)", text)
        return (text.split() or [os.environ.get("CC", "gcc")])[0], debug.group(1) if debug else "1"

    def make(self, *targets, build=None, settings=()):
        compiler, debug = self.compiler()
        argv = ["make", "-C", str(self.root), f"BUILD={build or self.build}", f"CC={compiler}",
                f"DEBUG={debug}", *settings, *targets]
        status, text, _ = run_child(argv, seconds=600, env=plain_environment({}))
        last = "\n".join(text.splitlines()[-20:])
        expect(status == 0, f"{shell_text(argv)}: exit status {status}\n{last}")

    def build_probe(self):
        out = self.scratch / "probe.elf"
        argv = [self.compiler()[0], "-m32", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror",
                "-ffreestanding", "-fno-pic", "-fno-pie", "-fno-stack-protector",
                "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-nostdlib", "-static",
                "-Wl,-Ttext-segment=0x100000", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
                "-Wl,-e,probe_entry", "-o", str(out), str(self.root / "tests/boot/probe.c")]
        status, text, _ = run_child(argv)
        expect(status == 0, f"{shell_text(argv)}: exit status {status}\n{text}")
        return out

    def shared_folder(self, name, fill):
        """A folder of that name for all tests to read, filled by `fill(folder)` when it is new."""
        with self._lock:
            if name not in self._made:
                folder = self.scratch / name
                folder.mkdir()
                try:
                    fill(folder)
                except BaseException:  # the next test sees the same error, and no half folder
                    shutil.rmtree(folder)
                    raise
                self._made[name] = folder
            return self._made[name]

    # ---- Running

    def settings(self, qemuflags=""):
        """What ./mello has to be told so that it takes these products and leaves them alone."""
        compiler, debug = self.compiler()
        settings = {"BUILD": str(self.build), "CC": compiler, "DEBUG": debug}
        return {**settings, "QEMUFLAGS": qemuflags} if qemuflags else settings

    def mello(self, *arguments, qemuflags="", seconds=BOOT_SECONDS, path=None):
        """./mello as a user calls it, from the directory above the tree; `path` replaces PATH."""
        return self.mello_of(self.root, *arguments, settings=self.settings(qemuflags),
                             seconds=seconds, path=path)

    def mello_of(self, root, *arguments, settings, seconds=BOOT_SECONDS, path=None):
        """The same of a copy of the tree; the settings are all that it gets of ours."""
        command = [str(root / "mello"), *arguments]
        environment = plain_environment(settings)
        if path is not None:
            environment["PATH"] = str(path)
        status, text, took = run_child(command, seconds, environment, self.root.parent)
        shown = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
        return Boot(4 if status == "time" else status, text, shell_text(command, shown), took)

    def qemu(self, memory="64M", cmdline="", kernel=None, cpu=None, machine="pc", until=None,
             seconds=BOOT_SECONDS, initrd=True, exit_key=True, extra=(), linger=0):
        """The loader with a kernel file in QEMU; mello.exit=qemu goes before the command line."""
        argv = qemu_argv(memory, cpu, machine, extra) + ["-kernel", str(self.build / "loader.elf")]
        if initrd:
            argv += ["-initrd", str(kernel or self.build / "kernel.elf")]
        argv += ["-append", f"mello.exit=qemu {cmdline}".strip() if exit_key else cmdline]
        return self._boot(argv, seconds, until, linger)

    def _boot(self, argv, seconds=BOOT_SECONDS, until=None, linger=0):
        status, text, took = run_child(argv, seconds, until=until, linger=linger)
        number = {"time": 4, "until": 0}.get(status)
        if number is None:
            number = STATUS_OF_QEMU.get(status, 5)
        return Boot(number, text, shell_text(argv), took)

    # ---- Firmware

    def firmware_map(self, memory, cpu=None, machine="pc", extra=()):
        """[(base, end, E820 type)] of that machine, sorted, read by the probe."""
        key = (memory, cpu, machine, tuple(extra))
        with self._lock:
            if "probe" not in self._maps:
                self._maps["probe"] = self.build_probe()
            if key not in self._maps:
                self._maps[key] = self._probe(key)
            return self._maps[key]

    def _probe(self, key):
        boot = self._boot(qemu_argv(*key) + ["-kernel", str(self._maps["probe"])])
        rows = re.findall(r"^row ([0-9a-f]{16}) ([0-9a-f]{16}) ([0-9a-f]{8})$", boot.text, re.M)
        expect(boot.status == 0 and boot.text.endswith("end\n") and rows,
               f"the firmware probe failed: {boot.command}\n{boot.text}")
        numbers = [tuple(int(word, 16) for word in row) for row in rows]
        return sorted((base, base + length, kind) for base, length, kind in numbers)


class View:
    """A Tree as one test sees it: with the last boot for the report and a folder of its own."""

    def __init__(self, tree):
        self.tree = tree
        self.last_boot = None
        self._folder = None

    def folder(self):
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(dir=self.tree.scratch))
        return self._folder

    def close(self):
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def mello(self, *arguments, **options):
        self.last_boot = self.tree.mello(*arguments, **options)
        return self.last_boot

    def mello_of(self, *arguments, **options):
        self.last_boot = self.tree.mello_of(*arguments, **options)
        return self.last_boot

    def qemu(self, *arguments, **options):
        self.last_boot = self.tree.qemu(*arguments, **options)
        return self.last_boot
