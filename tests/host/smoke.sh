#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Compiles smoke_cxx.cc with a C++ compiler, links it with the hosted library and runs it.
# usage: smoke.sh cxx libmello-mm-hosted.a
set -eu

cxx=${1:?usage: smoke.sh cxx libmello-mm-hosted.a}
library=${2:?usage: smoke.sh cxx libmello-mm-hosted.a}
program=$(mktemp)
trap 'rm -f "$program"' EXIT

$cxx -std=c++17 -g -O1 -Wall -Wextra -Werror -Imm/include -o "$program" tests/host/smoke_cxx.cc \
    "$library" -lpthread
"$program"
