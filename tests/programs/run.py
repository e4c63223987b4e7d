#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Real programs on the kernel's heap: run as they are, then under libmello-malloc.so at both levels.

usage: run.py --library FILE --tools DIR [--level default|full] [--need-all] [CASE...]

A case is a program, run three times: without the library, with it, and with MELLO_MALLOC=harden=full.
It passes if its output, its exit status and the files it leaves are the same each time, and if the
library has said on stderr that it was at work (MELLO_MALLOC=log=info). `--tools` holds malloc_rules and
malloc_threads. As many cases run at once as there are CPUs. One line for each run that counts; the last
line is "N passed, N failed[, N skipped]". A program that is not installed is named, and counts as skipped; with --need-all, as failed.
"""
import argparse
import concurrent.futures
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TIMEOUT = 120
AT_WORK = "[MM] libmello-malloc: "
LEVELS = {"default": "log=info", "full": "log=info,harden=full"}
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


class Failed(Exception):
    """What is wrong, in a sentence."""


class Run:
    """One run of a case: its folder, its environment, and what it has shown so far."""

    def __init__(self, folder, library, level, tools):
        self.folder, self.level, self.tools, self.library = folder, level, tools, library
        self.shown = []
        self.env = {k: v for k, v in os.environ.items()
                    if k not in ("LD_PRELOAD", "MELLO_MALLOC") and not k.startswith("GIT_")}
        self.env.update(LC_ALL="C", TZ="UTC", HOME=folder, TMPDIR=folder)
        if level is not None:
            self.env.update(LD_PRELOAD=library, MELLO_MALLOC=LEVELS[level])

    def start(self, *command, **options):
        options.setdefault("cwd", self.folder)
        return subprocess.Popen(command, env=self.env, stdin=options.pop("stdin", subprocess.DEVNULL),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def check_at_work(self, errors, command):
        if self.level is not None and AT_WORK not in errors:
            raise Failed("%s ran without the library" % command)
        bad = [line for line in errors.splitlines() if line.startswith("[MM] ERROR")]
        if bad:
            raise Failed("%s: %s" % (command, bad[0]))

    def run(self, *command, status=0, text=None, env=None, executable=None):
        """Runs a command; what it prints becomes part of what is compared."""
        done = subprocess.run(command, cwd=self.folder, env=dict(self.env, **(env or {})), input=text,
                              stdin=None if text else subprocess.DEVNULL, executable=executable,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=TIMEOUT,
                              encoding="utf-8", errors="replace", check=False)
        own = [line for line in done.stderr.splitlines() if not line.startswith("[MM] ")]
        self.check_at_work(done.stderr, os.path.basename(command[0]))
        if done.returncode != status:
            raise Failed("%s ended with status %d: %s" % (os.path.basename(command[0]),
                                                          done.returncode, " ".join(own)[-300:]))
        self.shown.append(done.stdout + "\n".join(own))
        return done.stdout

    def show_file(self, name):
        with open(os.path.join(self.folder, name), "rb") as file:
            self.shown.append(name + " " + hashlib.sha256(file.read()).hexdigest())


# ---- The programs --------------------------------------------------------------------------------

def python3(run):
    run.run(PYTHON, os.path.join(HERE, "objects.py"),
            env={"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"})


def python3_arenas(run):
    run.run(PYTHON, os.path.join(HERE, "objects.py"), "0.5", env={"PYTHONHASHSEED": "0"})


def sqlite3(run):
    with open(os.path.join(HERE, "tables.sql"), encoding="utf-8") as file:
        run.run("sqlite3", ":memory:", text=file.read())


def perl(run):
    run.run("perl", os.path.join(HERE, "words.pl"), env={"PERL_HASH_SEED": "0"})


def gcc(run):
    source = os.path.join(run.folder, "made.c")
    with open(source, "w", encoding="utf-8") as file:
        subprocess.run([sys.executable, os.path.join(HERE, "generate.py"), "16"], stdout=file,
                       check=True)
    run.run("gcc", "-O2", "-S", "-o", "made.s", "made.c")
    run.show_file("made.s")
    run.run("gcc", "-O0", "-c", "-o", "made.o", "made.c")
    run.show_file("made.o")


def git(run):
    run.env.update(GIT_AUTHOR_NAME="A", GIT_AUTHOR_EMAIL="a@example.org", GIT_COMMITTER_NAME="A",
                   GIT_COMMITTER_EMAIL="a@example.org", GIT_CONFIG_NOSYSTEM="1",
                   GIT_AUTHOR_DATE="1700000000 +0000", GIT_COMMITTER_DATE="1700000000 +0000")
    run.run("git", "init", "-q", "-b", "main", "tree")
    run.folder = os.path.join(run.folder, "tree")
    for n in range(6):
        for i in range(40):
            with open(os.path.join(run.folder, "file%d" % (i + n * 13)), "w", encoding="utf-8") as file:
                file.writelines("line %d of %d %d\n" % (k * n, i, k % 17) for k in range(200))
        run.run("git", "add", "-A")
        run.run("git", "commit", "-q", "-m", "change %d" % n)
    run.run("git", "log", "--stat", "-p", "-M")
    run.run("git", "gc", "-q", "--aggressive")
    run.run("git", "fsck", "--full")
    run.run("git", "rev-parse", "HEAD")
    run.run("git", "grep", "-c", "line 9 of")


def shell(run):
    run.run("bash", "-c", 'for i in 1 2 3 4 5 6 7 8; do seq $i 3000 | sort -r | md5sum; done; '
                          'x=$(printf "%5000s" y | tr " " z); echo "${#x} ${x//z/ab}" | wc -c')


# ---- Redis: a server, at a socket in the folder of the run: no port can be somebody else's -------

def redis_commands():
    lines = []
    for i in range(3000):
        lines.append("SET key:%d %s" % (i % 1500, "v%d" % i * (i % 50 + 1)))
        lines.append("LPUSH list:%d item%d" % (i % 20, i))
        lines.append("HSET hash:%d field%d %d" % (i % 30, i % 100, i))
        lines.append("ZADD set %d member%d" % (i * 7 % 1000, i))
        if i % 3 == 0:
            lines.append("DEL key:%d" % (i * 5 % 1500))
    lines += ["GET key:77", "LRANGE list:3 0 9", "LLEN list:3", "HLEN hash:7", "ZRANGE set 0 12",
              "DBSIZE", "STRLEN key:49"]
    return "\n".join(lines) + "\n"


def redis(run):
    server = run.start("redis-server", "--port", "0", "--unixsocket", "socket", "--save", "",
                       "--appendonly", "no", "--dir", run.folder, "--daemonize", "no",
                       "--loglevel", "warning", executable=shutil.which("redis-check-rdb"))
    try:
        deadline = time.monotonic() + TIMEOUT
        client = ["redis-cli", "-s", "socket"]
        ask = functools.partial(subprocess.run, cwd=run.folder, capture_output=True, text=True)
        while ask(client + ["PING"], check=False).returncode != 0:
            if server.poll() is not None or time.monotonic() > deadline:
                raise Failed("redis-server does not answer")
            time.sleep(0.05)
        run.run(*client, text=redis_commands())
        run.run(*client, "BGSAVE")  # forks
        while "rdb_bgsave_in_progress:1" in ask(client + ["INFO", "persistence"], check=True).stdout:
            time.sleep(0.05)
        info = ask(client + ["INFO", "persistence"], check=True).stdout
        if "rdb_last_bgsave_status:ok" not in info:
            raise Failed("redis-server: the child that saves has failed")
        run.run(*client, "FLUSHALL")
        run.run(*client, "SHUTDOWN", "NOSAVE")
        errors = server.communicate(timeout=TIMEOUT)[1].decode(errors="replace")
        run.check_at_work(errors, "redis-server")
        if server.returncode != 0:
            raise Failed("redis-server ended with status %d" % server.returncode)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


# ---- The malloc interface ------------------------------------------------------------------------

def rules(run):
    run.run(os.path.join(run.tools, "malloc_rules"))


def threads(run):
    for what in ("exchange", "exits", "fork", "exec"):
        run.run(os.path.join(run.tools, "malloc_threads"), what)


def few_descriptors(run):
    """No descriptor is left open by the library, and closed standard ones do no harm."""
    run.run("bash", "-c", "ls /proc/self/fd | wc -l; exec 0<&-; ls / >/dev/null; echo $?")


def small_address_space(run):
    """With ulimit -v there is still a heap, and ENOMEM in the end."""
    run.run("bash", "-c", "ulimit -v 1500000; exec \"$0\" -c \"$1\"", PYTHON,
            "x = [bytes(1000) for _ in range(100000)]\n"
            "try:\n    y = bytearray(3 << 30)\n    print('3 GB?')\n"
            "except MemoryError:\n    print('MemoryError', len(x))")


# Wrong frees that end the program by abort() at every level, and what only the full level sees.
MISUSE = {
    "free-twice": "default", "free-twice-large": "default", "free-inside": "default",
    "free-of-stack": "default", "realloc-of-a-free-block": "default",
    "overflow-by-one": "full", "underflow-by-one": "full",
}


def check_misuse(name, run):
    if run.level == "default" and MISUSE[name] == "full":
        return
    done = subprocess.run([os.path.join(run.tools, "malloc_rules"), "misuse", name], env=run.env,
                          capture_output=True, text=True, timeout=TIMEOUT, check=False)
    reports = [line for line in done.stderr.splitlines() if line.startswith("[MM] ERROR: ")]
    if done.returncode != -signal.SIGABRT or len(reports) != 1 or "0x" not in reports[0]:
        raise Failed("status %d, reports %s" % (done.returncode, reports))


def check_failing(run):
    """An allocation that fails after the start fails once, in new threads, too: one line each."""
    options = run.env["MELLO_MALLOC"] + ",fail=size:12345"
    done = subprocess.run([os.path.join(run.tools, "malloc_rules"), "failing"],
                          env=dict(run.env, MELLO_MALLOC=options), capture_output=True, text=True,
                          timeout=TIMEOUT, check=False)
    reports = [line for line in done.stderr.splitlines() if "failure injected" in line]
    if done.returncode != 0 or len(reports) != 4:
        raise Failed("status %d, %s reports %s" % (done.returncode, done.stdout, reports))


CHECKS = {name: functools.partial(check_misuse, name) for name in MISUSE}
CHECKS["failing"] = check_failing

PROGRAMS = {  # name: (function, what has to be installed)
    "python3": (python3, PYTHON),
    "python3-arenas": (python3_arenas, PYTHON),
    "sqlite3": (sqlite3, "sqlite3"),
    "perl": (perl, "perl"),
    "gcc": (gcc, "gcc"),
    "git": (git, "git"),
    "redis": (redis, "redis-check-rdb"),
    "shell": (shell, "bash"),
    "rules": (rules, "bash"),
    "threads": (threads, "bash"),
    "descriptors": (few_descriptors, "bash"),
    "ulimit": (small_address_space, PYTHON),
}


# ---- Running -------------------------------------------------------------------------------------

class Suite:
    def __init__(self, arguments):
        self.arguments = arguments
        self.library = os.path.abspath(arguments.library)
        self.tools = os.path.abspath(arguments.tools)
        self.passed = self.failed = self.skipped = 0
        self.lock = threading.Lock()

    def book(self, name, error, seconds):
        with self.lock:
            if error is None:
                self.passed += 1
                print("ok: %s (%.1f s)" % (name, seconds), flush=True)
            else:
                self.failed += 1
                print("FAILED: %s: %s" % (name, error), flush=True)

    def one(self, function, level):
        with tempfile.TemporaryDirectory(prefix="mello-programs-") as folder:
            run = Run(folder, self.library, level, self.tools)
            function(run)
            return [text.replace(folder, "DIR") for text in run.shown]

    def compare(self, name, function, level, expected):
        started, error = time.monotonic(), None
        try:
            shown = self.one(function, level)
            for before, after in zip(expected, shown):
                if before != after:
                    raise Failed("the output differs: %r, not %r" % difference(before, after))
        except (Failed, OSError, subprocess.SubprocessError) as caught:
            error = str(caught)
        self.book("%s, %s level" % (name, level), error, time.monotonic() - started)

    def program(self, name, function):
        try:
            expected = self.one(function, None)
        except (Failed, OSError, subprocess.SubprocessError) as caught:
            self.book("%s without the library" % name, str(caught), 0)
            return
        for level in self.arguments.level or LEVELS:
            self.compare(name, function, level, expected)

    def missing(self, name, what):
        if self.arguments.need_all:
            self.book(name, "there is no %s" % what, 0)
            return
        with self.lock:
            self.skipped += 1
            print("skipped: %s: there is no %s" % (name, what), flush=True)

    def check(self, name):
        for level in self.arguments.level or LEVELS:
            started, error = time.monotonic(), None
            try:
                self.one(CHECKS[name], level)
            except (Failed, OSError, subprocess.SubprocessError) as caught:
                error = str(caught)
            self.book("%s, %s level" % (name, level), error, time.monotonic() - started)

    def case(self, name):
        if name in CHECKS:
            self.check(name)
        elif shutil.which(PROGRAMS[name][1]) is None:
            self.missing(name, PROGRAMS[name][1])
        else:
            self.program(name, PROGRAMS[name][0])

    def all(self):
        wanted = self.arguments.cases or list(PROGRAMS) + list(CHECKS)
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for done in [pool.submit(self.case, name) for name in wanted]:
                done.result()
        rest = ", %d skipped" % self.skipped if self.skipped else ""
        print("%d passed, %d failed%s" % (self.passed, self.failed, rest))
        return 0 if self.failed == 0 else 1


def difference(before, after):
    """The first pieces of two texts that differ."""
    at = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b),
              min(len(before), len(after)))
    return after[max(0, at - 40):at + 80], before[max(0, at - 40):at + 80]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--tools", required=True)
    parser.add_argument("--level", action="append", choices=list(LEVELS))
    parser.add_argument("--need-all", action="store_true")
    parser.add_argument("cases", nargs="*", choices=[[], *PROGRAMS, *CHECKS])
    return Suite(parser.parse_args()).all()


sys.exit(main())
