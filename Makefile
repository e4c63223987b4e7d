# SPDX-License-Identifier: MIT
#
# Builds the kernel, the loader and the memory manager; `make help` lists the targets.
#
#   mm/*.c mm/port/x86_64*.c  --kernel flags-->  libmello-mm.a  --with arch/ kernel/-->  kernel.elf
#   mm/*.c mm/port/hosted*.c  --host flags---->  libmello-mm-hosted.a
#   mm/*.c mm/port/linux*.c   --linux flags--->  libmello-mm-linux.a
#   loader/*                  --loader flags-->  loader.elf
#
# Invariants: sources are found by wildcard, so a new file needs no line here; what is written lies
# under $(BUILD); an object is rebuilt when its compiler or flags change, a product also when the
# list of its parts changes ($(OBJ)/*.stamp hold what the last build used).

BUILD  ?= build
DEBUG  ?= 1
BREAK  ?=
V      ?= 0
WERROR ?= -Werror
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin LD),default)
LD := ld
endif
ifeq ($(origin AR),default)
AR := ar
endif
NM ?= nm
CLANG_FORMAT ?= clang-format

OBJ := $(BUILD)/obj
Q   := $(if $(filter-out 0,$(V)),,@)
say  = @printf '  %-6s %s\n' '$(1)' '$(2)'

ifeq ($(filter 0 1,$(DEBUG)),)
$(error DEBUG is 0 or 1, not "$(DEBUG)")
endif

# ---- Sources -------------------------------------------------------------------------------------

MM_SRCS     := $(sort $(wildcard mm/*.c))
KERNEL_SRCS := $(sort $(wildcard arch/x86_64/*.c arch/x86_64/*.S kernel/*.c kernel/*.S))
include kernel/screen/screen.mk
LOADER_SRCS := $(sort $(wildcard loader/*.c loader/*.S))
MM_PORT     := $(sort $(wildcard mm/port/x86_64*.c))
HOSTED_PORT := $(sort $(wildcard mm/port/hosted*.c))
LINUX_PORT  := $(sort $(wildcard mm/port/linux*.c))
FORMAT_DIRS := mm mm/port mm/include/mm arch/x86_64 kernel kernel/* loader tools bench malloc \
               tests/host tests/host/* tests/fuzz tests/boot tests/boot/broken tests/programs
FORMAT_SRCS := $(sort $(wildcard $(foreach d,$(FORMAT_DIRS),$(d)/*.[ch] $(d)/*.cc)))

ifneq ($(BREAK),)
BREAK_SRC := tests/boot/broken/$(BREAK).c
ifeq ($(wildcard $(BREAK_SRC)),)
$(error BREAK=$(BREAK): there is no $(BREAK_SRC))
endif
BREAK_SYMS := $(shell sed -n 's|^/\* *wrap: *\(.*[^ ]\) *\*/.*|\1|p' '$(BREAK_SRC)')
ifeq ($(BREAK_SYMS),)
$(error BREAK=$(BREAK): $(BREAK_SRC) has no line "/* wrap: symbol ... */")
endif
endif

# ---- Flags ---------------------------------------------------------------------------------------

WARN := -Wall -Wextra -Wconversion $(WERROR) -Wshadow -Wstrict-prototypes -Wmissing-prototypes

# General registers only: the kernel neither saves nor enables the vector state.
FREESTANDING := -std=gnu11 -O2 -g -ffreestanding -fno-stack-protector -fcf-protection=none \
                -fno-pic -fno-pie -mno-red-zone -mgeneral-regs-only -fno-omit-frame-pointer \
                -fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections

CPPFLAGS_ALL  := -Imm/include -I. -DMM_DEBUG=$(DEBUG)
KERNEL_CFLAGS := $(FREESTANDING) -mcmodel=kernel $(WARN) -DMM_PORT_INLINE_X86_64
LOADER_CFLAGS := $(FREESTANDING) -mcmodel=small $(WARN)
HOSTED_CFLAGS := -std=gnu11 -O2 -g -fPIC $(WARN)

# For programs that want mm's speed: no debug checks, and the slot is one load (mm/port_slot.h).
LINUX_CFLAGS  := -std=gnu11 -O2 -g -fPIC -ftls-model=initial-exec -fvisibility=hidden $(WARN) \
                 -DMM_PORT_INLINE_TLS
LINUX_CPPFLAGS := -Imm/include -I. -DMM_DEBUG=0
MM_CFLAGS     ?= # for mm/ there: -mgeneral-regs-only measures it as a kernel has it
DEPFLAGS       = -MMD -MP -MF $@.d

# No libgcc: a compiler helper call is an undefined symbol and fails the link.
LINK := -nostdlib -static -Wl,--gc-sections -Wl,--build-id=none -Wl,-z,max-page-size=4096 \
        -Wl,-z,noexecstack -Wl,--fatal-warnings
# The whole file lies in the machine's memory beside the loader: 5 MB hold it only with its debug
# information compressed (which gdb and addr2line read all the same).
KERNEL_LINK := $(LINK) -Wl,--compress-debug-sections=zlib $(BREAK_SYMS:%=-Wl,--wrap=%)

# ---- Objects -------------------------------------------------------------------------------------

MM_OBJS     := $(MM_SRCS:%=$(OBJ)/kernel/%.o)
PORT_OBJS   := $(MM_PORT:%=$(OBJ)/kernel/%.o)
KERNEL_OBJS := $(KERNEL_SRCS:%=$(OBJ)/kernel/%.o) $(BREAK_SRC:%=$(OBJ)/kernel/%.o)
LOADER_OBJS := $(LOADER_SRCS:%=$(OBJ)/loader/%.o)
HOSTED_OBJS := $(MM_SRCS:%=$(OBJ)/hosted/%.o) $(HOSTED_PORT:%=$(OBJ)/hosted/%.o)
LINUX_OBJS  := $(MM_SRCS:%=$(OBJ)/linux/%.o) $(LINUX_PORT:%=$(OBJ)/linux/%.o)
ALL_OBJS    := $(MM_OBJS) $(PORT_OBJS) $(KERNEL_OBJS) $(LOADER_OBJS) $(HOSTED_OBJS) $(LINUX_OBJS)

PRODUCTS := $(BUILD)/kernel.elf $(BUILD)/loader.elf $(BUILD)/libmello-mm.a \
            $(BUILD)/libmello-mm-hosted.a $(BUILD)/libmello-mm-linux.a

.PHONY: all kernel loader lib lib-hosted lib-linux core format format-check clean help FORCE
.DELETE_ON_ERROR:
.SUFFIXES:

all: $(PRODUCTS)
kernel: $(BUILD)/kernel.elf
loader: $(BUILD)/loader.elf
lib: $(BUILD)/libmello-mm.a
lib-hosted: $(BUILD)/libmello-mm-hosted.a
lib-linux: $(BUILD)/libmello-mm-linux.a
core: $(BUILD)/mm-core.o

# A stamp keeps its time while its content stays the same, so that nothing is rebuilt without need.
define stamp
@mkdir -p $(@D); \
  test -e '$(BUILD)/CACHEDIR.TAG' || \
    echo 'Signature: 8a477f597d28d172789f06886806bc55' >'$(BUILD)/CACHEDIR.TAG'; \
  echo '$(1)' | cmp -s - $@ || echo '$(1)' >$@
endef
CC_VERSION = $(shell $(CC) --version 2>&1 | head -n 1 | tr -d "'")

$(OBJ)/kernel.stamp: FORCE ; $(call stamp,$(CC) $(CC_VERSION) $(KERNEL_CFLAGS) $(CPPFLAGS_ALL))
$(OBJ)/loader.stamp: FORCE ; $(call stamp,$(CC) $(CC_VERSION) $(LOADER_CFLAGS) $(CPPFLAGS_ALL))
$(OBJ)/hosted.stamp: FORCE ; $(call stamp,$(CC) $(CC_VERSION) $(HOSTED_CFLAGS) $(CPPFLAGS_ALL))
$(OBJ)/linux.stamp: FORCE ; $(call stamp,$(CC) $(CC_VERSION) $(LINUX_CFLAGS) $(MM_CFLAGS) $(LINUX_CPPFLAGS))
$(OBJ)/lib-parts.stamp: FORCE ; $(call stamp,$(MM_OBJS) $(PORT_OBJS))
$(OBJ)/kernel-parts.stamp: FORCE ; $(call stamp,$(KERNEL_LINK) $(KERNEL_OBJS))
$(OBJ)/loader-parts.stamp: FORCE ; $(call stamp,$(LINK) $(LOADER_OBJS))
$(OBJ)/hosted-parts.stamp: FORCE ; $(call stamp,$(HOSTED_OBJS))
$(OBJ)/linux-parts.stamp: FORCE ; $(call stamp,$(LINUX_OBJS))

$(OBJ)/kernel/%.c.o: %.c $(OBJ)/kernel.stamp
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(KERNEL_CFLAGS) $(CPPFLAGS_ALL) $(DEPFLAGS) -c -o $@ $<

$(OBJ)/kernel/%.S.o: %.S $(OBJ)/kernel.stamp
	@mkdir -p $(@D)
	$(call say,AS,$<)
	$(Q)$(CC) $(KERNEL_CFLAGS) $(CPPFLAGS_ALL) $(DEPFLAGS) -c -o $@ $<

$(OBJ)/loader/%.c.o: %.c $(OBJ)/loader.stamp
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(LOADER_CFLAGS) $(CPPFLAGS_ALL) $(DEPFLAGS) -c -o $@ $<

$(OBJ)/loader/%.S.o: %.S $(OBJ)/loader.stamp
	@mkdir -p $(@D)
	$(call say,AS,$<)
	$(Q)$(CC) $(LOADER_CFLAGS) $(CPPFLAGS_ALL) $(DEPFLAGS) -c -o $@ $<

$(OBJ)/hosted/%.c.o: %.c $(OBJ)/hosted.stamp
	@mkdir -p $(@D)
	$(call say,HOSTCC,$<)
	$(Q)$(CC) $(HOSTED_CFLAGS) $(CPPFLAGS_ALL) $(DEPFLAGS) -c -o $@ $<

$(OBJ)/linux/%.c.o: %.c $(OBJ)/linux.stamp
	@mkdir -p $(@D)
	$(call say,LINUX,$<)
	$(Q)$(CC) $(LINUX_CFLAGS) $(if $(filter mm/%,$<),$(MM_CFLAGS)) $(LINUX_CPPFLAGS) $(DEPFLAGS) -c -o $@ $<

# ---- Products ------------------------------------------------------------------------------------

# The kernel is linked twice: the symbols of the first pass, made with an empty table, are the second
# one's table (kernel/symbols.c). That this has moved nothing is checked: the same table comes again.
KERNEL_PARTS := $(KERNEL_OBJS) $(BUILD)/libmello-mm.a kernel/kernel.ld $(OBJ)/kernel-parts.stamp
kernel_link   = $(CC) $(KERNEL_LINK) -T kernel/kernel.ld -o $@ $(filter %.o %.a,$^)

$(OBJ)/symbols/none.S: tools/symbols.awk
	@mkdir -p $(@D)
	$(Q)awk -f tools/symbols.awk </dev/null >$@

$(OBJ)/symbols/kernel.S: $(OBJ)/symbols/none.elf tools/symbols.awk
	$(call say,AS,$@)
	$(Q)$(NM) -n -S $< >$@.nm && awk -f tools/symbols.awk $@.nm >$@

$(OBJ)/symbols/%.o: $(OBJ)/symbols/%.S $(OBJ)/kernel.stamp
	$(Q)$(CC) $(KERNEL_CFLAGS) -c -o $@ $<

$(OBJ)/symbols/none.elf: $(OBJ)/symbols/none.o $(KERNEL_PARTS)
	$(call say,LD,$@)
	$(Q)$(kernel_link)

$(BUILD)/kernel.elf: $(OBJ)/symbols/kernel.o $(KERNEL_PARTS)
	$(call say,LD,$@)
	$(Q)$(kernel_link)
	$(Q)$(NM) -n -S $@ | awk -f tools/symbols.awk | cmp -s - $(OBJ)/symbols/kernel.S || \
	    { echo '$@: the symbol table has moved what it describes' >&2; rm -f $@; exit 1; }

$(BUILD)/loader.elf: $(LOADER_OBJS) loader/loader.ld $(OBJ)/loader-parts.stamp
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) -T loader/loader.ld -o $@ $(LOADER_OBJS)

$(BUILD)/libmello-mm.a: $(MM_OBJS) $(PORT_OBJS) $(OBJ)/lib-parts.stamp
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcsD $@ $(MM_OBJS) $(PORT_OBJS)

$(BUILD)/libmello-mm-hosted.a: $(HOSTED_OBJS) $(OBJ)/hosted-parts.stamp
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcsD $@ $(HOSTED_OBJS)

$(BUILD)/libmello-mm-linux.a: $(LINUX_OBJS) $(OBJ)/linux-parts.stamp
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcsD $@ $(LINUX_OBJS)

# The core without its port: what is undefined here is all that another kernel has to bring.
$(BUILD)/mm-core.o: $(MM_OBJS) $(OBJ)/lib-parts.stamp
	$(call say,LD,$@)
	$(Q)$(LD) -r -o $@ $(MM_OBJS)

-include $(ALL_OBJS:%=%.d)
include tests/host/host.mk
include tests/fuzz/fuzz.mk
include tests/host/screen/screen_tests.mk
include bench/bench.mk
include malloc/malloc.mk

# ---- Tools ---------------------------------------------------------------------------------------

# One JSON object per source file; clangd and clang-tidy read the result.
DB_DIR   := $(subst ",\",$(subst \,\\,$(CURDIR)))
db_entry  = {"directory": "$(DB_DIR)", "file": "$(1)", "command": "$(CC) $(2) -c $(1)"}
DB_KERNEL := $(MM_SRCS) $(MM_PORT) $(KERNEL_SRCS)
DB_TESTS  := $(filter tests/host/%.c,$(HOST_TEST_SRCS) $(HOST_SHARED_SRCS))
define DB
$(foreach f,$(DB_KERNEL),$(call db_entry,$(f),$(KERNEL_CFLAGS) $(CPPFLAGS_ALL)),
)$(foreach f,$(LOADER_SRCS),$(call db_entry,$(f),$(LOADER_CFLAGS) $(CPPFLAGS_ALL)),
)$(foreach f,$(HOSTED_PORT),$(call db_entry,$(f),$(HOSTED_CFLAGS) $(CPPFLAGS_ALL)),
)$(foreach f,$(LINUX_PORT),$(call db_entry,$(f),$(LINUX_CFLAGS) $(LINUX_CPPFLAGS)),
)$(foreach f,$(DB_TESTS),$(call db_entry,$(f),$(HOST_CFLAGS)),
)
endef

compile_commands.json: FORCE
	$(call say,DB,$@)
	$(file >$@.tmp,$(DB))
	@{ echo '['; sed -e 's/^ *//' -e '/^$$/d' $@.tmp | sed -e '$$s/,$$//'; echo ']'; } >$@
	@rm -f $@.tmp

format:
	$(Q)$(CLANG_FORMAT) -i $(FORMAT_SRCS)

format-check:
	@printf '%s\n' $(FORMAT_SRCS) | \
	    xargs -n 40 -P "$$(nproc 2>/dev/null || echo 1)" $(CLANG_FORMAT) --dry-run --Werror

# Only a folder that this Makefile has built in is removed.
clean:
	@if [ -e '$(BUILD)/CACHEDIR.TAG' ]; then rm -rf '$(BUILD)'; \
	 elif [ -e '$(BUILD)' ]; then \
	     echo 'clean: $(BUILD) was not made by this Makefile; left alone' >&2; exit 1; fi
	@rm -f compile_commands.json

help:
	@echo 'make [target] [CC=gcc|clang] [BUILD=dir] [DEBUG=0|1] [BREAK=name] [V=1]'
	@echo
	@echo '  all                    the next five; products are in $$(BUILD)'
	@echo '  kernel, loader         $$(BUILD)/kernel.elf, $$(BUILD)/loader.elf'
	@echo '  lib, lib-hosted        $$(BUILD)/libmello-mm.a, $$(BUILD)/libmello-mm-hosted.a'
	@echo '  lib-linux              $$(BUILD)/libmello-mm-linux.a'
	@echo '  core                   $$(BUILD)/mm-core.o: mm/ without its port'
	@echo '  test-host              builds and runs the host tests: plain and with sanitizers'
	@echo '  fuzz                   libFuzzer on frames, page tables and heap, FUZZ_SECONDS=8 each'
	@echo '  mutants                breaks mm on purpose; a named test must see it (minutes)'
	@echo '  compile_commands.json  for clangd and clang-tidy'
	@echo '  format, format-check   clang-format: apply, or fail where it would change something'
	@echo '  clean                  removes $$(BUILD) and compile_commands.json'
	@echo
	@echo '  DEBUG=0 leaves out the checks of MM_ASSERT; BREAK=name links tests/boot/broken/name.c'
	@echo '  into the kernel, which breaks one thing on purpose; WERROR= lets warnings pass; MM_CFLAGS='
	@echo '  is added for mm/ in lib-linux and bench (-mgeneral-regs-only: as in a kernel); V=1 shows'
	@echo '  the commands.'

# The glyphs of the loader, and the image that GRUB starts.
-include loader/iso.mk
