# SPDX-License-Identifier: MIT
"""A kernel file that can be broken on purpose: ELF-64 headers and Limine requests in a bytearray.

Positions are those of the System V ABI's ELF-64 and of the Limine boot protocol; a field is read
and written by its name. Nothing is checked: that is the loader's work, which these files test.
"""

import struct

HEADER = {"class": ("B", 4), "data": ("B", 5), "ident_version": ("B", 6), "type": ("H", 16),
          "machine": ("H", 18), "version": ("I", 20), "entry": ("Q", 24), "phoff": ("Q", 32),
          "phentsize": ("H", 54), "phnum": ("H", 56)}
SEGMENT = {"type": ("I", 0), "flags": ("I", 4), "offset": ("Q", 8), "vaddr": ("Q", 16),
           "paddr": ("Q", 24), "filesz": ("Q", 32), "memsz": ("Q", 40), "align": ("Q", 48)}
SEGMENT_BYTES = 56
PT_NULL, PT_LOAD, PT_INTERP = 0, 1, 3
PF_X, PF_W, PF_R = 1, 2, 4

COMMON_ID = struct.pack("<QQ", 0xC7B1DD30DF4C8B88, 0x0A82E883A194F07B)
BASE_TAG = struct.pack("<QQ", 0xF9562B2D5C95A6C8, 0x6A7B384944536BDC)
REQUEST_IDS = {
    "hhdm": (0x48DCF1CB8AD2B852, 0x63984E959A98244B),
    "memmap": (0x67CF3D9D378A806F, 0xE304ACDFC50C3C62),
    "firmware-type": (0x8C2F75D90BEF28A8, 0x7045A4688EAC00C3),
    "bootloader-info": (0xF55038D8E2A1202F, 0x279426FCF5F59740),
}


class Segment:
    """One program header, a window into its file."""

    def __init__(self, elf, at):
        self._elf, self._at = elf, at

    def get(self, name):
        form, offset = SEGMENT[name]
        return struct.unpack_from("<" + form, self._elf.bytes, self._at + offset)[0]

    def set(self, **fields):
        for name, value in fields.items():
            form, offset = SEGMENT[name]
            struct.pack_into("<" + form, self._elf.bytes, self._at + offset, value)

    def end(self):
        return self.get("vaddr") + self.get("memsz")


class Elf:
    def __init__(self, data):
        self.bytes = bytearray(data)

    def get(self, name):
        form, offset = HEADER[name]
        return struct.unpack_from("<" + form, self.bytes, offset)[0]

    def set(self, **fields):
        for name, value in fields.items():
            form, offset = HEADER[name]
            struct.pack_into("<" + form, self.bytes, offset, value)

    def segments(self):
        start = self.get("phoff")
        return [Segment(self, start + i * SEGMENT_BYTES) for i in range(self.get("phnum"))]

    def loads(self):
        """The loadable segments by ascending address."""
        loads = [segment for segment in self.segments() if segment.get("type") == PT_LOAD]
        return sorted(loads, key=lambda segment: segment.get("vaddr"))

    def load(self, flag):
        """The one loadable segment that has this right: PF_X the text, PF_W the data."""
        return [segment for segment in self.loads() if segment.get("flags") & flag][0]

    def find_once(self, pattern):
        at = self.bytes.find(pattern)
        if at < 0 or self.bytes.find(pattern, at + 1) >= 0:
            raise ValueError("the kernel file does not hold this pattern exactly once")
        return at

    def request(self, name):
        return self.find_once(COMMON_ID + struct.pack("<QQ", *REQUEST_IDS[name]))

    def rename_request(self, old, new):
        at = self.request(old)
        struct.pack_into("<QQ", self.bytes, at + len(COMMON_ID), *REQUEST_IDS[new])

    def base_revision(self):
        return struct.unpack_from("<Q", self.bytes, self.find_once(BASE_TAG) + 16)[0]

    def set_base_revision(self, number):
        struct.pack_into("<Q", self.bytes, self.find_once(BASE_TAG) + 16, number)

    def drop_base_tag(self):
        at = self.find_once(BASE_TAG)
        self.bytes[at:at + len(BASE_TAG)] = bytes(len(BASE_TAG))
