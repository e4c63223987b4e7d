# SPDX-License-Identifier: MIT
"""Direct boots through ./mello: every size with both CPU models, and both machine types.

Each must tell the whole story (log.check_success) and agree with the firmware's memory map.
"""

from log import check_success
from machine import expect
from suite import add

SIZES = ["8M", "64M", "512M", "5G", "64G", "1T"]
CPUS = ["qemu64", "max"]


def boot_direct(view, memory, cpu, machine="pc", cmdline=""):
    flags = f"-cpu {cpu}" + ("" if machine == "pc" else f" -machine {machine}")
    options = ["--cmdline", cmdline] if cmdline else []
    boot = view.mello("run", "--headless", "--memory", memory, "--timeout", "120", *options,
                      qemuflags=flags)
    return check_success(boot, view.tree.firmware_map(memory, cpu, machine))


def boot_quiet(view):
    """The defaults: 512M and the CPU that ./mello chooses."""
    boot = view.mello("run", "--headless")
    check_success(boot, view.tree.firmware_map("512M", "max"))


def boot_clock(view):
    """The times of READY are times. A host too busy to run QEMU for 5 ms can take the kernel's clock
    away (both are 0 then, as mm/include/mm/port.h says), but not three times running."""
    for _ in range(3):
        boot = view.qemu("512M")
        ready = check_success(boot).ready()
        if ready["total_us"] > 0:
            break
    expect(0 < ready["pmm_us"] < ready["total_us"], f"no clock: {ready}")
    expect(ready["total_us"] < boot.seconds * 1_000_000, f"{boot.seconds:.1f} s in all: {ready}")


def boot_dirty(view, keys):
    """RAM that holds something at power-on: nothing may take it for zeroes."""
    dirt = view.folder() / "dirt"
    base, end = 0x20_0000, 0x3E0_0000  # between the loader's image and the kernel file
    dirt.write_bytes(b"\xa5" * (end - base))
    device = f"loader,file={dirt},addr={base:#x},force-raw=on"
    boot = view.qemu("64M", keys, extra=("-device", device))
    check_success(boot, view.tree.firmware_map("64M"))


for _size in SIZES:
    for _cpu in CPUS:
        add(f"direct/{_size}-{_cpu}", boot_direct, _size, _cpu)
add("direct/defaults", boot_quiet)
add("direct/clock", boot_clock)
add("direct/dirty-memory", boot_dirty, "")
add("direct/dirty-memory-under-kernel", boot_dirty, "loader.slide=0x2000000")
add("direct/q35-512M", boot_direct, "512M", "qemu64", "q35")
add("direct/q35-5G-max", boot_direct, "5G", "max", "q35")
add("direct/3G", boot_direct, "3G", "qemu64")
add("direct/3585M", boot_direct, "3585M", "qemu64")
for _vendor in ("GenuineIntel", "AuthenticAMD"):
    add(f"campaign/q35-1T-{_vendor}", boot_direct, "1T", f"qemu64,vendor={_vendor},phys-bits=46",
        "q35", slow=True)
