# SPDX-License-Identifier: MIT
"""Several CPUs: boots with each number of them, the stress test, and what only several can show.

The stress test (mm.stress) must pass, must have worked on every CPU and in interrupt handlers, and
must fail when something is broken: a kernel for each file of broken/stress/ (BREAK=stress/NAME).
A stale translation must be seen where the interrupt to the other CPUs is left out, and only there.
The machine may be shared, and QEMU runs each CPU in a thread of its own: what is counted in a
second differs by a factor of a hundred, so only what a slow machine does too is asked for.
"""

import re
from pathlib import Path

from cases_broken import build_broken
from cases_fault import USER_FAULTS
from log import HELLO, Log, check_clean, check_success
from machine import BOOT_SECONDS, expect
from suite import add

SINGLE = ("-accel", "tcg,thread=single")  # all CPUs in one thread: they take turns
# Time goes by instructions, 64 ns each, and so much quicker than the wall's: for who waits seconds
# for a CPU that does not come. CPUs take turns.
QUICK = ("-icount", "shift=6,sleep=off")
STRESS = re.compile(r"\[MM\] ✓ stress: (cpus=.*)")
STRESS_LINE = re.compile(r"\[MM\] ([✓✗] stress|Stress): .*")
COUNTS = ["cpus", "ops", "interrupts", "ticks", "received", "mappings", "shootdowns", "rounds"]
CPUS = r"CPUs: {running} of {listed} started \(xAPIC ids? {ids}\), timer (\d+) Hz"
BROKEN = Path(__file__).resolve().parent / "broken" / "stress"


def extra_of(cpus, extra=()):
    return ("-smp", str(cpus), *extra)


def ids_of(cpus):
    return "0" if cpus == 1 else f"0-{cpus - 1}"


def check_cpus(log, running, listed=None, ids=None):
    """The line about the CPUs, before Hello; the timer is near 1000 Hz."""
    line = log.only(CPUS.format(running=running, listed=listed or running,
                                ids=re.escape(ids or ids_of(running))))
    expect(log.lines.index(line[0]) < log.lines.index(HELLO), "the CPUs start after Hello")
    expect(900 <= int(line[1]) <= 1100, f"the timer's rate: {line[0]}")


def check_rest(boot, drop):
    """Everything else is as in any good boot: lines that match `drop` are passed over."""
    boot.text = "\n".join(line for line in boot.lines() if not drop.fullmatch(line))
    return check_success(boot)


# ---- Boots

def boot_cpus(view, cpus, memory="64M", cpu="qemu64", keys="", extra=(), base_revision=3):
    boot = view.qemu(memory, keys, cpu=cpu, seconds=BOOT_SECONDS + 2 * cpus,
                     extra=extra_of(cpus, extra))
    log = check_success(boot, None, base_revision)
    check_cpus(log, cpus)


def boot_q35(view, cpus):
    check_cpus(check_success(view.qemu("64M", machine="q35", extra=extra_of(cpus))), cpus)


def boot_mello(view, cpus, firmware):
    """As a user starts it; the screen's line says the same as the log."""
    options = ["--firmware", firmware] if firmware != "direct" else []
    boot = view.mello("run", "--headless", "--memory", "256M", "--cpus", str(cpus), *options,
                      "--timeout", "120")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    check_cpus(Log(boot), cpus)


def without_mp(view):
    """A loader that does not answer the MP request: one CPU, which the line says."""
    boot = view.qemu("64M", "loader.omit=mp mm.stress=1", extra=extra_of(4))
    check_cpus(check_stress(view, boot, 1), 1)


def lost_in_loader(view, stress="", extra=()):
    """A CPU that does not come when it is started: the loader says so and leaves it out."""
    boot = view.qemu("64M", f"loader.lostcpu=2 {stress}".strip(), extra=extra_of(4, extra))
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    log.only(r".*MP: processor with local APIC id 2 \(ACPI UID \d+\) did not start; left out")
    check_cpus(log, 3, ids="0-1, 3")
    expect(not stress or log.find(STRESS.pattern), "no ✓ stress")


def lost_in_kernel(view, extra=()):
    """A CPU that the loader lists and that does not come when it is released."""
    boot = view.qemu("64M", "mello.lost=2 mm.stress=1", extra=extra_of(4, extra))
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    log.only("WARNING: the CPU with APIC id 2 was released and never came; the others go on "
             "without it")
    check_cpus(log, 3, 4, "0-1, 3")
    log.only(r"\[MM\] ✓ stress: cpus=3 .*")


# ---- Stress

def counts_of(log):
    words = log.only(STRESS.pattern)[1].split()
    counts = {key: int(number) for key, _, number in (word.partition("=") for word in words)}
    expect(list(counts) == COUNTS, f"counts: {words}")
    return counts


def check_stress(_view, boot, cpus):
    """It passed, and all that it claims to do was done."""
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    check_clean(log)
    counts = counts_of(log)
    expect(counts["cpus"] == cpus, f"cpus={counts['cpus']}, not {cpus}")
    for key in COUNTS:
        expect(counts[key] > 0 or (key == "shootdowns" and cpus == 1), f"{key}=0")
    expect(counts["ops"] > 20 * cpus and counts["ticks"] >= 2 * cpus, f"too little: {counts}")
    expect(counts["interrupts"] >= counts["ticks"], f"more ticks than interrupts: {counts}")
    expect(cpus > 1 or counts["shootdowns"] == 0, "one CPU has shot at others")
    check_rest(boot, STRESS_LINE)
    return log


def stress(view, cpus, seconds, cpu="qemu64", memory="64M", machine="pc", keys="", extra=()):
    boot = view.qemu(memory, f"mm.stress={seconds} {keys}".strip(), cpu=cpu, machine=machine,
                     seconds=150 + 4 * seconds, extra=extra_of(cpus, extra))
    log = check_stress(view, boot, cpus)
    check_cpus(log, cpus)
    return log


def stress_long(view, cpus, seconds, extra=()):
    """Minutes, with a line of progress every few seconds."""
    log = stress(view, cpus, seconds, memory="512M", extra=extra)
    told = [int(match[1]) for match in log.find(rf"\[MM\] Stress: (\d+) of {seconds} s, ops=\d+")]
    expect(told == sorted(set(told)) and told, f"progress: {told}")
    steps = [after - before for before, after in zip([0, *told], [*told, seconds])]
    expect(max(steps) <= 30, f"progress: {told}")


def stress_silent(view):
    """mm.stress=0 does nothing; mm.log=error keeps a good result to itself."""
    log = check_success(view.qemu("64M", "mm.stress=0", extra=extra_of(2)))
    expect(not [line for line in log.lines if "stress" in line.lower()], "it says something")
    boot = view.qemu("64M", "mm.stress=1 mm.log=error", extra=extra_of(2))
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    expect(not log.mm and HELLO in log.lines, f"at level error: {log.mm[:1]}")


def stress_with_failures(view, cpus, conditions, extra=()):
    """Blocks that fail on purpose (mm.fail): one line each, each counted, and nothing else is lost."""
    boot = view.qemu("64M", f"mm.stress=2 mm.fail={conditions}", extra=extra_of(cpus, extra))
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    failed = log.find(r"\[MM\] ERROR: k\w+ of \d+ bytes: failure injected .*")
    expect(failed and len(failed) == len(log.errors()), f"{len(failed)} of {len(log.errors())} errors")
    told = log.only(r"\[MM\] Stress: (\d+) allocations failed on purpose \(mm\.fail\)")
    expect(int(told[1]) == len(failed), f"{told[0]}, {len(failed)} lines")
    expected = {match[0] for match in [*failed, told]}
    boot.text = "\n".join(line for line in boot.lines() if line not in expected)
    check_stress(view, boot, cpus)


def stress_sees(view, path):
    """A kernel with one thing broken: the first error, status 1, and nothing after it."""
    pattern = re.search(r"^ \* seen as: (.+) \*/$", path.read_text(), re.M)
    expect(pattern, f"{path.name} has no line 'seen as:'")
    kernel = build_broken(view, f"stress/{path.stem}")
    boot = view.qemu("64M", "mm.stress=60", kernel=kernel, extra=extra_of(4))
    log = Log(boot)
    check_cpus_alone(log)
    expect(HELLO not in log.lines, "it says Hello all the same")
    if path.stem == "lock-open":  # the state that it damages may be what fails first
        expect(boot.status in (1, 3), f"exit status {boot.status}, neither 1 nor 3")
        expect(log.find(r"\[MM\] (✗ stress|ERROR): .*") or log.has("PANIC"), "no error is told")
        return
    expect(boot.status == 1, f"exit status {boot.status}, not 1")
    error = log.only(r"\[MM\] ✗ stress: (.*)")[1]
    expect(re.fullmatch(pattern[1], error), f"another error: {error}")


def check_cpus_alone(log):
    expect(log.find(CPUS.format(running=4, listed=4, ids="0-3")), "there are not 4 CPUs")


# ---- Shootdown and nested interrupts

def cpu_test(view, name, cpus, extra=()):
    boot = view.qemu("64M", f"mello.test={name}", extra=extra_of(cpus, extra))
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    line = log.only(rf"\[MM\] ✓ {name}: {cpus} CPUs .*")[0]
    check_rest(boot, re.compile(re.escape(line)))


LEAK = re.compile(r"\[MM\] leak: (\d+) blocks, (\d+) bytes allocated by 0xffffffff[0-9a-f]{8} "
                  r"\((\w+) \+ 0x[1-9a-f][0-9a-f]*\)")


def leaks(view, cpus, option):
    """What is alive since a mark, the most bytes first, each call site with its function's name."""
    boot = view.qemu("64M", f"mello.test=leaks {option}", extra=extra_of(cpus))
    log = Log(boot)
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    line = log.only(rf"\[MM\] ✓ leaks: {cpus} CPUs .*")[0]
    found = [LEAK.fullmatch(said) for said in log.lines if said.startswith("[MM] leak")]
    expect([match and match.groups() for match in found] ==
           [("1", str(300 << 10), "leaks_large"), (str(3 * cpus), str(300 * cpus), "leaks_small")],
           f"the list: {[said for said in log.lines if said.startswith('[MM] leak')]}")
    check_rest(boot, re.compile(re.escape(line) + "|" + LEAK.pattern))


def leaks_unrecorded(view):
    """Without recorded sites the list says so, and the test cannot pass."""
    boot = view.qemu("64M", "mello.test=leaks", extra=extra_of(2))
    log = Log(boot)
    expect(boot.status == 1, f"exit status {boot.status}, not 1")
    expect(len(log.find(r"\[MM\] leaks: call sites are not recorded .*")) == 2, "it does not say why")
    log.only(r"\[MM\] ✗ leaks: 0 blocks are alive since the mark, not 7")


def shootdown_left_out(view, cpus, extra=()):
    """The same without the interrupt: the other CPUs go on with what they have kept."""
    boot = view.qemu("64M", "mello.test=shootdown-without-ipi", extra=extra_of(cpus, extra))
    log = Log(boot)
    expect(boot.status == 1, f"exit status {boot.status}, not 1")
    line = log.only(r"\[MM\] ✗ shootdown-without-ipi: (\d+) stale translations used in (\d+) "
                    r"changes by INVLPG on CPU 0 alone, one of them by CPU (\d+)")
    expect(1 <= int(line[1]) <= int(line[2]) * (cpus - 1), line[0])
    expect(1 <= int(line[3]) < cpus, f"CPU 0 cannot be stale: {line[0]}")
    expect(HELLO not in log.lines, "it says Hello all the same")


def barrier_left_out(view, name, cpus, seconds, extra=()):
    """Without the call a store is missed: CPUs of an emulator that run at the same time reorder too,
    sooner or later, or never on one CPU of the host. Those that store late are always caught."""
    boot = view.qemu("64M", f"mello.test={name}", seconds=seconds, extra=extra_of(cpus, extra))
    expect(boot.status == 1, f"exit status {boot.status}, not 1")
    line = Log(boot).only(rf"\[MM\] ✗ {name}: look \d+ at CPU (\d+) found its store (\d+), "
                          r"not (\d+), without a barrier")
    expect(1 <= int(line[1]) < cpus and int(line[2]) < int(line[3]), line[0])


def shootdown_broken(view):
    """A port whose shootdown stays on its CPU: the test that passes otherwise sees it."""
    kernel = build_broken(view, "stress/no-ipi")
    boot = view.qemu("64M", "mello.test=shootdown", kernel=kernel, extra=extra_of(2))
    expect(boot.status == 1, f"exit status {boot.status}, not 1")
    Log(boot).only(r"\[MM\] ✗ shootdown: \d+ stale translations used in \d+ changes by "
                   r"paging_unmap_page and mm_port_tlb_shootdown, one of them by CPU 1")


def cpu_test_refused(view, name, cpus, said):
    boot = view.qemu("64M", f"mello.test={name}", extra=extra_of(cpus))
    log = Log(boot)
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    expect([line for line in log.errors() if said in line] == log.errors() != [],
           f"error lines: {log.errors()}")


# ---- Failures while other CPUs run

def panic_report(view, name, cpus):
    boot = view.qemu("64M", f"mello.fault={name}", extra=extra_of(cpus))
    lines = [line for line in boot.lines() if line]
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    heads = [number for number, line in enumerate(lines) if "PANIC" in line]
    expect(len(heads) == 1, f"{len(heads)} PANIC lines")
    expect(lines[heads[0]].startswith("PANIC"), f"the report begins in a line: {lines[heads[0]]}")
    return lines[:heads[0]], lines[heads[0]:]


def panic_busy(view, cpus):
    """One CPU fails while all others print: its report stands whole, and nothing comes between."""
    before, report = panic_report(view, "busy", cpus)
    busy = [line for line in before if line.endswith("is at work")]
    expect(len(busy) >= 10 if cpus > 1 else not busy, f"{len(busy)} lines before it")
    expect(not [line for line in report if "at work" in line], "others print into the report")
    expect(report[0] == "PANIC: read of 0x0: null + 0x0", report[0])
    expect(report[1].endswith("read of a non-present page"), report[1])
    expect(any(re.search(r"text of function fault_(on_busy_cpu|null|read)", line)
               for line in report), "the report does not say where")
    expect(report[-1].endswith("not present"), f"the report is cut off: {report[-1]}")


def panic_everywhere(view, cpus):
    """All CPUs fail at the same moment: one report, of one of them."""
    _, report = panic_report(view, "everywhere", cpus)
    expect(re.fullmatch(r"PANIC: mello\.fault=everywhere was asked for, on CPU \d+", report[0]),
           report[0])
    expect(all(line.startswith("  called from") for line in report[1:]) and len(report) > 1,
           f"not a list of callers: {report[1:]}")


def user_page(view, name, cpus):
    """SMAP and SMEP are on on the last CPU, too."""
    boot = view.qemu("64M", f"mello.fault={name}-last-cpu", cpu="max", extra=extra_of(cpus))
    report = [line for line in boot.lines() if line]
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    report = report[[line.startswith("PANIC") for line in report].index(True):]
    expect(re.search(USER_FAULTS[name], "\n".join(report), re.M), report[0])
    expect(f"  on CPU {cpus - 1} of {cpus}" in report, "it was another CPU")


def nmi_reported(view, name):
    """A call of mm from an NMI handler is a bug of the caller, told as one."""
    boot = view.qemu("64M", f"mello.fault={name}", extra=extra_of(2))
    log = Log(boot)
    expect(not log.has("NOT TRAPPED"), "the call was let through")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    expect(len(log.errors()) == 1, f"error lines: {log.errors()}")
    expect("called from an NMI or machine check handler" in log.errors()[0], log.errors()[0])


for _cpus in (1, 2, 4, 8):
    add(f"smp/boot-{_cpus}", boot_cpus, _cpus)
for _cpus in (2, 3, 4):
    add(f"smp/read-user-{_cpus}", user_page, "read-user", _cpus)
    add(f"smp/execute-user-{_cpus}", user_page, "execute-user", _cpus)
add("smp/boot-4-single", boot_cpus, 4, "64M", "qemu64", "", SINGLE)
add("smp/boot-4-max", boot_cpus, 4, "64M", "max")
add("smp/boot-4-la57", boot_cpus, 4, "64M", "max,la57=on", "loader.la57=1")
add("smp/boot-4-base-revision-2", boot_cpus, 4, "64M", "qemu64", "loader.baserev=2", (), 2)
add("smp/boot-2-8M", boot_cpus, 2, "8M")
add("smp/boot-4-q35", boot_q35, 4)
add("smp/mello-4", boot_mello, 4, "direct")
add("smp/mello-4-bios", boot_mello, 4, "bios")
add("smp/mello-2-uefi", boot_mello, 2, "uefi", slow=True)
add("smp/without-mp", without_mp)
add("smp/lost-cpu-loader", lost_in_loader, "", QUICK)
add("smp/lost-cpu-stress", lost_in_loader, "mm.stress=1", QUICK)
add("smp/lost-cpu-kernel", lost_in_kernel, QUICK)
add("smp/stress-1", stress, 1, 1)
add("smp/stress-2", stress, 2, 3)
add("smp/stress-4", stress, 4, 4)
add("smp/stress-4-single", stress, 4, 3, "qemu64", "64M", "pc", "", SINGLE)
add("smp/stress-2-8M", stress, 2, 2, "qemu64", "8M")
add("smp/stress-with-failures-1", stress_with_failures, 1, "every:10")
add("smp/stress-with-failures-4", stress_with_failures, 4, "every:3,size:64-4096")
add("smp/stress-silent", stress_silent)
for _path in sorted(BROKEN.glob("*.c")):
    add(f"smp/stress-sees-{_path.stem}", stress_sees, _path)
add("smp/shootdown-2", cpu_test, "shootdown", 2)
add("smp/shootdown-4", cpu_test, "shootdown", 4)
add("smp/shootdown-4-single", cpu_test, "shootdown", 4, SINGLE)
add("smp/shootdown-without-ipi-2", shootdown_left_out, 2)
add("smp/shootdown-without-ipi-4-single", shootdown_left_out, 4, SINGLE)
add("smp/shootdown-broken-is-seen", shootdown_broken)
add("smp/barrier-2", cpu_test, "barrier", 2)
add("smp/barrier-4", cpu_test, "barrier", 4)
add("smp/barrier-4-single", cpu_test, "barrier", 4, SINGLE)
add("smp/barrier-stores-late-4", barrier_left_out, "barrier-stores-late", 4, BOOT_SECONDS)
add("smp/barrier-stores-late-4-single", barrier_left_out, "barrier-stores-late", 4, BOOT_SECONDS, SINGLE)
add("smp/idle-2", cpu_test, "idle", 2)
add("smp/idle-4", cpu_test, "idle", 4)
add("smp/demand-2", cpu_test, "demand", 2)
add("smp/demand-4", cpu_test, "demand", 4)
add("smp/demand-4-max", cpu_test, "demand", 4, ("-cpu", "max"))
add("smp/leaks", leaks, 2, "mm.leaks=on")
add("smp/leaks-full", leaks, 4, "mm.harden=full")
add("smp/leaks-unrecorded", leaks_unrecorded)
add("smp/nested-interrupts-2", cpu_test, "nested-interrupts", 2)
add("smp/nested-interrupts-4-single", cpu_test, "nested-interrupts", 4, SINGLE)
add("smp/test-unknown", cpu_test_refused, "nonsense", 2, "no such test; known: shootdown ")
add("smp/test-one-cpu", cpu_test_refused, "shootdown", 1, "needs two CPUs")
for _cpus in (1, 4):
    add(f"smp/panic-busy-{_cpus}", panic_busy, _cpus)
    add(f"smp/panic-everywhere-{_cpus}", panic_everywhere, _cpus)
for _name in ("nmi-alloc", "nmi-kmalloc", "nmi-kfree"):
    add(f"smp/{_name}", nmi_reported, _name)

# Slow: many CPUs, minutes, every machine; and what has to wait for its chance.
add("smp/lost-cpu-loader-seconds", lost_in_loader, "mm.stress=3", slow=True)
add("smp/lost-cpu-kernel-seconds", lost_in_kernel, slow=True)
add("smp/barrier-left-out-4", barrier_left_out, "barrier-left-out", 4, 1200, slow=True)
add("smp/boot-255", boot_cpus, 255, "512M", slow=True)
add("smp/boot-255-single", boot_cpus, 255, "512M", "qemu64", "", SINGLE, slow=True)
# QEMU cannot serve the 255000 timer interrupts a second of 255 CPUs beside all this.
add("smp/stress-128-single", stress, 128, 20, "qemu64", "512M", "pc", "", SINGLE, slow=True)
add("smp/stress-8-minutes", stress_long, 8, 120, slow=True)
add("smp/stress-4-minutes-single", stress_long, 4, 120, SINGLE, slow=True)
add("smp/stress-2-minutes", stress_long, 2, 180, slow=True)
add("smp/stress-4-max-q35", stress, 4, 20, "max", "512M", "q35", slow=True)
add("smp/stress-4-la57", stress, 4, 20, "max,la57=on", "64M", "pc", "loader.la57=1", slow=True)
add("smp/shootdown-8", cpu_test, "shootdown", 8, slow=True)
add("smp/nested-interrupts-8", cpu_test, "nested-interrupts", 8, slow=True)
