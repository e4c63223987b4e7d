#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs host tests: each argument is a command. usage: run.sh command...
#
# Every command runs even if one before it failed. Of a cmocka program each test counts: the tests
# that it announces and does not report as OK have failed (a crash counts all that it left out). Any
# other command is one test and passes if it exits with 0. A program whose tests all passed but
# which exits with another status (a leak, a sanitizer's report at the end) is one more failure. The
# last line is "N passed, N failed"; the exit status is 1 if anything failed. V=1 shows all output.
set -u

passed=0
failed=0
log=$(mktemp) || exit 5
trap 'rm -f "$log"' EXIT

# Sanitizers place their shadow at fixed addresses: no random layout where setarch can switch it
# off.
fixed=
if setarch -R true 2>/dev/null; then
    fixed='setarch -R'
fi

ASAN_OPTIONS=${ASAN_OPTIONS:-allow_user_poisoning=1:detect_leaks=1:detect_stack_use_after_return=0}
UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1}
export ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS

for command in "$@"; do
    # shellcheck disable=SC2086  # a command and its option
    timeout "${TEST_TIMEOUT:-300}" $fixed sh -c "exec $command" >"$log" 2>&1
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
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ "$bad" -ne 0 ] || [ "${V:-0}" != 0 ]; then
        grep -v -e '^\[ RUN      \] ' -e '^\[       OK \] ' "$log" | sed 's/^/    /'
    fi
    if [ "$bad" -ne 0 ]; then
        echo "FAIL $command: $good passed, $bad failed (exit status $status)"
    else
        echo "ok   $command: $good passed"
    fi
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
