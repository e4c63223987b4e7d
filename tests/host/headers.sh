#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Every public header compiles alone, as C and as C++, twice included, without a warning.
# usage: headers.sh cc cxx
set -u

cc=${1:?usage: headers.sh cc cxx}
cxx=${2:?usage: headers.sh cc cxx}
warnings='-Wall -Wextra -Werror -Wconversion'
status=0

for header in mm/include/mm/*.h; do
    name=mm/${header##*/}
    text=$(printf '#include <%s>\n#include <%s>\nint used(void);\nint used(void) { return 0; }' \
        "$name" "$name")
    # shellcheck disable=SC2086  # the warnings are several words
    printf '%s\n' "$text" | $cc -std=gnu11 $warnings -Wstrict-prototypes -Imm/include \
        -fsyntax-only -x c - || { echo "$name: not alone as C"; status=1; }
    # shellcheck disable=SC2086
    printf '%s\n' "$text" | $cxx -std=c++17 $warnings -Imm/include \
        -fsyntax-only -x c++ - || { echo "$name: not alone as C++"; status=1; }
done
exit $status
