#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs host tests: each argument is a command. usage: run.sh command...
#
# As many run at once as there are CPUs (TEST_JOBS=N: so many), each for at most TEST_TIMEOUT seconds;
# what one says comes out as a whole when it ends, after a line with its name; of a failed one that line
# names the tests.
#
# Every command runs even if one before it failed. Of a cmocka program each test counts: the tests
# that it announces and does not report as OK have failed (a crash counts all that it left out). Any
# other command is one test and passes if it exits with 0. A program whose tests all passed but
# which exits with another status (a leak, a sanitizer's report at the end) is one more failure. The
# last line is "N passed, N failed"; the exit status is 1 if anything failed, or a command left no
# result. V=1 shows all output.
set -u

# why STATUS: in words.
why() {
    case $1 in
        124 | 137) echo "not done after ${TEST_TIMEOUT:-600} s" ;;
        *) echo "exit status $1" ;;
    esac
}

# failed_tests LOG: their names, and of a program that ended within a test that one's, too.
failed_tests() {
    {
        sed -n '/listed below/d; s/^\[  FAILED  \] //p' "$1"
        grep '^\[ .*\] [a-z0-9_]*$' "$1" | tail -n 1 | sed -n 's/^\[ RUN      \] \(.*\)/\1 (ended in it)/p'
    } | sort -u | head -n 8 | sed 's|$|, |' | tr -d '\n'
}

# run_one FOLDER COMMAND: prints what became of it, and leaves "passed failed" in a file of FOLDER.
run_one() {
    folder=$1 command=$2
    log=$(mktemp "$folder/log.XXXXXX") || exit 5
    start=$(date +%s)

    # shellcheck disable=SC2086  # a command and its option
    timeout -k 10 "${TEST_TIMEOUT:-600}" $fixed sh -c "exec $command" >"$log" 2>&1 </dev/null
    status=$?
    announced=$(sed -n 's/^\[==========\] Running \([0-9]*\) test.*/\1/p' "$log" | head -n 1)
    if [ -n "$announced" ]; then
        good=$(grep -c '^\[       OK \] ' "$log")
        bad=$((announced - good))
        if [ "$bad" -eq 0 ] && [ "$status" -ne 0 ]; then
            bad=1
        fi
    elif [ "$status" -eq 0 ]; then
        good=1 bad=0
    else
        good=0 bad=1
    fi
    {
        if [ "$bad" -ne 0 ]; then
            echo "FAIL $command: $(failed_tests "$log")$good passed, $bad failed ($(why $status))"
        else
            echo "ok   $command: $good passed ($(($(date +%s) - start)) s)"
        fi
        if [ "$bad" -ne 0 ] || [ "${V:-0}" != 0 ]; then
            grep -v -e '^\[ RUN      \] ' -e '^\[       OK \] ' "$log" | sed 's/^/    /'
        fi
    } >"$log.shown"
    # One process writes at a time: pipes keep only short writes together.
    flock "$folder/lock" cat "$log.shown"
    echo "$good $bad" >"$log.counts"
    rm -f "$log" "$log.shown"
}

# Sanitizers place their shadow at fixed addresses: no random layout where setarch can switch it
# off.
fixed=
if setarch -R true 2>/dev/null; then
    fixed='setarch -R'
fi

ASAN_OPTIONS=${ASAN_OPTIONS:-allow_user_poisoning=1:detect_leaks=1:detect_stack_use_after_return=0:print_legend=0}
UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1}
export ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS

if [ "${1-}" = --one ]; then
    run_one "$2" "$3"
    exit 0
fi
folder=$(mktemp -d) || exit 5
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
for command in "$@"; do
    printf '%s\0' "$command"
done | xargs -0 -r -n 1 -P "${TEST_JOBS:-$(nproc 2>/dev/null || echo 1)}" sh "$0" --one "$folder"

set -- $# "$(cat "$folder"/*.counts 2>/dev/null |
    awk '{ passed += $1; failed += $2 } END { print NR + 0, passed + 0, failed + 0 }')"
# shellcheck disable=SC2086  # three numbers
set -- "$1" $2
lost=$(($1 - $2))
[ "$lost" = 0 ] || echo "FAIL: $lost of $1 commands left no result"
echo "$3 passed, $(($4 + lost)) failed"
[ $(($4 + lost)) -eq 0 ]
