# SPDX-License-Identifier: MIT
#
# The failing tests in the output of a step of tests/run, short enough for the end of everything.
#
#   awk -v title=STEP -v why=TEXT -v names=FILE -f failures.awk LOG      appends their names to FILE
#
# A test that failed is a line "FAIL NAME..." or "FAILED: NAME...", and the indented lines after it are
# what it has said: of many the first ones, a compiler's or sanitizer's first ones and the last ones are
# kept. A step that failed without such a line (a build), or did not come to its end, is a failure with
# its own last lines.

BEGIN { HEAD = 3; REPORT = 6; REPORTS = 2; TAIL = 12; WIDTH = 240; TESTS = 8 }

/^FAIL(ED)?:? / {
    show()
    failing = $0
    next
}

/^    / && failing != "" { said[++count] = $0; next }

/[^ ]/ {
    show()
    plain[++plains] = "    " $0
}

END {
    show()
    if (failures == 0 || why ~ /time/) {
        for (count = 0; count < plains; count++)
            said[count + 1] = plain[count + 1]
        failing = why
        show()
    }
    if (failures > TESTS)
        printf "   and %d more\n", failures - TESTS
}

# Prints the failure at hand, which ends here.
function show(    i, reports, until) {
    if (failing == "") {
        count = 0
        return
    }
    print substr(title ": " failing, 1, 120) >>names
    if (++failures <= TESTS) {
        line("-- " title ": " failing)
        for (i = 1; i <= count; i++) {
            if (i > until && reports < REPORTS && said[i] ~ /Sanitizer|runtime error: | error: /) {
                reports++
                until = i + REPORT
            }
            if (i <= HEAD || i <= until || i > count - TAIL)
                line(said[i])
            else if (i == HEAD + 1 || i == until + 1)
                line("    ...")
        }
    }
    failing = ""
    count = 0
}

function line(text) {
    print (length(text) > WIDTH ? substr(text, 1, WIDTH) "..." : text)
}
