# SPDX-License-Identifier: MIT
#
# The fuzz targets; included by the top Makefile, whose BUILD, WARN, DEBUG, Q, say and stamp it uses.
#
#   mm/*.c + mm/port/hosted*.c + tests/host's shared files + tests/fuzz/fuzz.c + fuzz_X.c
#                                            --clang, libFuzzer, ASan, UBSan-->  $(BUILD)/fuzz/fuzz_X
#
# `make fuzz` gives each target FUZZ_SECONDS (default 8); a target is one test and fails when an input
# ends it. The corpus, made anew from a fixed seed, and inputs that fail are in $(BUILD)/fuzz.

FUZZ_CC      ?= clang
FUZZ_SECONDS ?= 8
FUZZ_TARGETS := $(sort $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_SHARED  := $(HOST_MM_SRCS) $(HOST_SHARED_SRCS) tests/fuzz/fuzz.c
FUZZ_OBJS    := $(FUZZ_SHARED:%=$(BUILD)/fuzz/%.o)
FUZZ_CFLAGS  := $(HOST_CFLAGS) -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all \
                -fno-omit-frame-pointer -DMM_MEMORY_HOOKS=1
# Coverage is that of mm itself: the models' would only take time.
fuzz_covered  = $(if $(filter mm/port/%,$(1)),,$(if $(filter mm/%,$(1)),-fsanitize=fuzzer-no-link))
FUZZ_PROGRAMS := $(FUZZ_TARGETS:%=$(BUILD)/fuzz/%)

$(BUILD)/fuzz.stamp: FORCE
	$(call stamp,$(FUZZ_CC) $(FUZZ_CFLAGS) $(FUZZ_OBJS))

$(BUILD)/fuzz/%.c.o: %.c $(BUILD)/fuzz.stamp
	@mkdir -p $(@D)
	$(call say,FUZZCC,$<)
	$(Q)$(FUZZ_CC) $(FUZZ_CFLAGS) $(call fuzz_covered,$<) -MMD -MP -MF $@.d -c -o $@ $<

$(FUZZ_PROGRAMS): $(BUILD)/fuzz/%: $(BUILD)/fuzz/tests/fuzz/%.c.o $(FUZZ_OBJS)
	$(call say,FUZZLD,$@)
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer,address,undefined -o $@ $^ $(HOST_LIBS)

-include $(FUZZ_OBJS:%=%.d) $(FUZZ_TARGETS:%=$(BUILD)/fuzz/tests/fuzz/%.c.o.d)

.PHONY: fuzz
fuzz: $(FUZZ_PROGRAMS)
	@sh tests/fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ_PROGRAMS)

# Breaks mm on purpose and sees that a named test fails.
.PHONY: mutants
mutants:
	@python3 tests/mutants/run.py --build $(BUILD)
