# SPDX-License-Identifier: MIT
#
# The programs that test a malloc from outside, and the run of real programs on libmello-malloc.so;
# included by malloc/malloc.mk.
#
# PROGRAMS_FLAGS=--need-all: a program that is not installed is a failure (tests/run).
# -fno-builtin: the compiler must not know what malloc is, or it leaves calls out.

PROGRAMS_TOOLS  := $(BUILD)/tests/programs/malloc_rules $(BUILD)/tests/programs/malloc_threads
PROGRAMS_CFLAGS := -std=gnu11 -O1 -g -fno-builtin -pthread $(WARN)

.PHONY: test-programs test-programs-build
test-programs-build: $(PROGRAMS_TOOLS) $(BUILD)/libmello-malloc.so

test-programs: test-programs-build
	@python3 tests/programs/run.py --library $(BUILD)/libmello-malloc.so \
	    --tools $(BUILD)/tests/programs $(PROGRAMS_FLAGS)

$(BUILD)/tests/programs/%: tests/programs/%.c $(OBJ)/malloc.stamp
	@mkdir -p $(@D)
	$(call say,TESTCC,$<)
	$(Q)$(CC) $(PROGRAMS_CFLAGS) -o $@ $<
