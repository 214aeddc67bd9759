# farswap: commands for developers and operators. `make help` lists them.
#
# One build tree per kind, build/$(BUILD). For release and debug, pip builds the wheel there and
# installs it. Targets that run C++ tests and benchmark programs build them in the same tree, so that
# each source is compiled once. asan and tsan have no Python module and use CMake directly. Stamps in
# the virtual environment record what is installed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BUILD ?= release
JOBS ?= $(shell nproc)
VENV ?= .venv
PYTEST_ARGS ?=

WHEEL_BUILDS := release debug
SANITIZER_BUILDS := asan tsan
ifeq ($(filter $(BUILD),$(WHEEL_BUILDS) $(SANITIZER_BUILDS)),)
$(error BUILD is release, debug, asan or tsan, not $(BUILD))
endif

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
REQUIREMENTS := $(VENV)/.requirements
INSTALLED := $(VENV)/.installed-$(BUILD)
NATIVE_SOURCES := $(shell find native proto -type f -not -path 'native/tests/*' -not -path 'native/fuzz/*')
PYTHON_SOURCES := $(shell find admin client_nbd common server -name '*.py' -type f 2>/dev/null)
OUR_CPP := $(shell find native tests tools -name '*.cc' -o -name '*.h' -o -name '*.c' | sort)

TYPE_release := RelWithDebInfo
TYPE_debug := Debug
SANITIZER_asan := address
SANITIZER_tsan := thread
# The clang build also checks the sources with a second compiler.
CMAKE_CLANG := -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
  -DFARSWAP_PYTHON=OFF -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG='-O1 -g'
# No address randomization: the thread sanitizer needs its shadow memory at fixed addresses.
FIXED_ADDRESSES := setarch -R

# Paths relative to the tree let clones of it share one compiler cache.
ifneq ($(shell command -v ccache),)
export CMAKE_C_COMPILER_LAUNCHER := ccache
export CMAKE_CXX_COMPILER_LAUNCHER := ccache
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1
endif
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export CMAKE_GENERATOR := Ninja
export UBSAN_OPTIONS := print_stacktrace=1
export TSAN_OPTIONS := suppressions=$(CURDIR)/native/tests/tsan.supp second_deadlock_stack=1

##@ Getting started
.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ {print "\n" substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables: BUILD=release|debug|asan|tsan (%s), JOBS=%s, VENV=%s, PYTEST_ARGS=...\n' \
	  '$(BUILD)' '$(JOBS)' '$(VENV)'

.PHONY: packages
packages:
	@deploy/install-packages

.PHONY: setup
setup: packages build ## install Debian packages, the virtual environment and farswap in it

.PHONY: build
ifneq ($(filter $(BUILD),$(WHEEL_BUILDS)),)
build: $(INSTALLED) ## compile and install into the virtual environment (the default)
else
build: native-$(BUILD)
endif

$(REQUIREMENTS): pyproject.toml .ci/find-python .ci/python-requirements | packages
	[ -x $(PY) ] || "$$(.ci/find-python)" -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PY) .ci/python-requirements | $(PIP) install -r /dev/stdin --group dev
	touch $@

$(INSTALLED): $(REQUIREMENTS) $(NATIVE_SOURCES) $(PYTHON_SOURCES) | packages
	rm -f $(VENV)/.installed-*
	$(PIP) install . --no-build-isolation --no-deps --force-reinstall --no-cache-dir \
	  -C build-dir=build/$(BUILD) -C build.targets=farswap_package -C cmake.build-type=$(TYPE_$(BUILD)) \
	  -C cmake.define.FARSWAP_DEV=ON
	touch $@

# Programs of the tree beside the package, for the targets that run them.
.PHONY: programs loadgen
programs: build ## compile C++ tests and benchmark programs
	cmake --build build/$(BUILD)
loadgen: build
	cmake --build build/$(BUILD) --target farswap-loadgen

.PHONY: $(SANITIZER_BUILDS:%=native-%)
$(SANITIZER_BUILDS:%=native-%): native-%: | packages
	cmake -S native -B build/$* $(CMAKE_CLANG) -DFARSWAP_DEV=ON -DFARSWAP_SANITIZE=$(SANITIZER_$*)
	$(FIXED_ADDRESSES) cmake --build build/$*

##@ Testing
.PHONY: test
ifneq ($(filter $(BUILD),$(WHEEL_BUILDS)),)
test: setup programs ## all tests that need no virtual machine
	ctest --test-dir build/$(BUILD) --output-on-failure --timeout 1200 -j $(JOBS)
	$(PY) -m pytest tests -m 'not vm' $(PYTEST_ARGS)
else
test: ctest-$(BUILD)
endif

.PHONY: sanitize
sanitize: $(SANITIZER_BUILDS:%=ctest-%) ## C++ tests under ASan with UBSan, then under TSan

.PHONY: $(SANITIZER_BUILDS:%=ctest-%)
$(SANITIZER_BUILDS:%=ctest-%): ctest-%: native-%
	$(FIXED_ADDRESSES) ctest --test-dir build/$* --output-on-failure --timeout 1200 -j $(JOBS)

MODEL_STEPS ?= 100000
.PHONY: model
model: setup programs ## compare the tier with a plain model over MODEL_STEPS (100000) random steps
	FARSWAP_MODEL_STEPS=$(MODEL_STEPS) $(PY) -m pytest tests/property $(PYTEST_ARGS)

FUZZ_SECONDS ?= 20
.PHONY: fuzz
fuzz: packages ## each libFuzzer target for FUZZ_SECONDS (20)
	cmake -S native -B build/fuzz $(CMAKE_CLANG) -DFARSWAP_FUZZ=ON -DFARSWAP_SANITIZE=address
	cmake --build build/fuzz
	.ci/run-fuzzers build/fuzz/fuzz build/fuzz/corpus $(FUZZ_SECONDS)

.PHONY: vm
vm: setup programs ## real swap: /dev/nbd0 in a Debian 6.12 kernel under QEMU
	$(PY) -m pytest tests/vm -m vm $(PYTEST_ARGS)

.PHONY: swap
swap: setup ## real swap on the running kernel by loop over FUSE (root)
	$(PY) -m pytest tests/system -m kernel $(PYTEST_ARGS)

##@ Quality
.PHONY: lint
lint: lint-python lint-cpp lint-house ## ruff, mypy, import rules, clang-format, clang-tidy, house rules

# Input of mypy and the import rules: the package laid out by links as when installed, since both
# ignore site-packages.
LINT_TREE := build/lint
.PHONY: lint-tree
lint-tree: build
	@mkdir -p $(LINT_TREE)/farswap
	@ln -sfn $(foreach part,admin client_nbd common server native/package/__init__.py \
	  native/package/py.typed build/$(BUILD)/proto/python/farswap/v1 \
	  build/$(BUILD)/bind/native.pyi,$(CURDIR)/$(part)) $(LINT_TREE)/farswap/
	@ln -sfn native.pyi $(LINT_TREE)/farswap/native.py  # the import rules know modules by source

.PHONY: lint-python
lint-python: lint-tree
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	MYPYPATH=$(LINT_TREE) $(PY) -m mypy -p farswap
	MYPYPATH=$(LINT_TREE):tests $(PY) -m mypy tests/fake_engine.py tests/group_model.py
	PYTHONPATH=$(LINT_TREE) $(VENV)/bin/lint-imports

.PHONY: lint-cpp
lint-cpp: build
	clang-format --dry-run -Werror $(OUR_CPP)
	.ci/run-clang-tidy build/$(BUILD) $(JOBS)

.PHONY: lint-house
lint-house: $(REQUIREMENTS)
	$(PY) -m pytest -q tests/tidy

##@ Demonstrations and measurements
.PHONY: demo
demo: setup loadgen ## write 256 MiB of real pages, read them back from memory servers, then swap
	PYTHONPATH=tools $(PY) -m demo

.PHONY: bench
bench: setup programs ## measure against peers in the same run
	PYTHONPATH=tools $(PY) -m bench

.PHONY: soak
soak: setup loadgen ## verify 10 million page operations while the memory server is killed ten times, then full disks
	PYTHONPATH=tools $(PY) -m soak

.PHONY: chaos
chaos: setup loadgen ## fail memory servers for CHAOS_MINUTES (10), one after the other, under a verified load (root)
	PYTHONPATH=tools $(PY) -m chaos $(CHAOS_ARGS)

.PHONY: sim
sim: build ## simulate 200 memory servers and 1,000 hosts for 30 days of faults
	cmake --build build/$(BUILD) --target farswap-sim
	PYTHONPATH=tools $(PY) -m sim

.PHONY: sim-plots
sim-plots: build ## simulate a small fleet, and draw the plots of docs/placement.md
	cmake --build build/$(BUILD) --target farswap-sim
	PYTHONPATH=tools $(PY) -m sim --servers 50 --hosts 60 --days 10 --plots docs

##@ Cleaning
.PHONY: clean
clean: ## remove build trees; keep the virtual environment and the downloaded kernel
	find build -mindepth 1 -maxdepth 1 -not -name kernel -exec rm -rf {} + 2>/dev/null || true
	rm -f $(VENV)/.installed-*
