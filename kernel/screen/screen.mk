# SPDX-License-Identifier: MIT
#
# The screen's part of the kernel; the top Makefile includes it right behind its list of sources and
# gives it CC, BUILD, WARN, Q and say.
#
#   /usr/share/... --gzip--> *.psfu --tools/mkfont.c--> $(SCREEN_FONT_SRC) --> KERNEL_SRCS
#
# Invariants: the fonts come from the distribution's packages and are not kept here; a package that
# is not installed is one message with its name. Adds to KERNEL_SRCS.

UNIFONT    ?= /usr/share/unifont/unifont.hex
SPLEEN_DIR ?= /usr/share/consolefonts
HOSTCC     ?= $(CC)

SCREEN_FONT_DIR := $(BUILD)/font
SCREEN_FONT_SRC := $(SCREEN_FONT_DIR)/font_data.c
SCREEN_PSF      := $(foreach size,8x16 12x24 16x32 32x64,$(SCREEN_FONT_DIR)/spleen-$(size).psfu)
SCREEN_SRCS     := $(sort $(wildcard kernel/screen/*.c)) $(SCREEN_FONT_SRC)
KERNEL_SRCS     += $(SCREEN_SRCS)

.DEFAULT_GOAL := all

$(SCREEN_FONT_DIR)/mkfont: tools/mkfont.c
	@mkdir -p $(@D)
	$(call say,HOSTCC,$<)
	$(Q)$(HOSTCC) -std=gnu11 -O2 $(WARN) -o $@ $<

$(SCREEN_PSF): $(SCREEN_FONT_DIR)/%.psfu: $(SPLEEN_DIR)/%.psfu.gz
	@mkdir -p $(@D)
	$(Q)gzip -dc $< >$@

$(SCREEN_FONT_SRC): $(SCREEN_FONT_DIR)/mkfont $(UNIFONT) $(SCREEN_PSF)
	$(call say,FONT,$@)
	$(Q)$< $@ $(UNIFONT) $(SCREEN_PSF)

# Run only where the file does not exist.
$(SPLEEN_DIR)/%.psfu.gz:
	@echo '$@ is missing: install the package fonts-spleen' >&2; exit 1

$(UNIFONT):
	@echo '$@ is missing: install the package unifont' >&2; exit 1
