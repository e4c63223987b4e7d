# SPDX-License-Identifier: MIT
#
# The benchmark program and the tests of the Linux port; included by the top Makefile, whose BUILD,
# CC, WARN, LINUX_CFLAGS, Q, say and stamp it uses.
#
#   bench/*.c + libmello-mm-linux.a  --linux flags-->  $(BUILD)/bench
#   tests/host/linux/test_*.c        --the same----->  $(BUILD)/host/linux/test_*

BENCH_SRCS := $(sort $(wildcard bench/*.c))
BENCH_OBJS := $(BENCH_SRCS:%=$(OBJ)/linux/%.o)

# The kernel's memory functions instead of libc's (bench/memory.c says why).
BENCH_LINK := -Wl,--wrap=memset -Wl,--wrap=memcpy -Wl,--wrap=memmove -Wl,--wrap=memcmp
BENCH_LIBS := -lpthread -ldl -lm

LINUX_TEST_SRCS := $(sort $(wildcard tests/host/linux/test_*.c))
LINUX_TEST_OBJS := $(LINUX_TEST_SRCS:%=$(OBJ)/linux/%.o)
LINUX_TESTS     := $(LINUX_TEST_SRCS:tests/host/linux/%.c=$(BUILD)/host/linux/%)

.PHONY: bench test-linux
.SECONDARY: $(LINUX_TEST_OBJS) $(BENCH_OBJS)

bench: $(BUILD)/bench

$(OBJ)/bench-parts.stamp: FORCE ; $(call stamp,$(BENCH_LINK) $(BENCH_OBJS) $(BENCH_LIBS))

$(BUILD)/bench: $(BENCH_OBJS) $(BUILD)/libmello-mm-linux.a $(OBJ)/bench-parts.stamp
	$(call say,LD,$@)
	$(Q)$(CC) $(BENCH_LINK) -o $@ $(filter %.o %.a,$^) $(BENCH_LIBS)

$(LINUX_TESTS): $(BUILD)/host/linux/%: $(OBJ)/linux/tests/host/linux/%.c.o \
        $(BUILD)/libmello-mm-linux.a
	@mkdir -p $(@D)
	$(call say,TESTLD,$@)
	$(Q)$(CC) -o $@ $^ -lcmocka -lpthread

test-linux: $(LINUX_TESTS)
	@sh tests/host/run.sh $(LINUX_TESTS)

HOST_CHECKS += 'python3 tests/host/linux/bench.py $(BUILD)/bench' $(LINUX_TESTS:%='%')
test-host-build test-host-plain: $(LINUX_TESTS) $(BUILD)/bench $(BUILD)/libmello-malloc.so

-include $(BENCH_OBJS:%=%.d) $(LINUX_TEST_OBJS:%=%.d)
