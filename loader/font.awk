# SPDX-License-Identifier: MIT
#
# Turns a PSF1 console font, given as one byte (decimal) on each line, into the loader's glyphs.
#
#   header  36 04 mode bytes-per-glyph | 256 or 512 glyphs | for each: 16-bit code points, ffff |
#
# Which glyph shows a character is written in the table behind the glyphs and nowhere else. A font
# that is not 16 lines high, or that lacks a printable ASCII character, is refused by name.

{ byte[NR - 1] = $1 }

function fail(why)
{
    failed = 1
    print "font.awk: " why >"/dev/stderr"
    exit 1
}

END {
    if (failed)
        exit 1
    if (byte[0] != 54 || byte[1] != 4)
        fail("not a PSF1 font")
    if (byte[3] != 16 || int(byte[2] / 2) % 2 == 0)
        fail("not 16 lines high, or without a table of characters")
    count = byte[2] % 2 ? 512 : 256
    at = 4 + 16 * count
    for (glyph = 0; glyph < count; glyph++) {
        for (; at + 1 < NR; at += 2) {
            code = byte[at] + 256 * byte[at + 1]
            if (code == 65535)
                break
            if (!(code in glyph_of))
                glyph_of[code] = glyph
        }
        at += 2
    }
    print "/* Made by loader/font.awk from a console font: 16 bytes for each of ASCII 20h to 7eh. */"
    print "    .section .rodata.screen_font, \"a\", @progbits"
    print "    .globl screen_font"
    print "screen_font:"
    for (code = 32; code <= 126; code++) {
        if (!(code in glyph_of))
            fail(sprintf("the font has no glyph for character %d", code))
        line = "    .byte "
        for (i = 0; i < 16; i++)
            line = line (i ? ", " : "") byte[4 + 16 * glyph_of[code] + i]
        print line
    }
    print "    .section .note.GNU-stack, \"\", @progbits"
}
