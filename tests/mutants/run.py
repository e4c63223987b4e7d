#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Breaks mm on purpose, one line at a time, and sees that a named test fails.

usage: tests/mutants/run.py [--build DIR] [--jobs N] [--find PROGRAMS | --check] [LIST...]

A LIST (default: all tests/mutants/*.list) holds mutations:

    == mm/file.c  test_program  name_of_the_test  ["why it matters", to the end of the line]
    - what stands there, one or more lines, exactly once in the file
    + what stands there instead

First each program runs as it is: a named test that does not pass there proves nothing. Then each
mutation is built into its test program in a scratch folder, with the objects of the plain host tests for
all other files, and the named test alone is run (MELLO_TEST). The mutation is killed if the test fails,
ends its program, or does not end in ten times the time that the whole program took. It survives if the
test passes. Text that is not found, or found twice, a mutation that does not compile and a test that is
not there are errors of the list; --check looks for these alone and builds nothing. --find runs whole
programs and shows the first one that kills a mutation, and by which tests, to fill in a list. The last
line is "N passed, N failed".
"""

import argparse
import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLAGS = ["-std=gnu11", "-g", "-O2", "-w", "-DMM_DEBUG=1"]
SECONDS = 20   # that a test may take in any case


class Mutation:
    def __init__(self, where, words):
        self.where = where
        self.file, self.program, self.test = words[:3]
        self.old, self.new = [], []

    def mutated(self):
        """The source with the change, or None and why not."""
        with open(os.path.join(ROOT, self.file), encoding="utf-8") as source:
            text = source.read()
        old, new = "\n".join(self.old), "\n".join(self.new)
        found = text.count(old)
        if not self.old or found != 1:
            return None, f"its text is found {found} times"
        return text.replace(old, new), None


def read_list(path):
    mutations = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\n")
            where = f"{os.path.basename(path)}:{number}"
            if line.startswith("== "):
                words = line[3:].split()
                if len(words) < 3:
                    sys.exit(f"{where}: file, program and test are wanted")
                mutations.append(Mutation(where, words))
            elif line.startswith("- ") and mutations:
                mutations[-1].old.append(line[2:])
            elif line.startswith("+ ") and mutations:
                mutations[-1].new.append(line[2:])
            elif line and not line.startswith("#"):
                sys.exit(f"{where}: not understood: {line}")
    return mutations


def compile_mutant(build, mutation, text, folder):
    """Objects of the mutated file; if it is a header, of all of mm and of the test, into which it may be inlined."""
    place = os.path.join(folder, mutation.file)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "w", encoding="utf-8") as out:
        out.write(text)
    if mutation.file.endswith(".c"):
        sources = {mutation.file: place}
    else:
        sources = {}
        for name in glob.glob(os.path.join(ROOT, "mm/*.c")):
            sources[os.path.relpath(name, ROOT)] = name
        test = f"tests/host/{mutation.program}.c"
        sources[test] = os.path.join(ROOT, test)
    objects = {}
    for name, path in sources.items():
        objects[name] = os.path.join(folder, name.replace("/", "_") + ".o")
        subprocess.run(["gcc", *FLAGS, "-I", folder, "-I", os.path.join(folder, "mm/include"),
                        "-I", os.path.join(ROOT, "mm/include"), "-I", ROOT,
                        "-I", os.path.join(ROOT, os.path.dirname(name)),
                        "-c", "-o", objects[name], path],
                       check=True, capture_output=True, text=True, cwd=ROOT)
    return objects


def link_options(program):
    """What host.mk links the program with."""
    with open(os.path.join(ROOT, "tests/host/host.mk"), encoding="utf-8") as rules:
        text = rules.read().replace("\\\n", " ")
    found = re.search(rf"^HOST_LINK_{program}\s*:=(.*)$", text, re.M)
    words = found[1].split() if found else []
    same = [word for word in words if word.startswith("$(HOST_LINK_")]
    for word in same:
        words += link_options(word[len("$(HOST_LINK_"):-1])
    return [word for word in words if word not in same]


def link_program(build, program, mutants, folder):
    tests = os.path.join(build, "host", "plain", "tests", "host")
    objects = [mutants.get(f"tests/host/{program}.c") or os.path.join(tests, program + ".c.o")]
    for name in sorted(glob.glob(os.path.join(ROOT, "tests/host/*.c"))):
        if not os.path.basename(name).startswith("test_"):
            objects.append(os.path.join(tests, os.path.basename(name) + ".o"))
    for name in sorted(glob.glob(os.path.join(ROOT, "mm/*.c")) +
                       glob.glob(os.path.join(ROOT, "mm/port/hosted*.c"))):
        name = os.path.relpath(name, ROOT)
        objects.append(mutants.get(name) or os.path.join(build, "obj/hosted", name + ".o"))
    out = os.path.join(folder, program)
    subprocess.run(["gcc", *link_options(program), "-o", out, *objects, "-lcmocka", "-lpthread"],
                   check=True, capture_output=True, text=True)
    return out


class Run:
    """One run of a program, or of one test of it: which tests passed, which failed, and how long it took.
    A test that was running when the program ended has failed; `late` if it was ended from here."""

    def __init__(self, path, test=None, timeout=300):
        start = time.monotonic()
        environment = dict(os.environ)
        environment.pop("MELLO_SEEDS", None)
        environment.pop("MELLO_SHORT", None)
        if test is not None:
            environment["MELLO_TEST"] = test
        self.late = False
        try:
            done = subprocess.run(["setarch", "-R", path], capture_output=True, text=True, check=False,
                                  errors="replace", timeout=timeout, env=environment)
            text, status = done.stdout + done.stderr, done.returncode
        except subprocess.TimeoutExpired as late:
            text = "".join(part.decode(errors="replace") if isinstance(part, bytes) else part or ""
                           for part in (late.stdout, late.stderr))
            status, self.late = None, True
        self.passed = set(re.findall(r"^\[ +OK +\] (\w+)$", text, re.M))
        self.failed = set(re.findall(r"^\[  FAILED  \] (\w+)$", text, re.M))
        started = set(re.findall(r"^\[ RUN      \] (\w+)$", text, re.M))
        if status != 0:
            self.failed |= started - self.passed
        self.seconds = time.monotonic() - start


def judge(build, mutation, whole, mutants, folder):
    """True and a line, or False and why not; `whole` is the run without a mutation."""
    run = Run(link_program(build, mutation.program, mutants, folder), mutation.test,
              SECONDS + 10 * whole.seconds)
    if mutation.test in run.failed:
        return True, f"killed by {mutation.test}" + (", which did not end" if run.late else "")
    if mutation.test not in run.passed:
        return False, f"{mutation.test} did not run"
    return False, f"SURVIVES {mutation.test}"


def find_killer(build, programs, mutants, folder):
    for program in programs:
        failed = Run(link_program(build, program, mutants, folder)).failed
        if failed:
            return True, f"killed by {program}: " + ", ".join(sorted(failed))
    return False, "SURVIVES all of them"


def try_mutation(build, mutation, programs, wholes):
    text, why = mutation.mutated()
    if text is None:
        return False, why
    if not programs and mutation.test not in wholes[mutation.program].passed:
        return False, f"{mutation.test} of {mutation.program} does not pass without a mutation"
    folder = tempfile.mkdtemp(prefix="mutant-", dir=os.path.join(build, "mutants"))
    try:
        mutants = compile_mutant(build, mutation, text, folder)
        if programs:
            return find_killer(build, programs, mutants, folder)
        return judge(build, mutation, wholes[mutation.program], mutants, folder)
    except subprocess.CalledProcessError as error:
        return False, "does not build: " + (error.stderr or "").strip()[:600]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stale(mutation):
    """What a look at the sources tells against it, or None."""
    _, why = mutation.mutated()
    test = os.path.join(ROOT, "tests/host", mutation.program + ".c")
    if why is None and not os.path.exists(test):
        why = f"there is no {mutation.program}"
    if why is None:
        with open(test, encoding="utf-8") as source:
            if not re.search(rf"\b{mutation.test}\b", source.read()):
                why = f"{mutation.program} has no {mutation.test}"
    return why


def check(mutations):
    found = [(mutation, why) for mutation in mutations if (why := stale(mutation))]
    for mutation, why in found:
        print(f"FAIL {mutation.where} {mutation.file}: {why}")
    return 1 if found else 0


def main():
    parser = argparse.ArgumentParser(description="mutation tests of mm")
    parser.add_argument("--build", default=os.environ.get("BUILD", "build"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--find", metavar="PROGRAMS", help="try these programs, joined by commas")
    parser.add_argument("--check", action="store_true", help="look if the lists fit the sources")
    parser.add_argument("lists", nargs="*")
    options = parser.parse_args()
    build = os.path.abspath(os.path.join(ROOT, options.build))
    lists = options.lists or sorted(glob.glob(os.path.join(ROOT, "tests/mutants/*.list")))
    mutations = [mutation for path in lists for mutation in read_list(path)]
    if options.check:
        return check(mutations)
    programs = options.find.split(",") if options.find else []
    wanted = programs or sorted({mutation.program for mutation in mutations})
    targets = [os.path.join(build, "host", "plain", program) for program in wanted]
    subprocess.run(["make", "--no-print-directory", f"-j{options.jobs}", f"BUILD={options.build}",
                    "CC=gcc", *targets], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    os.makedirs(os.path.join(build, "mutants"), exist_ok=True)
    passed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        wholes = {} if programs else dict(zip(wanted, pool.map(Run, targets)))
        tried = [pool.submit(try_mutation, build, mutation, programs, wholes)
                 for mutation in mutations]
        for mutation, result in zip(mutations, tried):
            good, line = result.result()
            passed += good
            print(f"{'ok  ' if good else 'FAIL'} {mutation.where} {mutation.file}: {line}",
                  flush=True)
    print(f"{passed} passed, {len(mutations) - passed} failed")
    return 0 if passed == len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main())
