# Everything the project does, as words: make up | down | reset | status | test | check | e2e | fuzz | lint | coverage | bench
#
# bench: tests/bench/run (beside nginx + Lua + Redis), audit (the trail), better_auth (keys verified beside the real plugin, on one table) and
#   timing (do refusals differ in time); each of the last two ends with 1 when its bar is missed.  On a quiet machine, 3 to 5 minutes each.
#
# VARIANT chooses how the C code is built, each in its own folder:
#   release (default), asan (ASan + UBSan), tsan, cov (asan, and gcov), next (one MESSAGES_VERSION higher, for the upgrade test),
#   sabotage (protections of trail and verdicts that a test or benchmark can take away)

VARIANT ?= release
B       := build/$(VARIANT)
CC      ?= gcc
# make V=1 shows the commands
V       ?=
Q       := $(if $(V),,@)

MSGPACK := $(shell pkg-config --exists msgpack-c 2>/dev/null && echo msgpack-c || echo msgpack)
PKGS    := libzmq libczmq $(MSGPACK) openssl jansson libcurl libpq hiredis yaml-0.1 libsystemd smartcols
CPPFLAGS += -D_GNU_SOURCE -I. -I$(B)/gen $(shell pkg-config --cflags $(PKGS) 2>/dev/null | sed 's/-I/-isystem /g') $(DEFINES)
WARN    := -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wsign-conversion -Wcast-qual -Wformat=2 \
           -Wstrict-prototypes -Wmissing-prototypes -Wswitch-enum -Wvla
COMMON_FLAGS := -std=c17 -g $(WARN) -fstack-protector-strong -fPIE -MMD -MP
FLAGS_release := -O2 -D_FORTIFY_SOURCE=2 -march=x86-64-v2
FLAGS_asan    := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FLAGS_tsan    := -O1 -fsanitize=thread -fno-omit-frame-pointer
FLAGS_cov     := $(FLAGS_asan) --coverage -fprofile-update=atomic
FLAGS_sabotage := -O2 -D_FORTIFY_SOURCE=2 -DSABOTAGE
FLAGS_next    := -O2 -D_FORTIFY_SOURCE=2 -march=x86-64-v2 -DMESSAGES_NEXT
LINK_release  := -Wl,-z,relro,-z,now
LINK_asan     := -fsanitize=address,undefined
LINK_tsan     := -fsanitize=thread
LINK_cov      := $(LINK_asan) --coverage
LINK_sabotage := $(LINK_release)
LINK_next     := $(LINK_release)
ifneq ($(shell uname -m),x86_64)
FLAGS_release := $(filter-out -march=%,$(FLAGS_release))
FLAGS_next    := $(filter-out -march=%,$(FLAGS_next))
endif
CFLAGS  += $(COMMON_FLAGS) $(FLAGS_$(VARIANT))
LDFLAGS += -pie -Wl,--as-needed $(LINK_$(VARIANT))
LDLIBS  := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lcivetweb -lpthread -lm

SERVICES := edge authz ratelimit keys audit
COMMON_O := $(patsubst %.c,$(B)/%.o,$(wildcard common/*.c))
CLI_O    := $(patsubst %.c,$(B)/%.o,$(wildcard cli/*.c))
# every object of a service but its main.c, so that tests can link them
service_objects = $(patsubst %.c,$(B)/%.o,$(filter-out %/main.c,$(wildcard services/$(1)/*.c))) \
                  $(if $(wildcard services/$(1)/schema/*.sql),$(B)/gen/$(1)_schema.o)
LIBS     := $(foreach s,$(SERVICES),$(B)/lib$(s).a)
PROGRAMS := $(foreach s,$(SERVICES),$(if $(wildcard services/$(s)/main.c),$(B)/bin/mcpgw-$(s))) \
            $(if $(wildcard cli/main.c),$(B)/bin/mcpgw)
UNIT     := $(patsubst tests/unit/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c))
EXAMPLES := $(if $(wildcard compose/local/example_server.c),$(B)/bin/mcpgw-example-server)

.PHONY: all clean programs tests up down reset status test check e2e fuzz fuzzers builds chaos lint coverage bench docs
.SECONDARY:
all: programs tests

programs: $(PROGRAMS) $(EXAMPLES)
tests: $(UNIT)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	@$(if $(V),:,echo "  CC    $@")
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(B)/gen/%.o: $(B)/gen/%.c
	@$(if $(V),:,echo "  CC    $@")
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

# services/X/schema/*.sql become `const struct migration X_migrations[]`
.SECONDEXPANSION:
$(B)/gen/%_schema.c: $$(wildcard services/$$*/schema/*.sql) tools/embed_schema
	@mkdir -p $(@D)
	$(Q)tools/embed_schema $* $(filter %.sql,$^) > $@.tmp && mv $@.tmp $@

# the script is embedded as it stands
$(B)/services/edge/openapi.o build/fuzz/o/services/edge/openapi.o: services/edge/openapi.json
$(B)/services/ratelimit/ratelimit_script.o build/fuzz/o/services/ratelimit/ratelimit_script.o: services/ratelimit/ratelimit.lua

$(B)/libcommon.a: $(COMMON_O)
	@rm -f $@; mkdir -p $(@D)
	$(Q)ar rcs $@ $^
define service_rules
$(B)/lib$(1).a: $(call service_objects,$(1))
	@rm -f $$@; mkdir -p $$(@D)
	$(Q)ar rcs $$@ $$^
$(B)/bin/mcpgw-$(1): $(B)/services/$(1)/main.o $(B)/lib$(1).a $(B)/libcommon.a
	@mkdir -p $$(@D)
	$(Q)$(CC) $(LDFLAGS) -o $$@ $$^ $(LDLIBS)
endef
$(foreach s,$(SERVICES),$(eval $(call service_rules,$(s))))

$(B)/bin/mcpgw: $(CLI_O) $(B)/gen/audit_schema.o $(B)/gen/keys_schema.o $(B)/libcommon.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/bin/mcpgw-example-server: $(B)/compose/local/example_server.o $(B)/libcommon.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/tests/%: $(B)/tests/unit/%.o $(LIBS) $(B)/libcommon.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(LIBS) $(B)/libcommon.a $(LDLIBS) -lcmocka

# an oracle of the tests alone
$(B)/tests/test_jose_differential: LDLIBS += -lcjose

# ---- what people type --------------------------------------------------------------------------------

INSTALL := compose/local/install
export MCPGW_HOME MCPGW_LISTEN CONTAINERS

up:
	@$(INSTALL) build run
	@$(MAKE) --no-print-directory -s -j2 programs
	@EDGE=$(EDGE) AUTHZ=$(AUTHZ) RATELIMIT=$(RATELIMIT) KEYS=$(KEYS) AUDIT=$(AUDIT) compose/local/up
down reset status:
	@compose/local/$@

# Everything: unit, service, end to end and chaos under ASan and UBSan, the edge under TSan, a short fuzz, lint, coverage.
TSAN_TESTS := $(addprefix build/tsan/tests/,test_dispatch test_held test_spool test_streams test_servers test_log test_metrics)
JOBS  := $(shell nproc)
BUILD := $(MAKE) --no-print-directory -s
# make sees no $(MAKE) behind BUILD: a plus hands its jobs on.
.PHONY: build_asan build_release build_next build_sabotage build_tsan build_cov build_fuzzers build_programs build_tests
build_asan build_release build_next:
	+@$(BUILD) VARIANT=$(@:build_%=%) programs
build_sabotage:
	+@$(BUILD) VARIANT=sabotage $(addprefix build/sabotage/bin/mcpgw-,audit authz edge)
build_tsan:
	+@$(BUILD) VARIANT=tsan $(TSAN_TESTS)
build_cov:
	+@$(BUILD) VARIANT=cov all
build_fuzzers: build_release    # generates what they share
	+@$(BUILD) fuzzers
build_programs: build_asan build_release build_next build_sabotage
build_tests: build_fuzzers build_tsan build_cov build_programs
	+@$(BUILD) VARIANT=asan build/asan/tests/test_jose_differential
# One make's jobs serve all of them, so that no core waits for the last file of a variant.
builds:
	+@$(BUILD) -j$(JOBS) build_programs
	+@$(BUILD) -j$(JOBS) VARIANT=asan build/asan/tests/test_jose_differential
# Packages that only tests need are fetched while the programs are compiled.
test:
	@$(INSTALL) build
	@mkdir -p build; $(INSTALL) run test lint >build/install.log 2>&1 & installed=$$!; \
	    $(BUILD) -j$(JOBS) build_programs && wait $$installed || { cat build/install.log; exit 3; }
	@tests/peers.py >build/peers.log 2>&1 &
	@$(BUILD) -j$(JOBS) build_tests
	@tests/run lint unit service e2e chaos fuzz tsan coverage
check:
	@$(INSTALL) build run test
	@$(MAKE) --no-print-directory -s -j2 VARIANT=asan all
	@tests/run unit service
# CONTAINERS=1 make e2e also builds the images and boots a systemd with the units
e2e:
	@$(INSTALL) build run test
	@$(MAKE) --no-print-directory -s builds
	@tests/run e2e

# MINUTES=60 REVOCATIONS=1000 make chaos looks longer
chaos:
	@$(INSTALL) build run test
	@$(MAKE) --no-print-directory -s builds
	@CHAOS_MINUTES=$(MINUTES) tests/run chaos

FUZZERS := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SOURCES := $(wildcard common/*.c) $(filter-out %/main.c,$(wildcard services/*/*.c)) cli/audit_leaf.c
FUZZ_O := $(patsubst %.c,build/fuzz/o/%.o,$(FUZZ_SOURCES)) $(foreach s,$(SERVICES),$(if $(wildcard services/$(s)/schema/*.sql),build/fuzz/gen/$(s)_schema.o))
FUZZ_FLAGS := $(COMMON_FLAGS) -O1 -fsanitize=address,undefined -fno-sanitize-recover=all
fuzzers: $(FUZZERS)
build/fuzz/o/%.o: %.c
	@mkdir -p $(@D)
	$(Q)clang $(CPPFLAGS) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -c $< -o $@
build/fuzz/gen/%.o: build/release/gen/%.c
	@mkdir -p $(@D)
	$(Q)clang $(CPPFLAGS) $(FUZZ_FLAGS) -c $< -o $@
build/fuzz/libfuzz.a: $(FUZZ_O)
	@rm -f $@
	$(Q)ar rcs $@ $^
build/fuzz/%: tests/fuzz/%.c build/fuzz/libfuzz.a
	$(Q)clang $(CPPFLAGS) $(FUZZ_FLAGS) -fsanitize=fuzzer $< build/fuzz/libfuzz.a -o $@ $(LDLIBS)
fuzz: fuzzers
	@tests/run fuzz

bench:
	@$(INSTALL) build run bench
	@$(MAKE) --no-print-directory -s -j2 programs
	@$(MAKE) --no-print-directory -s -j2 VARIANT=sabotage programs
	@tests/bench/run
	@tests/bench/audit
	@tests/bench/better_auth
	@tests/bench/timing
	@tests/bench/tokens
lint:
	@$(INSTALL) build lint
	@tools/lint
coverage:
	@$(INSTALL) build run test
	@$(MAKE) --no-print-directory -s -j2 VARIANT=cov all
	@tests/run unit service coverage
docs: $(B)/bin/mcpgw
	@$(B)/bin/mcpgw docs messages > docs/messages.md
	@$(B)/bin/mcpgw docs metrics > docs/metrics.md
	@tools/openapi > services/edge/openapi.json

clean:
	rm -rf build

-include $(shell find build -name '*.d' 2>/dev/null)
