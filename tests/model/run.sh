#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Checks the models of the TLB shootdown, of the magazines, of the owner of a space and of the pins of spans
# with Spin.
# usage: run.sh [--all]
#
# A case is a line of the table below: its name (magazine-* are of magazine.pml, owner and owner-* of
# owner.pml, pin and pin-* of pin.pml, all others of shootdown.pml), what has to come out, and the model's
# options.
#   holds       every state was visited; no use of a page that is gone, no frame with two owners or
#               none, no deadlock
#   progresses  every fair run was followed; every shootdown that is asked for ends
#   uses, sticks, miscounts, starves   Spin must find just this error: a translation used after the
#               call returned, a deadlock, more answers than were asked for, a fair run without end
#   twice, loses, denies   likewise: a frame is handed out twice, is in no place or in two, memory
#               is said to be out while a frame is free
#   meets       likewise: two CPUs work in one space at once
#   hits        likewise: a free takes effect on a block of another span
# The cases of the second kind leave out one thing of the protocol each; a model that cannot fail
# would prove nothing. A search that ends for want of memory, depth or time has failed.
# Prints a line for each case, and how it came to an error that should not be; the last line is
# "N passed, N failed". BUILD=folder for what is built (default: build).
set -u

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P) || exit 1
models=$root/tests/model
build=${BUILD:-build}
case $build in
    /*) ;;
    *) build=$root/$build ;;
esac
out=$build/model

usage() {
    echo "usage: tests/model/run.sh [--all]" >&2
    exit 2
}

# The long searches come first, so that the short ones fill the gaps.
cases() {
    cat <<'TABLE'
progress-join       progresses  -DJOINERS=1 -DSHOOTERS=2
lock                holds
progress-cross      progresses  -DCPUS=2 -DSPACES=2
cross               holds       -DCPUS=2 -DSPACES=2
join                holds       -DJOINERS=1 -DSHOOTERS=2
join-two            holds       -DJOINERS=2 -DSHOOTERS=1
no-wait             uses        -DNO_WAIT -DCPUS=2 -DSHOOTERS=1
no-own-flush        uses        -DNO_OWN_FLUSH -DCPUS=2
ack-before-flush    uses        -DACK_BEFORE_FLUSH -DCPUS=2
batch-late          uses        -DBATCH_LATE -DCPUS=2
no-fence            uses        -DNO_FENCE -DCPUS=2 -DJOINERS=1 -DSHOOTERS=1
join-late           uses        -DJOIN_LATE -DCPUS=2 -DJOINERS=1 -DSHOOTERS=1
remaining-late      miscounts   -DREMAINING_LATE -DCPUS=2
no-ipi              sticks      -DNO_IPI -DCPUS=2
ipi-first           sticks      -DIPI_FIRST -DCPUS=2
no-serve-lock       sticks      -DNO_SERVE_LOCK -DCPUS=2
no-serve-wait       sticks      -DNO_SERVE_WAIT -DCPUS=2 -DSPACES=2
take-split          sticks      -DTAKE_SPLIT -DSPACES=2 -DAPART -DSHOOTERS=2
answer-split        sticks      -DANSWER_SPLIT -DSHOOTERS=1
join-no-serve       sticks      -DJOIN_NO_SERVE -DCPUS=2 -DJOINERS=1 -DSHOOTERS=1
join-serve-early    sticks      -DJOIN_SERVE_EARLY -DCPUS=2 -DJOINERS=1 -DSHOOTERS=1
id-late             sticks      -DID_LATE -DCPUS=2 -DJOINERS=1 -DSHOOTERS=1
serve-first         starves     -DSERVE_FIRST -DCPUS=2 -DSPACES=2 -DAPART
magazine-blocks     holds
magazine-block      holds       -DBLOCKS=1 -DBLOCK_FRAMES=3
magazine-switch     holds       -DBLOCKS=1 -DSWITCH
magazine-no-barrier loses       -DBLOCKS=1 -DNO_BARRIER
magazine-top-late   loses       -DBLOCKS=1 -DTOP_LATE
magazine-one-look   loses       -DBLOCKS=1 -DBOTTOM_ONCE
magazine-top-stays  denies      -DBLOCKS=1 -DTOP_STAYS
magazine-unguarded  twice       -DBLOCKS=1 -DUNGUARDED
magazine-no-lock    denies      -DBLOCKS=1 -DNO_LOCK
magazine-no-steal   denies      -DBLOCKS=1 -DNO_STEAL
magazine-bare-push  loses       -DBLOCKS=1 -DBOTTOM_FIRST
magazine-forgets    denies      -DBLOCKS=1 -DSWITCH -DSWITCH_FORGETS
magazine-early      twice       -DBLOCKS=1 -DWHOLE_EARLY
magazine-stays      twice       -DBLOCKS=1 -DWHOLE_STAYS
magazine-no-fill    loses       -DBLOCKS=1 -DNO_FILL
owner               holds
owner-kernel        holds       -DKERNEL
owner-look-first    meets       -DLOOK_FIRST
owner-no-barrier    meets       -DNO_BARRIER
owner-barrier-first meets       -DBARRIER_FIRST
owner-no-wait       meets       -DNO_WAIT
owner-one-place     meets       -DONE_PLACE
owner-leave-early   meets       -DLEAVE_EARLY
owner-lock-inside   sticks      -DLOCK_INSIDE
owner-no-serve      sticks      -DNO_SERVE
pin                 holds
pin-look-first      hits        -DLOOK_FIRST
pin-look-once       hits        -DLOOK_ONCE
pin-unpin-early     hits        -DUNPIN_EARLY
pin-no-look         hits        -DNO_LOOK
pin-no-barrier      hits        -DNO_BARRIER
pin-pins-first      hits        -DPINS_FIRST
pin-end-late        hits        -DEND_LATE
pin-reuse-all       hits        -DREUSE_ALL
TABLE
}

cases_of_all() {
    cat <<'TABLE'
progress-answer     progresses  -DSPACES=2 -DAPART -DSHOOTERS=2
cross-any-space     holds       -DSPACES=2 -DSHOOTERS=2
progress-lock       progresses
cross-and-answer    holds       -DSPACES=2 -DAPART -DSHOOTERS=2
four-cpus           holds       -DCPUS=4 -DSHOOTERS=2
magazine-three      holds       -DCPUS=3 -DBLOCKS=1
magazine-buffer     holds       -DBUFFERED=3 -DBLOCKS=1
magazine-switches   holds       -DSWITCH
owner-three         holds       -DCPUS=3
owner-three-kernel  holds       -DCPUS=3 -DKERNEL
pin-three           holds       -DCPUS=3 -DSPANS=1
pin-three-spans     holds       -DSPANS=3
pin-buffer          holds       -DBUFFERED=3
TABLE
}

# ---- One case, in its own folder -----------------------------------------------------------------

# What pan has said, in the words of the table.
outcome() {
    case $(grep -E '^(pan:[0-9]+: |error: |pan: (out of|reached))|Search not completed' "$1") in
        'pan:1: assertion violated ((tlb['*) echo uses ;;
        'pan:1: assertion violated (remaining['*) echo miscounts ;;
        'pan:1: assertion violated '*'(2==0))'*) echo twice ;;
        'pan:1: assertion violated '*'(3==0))'*) echo loses ;;
        'pan:1: assertion violated '*'(4==0))'*) echo denies ;;
        'pan:1: assertion violated '*'(6==0))'*) echo meets ;;
        'pan:1: assertion violated '*'(7==0))'*) echo hits ;;
        'pan:1: assertion violated'*) echo "breaks an assumption of the model" ;;
        'pan:1: invalid end state'*) echo sticks ;;
        'pan:1: acceptance cycle'*) echo starves ;;
        '')
            if grep -q ' errors: 0$' "$1"; then
                echo holds
            else
                echo "gives no result"
            fi
            ;;
        *) echo "is not searched to the end" ;;
    esac
}

# The name, what is wanted, the model's options.
run_case() {
    name=$1 want=$2
    shift 2
    case $name in
        magazine-*) model=$models/magazine.pml ;;
        owner | owner-*) model=$models/owner.pml ;;
        pin | pin-*) model=$models/pin.pml ;;
        *) model=$models/shootdown.pml ;;
    esac
    rm -rf "${out:?}/$name"
    mkdir -p "$out/$name" && cd "$out/$name" || exit 1
    # Breadth first finds the plainest stale use.
    case $want in
        uses) compiled='-DNOCLAIM -DSAFETY -DBFS' searched='' ;;
        holds | sticks | miscounts) compiled='-DNOCLAIM -DSAFETY' searched='' ;;
        twice | loses | denies | meets | hits) compiled='-DNOCLAIM -DSAFETY' searched='' ;;
        progresses | starves) compiled='-DNFAIR=3' searched='-a -f' ;;
        *) usage ;;
    esac
    # A search of less than two seconds is not worth a long compilation.
    optimised=-O0
    case $name in
        progress-* | lock | magazine-blocks) optimised=-O1 ;;
    esac
    ! cases_of_all | grep -q "^$name " || optimised=-O2
    case $want in
        progresses | starves) set -- -DPROGRESS "$@" ;;
    esac
    # shellcheck disable=SC2086  # words
    {
        spin -a "$@" "$model" &&
            ${CC:-gcc} -w $optimised $compiled -DCOLLAPSE -DMEMLIM=3000 -o pan pan.c &&
            timeout "${TEST_TIMEOUT:-300}" ./pan -m2000000 -w22 -n $searched
    } >log 2>&1 </dev/null
    got=$(outcome log)
    [ "$want:$got" != progresses:holds ] || got=progresses
    if [ "$got" = "$want" ]; then
        echo "ok   $name: $got ($(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' log) states)"
        return
    fi
    echo "FAIL $name: $got, not: $want ($out/$name/log)"
    if [ -f "${model##*/}.trail" ]; then
        spin -k "${model##*/}.trail" -t -p "$@" "$model" 2>&1 | tail -n 120
    else
        tail -n 20 log
    fi | sed 's/^/    /'
}

# ---- All of them ---------------------------------------------------------------------------------

if [ "${1-}" = --case ] && [ $# -ge 3 ]; then
    shift
    run_case "$@" >"$out/$1.result"
    cat "$out/$1.result"
    exit 0
fi
case $#:${1-} in
    0:) list=cases ;;
    1:--all) list='cases_of_all; cases' ;;
    *) usage ;;
esac
command -v spin >/dev/null || { echo "spin is missing; './mello deps' installs it" >&2; exit 5; }
mkdir -p "$out" || exit 1
rm -f "$out"/*.result
eval "$list" | xargs -P "$(nproc 2>/dev/null || echo 1)" -L 1 "$0" --case

wanted=$(eval "$list" | wc -l)
passed=$(cat "$out"/*.result 2>/dev/null | grep -c '^ok ')
echo "$passed passed, $((wanted - passed)) failed"
[ "$passed" = "$wanted" ]
