# SPDX-License-Identifier: MIT
"""./mello as a command: usage, exit statuses, where it may be called from, what it does when QEMU
or packages are missing.

Nothing here installs anything or touches the machine: a folder of links to the system's programs
(Programs) stands in for PATH, from which some are left out or replaced by small scripts.
"""

import os
import pty
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from log import HELLO, Log, check_success
from machine import BOOT_SECONDS, QEMU, Failure, expect, kill_session, plain_environment, run_child
from suite import add

COMMANDS = ["run", "test", "debug", "bench", "clean", "deps", "help"]
OPTIONS = ["--headless", "--memory", "--cpus", "--cmdline", "--accel", "--timeout", "--all",
           "--dry-run", "--icount", "--quick", "--docs"]

USAGE_ERRORS = {
    "no-command": [],
    "unknown-command": ["fly"],
    "unknown-option": ["run", "--fly"],
    "argument": ["run", "kernel.elf"],
    "value-missing": ["run", "--headless", "--memory"],
    "headless-with-a-value": ["run", "--headless=1"],
    "memory-0": ["run", "--headless", "--memory", "0"],
    "memory-0M": ["run", "--headless", "--memory", "0M"],
    "memory-12x": ["run", "--headless", "--memory", "12x"],
    "memory-word": ["run", "--headless", "--memory", "lots"],
    "memory-negative": ["run", "--headless", "--memory", "-64M"],
    "memory-empty": ["run", "--headless", "--memory", ""],
    "memory-fraction": ["run", "--headless", "--memory", "1.5G"],
    "memory-1M": ["run", "--headless", "--memory", "1M"],
    "memory-3M": ["run", "--headless", "--memory", "3M"],
    "memory-too-much": ["run", "--headless", "--memory", "99999T"],
    "memory-overflow": ["run", "--headless", "--memory", "18446744073709551680M"],
    "memory-two-words": ["run", "--headless", "--memory", "64M -S"],
    "cpus-0": ["run", "--headless", "--cpus", "0"],
    "cpus-word": ["run", "--headless", "--cpus", "two"],
    "accel-xen": ["run", "--headless", "--accel", "xen"],
    "timeout-0": ["run", "--headless", "--timeout", "0"],
    "timeout-word": ["run", "--headless", "--timeout", "soon"],
    "deps-unknown": ["deps", "--fly"],
    "test-unknown": ["test", "--fly"],
    "help-of-clean": ["clean", "everything"],
}


def link_programs(folder, without):
    for source in ("/usr/bin", "/bin"):
        for name in os.listdir(source):
            if name not in without and not (folder / name).is_symlink():
                os.symlink(os.path.join(source, name), folder / name)


class Programs:
    """A PATH of our own: a folder for what is ours before one of links to the system's programs,
    without some. The links are thousands: tests that leave out the same share them."""

    def __init__(self, view, without=()):
        self.folder = view.folder() / "programs"
        self.folder.mkdir()
        name = "-".join(["programs-without", *without])
        links = view.tree.shared_folder(name, lambda folder: link_programs(folder, without))
        self.path = f"{self.folder}:{links}"

    def script(self, name, text):
        path = self.folder / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)


# ---- Usage

def show_help(view, *words):
    boot = view.mello(*words)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    for word in COMMANDS + OPTIONS:
        expect(word in boot.text, f"the help does not name {word}")
    for status in "012345":
        expect(status in boot.text, f"the help does not name exit status {status}")


def refuse_usage(view, *words):
    boot = view.mello(*words)
    expect(boot.status == 2, f"exit status {boot.status}, not 2")
    expect("Usage:" in boot.text, "it prints no usage")
    said = [line for line in boot.lines() if line.startswith("mello: ")]
    expect(len(said) == 1, f"{len(said)} lines say what is wrong: {said}")
    last = [line for line in boot.lines() if line][-1]
    expect(last == said[0], f"the last line does not say what is wrong: {last!r}")


# ---- Options

def run_with(view, words, firmware, qemuflags="-cpu qemu64"):
    boot = view.mello("run", "--headless", *words, qemuflags=qemuflags)
    return check_success(boot, view.tree.firmware_map(*firmware))


def run_options(view):
    run_with(view, ["--memory", "96", "--cpus", "4", "--accel", "tcg", "--timeout", "90"],
             ("96M", "qemu64"))
    run_with(view, ["--memory=80M"], ("80M", "qemu64"))


def keep_stdout_clean(view):
    """stdout of a headless run is the serial console and nothing else."""
    environment = plain_environment(view.tree.settings("-cpu qemu64"))
    done = subprocess.run([view.tree.root / "mello", "run", "--headless", "--memory", "64M"],
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOT_SECONDS, check=False,
                          env=environment)
    text = done.stdout.decode()
    expect(done.returncode == 0, f"exit status {done.returncode}")
    expect(HELLO in text and "mello: " not in text and "make" not in text, f"stdout: {text[:200]}")
    expect("\033" not in text, "there are colours in a pipe")


def time_out(view):
    start = time.monotonic()
    boot = view.mello("run", "--headless", "--timeout", "3", qemuflags="-S")
    took = time.monotonic() - start
    expect(boot.status == 4, f"exit status {boot.status}, not 4")
    expect(took >= 3, f"it took {took:.1f} s only")
    expect("time" in boot.text, "it does not say that the time is over")


def panic_status(view):
    boot = view.mello("run", "--headless", "--memory", "64M", "--cmdline", "mello.fault=ud")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")


def qemu_refuses(view):
    boot = view.mello("run", "--headless", qemuflags="-no-such-option")
    expect(boot.status == 5, f"exit status {boot.status}, not 5")


def build_fails(view):
    copy = view.folder() / "copy"
    copy_tree(view.tree.root, copy)
    boot = view.mello_of(copy, "run", "--headless", settings={"CC": "/bin/false"})
    expect(boot.status == 5, f"exit status {boot.status}, not 5")


# ---- Exit statuses of QEMU, by a script that stands in for it

def map_status(view, script, status):
    programs = Programs(view)
    programs.script(QEMU, script)
    seconds = "2" if status == 4 else "60"
    boot = view.mello("run", "--headless", "--timeout", seconds, path=programs.path)
    expect(boot.status == status, f"exit status {boot.status}, not {status}")


STATUS_OF_SCRIPT = {
    "exit 33": 0,
    "exit 35": 1,
    "exit 37": 3,
    "exit 0": 3,
    "exit 1": 5,
    "exit 255": 5,
    "kill -SEGV $$": 5,
    "exec sleep 60": 4,
    "trap '' TERM; exec sleep 60": 4,
}


# ---- Places

def copy_tree(root, target):
    shutil.copytree(root, target, symlinks=True,
                    ignore=shutil.ignore_patterns(".git", "build*", "__pycache__"))


def run_from_anywhere(view):
    """From /, by a link of a link, and by a relative path."""
    first, second = view.folder() / "first", view.folder() / "second"
    os.symlink(view.tree.root / "mello", first)
    os.symlink("first", second)
    environment = plain_environment(view.tree.settings("-cpu qemu64"))
    for command, cwd in ((str(second), "/"), ("./second", view.folder()),
                         ("./mello", view.tree.root), ("sh ./mello", view.tree.root)):
        argv = [*command.split(), "run", "--headless", "--memory", "64M"]
        status, text, _ = run_child(argv, env=environment, cwd=cwd)
        expect(status == 0 and HELLO in text, f"{command} in {cwd}: status {status}\n{text[-500:]}")


def take_objects(tree, build):
    """The objects of the tree's own build, but for the first of each folder and language, which
    is left to be compiled. They are taken by make if its compiler and options are the same."""
    for part in ("kernel", "loader"):
        shutil.copytree(tree.build / "obj" / part, build / "obj" / part)
        shutil.copy2(tree.build / "obj" / f"{part}.stamp", build / "obj")
    kinds = {(path.parent, path.suffixes[-2]): path
             for path in sorted(build.glob("obj/*/**/*.?.o"), reverse=True)}
    for path in kinds.values():
        path.unlink()
    shutil.copy2(tree.build / "CACHEDIR.TAG", build)


def run_with_spaces(view, is_whole):
    """A copy of the tree in a path with spaces: builds, boots, cleans, all by itself; by each rule
    of the build, or whole."""
    root = view.folder() / "a place with spaces" / "Mello OS"
    copy_tree(view.tree.root, root)
    if not is_whole:
        take_objects(view.tree, root / "build")
    boot = view.mello_of(root, "run", "--headless", "--memory", "64M", seconds=300,
                         settings={"QEMUFLAGS": "-cpu qemu64"})
    check_success(boot, view.tree.firmware_map("64M", "qemu64"))
    for name in ("kernel.elf", "loader.elf"):
        expect((root / "build" / name).exists(), f"build/{name} is missing")
    boot = view.mello_of(root, "clean", settings={})
    expect(boot.status == 0, f"clean: exit status {boot.status}")
    expect(not (root / "build").exists(), "clean left the build folder")


# ---- Terminal

def run_in_terminal(view):
    """Interactive: colours on a terminal, and Ctrl-A X leaves with status 0."""
    master, slave = pty.openpty()
    environment = plain_environment(view.tree.settings("-cpu qemu64"))
    child = subprocess.Popen([view.tree.root / "mello", "run", "--memory", "64M"], stdin=slave,
                             stdout=slave, stderr=slave, env=environment, start_new_session=True)
    os.close(slave)
    try:
        text = read_until(master, HELLO, BOOT_SECONDS)
        expect("\033[" in text, "no colours on a terminal")
        expect("Ctrl-A" in text, "it does not say how to quit")
        os.write(master, b"\x01x")
        read_until(master, None, BOOT_SECONDS)
        status = child.wait(timeout=BOOT_SECONDS)
    finally:
        kill_session(child.pid)
        child.wait()
        os.close(master)
    expect(status == 0, f"exit status {status}, not 0")


def read_until(descriptor, text, seconds):
    """Output of a terminal until the text comes, or to its end."""
    output = b""
    limit = time.monotonic() + seconds
    os.set_blocking(descriptor, False)
    while time.monotonic() < limit:
        try:
            chunk = os.read(descriptor, 65536)
        except BlockingIOError:
            time.sleep(0.05)
            continue
        except OSError:  # the other side has closed
            chunk = b""
        output += chunk
        if text is not None and text.encode() in output:
            return output.decode("utf-8", "replace")
        if not chunk:
            break
    expect(text is None, f"'{text}' did not come; last: {output[-300:]!r}")
    return output.decode("utf-8", "replace")


def end_by_signal(view):
    """A signal to ./mello ends QEMU too."""
    environment = plain_environment(view.tree.settings("-S"))
    child = subprocess.Popen([view.tree.root / "mello", "run", "--headless"], env=environment,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: QEMU[:15] in session_programs(child.pid), BOOT_SECONDS,
                 "QEMU does not start")
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=BOOT_SECONDS)
        wait_for(lambda: not session_programs(child.pid), 60, "a process is left behind")
    finally:
        kill_session(child.pid)
        child.wait()
    expect(child.returncode not in (0, 1), f"exit status {child.returncode}")


def session_programs(session):
    """The names of the live programs of a session."""
    names = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.getsid(int(entry)) == session:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")
                if fields[2].split()[0] != "Z":
                    names.append(fields[0].partition("(")[2])
        except (ProcessLookupError, FileNotFoundError):
            pass
    return names


def wait_for(condition, seconds, why):
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise Failure(why)
        time.sleep(0.05)


# ---- gdb

def free_port():
    """Below those that a system hands out by itself: nobody gets it between this look and its use."""
    for port in range(20000 + os.getpid() % 5000, 30000):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise Failure("no port is free")


def debug(view):
    """The gdb command file leads to kmain, with names and lines."""
    port = str(free_port())
    environment = plain_environment(view.tree.settings("-cpu qemu64"))
    argv = [view.tree.root / "mello", "debug", "--memory", "64M", "--gdb-port", port]
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    gdb = ["gdb", "-batch", "-nx", "-x", str(view.tree.build / "mello.gdb"), "-ex", "continue",
           "-ex", "backtrace", "-ex", "kill"]
    try:
        wait_for(lambda: is_listening(port), BOOT_SECONDS, "nothing listens for gdb")
        status, text, _ = run_child(gdb)
    finally:
        kill_session(child.pid)
        child.stdout.close()
        child.wait()
    expect(status == 0, f"gdb: exit status {status}\n{text}")
    expect("#0  kmain (" in text and "main.c" in text, f"gdb does not stop in kmain\n{text}")


def is_listening(port):
    """By /proc, as a connection would be taken for gdb's."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{int(port):04X}") and line.split()[3] == "0A"
               for line in lines)


def debug_port_in_use(view):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        boot = view.mello("debug", "--gdb-port", str(listener.getsockname()[1]))
    expect(boot.status == 5, f"exit status {boot.status}, not 5")


# ---- Packages

def deps_dry_run(view):
    """Names the packages and calls no apt."""
    programs = Programs(view)
    called = view.folder() / "called"
    for name in ("apt-get", "sudo"):
        programs.script(name, f"echo {name} \"$@\" >>'{called}'\nexit 0\n")
    boot = view.mello("deps", "--dry-run", path=programs.path)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    for name in ("qemu-system-x86", "gcc", "make", "libcmocka-dev", "python3"):
        expect(name in boot.text, f"it does not name {name}")
    expect(not called.exists(), "it called apt-get or sudo")


def no_network_when_set_up(view):
    """With everything there, a run never calls apt-get or sudo: it works offline."""
    programs = Programs(view)
    called = view.folder() / "called"
    for name in ("apt-get", "sudo", "dpkg", "apt"):
        programs.script(name, f"echo {name} \"$@\" >>'{called}'\nexit 1\n")
    boot = view.mello("run", "--headless", "--memory", "64M", path=programs.path)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    expect(not called.exists(), "it called the package manager")


def missing_qemu(view, apt, status, words):
    """QEMU is not there; `apt` is the script that stands in for apt-get (None: there is none)."""
    programs = Programs(view, without=(QEMU, "apt-get", "sudo"))
    real = shutil.which(QEMU)
    if apt is not None:
        programs.script("apt-get", apt.format(real=real, place=programs.folder / QEMU))
    if "sudo" in words:
        programs.script("id", "echo 1000\n")
    boot = view.mello("run", "--headless", "--memory", "64M", path=programs.path)
    expect(boot.status == status, f"exit status {boot.status}, not {status}")
    expect("qemu-system-x86" in boot.text, "it does not name the missing package")
    for word in words:
        expect(word in boot.text, f"it does not say '{word}'")
    if status == 0:
        expect(HELLO in Log(boot).lines, "no Hello")


def missing_qemu_as_user(view):
    """Not root: apt-get is called through sudo."""
    programs = Programs(view, without=(QEMU, "apt-get", "sudo"))
    programs.script("id", "echo 1000\n")
    programs.script("sudo", "echo through sudo: \"$@\"\nexec \"$@\"\n")
    programs.script("apt-get", f"ln -sf {shutil.which(QEMU)} {programs.folder / QEMU}\n")
    boot = view.mello("run", "--headless", "--memory", "64M", path=programs.path)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    expect("through sudo:" in boot.text, "it did not call sudo")


INSTALLS = "case \" $* \" in *\" -s \"*) ;; *install*) ln -sf {real} {place} ;; esac\n"

for _word in ("help", "--help", "-h"):
    add(f"command/{_word}", show_help, _word)
add("command/run-help", show_help, "run", "--help")
add("command/test-help", show_help, "test", "--help")
for _name, _words in USAGE_ERRORS.items():
    add(f"command/usage-{_name}", refuse_usage, *_words)
add("command/options", run_options)
add("command/stdout-is-the-console", keep_stdout_clean)
add("command/timeout", time_out, waits=True)
add("command/panic", panic_status)
add("command/qemu-refuses", qemu_refuses)
add("command/build-fails", build_fails)
for _script, _status in STATUS_OF_SCRIPT.items():
    _name = _script.split(";")[0].replace(" ", "-")
    add(f"command/status-{_name}", map_status, _script + "\n", _status, waits=_status == 4)
add("command/from-anywhere", run_from_anywhere)
add("command/path-with-spaces", run_with_spaces, False)
add("command/path-with-spaces-whole", run_with_spaces, True, slow=True)
add("command/terminal", run_in_terminal)
add("command/signal", end_by_signal)
add("command/debug", debug)
add("command/debug-port-in-use", debug_port_in_use)
add("command/deps-dry-run", deps_dry_run)
add("command/offline", no_network_when_set_up)
add("command/no-qemu-apt-fails", missing_qemu, "exit 100\n", 5, [])
add("command/no-qemu-apt-does-nothing", missing_qemu, "exit 0\n", 5, [])
add("command/no-qemu-apt-installs", missing_qemu, INSTALLS, 0, [])
add("command/no-qemu-no-apt", missing_qemu, None, 5, ["apt-get"])
add("command/no-qemu-no-sudo", missing_qemu, "exit 0\n", 5, ["sudo"])
add("command/no-qemu-sudo", missing_qemu_as_user)
