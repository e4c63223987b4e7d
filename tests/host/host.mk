# SPDX-License-Identifier: MIT
#
# The host tests; included by the top Makefile, whose BUILD, CC, WARN, DEBUG, Q, say and stamp it
# uses.
#
#   mm/*.c + mm/port/hosted*.c + tests/host/*.c  --each variant-->  $(BUILD)/host/<variant>/test_*
#   variants: plain (-O2), san (ASan, UBSan, free memory poisoned), tsan (threads only), wx (mappings
#   may be writable and executable; the programs that look at that only)
#
# What comes out the same is compiled once: plain has the objects of libmello-mm-hosted.a, which are what
# other programs get; wx has plain's, but for the sources that name its macro.
#
# A test program is one test_*.c; all other .c files are shared by all of them. run.sh runs the
# programs and sums up; MELLO_SEEDS=N makes the random tests longer, MELLO_SHORT=1
# the longest of them shorter.

HOST_MM_SRCS     := $(sort $(wildcard mm/*.c mm/port/hosted*.c))
HOST_TEST_SRCS   := $(sort $(wildcard tests/host/test_*.c))
HOST_SHARED_SRCS := $(filter-out $(HOST_TEST_SRCS),$(sort $(wildcard tests/host/*.c)))
HOST_TESTS       := $(HOST_TEST_SRCS:tests/host/%.c=%)
HOST_WX_TESTS    := test_write_execute
HOST_TSAN_TESTS  := test_threads test_paging_threads test_paging_owner test_hosted test_hosted_mmu test_smp test_interrupts test_kvm_threads \
                    $(filter test_kheap%,$(HOST_TESTS)) test_stress_pmm test_misuse_pmm test_stress_heap test_misuse_heap test_heap_races \
                    test_heap_late test_heap_switches

HOST_CXX    ?= $(if $(findstring clang,$(CC)),clang++,g++)
HOST_CFLAGS := -std=gnu11 -g $(WARN) -Imm/include -I. -DMM_DEBUG=$(DEBUG)
HOST_LIBS   := -lcmocka -lpthread

# Lines are all that a sanitizer says of the debug information; the rest takes a fifth of the build.
HOST_FLAGS_plain := -O2
HOST_FLAGS_san   := -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all \
                    -fno-omit-frame-pointer -DMM_MEMORY_HOOKS=1
HOST_FLAGS_tsan  := -O1 -g1 -fsanitize=thread -fno-omit-frame-pointer
HOST_FLAGS_wx    := -O2 -DMM_ALLOW_WRITE_EXECUTE=1

HOST_WX_SRCS     := $(shell grep -l MM_ALLOW_WRITE_EXECUTE $(HOST_MM_SRCS) $(HOST_SHARED_SRCS))

# $(1): variant; $(2): of these sources.
host_objs         = $(foreach src,$(2),$(call host_obj_$(1),$(src)))
host_obj_plain    = $(if $(filter mm/%,$(1)),$(OBJ)/hosted,$(BUILD)/host/plain)/$(1).o
host_obj_san      = $(BUILD)/host/san/$(1).o
host_obj_tsan     = $(BUILD)/host/tsan/$(1).o
host_obj_wx       = $(if $(filter $(HOST_WX_SRCS),$(1)),$(BUILD)/host/wx/$(1).o,$(call host_obj_plain,$(1)))

# $(1): variant. Objects are never another compiler's (stamp).
define host_variant
HOST_OBJS_$(1) := $$(call host_objs,$(1),$$(HOST_MM_SRCS) $$(HOST_SHARED_SRCS))
HOST_PROGRAMS_$(1) := $$(HOST_TESTS:%=$$(BUILD)/host/$(1)/%)

$$(BUILD)/host/$(1).stamp: FORCE
	$$(call stamp,$$(CC) $$(CC_VERSION) $$(HOST_CFLAGS) $$(HOST_FLAGS_$(1)) $$(HOST_OBJS_$(1)))

$$(BUILD)/host/$(1)/%.c.o: %.c $$(BUILD)/host/$(1).stamp
	@mkdir -p $$(@D)
	$$(call say,TESTCC,$(1)/$$<)
	$$(Q)$$(CC) $$(HOST_CFLAGS) $$(HOST_FLAGS_$(1)) -MMD -MP -MF $$@.d -c -o $$@ $$<

$$(HOST_PROGRAMS_$(1)): $$(BUILD)/host/$(1)/%: \
        $$(BUILD)/host/$(1)/tests/host/%.c.o $$(HOST_OBJS_$(1))
	$$(call say,TESTLD,$$@)
	$$(Q)$$(CC) $$(HOST_FLAGS_$(1)) $$(HOST_LINK_$$*) -o $$@ $$^ $$(HOST_LIBS)

-include $$(HOST_OBJS_$(1):%=%.d) $$(HOST_TEST_SRCS:%=$$(BUILD)/host/$(1)/%.o.d)
endef
$(foreach variant,plain san tsan wx,$(eval $(call host_variant,$(variant))))

# In a process nobody can touch the kernel half: test_init.c stands between mm_init() and
# kheap_create() and gives the heap's frames at their address in the fake RAM.
HOST_LINK_test_init := -Wl,--wrap=kheap_create

# A handler comes in when the heap has drained its caches, or is about to take its lock.
HOST_LINK_test_threads := -Wl,--wrap=mm_port_cpu_barrier -Wl,--wrap=mm_port_lock

# Another CPU comes in when a free has looked its block up, or is about to take the lock.
HOST_LINK_test_heap_races := -Wl,--wrap=heap_span_at -Wl,--wrap=heap_block_index \
                             -Wl,--wrap=mm_port_lock

# Another CPU asks for memory that is just being given back.
HOST_LINK_test_heap_late := -Wl,--wrap=pmm_free_contiguous -Wl,--wrap=heap_may_find_more

# A report looks its block up with the lock held.
HOST_LINK_test_heap_reports := -Wl,--wrap=heap_block_index

# Another change comes in where a switch of the heap is about to take the lock.
HOST_LINK_test_heap_switches := -Wl,--wrap=mm_port_lock

# The window of a heap is memory of the process (window_fixture.c).
HOST_LINK_test_heap_window := -Wl,--wrap=kvm_heap_commit -Wl,--wrap=kvm_heap_decommit \
                              -Wl,--wrap=kvm_heap_move -Wl,--wrap=paging_query
HOST_LINK_test_heap_move   := $(HOST_LINK_test_heap_window)
HOST_LINK_test_window_failures := $(HOST_LINK_test_heap_window)
HOST_LINK_test_heap_regrow := $(HOST_LINK_test_heap_window)

HOST_WX_PROGRAMS := $(HOST_WX_TESTS:%=$(BUILD)/host/wx/%)

HOST_LIBRARY := $(BUILD)/libmello-mm-hosted.a
HOST_CHECKS  := 'sh tests/host/smoke.sh $(HOST_CXX) $(HOST_LIBRARY)' \
                'sh tests/host/headers.sh $(CC) $(HOST_CXX)' \
                'sh tests/host/undefined-symbols.sh $(BUILD)/mm-core.o'

.PHONY: test-host test-host-build test-host-plain test-host-san test-host-tsan

# Linked for seconds by one core, so it begins first.
test-host-build test-host-plain: $(BUILD)/libmello-malloc.so

test-host-build: $(HOST_PROGRAMS_plain) $(HOST_WX_PROGRAMS) $(HOST_PROGRAMS_san) $(HOST_LIBRARY) $(BUILD)/mm-core.o

# The longest first, so that no core waits for one of them at the end.
test-host: test-host-build
	@sh tests/host/run.sh $(HOST_CHECKS) $(HOST_PROGRAMS_san) $(HOST_WX_PROGRAMS) \
	    $(HOST_PROGRAMS_plain)

test-host-plain: $(HOST_PROGRAMS_plain) $(HOST_WX_PROGRAMS) $(HOST_LIBRARY) $(BUILD)/mm-core.o
	@sh tests/host/run.sh $(HOST_CHECKS) $(HOST_WX_PROGRAMS) $(HOST_PROGRAMS_plain)

test-host-san: $(HOST_PROGRAMS_san)
	@sh tests/host/run.sh $(HOST_PROGRAMS_san)

test-host-tsan: $(HOST_TSAN_TESTS:%=$(BUILD)/host/tsan/%)
	@sh tests/host/run.sh $(HOST_TSAN_TESTS:%=$(BUILD)/host/tsan/%)
