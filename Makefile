# Everything that a fresh machine needs: Python 3.10 or newer with venv and headers, a C compiler, make.
#
#   make demo      build, then run the channel-messaging demos
#   make test      build, then pass the tests: the C core's with ctest, the library's with pytest
#
# The rest is for maintainers: see CONTRIBUTING.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build
STAMPS := $(VENV)/stamps
# cython-lint and CMake call their helpers by name.
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*.c csrc/*.h src/messagechannel/*)
C_TESTS := $(wildcard csrc/tests/*)
C_CONFIGURE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -S . \
	-DMESSAGECHANNEL_EXTENSION=OFF -DMESSAGECHANNEL_C_TESTS=ON -DMESSAGECHANNEL_WERROR=ON

.PHONY: demo test ctest pytest lint sanitize bench matrix dist-check clean
.DELETE_ON_ERROR:

demo: $(STAMPS)/package $(STAMPS)/progress
	$(BIN)/python -m messagechannel demo

test: ctest pytest

ctest: $(STAMPS)/build-tools
	$(C_CONFIGURE) -B $(BUILD)/ctest
	$(BIN)/cmake --build $(BUILD)/ctest
	$(BIN)/ctest --test-dir $(BUILD)/ctest --output-on-failure

pytest: $(STAMPS)/package $(STAMPS)/group-test
	$(BIN)/python -m pytest

lint: $(STAMPS)/package $(STAMPS)/progress $(STAMPS)/group-test $(STAMPS)/group-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint src
	$(BIN)/mypy examples tests/typing src/messagechannel
	$(BIN)/stubtest messagechannel --allowlist tests/typing/stubtest-allowlist.txt

# The C core's tests under ThreadSanitizer, then under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(STAMPS)/build-tools
	for sanitizers in thread address,undefined; do \
	  $(C_CONFIGURE) -B $(BUILD)/sanitize-$$sanitizers -DMESSAGECHANNEL_SANITIZE=$$sanitizers \
	  && $(BIN)/cmake --build $(BUILD)/sanitize-$$sanitizers \
	  && $(BIN)/ctest --test-dir $(BUILD)/sanitize-$$sanitizers --output-on-failure || exit 1; \
	done

bench: $(STAMPS)/package $(STAMPS)/group-bench
	$(BIN)/python -m pytest bench --benchmark-only

# The tests on every supported Python that is found.
matrix:
	tools/matrix

# A source distribution, a wheel from it, and an editable install, each used from elsewhere.
dist-check: $(STAMPS)/pip
	tools/dist-check $(BIN)/python

clean:
	rm -rf $(VENV) $(BUILD) dist

$(STAMPS)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "Python 3.10 or newer is needed; '$(PYTHON)' is not. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv; install it (Debian: python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { \
	  echo "$(PYTHON) has no C headers; install them (Debian: python3-dev)" >&2; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || { \
	  echo "no C compiler found; install one (Debian: gcc)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/package: $(STAMPS)/pip $(SOURCES)
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps --config-settings=cmake.define.MESSAGECHANNEL_WERROR=ON .
	@touch $@

$(STAMPS)/progress: $(STAMPS)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet '.[progress]'
	@touch $@

$(STAMPS)/group-%: $(STAMPS)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --group $*
	@touch $@

$(STAMPS)/build-tools: $(STAMPS)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --group build
	@touch $@
