# SPDX-License-Identifier: MIT
"""The boot loader's memory, given back: nobody uses it any more, whatever happens then.

mello.fill=loader overwrites all of it before it is released, so a stack, a table or an answer that
somebody still needs is gone at once: such a boot goes through stress, shootdowns, failures, the
screen's summary and the end. QEMU's monitor then says of each CPU, also of one that does not run,
where its page tables, descriptor tables and stack lie.
"""

import re

from cases_audit import Machine
from cases_smp import QUICK, STRESS_LINE, extra_of
from log import HELLO, LOW_MEMORY_END, Log, check_loader_memory, check_success, size_of
from machine import expect
from suite import add

FILL = "mello.fill=loader"
TOOK = r"\[MM\] loader memory: (\d+) KB given back"


def filled(view, cpus, keys="", drop=None, memory="64M", cpu="qemu64", machine="pc", extra=()):
    """A whole good boot with everything overwritten."""
    boot = view.qemu(memory, f"{FILL} {keys}".strip(), cpu=cpu, machine=machine,
                     extra=extra_of(cpus, extra))
    if drop is not None:
        expect(any(re.fullmatch(drop, line) for line in boot.lines()), f"no line like: {drop}")
        boot.text = "\n".join(line for line in boot.lines()
                              if not re.fullmatch(drop, line) and not STRESS_LINE.fullmatch(line))
    check_success(boot, None, 2 if "baserev=2" in keys else 3)


def filled_image(view, firmware):
    """Under GRUB, where the loader has another source and other memory."""
    boot = view.mello("run", "--headless", "--memory", "256M", "--cpus", "2", "--firmware", firmware,
                      "--cmdline", FILL, "--timeout", "120")
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    log = Log(boot)
    check_loader_memory(log)
    expect(HELLO in log.lines, "no Hello")


def fault(view, name, cpus, head):
    """A report with callers, symbols and page tables still comes out whole."""
    boot = view.qemu("64M", f"{FILL} mello.fault={name}", extra=extra_of(cpus))
    log = Log(boot)
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    log.only(TOOK)
    heads = [line for line in log.lines if line.startswith("PANIC")]
    expect(len(heads) == 1 and re.search(head, heads[0]), f"PANIC lines: {heads}")


def low_memory(view):
    """With mm.lowmem=on the loader's page below 640 KB, where CPUs started, comes back too."""
    boot = view.qemu("64M", f"{FILL} mm.lowmem=on", extra=extra_of(2))
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    log = Log(boot)
    loaders = size_of(log.extents({"loader reclaimable"})) >> 10
    expect(int(log.only(TOOK)[1]) == loaders, "not all of it came back")
    expect(any(base < LOW_MEMORY_END for base, _ in log.extents({"loader reclaimable"})),
           "the loader has nothing below 1 MiB: this test tests nothing")


def bounds_of(register, text):
    return [int(base, 16) for base in re.findall(rf"^{register}= +([0-9a-f]+) ", text, re.M)]


def registers(view, cpus, keys, extra=()):
    """Every CPU's tables and stack: none in the loader's memory, or at the HHDM alias of it."""
    machine = Machine(view, "64M", "max", f"{FILL} {keys}".strip(), extra_of(cpus, extra))
    try:
        log = Log(machine.boot)
        text = machine.ask("info registers -a")
        check_registers(log, text, cpus)
    finally:
        machine.close()


def not_wanted(view, cpus, wanted):
    """CPUs that nobody wants stand in our memory like those that came too late, and do not run."""
    boot = view.qemu("64M", f"{FILL} mello.cpus={wanted} mm.stress=1", extra=extra_of(cpus))
    expect(boot.status == 0, f"exit status {boot.status}, not 0")
    log = Log(boot)
    check_loader_memory(log)
    log.only(rf"CPUs: {wanted} of {cpus} started .*")
    log.only(rf"\[MM\] ✓ stress: cpus={wanted} .*")
    expect(not log.warnings(), f"warnings: {log.warnings()}")


def check_registers(log, text, cpus):
    offset = int(log.only(r"\[MM\] HHDM offset: 0x([0-9a-f]+)")[1], 16)
    loaders = log.extents({"loader reclaimable"})
    values = {name: bounds_of(name, text) for name in ("GDT", "IDT")}
    values["CR3"] = [int(value, 16) for value in re.findall(r"\bCR3=([0-9a-f]+)", text)]
    values["RSP"] = [int(value, 16) - 1 for value in re.findall(r"\bRSP=([0-9a-f]+)", text)]
    values["RIP"] = [int(value, 16) for value in re.findall(r"\bRIP=([0-9a-f]+)", text)]
    for name, found in values.items():
        expect(len(found) == cpus, f"{len(found)} values of {name}, not {cpus}")
        for value in found:
            for base, end in loaders:
                expect(not base <= value < end and not offset + base <= value < offset + end,
                       f"{name} {value:#x} is the loader's")
    expect(all(value != 0 for name in ("GDT", "IDT") for value in values[name]),
           f"a CPU without tables: {values}")


for _cpus in (1, 2, 4):
    add(f"reclaim/fill-{_cpus}", filled, _cpus)
add("reclaim/fill-max", filled, 2, "", None, "64M", "max")
add("reclaim/fill-la57", filled, 4, "loader.la57=1", None, "64M", "max,la57=on")
add("reclaim/fill-base-revision-2", filled, 2, "loader.baserev=2")
add("reclaim/fill-8M", filled, 2, "", None, "8M")
add("reclaim/fill-5G-q35", filled, 2, "", None, "5G", "max", "q35")
add("reclaim/fill-without-mp", filled, 4, "loader.omit=mp")
add("reclaim/fill-lost-in-loader", filled, 4, "loader.lostcpu=2", r".*MP: processor .* did not start.*",
    "64M", "qemu64", "pc", QUICK)
add("reclaim/fill-stress", filled, 4, "mm.stress=3", r"\[MM\] ✓ stress: cpus=4 .*")
add("reclaim/fill-shootdown", filled, 4, "mello.test=shootdown", r"\[MM\] ✓ shootdown: 4 CPUs .*")
add("reclaim/fill-lost-cpu", filled, 4, "mello.lost=2",
    r"WARNING: the CPU with APIC id 2 was released and never came; .*", "64M", "qemu64", "pc", QUICK)
add("reclaim/fill-low-memory", low_memory)
add("reclaim/fill-bios", filled_image, "bios")
add("reclaim/fill-uefi", filled_image, "uefi", slow=True)
add("reclaim/fault-null", fault, "null", 4, r"^PANIC: read of 0x0: null \+ 0x0$")
add("reclaim/fault-busy", fault, "busy", 4, r"^PANIC: read of 0x0: null \+ 0x0$")
add("reclaim/fault-stack-overflow", fault, "stack-overflow", 2,
    r"^PANIC: access to 0x[0-9a-f]+: guard page below the boot stack \(stack overflow\)$")
add("reclaim/registers-1", registers, 1, "")
add("reclaim/registers-4", registers, 4, "")
add("reclaim/registers-la57", registers, 4, "loader.la57=1")
add("reclaim/registers-parked", registers, 4, "mello.lost=2", QUICK)
add("reclaim/registers-not-wanted", registers, 4, "mello.cpus=2")
add("reclaim/registers-not-wanted-la57", registers, 4, "mello.cpus=1 loader.la57=1")
add("reclaim/not-wanted-1-of-4", not_wanted, 4, 1)
add("reclaim/not-wanted-3-of-4", not_wanted, 4, 3)
