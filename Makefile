# One command from a fresh clone: `make demo`, `make test`, `make lint`. Everything goes into .venv and build/.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV ?= .venv
# Installed only where no torch can be imported. Name the build you want: make venv TORCH=torch==2.13.0+cu130
TORCH ?= torch==2.13.0
# As many workers as cores; tests that read clocks take the least of several runs.
PYTEST_ARGS ?= -n auto --dist worksteal

BIN := $(VENV)/bin
DEPENDENCIES := $(VENV)/.dependencies
INSTALLED := $(VENV)/.installed
# Directories are listed beside files so that a deleted file is noticed too; `make native` writes into _native.
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
	$(shell find xsp -not -path '*/__pycache__*' -not -name '*.so' -not -name _native)
NATIVE_SOURCES := $(wildcard xsp/levels/_native/*.c)
NATIVE := xsp/levels/_native/libxsp_native.so
# The extension is built for one Python: that of the virtual environment, where there is one.
NATIVE_PYTHON = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
SYSCONFIG = $(NATIVE_PYTHON) -c 'import sysconfig; print($(1))'
HOTPATH_SOURCES := $(wildcard xsp/levels/layer/_hotpath_c/*.c)
HOTPATH = xsp/levels/layer/_hotpath$(shell $(call SYSCONFIG,sysconfig.get_config_var("EXT_SUFFIX")))
PYTHON_FILES := xsp tests examples benchmarks $(wildcard docs/*.py docs/images/*.py)

.PHONY: help venv native chromium demo test search gpu-test sanitize fuzz integrations lowest docs lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## Create .venv with torch, the tools and an installed build of xsp

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and is then held by a constraint: no other package may pull in another build of it.
$(DEPENDENCIES): pyproject.toml | $(BIN)/python
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install '$(TORCH)'
	$(BIN)/python -c 'import torch; print("torch==" + torch.__version__)' > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet scikit-build-core cmake ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation -c $(VENV)/constraints.txt '.[test,lint,docs]'
	touch $@

# A real install rather than an editable one: tests see what a user gets, native part included.
$(INSTALLED): $(DEPENDENCIES) $(SOURCES)
	XSP_REQUIRE_NATIVE=1 $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps .
	touch $@

native: $(NATIVE) hotpath ## Compile the native part in place, to run from the source tree

$(NATIVE): $(NATIVE_SOURCES) $(wildcard xsp/levels/_native/*.h)
	$(CC) -O2 -shared -fPIC -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -fvisibility=hidden \
		$(NATIVE_SOURCES) -o $@ -lpthread -ldl

.PHONY: hotpath
hotpath: $(HOTPATH_SOURCES)
	headers=$$($(call SYSCONFIG,sysconfig.get_path("include"))); \
	target=$(HOTPATH); \
	if [ ! -f "$$headers/Python.h" ]; then \
		echo "no Python.h in $$headers: layers will be traced in Python"; \
	elif [ ! -f "$$target" ] || [ -n "$$(find xsp/levels/layer/_hotpath_c -newer "$$target")" ]; then \
		$(CC) -O2 -shared -fPIC -std=gnu11 -Wall -Wextra -fvisibility=hidden -I"$$headers" \
			$(HOTPATH_SOURCES) -o "$$target"; \
	fi

demo: $(INSTALLED) ## Profile ResNet-50 here, open captures recorded on an H100, write reports to demo-output/
	$(BIN)/python examples/demo.py --output demo-output

# The tests of pages need a browser. Without one they are skipped, and that is said before the first test and after the
# last.
chromium: $(INSTALLED) ## Find Chromium, or download one for the tests of pages
	@cd tests && ../$(BIN)/python -c 'import browser, sys; print(browser.CHROMIUM or ""); sys.exit(not browser.CHROMIUM)' \
		|| ../$(BIN)/python -m playwright install chromium \
		|| echo "no Chromium on PATH and none could be downloaded: the tests of pages will be skipped"

# One thread for each worker's torch: two workers with two threads each take half as long again on two cores.
test: export OMP_NUM_THREADS ?= 1
test: $(INSTALLED) chromium ## Run the tests that need no GPU
	$(BIN)/pytest $(PYTEST_ARGS)

search: export OMP_NUM_THREADS ?= 1
search: $(INSTALLED) ## Run the tests of random examples with examples that were not tried before
	XSP_SEARCH=1 $(BIN)/pytest $(PYTEST_ARGS) -m hypothesis

gpu-test: $(INSTALLED) chromium ## Run the tests that need an NVIDIA GPU
	$(BIN)/pytest -m gpu

sanitize: ## Run the native part under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer
	tests/native/stress.sh build/sanitize 5 -fsanitize=address,undefined
	tests/native/stress.sh build/sanitize 5 -fsanitize=thread
	tests/native/replay.sh build/sanitize

FUZZ_SECONDS ?= 600
fuzz: ## Fuzz the decoding of activity buffers with libFuzzer (needs clang)
	mkdir -p build/fuzz/corpus
	clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -D_GNU_SOURCE \
		tests/native/fuzz_activity.c xsp/levels/_native/activity.c -o build/fuzz/activity -lpthread
	build/fuzz/activity -max_total_time=$(FUZZ_SECONDS) -timeout=60 -print_final_stats=1 \
		-artifact_prefix=build/fuzz/ build/fuzz/corpus tests/native/corpus

integrations: $(INSTALLED) ## Run the tests of xsp in Lightning, Trainer, Accelerate, MLflow, W&B, TensorBoard
	$(BIN)/python -m pip install --quiet --no-build-isolation -c $(VENV)/constraints.txt '.[integrations]'
	$(BIN)/pytest tests/test_integrations.py

lowest: ## Run the quick tests with the lowest declared version of every dependency, in .venv-lowest
	tests/lowest.sh

docs: $(DEPENDENCIES) ## Build the pages of docs/ as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(DEPENDENCIES) ## Check style, formatting and types
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/mypy
	$(BIN)/mypy examples
	$(BIN)/mypy tests benchmarks
	$(BIN)/lint-imports

format: $(DEPENDENCIES) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix $(PYTHON_FILES)
	$(BIN)/ruff format $(PYTHON_FILES)

clean: ## Remove everything that was built, the virtual environment included
	rm -rf $(VENV) build dist site demo-output $(NATIVE) xsp/levels/layer/_hotpath*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
