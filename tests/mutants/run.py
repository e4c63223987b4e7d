#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Breaks mm on purpose, one line at a time, and sees that a named test fails.

usage: tests/mutants/run.py [--build DIR] [--jobs N] [--find] [LIST...]

A LIST (default: all tests/mutants/*.list) holds mutations:

    == mm/file.c  test_program  name_of_the_test  ["why it matters", to the end of the line]
    - what stands there, one or more lines, exactly once in the file
    + what stands there instead

Each mutation is built into one test program in a scratch folder, with the objects of the plain host
tests for all other files. It is killed if that test fails, or ends its program, within TIMEOUT
seconds. It survives if all tests pass. Text that is not found, or found twice, a mutation that does
not compile, and one that another test kills are errors of the list. --find shows the first program that
kills a mutation, to fill in a list. The last line is "N passed, N failed".
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

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FLAGS = ["-std=gnu11", "-g", "-O2", "-w", "-DMM_DEBUG=1"]
TIMEOUT = 100


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
    """Objects of the mutated file; of all of mm if it is a header."""
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
    objects = {}
    for name, path in sources.items():
        objects[name] = os.path.join(folder, name.replace("/", "_") + ".o")
        subprocess.run(["gcc", *FLAGS, "-I", folder, "-I", os.path.join(folder, "mm/include"),
                        "-I", os.path.join(ROOT, "mm/include"), "-I", ROOT,
                        "-I", os.path.join(ROOT, os.path.dirname(name)),
                        "-c", "-o", objects[name], path],
                       check=True, capture_output=True, text=True, cwd=ROOT)
    return objects


def link_program(build, program, mutants, folder):
    plain = os.path.join(build, "host", "plain")
    tests = os.path.join(plain, "tests", "host")
    objects = [os.path.join(tests, program + ".c.o")]
    for name in sorted(glob.glob(os.path.join(ROOT, "tests/host/*.c"))):
        if not os.path.basename(name).startswith("test_"):
            objects.append(os.path.join(tests, os.path.basename(name) + ".o"))
    for name in sorted(glob.glob(os.path.join(ROOT, "mm/*.c")) +
                       glob.glob(os.path.join(ROOT, "mm/port/hosted*.c"))):
        name = os.path.relpath(name, ROOT)
        objects.append(mutants.get(name) or os.path.join(plain, name + ".o"))
    out = os.path.join(folder, program)
    options = {"test_init": ["-Wl,--wrap=kheap_create"],
               "test_threads": ["-Wl,--wrap=mm_port_cpu_barrier"]}.get(program, [])
    subprocess.run(["gcc", *options, "-o", out, *objects, "-lcmocka", "-lpthread"],
                   check=True, capture_output=True, text=True)
    return out


def run_program(path):
    """Names of the tests that failed; the one that was running counts if the program ended."""
    try:
        done = subprocess.run(["setarch", "-R", path], capture_output=True, text=True,
                              errors="replace", timeout=TIMEOUT, check=False)
        text, status = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        text = "".join(part.decode(errors="replace") if isinstance(part, bytes) else part or ""
                       for part in (late.stdout, late.stderr))
        status = None
    failed = set(re.findall(r"^\[  FAILED  \] (\w+)$", text, re.M))
    started = re.findall(r"^\[ RUN      \] (\w+)$", text, re.M)
    finished = set(re.findall(r"^\[ +(?:OK|FAILED) +\] (\w+)$", text, re.M))
    if status != 0:
        failed |= {name for name in started if name not in finished}
    return failed


def try_mutation(build, mutation, programs):
    """True and a line, or False and why not."""
    text, why = mutation.mutated()
    if text is None:
        return False, why
    folder = tempfile.mkdtemp(prefix="mutant-", dir=os.path.join(build, "mutants"))
    try:
        mutants = compile_mutant(build, mutation, text, folder)
        if programs:
            for program in programs:
                failed = run_program(link_program(build, program, mutants, folder))
                if failed:
                    return True, f"killed by {program}: " + ", ".join(sorted(failed))
            return False, "SURVIVES all of them"
        failed = run_program(link_program(build, mutation.program, mutants, folder))
    except subprocess.CalledProcessError as error:
        return False, "does not build: " + (error.stderr or "").strip()[:600]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if mutation.test in failed:
        return True, f"killed by {mutation.test}"
    if failed:
        return False, "killed by another test: " + ", ".join(sorted(failed))
    return False, f"SURVIVES {mutation.program}"


def main():
    parser = argparse.ArgumentParser(description="mutation tests of mm")
    parser.add_argument("--build", default=os.environ.get("BUILD", "build"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--find", metavar="PROGRAMS", help="try these programs, joined by commas")
    parser.add_argument("lists", nargs="*")
    options = parser.parse_args()
    build = os.path.abspath(os.path.join(ROOT, options.build))
    lists = options.lists or sorted(glob.glob(os.path.join(ROOT, "tests/mutants/*.list")))
    mutations = [mutation for path in lists for mutation in read_list(path)]
    programs = options.find.split(",") if options.find else []
    wanted = programs or sorted({mutation.program for mutation in mutations})
    targets = [os.path.join(build, "host", "plain", program) for program in wanted]
    subprocess.run(["make", "--no-print-directory", f"-j{options.jobs}", f"BUILD={options.build}",
                    "CC=gcc", *targets], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    os.makedirs(os.path.join(build, "mutants"), exist_ok=True)
    passed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        tried = [pool.submit(try_mutation, build, mutation, programs) for mutation in mutations]
        for mutation, result in zip(mutations, tried):
            good, line = result.result()
            passed += good
            print(f"{'ok  ' if good else 'FAIL'} {mutation.where} {mutation.file}: {line}",
                  flush=True)
    print(f"{passed} passed, {len(mutations) - passed} failed")
    return 0 if passed == len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main())
