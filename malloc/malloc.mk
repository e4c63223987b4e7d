# SPDX-License-Identifier: MIT
#
# libmello-malloc.so: the kernel's heap under the C library's malloc interface, for LD_PRELOAD;
# included by the top Makefile.
#
#   mm/*.c + mm/port/linux*.c + malloc/*.c  --MALLOC_CFLAGS-->  $(BUILD)/libmello-malloc.so
#
# Always optimised and without MM_ASSERT; linked as one unit (-flto), so that malloc() holds the
# heap's fast path. Slots stand in initial-exec TLS: the library is loaded at start, not by dlopen.

MALLOC_SRCS   := $(MM_SRCS) $(sort $(wildcard mm/port/linux*.c malloc/*.c))
MALLOC_OBJS   := $(MALLOC_SRCS:%=$(OBJ)/malloc/%.o)
MALLOC_LTO    := $(if $(findstring clang,$(CC)),,-flto)
MALLOC_CFLAGS := -std=gnu11 -O2 -g -fPIC -fvisibility=hidden -ftls-model=initial-exec $(MALLOC_LTO) \
                 -fno-builtin-malloc -fno-builtin-calloc -fno-builtin-realloc -fno-builtin-free \
                 -fno-stack-protector -DMM_PORT_INLINE_TLS -DMM_DEBUG=0 -Imm/include -I. $(WARN)
MALLOC_LINK   := -shared -pthread -Wl,-z,now -Wl,-z,defs -Wl,--gc-sections \
                 -Wl,--version-script=malloc/export.map -Wl,-soname,libmello-malloc.so

.PHONY: malloc
malloc: $(BUILD)/libmello-malloc.so
bench: $(BUILD)/libmello-malloc.so

$(OBJ)/malloc.stamp: FORCE ; $(call stamp,$(CC) $(CC_VERSION) $(MALLOC_CFLAGS))
$(OBJ)/malloc-parts.stamp: FORCE ; $(call stamp,$(MALLOC_LINK) $(MALLOC_OBJS))

$(OBJ)/malloc/%.c.o: %.c $(OBJ)/malloc.stamp
	@mkdir -p $(@D)
	$(call say,CC,malloc/$<)
	$(Q)$(CC) $(MALLOC_CFLAGS) $(DEPFLAGS) -c -o $@ $<

$(BUILD)/libmello-malloc.so: $(MALLOC_OBJS) malloc/export.map $(OBJ)/malloc-parts.stamp
	$(call say,LD,$@)
	$(Q)$(CC) $(MALLOC_CFLAGS) $(MALLOC_LINK) -o $@ $(MALLOC_OBJS)

-include $(MALLOC_OBJS:%=%.d)

include tests/programs/programs.mk
