# Everything that a fresh machine needs: Python 3.10 or newer with venv and headers, a C compiler, make.
#
#   make demo      build, then run the channel-messaging demos
#   make test      build, then pass the tests: the C core's with ctest, the library's with pytest
#
# The rest is for maintainers: see CONTRIBUTING.md.

# The first of these that is new enough; name another by make PYTHON=...
ifndef PYTHON
PYTHON := $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python3.10,\
	$(shell $(python) -c 'import sys; sys.version_info >= (3, 10) and print("$(python)")' 2>/dev/null)) python3)
endif
VENV := .venv
BIN := $(VENV)/bin
BUILD := build
STAMPS := $(VENV)/stamps
# cython-lint and CMake call their helpers by name.
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
	$(wildcard csrc/*.[ch] src/messagechannel/*.[ch] src/messagechannel/*.py* src/messagechannel/*.pxd src/messagechannel/py.typed examples/*.py)
# ON makes warnings of the extension's compiler errors, as .ci/run does.
WERROR ?= OFF
C_CONFIGURE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -S . \
	-DMESSAGECHANNEL_EXTENSION=OFF -DMESSAGECHANNEL_C_TESTS=ON -DMESSAGECHANNEL_WERROR=ON
# Multiplies the work of `make stress`: 4 takes about ten minutes.
STRESS ?= 4

.PHONY: demo test ctest pytest pytest-arrays lint sanitize sanitize-thread sanitize-address sanitize-extension fuzz \
	stress model model-mutations bench matrix dist-check environment clean
.DELETE_ON_ERROR:

demo: $(STAMPS)/package
	$(BIN)/python -m messagechannel demo

test: ctest pytest

ctest: $(STAMPS)/build-tools
	$(C_CONFIGURE) -B $(BUILD)/ctest
	$(BIN)/cmake --build $(BUILD)/ctest
	$(BIN)/ctest --test-dir $(BUILD)/ctest --output-on-failure

pytest: $(STAMPS)/package $(STAMPS)/group-test
	$(BIN)/python -m pytest

# Clones of numpy, pandas and pyarrow objects, which are large to install, and not where all other tests would find them.
pytest-arrays: $(STAMPS)/package $(STAMPS)/group-test $(STAMPS)/arrays
	PYTHONPATH=$(VENV)/arrays $(BIN)/python -m pytest tests/test_clone_arrays.py

lint: $(STAMPS)/package $(STAMPS)/group-test $(STAMPS)/group-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint src
	$(BIN)/mypy examples tests/typing src/messagechannel
	$(BIN)/stubtest messagechannel --allowlist tests/typing/stubtest-allowlist.txt

# The C core's tests under ThreadSanitizer, and under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: sanitize-thread sanitize-address

sanitize-thread: SANITIZERS := thread
sanitize-address: SANITIZERS := address,undefined
sanitize-thread sanitize-address: $(STAMPS)/build-tools
	$(C_CONFIGURE) -B $(BUILD)/$@ -DMESSAGECHANNEL_SANITIZE=$(SANITIZERS)
	$(BIN)/cmake --build $(BUILD)/$@
	$(BIN)/ctest --test-dir $(BUILD)/$@ --output-on-failure

# The structured clone's tests with the extension under both. Their frames are larger than what the tests of depth expect.
sanitize-extension: $(STAMPS)/group-test
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(BUILD)/sanitize-extension/site \
	  --config-settings=build-dir=$(BUILD)/sanitize-extension/build \
	  --config-settings=cmake.define.MESSAGECHANNEL_SANITIZE=address,undefined \
	  --config-settings=cmake.define.CMAKE_C_FLAGS_RELEASE=-O1 .
	LD_PRELOAD=$$(gcc -print-file-name=libasan.so) PYTHONPATH=$(BUILD)/sanitize-extension/site PYTHONMALLOC=malloc \
	  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 \
	  $(BIN)/python -m pytest tests/test_clone*.py -k 'not (small_stack or five_thousand)'

# Clones of random object graphs against pickle's, for a while; another seed, other graphs.
SECONDS := 60
SEED := 1
fuzz: $(STAMPS)/package
	$(BIN)/python tests/fuzz/fuzz_clone.py --seconds $(SECONDS) --seed $(SEED)

# The stress tests alone, for longer: the C core's under both pairs of sanitizers, then the Python layer's.
stress: $(STAMPS)/build-tools $(STAMPS)/package $(STAMPS)/group-test
	for sanitizers in thread address,undefined; do \
	  $(C_CONFIGURE) -B $(BUILD)/stress-$$sanitizers -DMESSAGECHANNEL_SANITIZE=$$sanitizers \
	    -DMESSAGECHANNEL_STRESS_FACTOR=$(STRESS) \
	  && $(BIN)/cmake --build $(BUILD)/stress-$$sanitizers \
	  && $(BIN)/ctest --test-dir $(BUILD)/stress-$$sanitizers --output-on-failure -R 'stress|history' || exit 1; \
	done
	MESSAGECHANNEL_STRESS_FACTOR=$$((10 * $(STRESS))) $(BIN)/python -m pytest tests/test_stress.py tests/test_process_faults.py \
	  tests/test_hostile_peer.py tests/test_far_allocations.py

bench: $(STAMPS)/package $(STAMPS)/group-bench $(STAMPS)/build-tools
	$(C_CONFIGURE) -B $(BUILD)/bench -DMESSAGECHANNEL_C_TESTS=OFF -DMESSAGECHANNEL_BENCH=ON
	$(BIN)/cmake --build $(BUILD)/bench
	MESSAGECHANNEL_BENCH_PROGRAMS=$(BUILD)/bench $(BIN)/python -m pytest bench --benchmark-only

# The models of the lock-free core, searched exhaustively by Spin (csrc/model/README.md).
model:
	$(PYTHON) tools/model

# Changes for the worse, each of which the models must find.
model-mutations:
	$(PYTHON) tools/model --mutate

# The tests on every supported Python that is found, and on one of them, for tools/matrix, which finds it.
matrix:
	+tools/matrix

pytest-on-%:
	$(MAKE) VENV=$(BUILD)/venv-$* PYTHON=$(PYTHON_$*) pytest

# A source distribution, a wheel from it, and an editable install, each used from elsewhere.
dist-check: $(STAMPS)/pip
	tools/dist-check $(BIN)/python

# All that tests and linters need, installed: one after the other, for pip can't do that twice at once in one environment.
# So it comes before what is to be made in parallel.
environment:
	@$(MAKE) --no-print-directory -j1 $(addprefix $(STAMPS)/,package build-tools group-test group-lint arrays)

clean:
	rm -rf $(VENV) $(BUILD) dist

$(STAMPS)/pip:
	@tools/check-machine '$(PYTHON)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

# Of a package whose version has not changed, pip builds and installs a local source anew all the same.
$(STAMPS)/package: $(STAMPS)/pip $(SOURCES)
	$(BIN)/python -m pip install --quiet --config-settings=cmake.define.MESSAGECHANNEL_WERROR=$(WERROR) '.[progress]'
	@touch $@

$(STAMPS)/group-%: $(STAMPS)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --prefer-binary --group $*
	@touch $@

$(STAMPS)/arrays: $(STAMPS)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --prefer-binary --upgrade --target $(VENV)/arrays --group arrays
	@touch $@

$(STAMPS)/build-tools: $(STAMPS)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --group build
	@touch $@
