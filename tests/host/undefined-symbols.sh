#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The linked core of mm may ask its surroundings for the port and four memory functions, no more:
# then it fits into any kernel. usage: undefined-symbols.sh mm-core.o
set -u

core=${1:?usage: undefined-symbols.sh mm-core.o}
symbols=$(nm --undefined-only --portability "$core") || exit 1
symbols=$(printf '%s\n' "$symbols" | cut -d ' ' -f 1 | sort -u)
foreign=$(printf '%s\n' "$symbols" | grep -v -x -e 'mm_port_[a-z0-9_]*' \
    -e memcpy -e memset -e memmove -e memcmp -e '')
if [ -n "$foreign" ]; then
    echo "$core needs what no port supplies:"
    # shellcheck disable=SC2086  # one symbol a line
    printf '  %s\n' $foreign
    exit 1
fi
# An empty list would mean that the wrong file was looked at.
if ! printf '%s\n' "$symbols" | grep -q -x mm_port_log; then
    echo "$core does not use mm_port_log: is it the core of mm?"
    exit 1
fi
