#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs fuzz targets, as many at once as there are CPUs. usage: run.sh seconds program...
#
# Each program gets a corpus of its own (PROGRAM.corpus: what earlier runs found, and a few dozen inputs
# that come out the same everywhere) and `seconds` of time. An input that ends the program is left in
# PROGRAM.failed-*; its last lines are shown. The last line is "N passed, N failed".
set -u

[ $# -ge 2 ] || { echo "usage: run.sh seconds program..." >&2; exit 2; }

# A few programs to begin with: bytes of a linear congruential generator.
seed_corpus() {
    mkdir -p "$1"
    for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do
        [ -e "$1/seed-$number" ] ||
            LC_ALL=C awk -v x="$number" -v bytes=$((number * 40)) 'BEGIN {
                for (i = 0; i < bytes; i++) {
                    x = (x * 1103515 + 12345) % 2147483648
                    printf "%c", int(x / 65536) % 255 + 1
                }
            }' >"$1/seed-$number"
    done
}

# run_one SECONDS PROGRAM: its result, "ok..." or "FAIL...", goes to PROGRAM.result and is shown.
run_one() {
    seconds=$1 program=$2
    seed_corpus "$program.corpus"
    # shellcheck disable=SC2086  # a command and its option
    timeout $((seconds * 3 + 60)) $fixed "$program" -seed=1 -max_len=1024 -len_control=0 \
        -max_total_time="$seconds" -rss_limit_mb=4096 -artifact_prefix="$program.failed-" \
        "$program.corpus" >"$program.log" 2>&1
    status=$?
    runs=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$program.log")
    if [ "$status" = 0 ] && [ "${runs:-0}" -gt 0 ]; then
        echo "ok   $program: $runs inputs"
    else
        echo "FAIL $program (exit status $status, $program.log):"
        grep -v '^#[0-9]*	' "$program.log" | tail -n 40 | sed 's/^/    /'
    fi >"$program.result"
    cat "$program.result"
}

# Sanitizers place their shadow at fixed addresses: no random layout where setarch can switch it off.
fixed=
if setarch -R true 2>/dev/null; then
    fixed='setarch -R'
fi
ASAN_OPTIONS=${ASAN_OPTIONS:-allow_user_poisoning=1:detect_leaks=0}
UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export ASAN_OPTIONS UBSAN_OPTIONS

if [ "$1" = --one ]; then
    run_one "$2" "$3"
    exit 0
fi
seconds=$1
shift
passed=0
for program in "$@"; do
    rm -f "$program.result"
    printf '%s\0' "$program"
done | xargs -0 -r -n 1 -P "$(nproc 2>/dev/null || echo 1)" sh "$0" --one "$seconds"
for program in "$@"; do
    ! grep -qs '^ok ' "$program.result" || passed=$((passed + 1))
done
echo "$passed passed, $(($# - passed)) failed"
[ "$passed" -eq $# ]
