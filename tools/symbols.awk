# SPDX-License-Identifier: MIT
#
# Turns the symbols of a linked kernel into the table that kernel/symbols.c searches.
#
#   nm -n -S kernel.elf | awk -f tools/symbols.awk >symbols.S        (empty input: an empty table)
#
# Per symbol 12 bytes, sorted by address: where it begins, its size, where its name begins. Symbols
# of .text and .rodata are counted from __kernel_begin, those of .data and .bss from __data_begin:
# so no number depends on the size of the table itself, which ends .rodata (kernel.ld).
# Invariants: only symbols that have a size are in it (functions and objects, no marks); of several
# at one address the first is taken; addresses fit awk's numbers, because all lie in the top 4 GiB
# and only their low 32 bits are read.

function number(hex,    value, i) {
    value = 0
    hex = tolower(substr(hex, length(hex) - 7))
    for (i = 1; i <= length(hex); i++)
        value = value * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
    return value
}

function put(begin, bytes, name) {
    count++
    entries = entries "    .long " begin ", " bytes ", " name_bytes "\n"
    names = names "    .asciz \"" name "\"\n"
    name_bytes += length(name) + 1
}

BEGIN { name_bytes = 0; count = 0; split_at = 0; data = -1; last = "" }

$3 == "__kernel_begin" { kernel = number($1) }
$3 == "__data_begin" { data = number($1) }

NF == 4 && $3 ~ /^[tTwWvVrRdDbB]$/ && $4 !~ /^symbols_/ && $1 != last {
    last = $1
    kept++
    address[kept] = number($1)
    size[kept] = number($2)
    title[kept] = $4
}

END {
    if (kept > 0 && (kernel == "" || data < 0)) {
        print "symbols.awk: no __kernel_begin or __data_begin among the symbols" >"/dev/stderr"
        exit 1
    }
    for (i = 1; i <= kept; i++) {
        if (address[i] < data) {
            put(address[i] - kernel, size[i], title[i])
            split_at = count
        } else {
            put(address[i] - data, size[i], title[i])
        }
    }
    print "    .section .symbols, \"a\", @progbits"
    print "    .balign 4"
    print "    .global symbols_table, symbols_count, symbols_split, symbols_names"
    print "symbols_count:\n    .long " count
    print "symbols_split:\n    .long " split_at
    print "symbols_table:\n" entries "symbols_names:\n" names
    print "    .section .note.GNU-stack, \"\", @progbits"
}
