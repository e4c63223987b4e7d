# SPDX-License-Identifier: MIT
"""Deliberate machine faults: each must trap, with a report that says what, where and why.

mello.fault=NAME does one forbidden thing after the self-tests (kernel/fault_test.c). The boot must
end with status 3 and a report whose first line says what was tried where, or names the exception, which
else is the second line. What the report says is compared with what the kernel file says: function names and offsets with its symbols, the page table entries
with each other and with the error code. Both CPU models where protection depends on the CPU.
"""

import re
import subprocess

from log import READY_KEYS, Log
from machine import expect
from suite import add

PF = r"^  #PF page fault \(vector 14\)"
WRITE = PF + r", error code 0x3: write to a present page \(protection violation\)$"
FETCH = PF + r", error code 0x11: instruction fetch from a present page \(protection violation\)$"
ABSENT = PF + r", error code 0x{}: {} a non-present page$"
READ_ABSENT = ABSENT.format(0, "read of")
OVERFLOW = r"^  #DF double fault \(vector 8\), error code 0x0: stack overflow$"
HEAD = r"^PANIC: {}$"
NO_CODE = r"{} \(vector {}\), no error code"


ACCESS = "(?:read of|write to|instruction fetch from|access to)"


def at(what):
    return rf"^PANIC: {ACCESS} 0x[0-9a-f]+: {what}$"


def rip(function):
    return rf"^  rip 0x[0-9a-f]{{16}}: text of function {function} \+ 0x[0-9a-f]+$"


def hhdm(what):
    return at(rf"HHDM of frame 0x[0-9a-f]+{what}")


def caller(function):
    return rf"^  called from 0x[0-9a-f]{{16}}: {function} \+ 0x[0-9a-f]+(, \d+ times)?$"


# The levels that the walk must show, from PML4e on, and how it ends.
RX, RO, RW = "R-X kernel", "R-- kernel", "RW- kernel"
USER_RX, USER_RO, USER_RW = "R-X user", "R-- user", "RW- user"
NONE = "not present"

# name: (lines that the report must have, the walk's end or None, CPUs)
BOTH, ONE, MAX = ("qemu64", "max"), ("qemu64",), ("max",)
INIT = r"init of function run_memory_tests \+ 0x0 \(given back after boot\)"
RODATA = r"(rodata of \S+|kernel rodata) \+ 0x0"
MAPPED = r"lower half, a page mapped to physical 0x[0-9a-f]+000"
# User pages, which the tables let the kernel use and SMAP and SMEP do not.
USER_FAULTS = {name: PF + rf", error code {code}: {what} a user page in kernel mode \({guard}\)$"
               for name, code, what, guard in (("read-user", "0x1", "read of", "SMAP"),
                                               ("write-user", "0x3", "write to", "SMAP"),
                                               ("execute-user", "0x11", "instruction fetch from", "SMEP"))}
LARGE_BLOCK = "the 3145728-byte heap block 0x[0-9a-f]+"
BELOW_BOOT_STACK = r"guard page below the boot stack \(stack overflow\)"
FAULTS = {
    "write-text": ([WRITE, at(r"text of function _start \+ 0x0"), rip("fault_write(_text)?")], RX, BOTH),
    "write-text-hhdm": ([WRITE, hhdm(r": text of function _start \+ 0x0")], RO, BOTH),
    "write-rodata": ([WRITE, at(RODATA)], RO, BOTH),
    "write-rodata-hhdm": ([WRITE, hhdm(": " + RODATA)], RO, BOTH),
    "write-ro-after-init": ([WRITE, at(r"ro_after_init of limine_requests \+ 0x0")], RO, BOTH),
    "write-ro-after-init-hhdm": ([WRITE, hhdm(r": ro_after_init of limine_requests \+ 0x0")], RO, BOTH),
    "execute-init": ([ABSENT.format(10, "instruction fetch from"), at(INIT)], NONE, BOTH),
    "execute-init-hhdm": ([FETCH, hhdm(r", byte 0 \(executable, (free|used|page table)\)")], RW, BOTH),
    "read-init-data": ([READ_ABSENT, at(r"(init_data of \S+|kernel init_data) \+ 0x0 "
                                        r"\(given back after boot\)")], NONE, ONE),
    "execute-data": ([FETCH, at(r"data of fault_data \+ 0x0"),
                      r"^  rip 0x[0-9a-f]{16}: data of fault_data \+ 0x0$"], RW, BOTH),
    "execute-heap": ([FETCH, at(r"heap block 0x[0-9a-f]+ of 64 bytes, byte 0")], RW, BOTH),
    "execute-free-block": ([FETCH, at(r"free heap block 0x[0-9a-f]+ of \d+ bytes, byte 12")], RW, ONE),
    "execute-stack": ([FETCH, at(r"the boot stack, \d+ bytes below its top")], RW, BOTH),
    "execute-hhdm": ([FETCH, hhdm(r", byte 0 \(usable, used\)")], RW, BOTH),
    "execute-table": ([FETCH, hhdm(r", byte 0 \(usable, page table\)")], RW, ONE),
    "null": ([READ_ABSENT, at(r"null \+ 0x0"), rip("fault_(read|null)")], NONE, BOTH),
    "null-write": ([ABSENT.format(2, "write to"), at(r"null \+ 0x0")], NONE, BOTH),
    "null-field": ([READ_ABSENT, at(r"null \+ 0x18")], NONE, ONE),
    "null-call": ([PF + r", error code 0x(10|0): .* a non-present page$", at(r"null \+ 0x0"),
                   r"^  rip 0x0{16}: null \+ 0x0$"], NONE, BOTH),
    "not-canonical": ([HEAD.format(r"#GP general protection fault \(vector 13\), error code 0x0: "
                                   r"no segment involved"),
                       r"^  suspect: r\w+ 0x0123456789abcdef is not canonical$"], None, ONE),
    "hhdm-hole": ([READ_ABSENT, at(r"HHDM of physical 0x[0-9a-f]+ \(reserved\)")], NONE, ONE),
    # QEMU's TCG leaves bit 0 of the code clear, where the SDM has it set (vol. 3, 4.7).
    "reserved-bit": ([PF + r", error code 0x[89]: read of a page with a reserved bit set$",
                      at(MAPPED)], "reserved bits 0x8000000000000 are set", BOTH),
    "read-user": ([USER_FAULTS["read-user"], at(MAPPED)], USER_RO, MAX),
    "write-user": ([USER_FAULTS["write-user"], at(MAPPED)], USER_RW, MAX),
    "execute-user": ([USER_FAULTS["execute-user"], at(MAPPED), r"^  rip 0x0+400000: " + MAPPED],
                     USER_RX, MAX),
    "stack-overflow": ([OVERFLOW, at(BELOW_BOOT_STACK), rip("fault_descend"),
                        r"^  reported from the double fault stack, \d+ bytes below its top$",
                        r"^  called from 0x[0-9a-f]{16}: fault_descend \+ 0x[0-9a-f]+, \d+ times$",
                        caller("fault_test_run")], NONE, BOTH),
    "kernel-stack-overflow": ([OVERFLOW, rip("fault_descend"),
                               at(r"guard page below kernel stack 0 \(stack overflow\)")], NONE, ONE),
    "kernel-stack-execute": ([FETCH, at(r"kernel stack 0, \d+ bytes below its top")], RW, ONE),
    "kernel-stack-above": ([READ_ABSENT, at("guard page above kernel stack 0")], NONE, ONE),
    "heap-guard-below": ([READ_ABSENT, at("heap guard, 1 byte below the heap")], NONE, BOTH),
    "heap-guard-above": ([READ_ABSENT, at("heap guard, 0 bytes above the heap")], NONE, BOTH),
    "kvm-guard-below": ([READ_ABSENT, at(r"1 byte below the 12288-byte block 0x[0-9a-f]+ \(guard\)")], NONE, BOTH),
    "kvm-guard-above": ([READ_ABSENT, at(r"0 bytes past the end of the 12288-byte block 0x[0-9a-f]+ \(guard\)"),
                         r"^  window of the blocks, .*$"], NONE, ONE),
    "kvm-use-after-free": ([READ_ABSENT, at(r"window of blocks \+ 0x[0-9a-f]+, where no block is")], NONE, ONE),
    "execute-kvm": ([FETCH, at(r"block 0x[0-9a-f]+ of 4096 bytes, byte 0"),
                     r"^  frame 0x[0-9a-f]+: usable, used$"], RW, ONE),
    "large-block-below": ([READ_ABSENT, at("1 byte below " + LARGE_BLOCK)], NONE, BOTH),
    "large-block-above": ([READ_ABSENT, at("0 bytes past the end of " + LARGE_BLOCK)], NONE, ONE),
    "large-block-past-end": ([ABSENT.format(2, "write to"), at("17 bytes past the end of " + LARGE_BLOCK)], NONE,
                             ONE),
    "large-block-freed": ([READ_ABSENT, at(r"window of the heap \+ 0x[0-9a-f]+, where no memory is")], NONE, ONE),
    "divide": ([HEAD.format(NO_CODE.format("#DE divide error", 0)), rip("fault_divide")], None, ONE),
    "ud": ([HEAD.format(NO_CODE.format("#UD invalid opcode", 6)), rip("fault_invalid_opcode")], None,
           ONE),
    "breakpoint": ([HEAD.format(NO_CODE.format("#BP breakpoint", 3)), rip("fault_breakpoint")], None,
                   ONE),
    "nmi": ([HEAD.format(NO_CODE.format("NMI non-maskable interrupt", 2)),
             r"^  reported from the NMI stack, \d+ bytes below its top$"], None, ONE),
    "machine-check": ([HEAD.format(NO_CODE.format("#MC machine check", 18)),
                       r"^  reported from the machine check stack, \d+ bytes below its top$"], None,
                      ONE),
    "unexpected": ([HEAD.format(NO_CODE.format("unexpected interrupt", 100))], None, ONE),
}
# Those whose reports are not of the usual kind; the tests below look at them.
OTHERS = ["double-free", "frame-pointer", "in-report", "panic"]
# Those of several CPUs and of NMI handlers; cases_smp.py looks at them.
OTHERS += ["nmi-alloc", "nmi-kmalloc", "nmi-kfree", "busy", "everywhere", "read-user-last-cpu",
           "execute-user-last-cpu"]
REGISTERS = ["RIP", "RSP", "RBP", "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "R8", "R9", "R10", "R11",
             "R12", "R13", "R14", "R15", "CR0", "CR2", "CR3", "CR4"]
ENTRY = re.compile(r"    (PML5e|PML4e|PDPTe|PDe|PTe) +(\d+) at 0x([0-9a-f]+) = 0x([0-9a-f]{16}): (.*)")
SHIFTS = {"PML5e": 48, "PML4e": 39, "PDPTe": 30, "PDe": 21, "PTe": 12}


def report_of(log):
    """The lines from the first PANIC line on."""
    for number, line in enumerate(log.lines):
        if line.startswith("PANIC"):
            return log.lines[number:]
    return []


class Symbols:
    """What the kernel file itself says about its addresses."""

    def __init__(self, kernel):
        text = subprocess.run(["nm", "-S", str(kernel)], check=True, capture_output=True, text=True)
        self.spans = []
        for line in text.stdout.splitlines():
            words = line.split()
            if len(words) == 4:
                self.spans.append((int(words[0], 16), int(words[1], 16), words[3]))

    def hold(self, address, name, offset):
        """True if `name` begins `offset` below the address. The end of a function counts: a call
        that never returns may be its last instruction."""
        return any(begin + offset == address and offset <= size and symbol == name
                   for begin, size, symbol in self.spans)


def check_names(view, report):
    """Every name + offset of the report is that of its address, by the kernel file's symbols."""
    symbols = Symbols(view.tree.build / "kernel.elf")
    named = re.findall(rf"^(?:PANIC: {ACCESS}|  (?:rip|rsp|called from)) 0x([0-9a-f]+): (?:text of function |"
                       r"rodata of |data of )?([A-Za-z_][\w.]*) \+ 0x([0-9a-f]+)(?:, \d+ times)?$",
                       report, re.M)
    for address, name, offset in named:
        expect(name == "null" or symbols.hold(int(address, 16), name, int(offset, 16)),
               f"0x{address} is not {name} + 0x{offset}")
    return [name for _, name, _ in named]


def check_walk(report, end):
    """One entry per level down to where the walk ends: indexes of the address, tables that follow
    from each other, rights that follow from the entries."""
    address = int(re.search(r"^  page tables of 0x([0-9a-f]{16})$", report, re.M)[1], 16)
    expect(re.match(f"PANIC: {ACCESS} {address:#x}: ", report), "the walk is of another address")
    entries = [match for line in report.splitlines() if (match := ENTRY.fullmatch(line))]
    table = int(re.search(r"cr3 0x([0-9a-f]{16})", report)[1], 16) & ~0xFFF
    levels = list(SHIFTS)[0 if entries[0][1] == "PML5e" else 1:]
    for level, (name, index, place, value, text) in zip(levels, (entry.groups() for entry in entries)):
        number = int(value, 16)
        expect(name == level, f"{name} where {level} must be")
        expect(int(index) == address >> SHIFTS[level] & 511, f"index of {name}: {index}")
        expect(int(place, 16) == table + 8 * int(index), f"place of {name}: 0x{place}")
        expect((number & 1 == 0) == (text == NONE), f"{name}: {text}")
        table = number & 0x000FFFFFFFFFF000
        rights = ("R" + "-W"[number >> 1 & 1] + "X-"[number >> 63] +
                  (" user" if number & 4 else " kernel"))
        expect(text == NONE or f", {rights}" in text, f"{name}: {text}, not {rights}")
    check_walk_end(report, entries, address, end)


def check_walk_end(report, entries, address, end):
    last = entries[-1]
    together = re.findall(r"^    together: physical 0x([0-9a-f]+), (.*)$", report, re.M)
    if end not in (RX, RO, RW, USER_RX, USER_RO, USER_RW):
        expect(last[5].startswith(end), f"the walk ends with: {last[0]}")
        expect(not together, "nothing is mapped, but it says to where")
        return
    size = 1 << SHIFTS[last[1]]
    frame = int(last[4], 16) & 0x000FFFFFFFFFF000 & ~(size - 1)
    expect(together == [(f"{frame + address % size:x}", end)], f"together: {together}, not {end}")


def check_access(report):
    """The first line says what was tried, the second is the CPU's word for it."""
    tried = re.match(f"PANIC: ({ACCESS}) ", report)[1]
    second = report.splitlines()[1]
    expect(re.match(f"  #PF .*: {tried} a " if tried != "access to" else "  #DF .*: stack overflow$", second),
           f"{tried}: {second}")


def check_callers(report, names):
    """From the fault down to the first instruction, by name."""
    expect(re.search(caller("kmain"), report, re.M), "kmain is not among the callers")
    expect(names[-1] == "_start", f"the last caller is {names[-1]}")
    expect("callers end here" not in report, "the callers end too early")


def trap(view, name, patterns, end, cpu):
    boot = view.qemu("64M", f"mello.fault={name}", cpu=cpu)
    log = Log(boot)
    expect(not log.has("NOT TRAPPED"), "it did not trap")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    expect(log.find(r"\[MM\] READY " + ".*".join(READY_KEYS) + "=.*"), "it did not come to READY")
    report = "\n".join(report_of(log))
    expect(report, "no line begins with PANIC")
    for pattern in patterns:
        expect(re.search(pattern, report, re.M), f"the report does not say: {pattern}")
    for register in REGISTERS:
        expect(re.search(rf"\b{register}\b\W*(0x)?[0-9a-f]{{4,}}", report, re.I),
               f"the report does not show {register}")
    expect(report.count("PANIC") == 1, "more than one PANIC line")
    check_callers(report, check_names(view, report))
    if end is None:
        expect("page tables" not in report, "it walks page tables without an address")
    else:
        check_access(report)
        check_walk(report, end)


def user_page_is_open(view, name):
    """A CPU that has neither SMAP nor SMEP lets the kernel use pages of user code."""
    boot = view.qemu("64M", f"mello.fault={name}", cpu="qemu64")
    log = Log(boot)
    expect(boot.status == 1, f"exit status {boot.status}, not 1")
    log.only(f"FAULT NOT TRAPPED: {name}")
    expect(not log.has("PANIC") and not log.has("SMAP") and not log.has("SMEP"), "it was trapped")


def full_level(view, name, pattern):
    """Large blocks have red zones there, so that a guard page may lie some bytes behind the end."""
    boot = view.qemu("64M", f"mm.harden=full mello.fault={name}")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    report = "\n".join(report_of(Log(boot)))
    expect(re.match(at(pattern), report, re.M), report.splitlines()[0])
    check_access(report)
    check_walk(report, NONE)


def five_levels(view):
    """With LA57 the walk begins one level higher."""
    boot = view.qemu("64M", "loader.la57=1 mello.fault=write-text", cpu="max,la57=on")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    report = "\n".join(report_of(Log(boot)))
    expect("    PML5e 511 at 0x" in report, "no PML5e")
    check_walk(report, RX)


def other_places(view):
    """Another HHDM, another place for the kernel: the HHDM's addresses are still known."""
    boot = view.qemu("64M", "loader.hhdm=0xffffa12340000000 loader.slide=0x2000000 "
                            "mello.fault=write-text-hhdm")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    report = "\n".join(report_of(Log(boot)))
    found = re.search(at(r"HHDM of frame 0x([0-9a-f]+): text of function _start \+ 0x0"), report, re.M)
    expect(found, "the alias of text is not recognised")
    expect(f"PANIC: write to {0xffffa12340000000 + int(found[1], 16):#x}: " in report, found[0])
    check_walk(report, RO)


def double_free(view):
    boot = view.qemu("64M", "mello.fault=double-free")
    log = Log(boot)
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    expect(len(log.errors()) == 1, f"{len(log.errors())} ERROR lines")
    expect(re.search(r"\[MM\] ERROR: kfree of 0x[0-9a-f]+, which is free .*double free", log.errors()[0]),
           log.errors()[0])
    report = "\n".join(report_of(log))
    expect(re.search(caller("fault_double_free"), report, re.M), "the culprit is not named")
    check_callers(report, check_names(view, report))


def panic(view):
    boot = view.qemu("64M", "mello.fault=panic")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    report = "\n".join(report_of(Log(boot)))
    expect(report.startswith("PANIC: mello.fault=panic was asked for\n"), "another first line")
    names = check_names(view, report)
    expect(names[0] == "fault_panic", f"the first caller is {names[0]}")
    check_callers(report, names)


def frame_pointer(view):
    """A frame pointer that leads nowhere ends the list of callers, not the report."""
    boot = view.qemu("64M", "mello.fault=frame-pointer")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    report = report_of(Log(boot))
    expect(re.match(r"PANIC: #UD ", report[0]), report[0])
    last = [line for line in report if line][-1]
    expect(re.fullmatch(r"  callers end here: frame pointer 0x[0-9a-f]+ leads to no caller", last), last)


def in_report(view):
    """A failure while a failure is reported is one line, and the end."""
    boot = view.qemu("64M", "mello.fault=in-report")
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    lines = [line for line in report_of(Log(boot)) if line]
    second = [number for number, line in enumerate(lines) if line.startswith("PANIC")][1:]
    expect(second == [1] and len(lines) == 2, f"PANIC lines after the first: {second} of {len(lines)}")
    expect(re.fullmatch(r"PANIC: #PF page fault \(vector 14\), error code 0x0: read of a non-present page",
                        lines[0]), lines[0])
    expect(re.fullmatch(r"PANIC: #PF page fault at 0x[0-9a-f]+ in \w+ while another failure was being "
                        r"reported", lines[-1]), lines[-1])


def unknown_fault(view):
    boot = view.qemu("64M", "mello.fault=nonsense")
    log = Log(boot)
    expect(boot.status == 3, f"exit status {boot.status}, not 3")
    lines = [line for line in log.lines if "nonsense" in line]
    expect(len(lines) == 1 and "ERROR" in lines[0], f"lines about it: {lines}")
    listed = lines[0].split(" known: ")[-1].split()
    expect(sorted(listed) == sorted([*FAULTS, *OTHERS]), f"these faults and no other have tests: {listed}")


def without_exit_key(view):
    """Without mello.exit=qemu a panic halts and leaves isa-debug-exit alone."""
    boot = view.qemu("64M", "mello.fault=ud", exit_key=False, until=": _start + 0x",
                     linger=3)
    expect(report_of(Log(boot)), "no report")
    expect(boot.status == 0, f"QEMU did not stay until it was ended: exit status {boot.status}")


for _name, (_patterns, _end, _cpus) in FAULTS.items():
    for _cpu in _cpus:
        add(f"fault/{_name}-{_cpu}", trap, _name, _patterns, _end, _cpu)
for _name in USER_FAULTS:
    add(f"fault/{_name}-qemu64", user_page_is_open, _name)
for _name, _pattern in {"large-block-below": r"\d+ bytes? below ",
                        "large-block-past-end": r"\d+ bytes past the end of "}.items():
    add(f"fault/{_name}-full", full_level, _name, _pattern + LARGE_BLOCK)
add("fault/large-block-freed-full", full_level, "large-block-freed",
    r"window of the heap \+ 0x[0-9a-f]+, where no memory is")
add("fault/five-levels", five_levels)
add("fault/other-places", other_places)
add("fault/double-free", double_free)
add("fault/panic", panic)
add("fault/frame-pointer", frame_pointer)
add("fault/in-report", in_report)
add("fault/unknown-name", unknown_fault)
add("fault/halts-without-exit-key", without_exit_key, waits=True)
