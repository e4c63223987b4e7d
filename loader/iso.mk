# SPDX-License-Identifier: MIT
#
# The loader's glyphs, and the bootable image; included at the end of the Makefile.
#
#   spleen-8x16.psfu.gz --font.awk--> $(OBJ)/loader/font.S  --> loader.elf
#   loader.elf, kernel.elf, grub.cfg  --loader/mkiso------>  $(BUILD)/mello.iso
#
# Invariant: the image is made again when one of its parts or the command line changes. CMDLINE reaches
# the recipe through the environment only, so that no character of it means anything to a shell.

FONT        ?= /usr/share/consolefonts/spleen-8x16.psfu.gz
LOADER_FONT := $(OBJ)/loader/font.S.o
LOADER_OBJS += $(LOADER_FONT)

$(OBJ)/loader/font.S: $(FONT) loader/font.awk
	@mkdir -p $(@D)
	$(call say,FONT,$@)
	$(Q)zcat '$(FONT)' | od -An -v -tu1 -w1 | awk -f loader/font.awk >$@

$(LOADER_FONT): $(OBJ)/loader/font.S $(OBJ)/loader.stamp
	$(call say,AS,$<)
	$(Q)$(CC) $(LOADER_CFLAGS) $(CPPFLAGS_ALL) -c -o $@ $<

$(FONT):
	@echo '$(FONT) is missing: install the package fonts-spleen' >&2; exit 1

$(BUILD)/loader.elf: $(LOADER_FONT)

# ---- The image -----------------------------------------------------------------------------------

ISO ?= mello

.PHONY: iso
iso: $(BUILD)/$(ISO).iso

# CMDLINE and LIMINE_DIR come from the environment or from make's own command line. The third line
# is for this rule alone: with another boot loader the image is another one.
# Two runs with the same line may come here at the same time: each has a file of its own.
$(OBJ)/$(ISO).line: FORCE
	@mkdir -p $(@D); \
	  printf '%s\n\n%s\n' "$${CMDLINE-}" "$${LIMINE_DIR:-$$(command -v limine)}" >$@.$$$$; \
	  if cmp -s $@.$$$$ $@; then rm -f $@.$$$$; else mv $@.$$$$ $@; fi

$(BUILD)/$(ISO).iso: $(BUILD)/loader.elf $(BUILD)/kernel.elf loader/mkiso.sh $(OBJ)/$(ISO).line
	$(call say,ISO,$@)
	$(Q)loader/mkiso.sh $@ $(BUILD)/loader.elf $(BUILD)/kernel.elf $(OBJ)/$(ISO).line
