# pgkeel. `make` builds build/pgkeel, `make run` shows it at work, `make test` tests everything, `make help` lists
# the rest. What is needed and is not there, scripts/deps installs (Debian) or names (elsewhere) first;
# DEPS=true leaves that to you.
#
# FLAVOUR: plain (default), asan (ASan and UBSan), tsan, fuzz (libFuzzer, clang). Each has its own objects
# under build/FLAVOUR/; the plain program is build/pgkeel, the others are build/FLAVOUR/pgkeel.

FLAVOUR ?= plain
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
PYTHON ?= /usr/bin/python3
PYTEST_ARGS ?= -q
T ?= tests/integration
# Or scripts/integration: several files at a time.
INTEGRATION ?= $(PYTHON) -m pytest -p no:cacheprovider
DEPS ?= sh scripts/deps
# Left to right: a folder includes itself and those before it, and its unit tests link nothing else.
LAYERS := base wire conf net pool client daemon ops tools
B := build/$(FLAVOUR)
BIN := $(if $(filter plain,$(FLAVOUR)),build/pgkeel,$(B)/pgkeel)

BASICS_plain := -O2 -D_FORTIFY_SOURCE=2
BASICS_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
BASICS_tsan := -O1 -fsanitize=thread
BASICS_fuzz := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
CC := $(if $(filter fuzz,$(FLAVOUR)),clang,$(CC))
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wswitch-enum -Wvla
CFLAGS ?= -g
FLAGS = $(CFLAGS) $(BASICS_$(FLAVOUR)) -fno-omit-frame-pointer -fstack-protector-strong -fPIE -pthread
COMPILE = $(CC) -std=gnu11 -D_GNU_SOURCE -Isrc $(FLAGS) $(WARNINGS) $(if $(filter true,$(CI)),-Werror) \
	$(PKG_CFLAGS) $(CPPFLAGS)
LINK = $(CC) $(FLAGS) -pie -Wl,-z,relro,-z,now,--as-needed $(LDFLAGS)
LIBS = $(PKG_LIBS) -lm -lpthread
# V=1 shows the commands.
say = $(if $(V),,@echo '  $(1)';)

# What a sanitizer finds must fail whatever ran. gcc 12's TSan cannot map its shadow under much address randomisation.
export ASAN_OPTIONS ?= detect_leaks=1
export UBSAN_OPTIONS ?= print_stacktrace=1
export TSAN_OPTIONS ?= second_deadlock_stack=1$(addprefix :suppressions=,$(abspath $(wildcard tests/tsan.supp)))
WRAP := $(if $(filter tsan,$(FLAVOUR)),$(shell setarch -R true 2>/dev/null && echo setarch -R))

.PHONY: all run test check integration test-integration test-asan test-tsan deps-test outage fuzz fuzz-here lint \
	format analyze clean install help
.SECONDARY .DELETE_ON_ERROR:
all: $(BIN)

# Installs what is missing and remembers the flags. make makes and reads this file before everything else.
ifneq ($(filter-out clean help,$(or $(MAKECMDGOALS),all)),)
include build/flags.mk
endif
build/flags.mk: scripts/deps Makefile
	@$(DEPS) build && mkdir -p build
	@if_there() { pkg-config --exists $$1 && echo $$2; }; \
	all="libevent_core libevent_extra libpq inih libssl libcrypto $$(if_there pam pam)"; \
	echo "PKG_CFLAGS := $$(pkg-config --cflags $$all) $$(if_there pam -DHAVE_PAM)" >$@.new && \
	echo "PKG_LIBS := $$(pkg-config --libs $$all)" >>$@.new && mv $@.new $@

object = $(patsubst %.c,$(B)/%.o,$(1))
SOURCES := src/main.c $(wildcard $(LAYERS:%=src/%/*.c))

$(BIN): $(call object,$(SOURCES))
	$(call say,link $@)$(LINK) -o $@ $^ $(LIBS)
$(B)/%.o: %.c Makefile build/flags.mk
	@mkdir -p $(@D)
	$(call say,cc   $<)$(COMPILE) -MMD -MP -c -o $@ $<
$(B)/src/ops/page.o: src/ops/page.html

define archive_rule
$(B)/lib$(1).a: $(call object,$(wildcard src/$(1)/*.c))
	@mkdir -p $$(@D) && rm -f $$@
	@$$(AR) rcs $$@ $$^
endef
$(foreach f,$(LAYERS),$(eval $(call archive_rule,$(f))))

run:
	@+$(DEPS) run && $(MAKE) --no-print-directory all && exec scripts/run

# A unit test links the folders up to its module's own, so that the linker checks the layers.
# `/* links: fake_pool.c */` among its first lines names further sources there.
UNITS := $(patsubst tests/unit/test_%.c,%,$(wildcard tests/unit/test_*.c))
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
layer = $(firstword $(foreach f,$(LAYERS),$(if $(wildcard src/$(f)/$(1).[ch]),$(f))) $(lastword $(LAYERS)))
upto = $(firstword $(2)) $(if $(filter-out $(firstword $(2)),$(1)),$(call upto,$(1),$(wordlist 2,99,$(2))))
archives = $(patsubst %,$(B)/lib%.a,$(call upto,$(call layer,$(1)),$(LAYERS)))
fakes = $(addprefix tests/unit/,$(shell sed -n '1,20s|.*/\* links: *\(.*\) \*/.*|\1|p' $(1)))

# $(1): the module, $(2): the program, $(3): its own sources, $(4): more flags
define test_rule
$(B)/$(2): $(call object,$(3)) $(call archives,$(1))
	@mkdir -p $$(@D)
	$$(call say,link $$@)$$(LINK) $(4) -o $$@ $(call object,$(3)) -Wl,--start-group $(call archives,$(1)) -Wl,--end-group -lcmocka $$(LIBS)
endef
$(foreach x,$(UNITS),$(eval $(call test_rule,$(x),unit/$(x),tests/unit/test_$(x).c $(call fakes,tests/unit/test_$(x).c))))
$(foreach x,$(FUZZERS),$(eval $(call test_rule,$(x),corpus/$(x),tests/fuzz/fuzz_$(x).c tests/fuzz/replay.c $(call fakes,tests/fuzz/fuzz_$(x).c))))
$(foreach x,$(FUZZERS),$(eval $(call test_rule,$(x),fuzz/$(x),tests/fuzz/fuzz_$(x).c $(call fakes,tests/fuzz/fuzz_$(x).c),-fsanitize=fuzzer)))

deps-test:
	@$(DEPS) test
$(call object,$(wildcard tests/*/*.c)) lint: | deps-test

test:
	@+for step in all check lint integration; do $(MAKE) --no-print-directory $$step || exit 1; done

test-asan test-tsan:
	@+for step in all check integration; do \
		$(MAKE) --no-print-directory FLAVOUR=$(@:test-%=%) $$step || exit 1; done

check: $(UNITS:%=$(B)/unit/%) $(FUZZERS:%=$(B)/corpus/%)
	@failed=0; for t in $(UNITS:%=unit/%) $(FUZZERS:%=corpus/%); do \
		case $$t in corpus/*) input=tests/fuzz/$$t ;; *) input= ;; esac; \
		if $(WRAP) timeout 120 $(B)/$$t $$input >$(B)/$$t.log 2>&1; then echo "ok      $$t"; \
		else status=$$?; cat $(B)/$$t.log; echo "FAILED  $$t (status $$status)"; failed=1; fi; done; exit $$failed

integration test-integration: $(BIN) | deps-test
	PGKEEL_BIN=$(abspath $(BIN)) PYTHONDONTWRITEBYTECODE=1 $(WRAP) $(INTEGRATION) $(T) $(PYTEST_ARGS)

outage: $(BIN) | deps-test
	PGKEEL_BIN=$(abspath $(BIN)) PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/outage/outage.py $(OUTAGE_ARGS)

fuzz:
	@+$(DEPS) test fuzz && $(MAKE) --no-print-directory FLAVOUR=fuzz fuzz-here

fuzz-here: $(FUZZERS:%=$(B)/fuzz/%)
	@for x in $(FUZZERS); do found=$(B)/found/$$x; mkdir -p $$found; echo "== $$x, $(FUZZ_SECONDS) s"; \
		$(B)/fuzz/$$x -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 \
			-artifact_prefix=$(B)/ $$found tests/fuzz/corpus/$$x || exit 1; done

lint:
	$(PYTHON) scripts/lint
	PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m pytest -q -p no:cacheprovider tests/lint

format:
	$(PYTHON) scripts/lint --format

analyze:
	@for f in $(SOURCES); do echo "$$f"; $(COMPILE) -fanalyzer -c -o /dev/null $$f || exit 1; done
	clang-tidy --quiet --checks='-*,bugprone-*,clang-analyzer-*,-clang-analyzer-security.insecureAPI.*,-bugprone-easily-swappable-parameters' \
		$(SOURCES) -- -std=gnu11 -D_GNU_SOURCE -Isrc $(PKG_CFLAGS)

install: $(BIN)
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' sh scripts/install $(BIN)

clean: ; rm -rf build
help:
	@echo "make [all] | run | test | check | test-integration [T=file] [PYTEST_ARGS=...] | test-asan | test-tsan"
	@echo "     outage [OUTAGE_ARGS=...] | fuzz [FUZZ_SECONDS=60] | lint | format | analyze | install [PREFIX=...] [DESTDIR=...] | clean"

-include $(shell find $(B) -name '*.d' 2>/dev/null)
