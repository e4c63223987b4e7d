# SPDX-License-Identifier: MIT
#
# The screen's host tests; included by the top Makefile behind tests/host/host.mk, whose variants,
# flags and pattern rules it uses, and behind kernel/screen/screen.mk (SCREEN_SRCS, SCREEN_FONT_DIR,
# UNIFONT).
#
#   kernel/screen/*.c + font + mm, hosted + tests/host/screen/*.c --each variant-->
#       $(BUILD)/host/<variant>/screen/test_*
#
# `make test-screen` runs them; `make render-screen` builds the program that draws a picture to look
# at.

SCREEN_TEST_SRCS   := $(sort $(wildcard tests/host/screen/test_*.c))
SCREEN_TESTS       := $(SCREEN_TEST_SRCS:tests/host/screen/%.c=%)
SCREEN_TEST_FLAGS   = -DSCREEN_FONTS='"$(SCREEN_FONT_DIR)"' -DSCREEN_UNIFONT='"$(UNIFONT)"'
SCREEN_TEST_SHARED := $(HOST_MM_SRCS) $(SCREEN_SRCS) tests/host/screen/picture.c

define screen_variant
SCREEN_TEST_OBJS_$(1) := $$(call host_objs,$(1),$$(SCREEN_TEST_SHARED))
SCREEN_PROGRAMS_$(1)  := $$(SCREEN_TESTS:%=$$(BUILD)/host/$(1)/screen/%)

$$(BUILD)/host/$(1)/tests/host/screen/test_screen_font.c.o: HOST_CFLAGS += $$(SCREEN_TEST_FLAGS)

$$(SCREEN_PROGRAMS_$(1)) $$(BUILD)/host/$(1)/screen/render_screen: $$(BUILD)/host/$(1)/screen/%: \
        $$(BUILD)/host/$(1)/tests/host/screen/%.c.o $$(SCREEN_TEST_OBJS_$(1))
	@mkdir -p $$(@D)
	$$(call say,TESTLD,$$@)
	$$(Q)$$(CC) $$(HOST_FLAGS_$(1)) -o $$@ $$^ $$(HOST_LIBS)

-include $$(SCREEN_SRCS:%=$$(BUILD)/host/$(1)/%.o.d) \
         $$(patsubst %,$$(BUILD)/host/$(1)/%.o.d,$$(wildcard tests/host/screen/*.c))
endef
$(foreach variant,plain san,$(eval $(call screen_variant,$(variant))))

# Part of all that `make test-host` and its variants build and run.
HOST_PROGRAMS_plain := $(SCREEN_PROGRAMS_plain) $(HOST_PROGRAMS_plain)
HOST_PROGRAMS_san   := $(SCREEN_PROGRAMS_san) $(HOST_PROGRAMS_san)
test-host-build test-host-plain: $(SCREEN_PROGRAMS_plain)
test-host-build test-host-san: $(SCREEN_PROGRAMS_san)

.PHONY: test-screen render-screen

test-screen: $(SCREEN_PROGRAMS_plain) $(SCREEN_PROGRAMS_san)
	@sh tests/host/run.sh $^

render-screen: $(BUILD)/host/plain/screen/render_screen
