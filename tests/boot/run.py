#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Boots MelloOS in QEMU in every way that it must work or fail, and says which did not.

    python3 tests/boot/run.py [--all] [--build DIR] [--jobs N] [--filter SUBSTRING] [--list]

One line per test, `ok NAME (seconds)` or `FAIL NAME: why` (with the command that repeats the boot
and the last lines that it printed), and `N passed, N failed` at the end; exit status 1 if any has
failed.
The tests live in the cases_*.py files; each registers functions that take a Tree (machine.py) and
raise Failure. What a boot must print is in log.py. Slow campaigns run with --all only.
"""

import argparse
import concurrent.futures
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import machine  # noqa: E402
from suite import all_cases  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


class Report:
    """Prints results as they come; one line each, never two at once."""

    def __init__(self):
        self._lock = threading.Lock()
        self._running = {}  # name: when it began
        self._is_cut_off = False
        self.passed = 0
        self.failed = 0

    def begin(self, name):
        with self._lock:
            self._running[name] = time.monotonic()

    def cut_off(self):
        """Somebody ends all of this: what was at work may be what took too long."""
        with self._lock:
            self._is_cut_off = True
            for name, start in self._running.items():
                print(f"FAIL {name}: cut off after {time.monotonic() - start:.1f} s", flush=True)

    def ok(self, name, seconds):
        with self._lock:
            self.passed += 1
            self._running.pop(name)
            print(f"ok {name} ({seconds:.1f} s)", flush=True)

    def fail(self, name, why, boot):
        with self._lock:
            self.failed += 1
            self._running.pop(name)
            first, *rest = str(why).splitlines() or ["no reason given"]
            if self._is_cut_off:
                first, rest = "cut off; so far it has said:", []
            print(f"FAIL {name}: {first}")
            details = list(rest)
            if boot is not None:
                details += [f"command: {boot.command}", f"exit status: {boot.status}"]
                details += [f"| {line}" for line in boot.tail()]
            print("".join(f"    {line}\n" for line in details), end="", flush=True)


def run_case(case, tree, report):
    start = time.monotonic()
    report.begin(case.name)
    view = machine.View(tree)
    try:
        case.run(view)
    except machine.Failure as failure:
        report.fail(case.name, failure, view.last_boot)
    except Exception:  # a broken test is a failed test; its place is in the trace
        report.fail(case.name, "the test itself broke\n" + traceback.format_exc(), view.last_boot)
    else:
        report.ok(case.name, time.monotonic() - start)
    finally:
        view.close()


def run_cases(cases, tree, jobs):
    report = Report()
    executor = concurrent.futures.ThreadPoolExecutor
    with executor(jobs) as busy, executor(1) as waiting:
        futures = [(waiting if case.waits else busy).submit(run_case, case, tree, report)
                   for case in cases]
        try:
            concurrent.futures.wait(futures)
        except BaseException:
            report.cut_off()
            for pool in (busy, waiting):
                pool.shutdown(wait=False, cancel_futures=True)
            machine.kill_running()
            raise
    return report


def parse_arguments():
    parser = argparse.ArgumentParser(prog="tests/boot/run.py", description="boot tests of MelloOS")
    parser.add_argument("--all", action="store_true", help="also run the slow campaigns")
    parser.add_argument("--build", default=str(ROOT / "build"), help="where the products are")
    parser.add_argument("--jobs", type=int, default=2,
                        help="boots at the same time (default 2), beside one that only waits")
    parser.add_argument("--filter", default="", help="only tests whose name has this in it")
    parser.add_argument("--list", action="store_true", help="name the tests and stop")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error("--jobs needs a number above 0")
    return arguments


def stop(_signal, _frame):
    raise KeyboardInterrupt


def main():
    arguments = parse_arguments()
    cases = [case for case in all_cases()
             if (arguments.all or not case.slow) and arguments.filter in case.name]
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    signal.signal(signal.SIGTERM, stop)
    tree = machine.Tree(ROOT, os.path.abspath(arguments.build))
    try:
        tree.make("kernel", "loader")
        report = run_cases(cases, tree, arguments.jobs)
    except machine.Failure as failure:
        print(failure)
        report = Report()
        report.failed = 1
    except KeyboardInterrupt:
        print("interrupted")
        return 130
    finally:
        shutil.rmtree(tree.scratch, ignore_errors=True)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
