# Everything one does with a checkout of qmill. It needs python3 (3.11 or newer), make and gcc, makes
# its own virtual environment and installs the rest there. A line with two hashes is a target's help.

# Another interpreter: `make test PYTHON=python3.13`. Arguments: `make test ARGS="-k census"`.
PYTHON ?= python3
ARGS :=
# Where the main job runs: `make run ENGINE=dask` starts a Dask cluster on this machine.
ENGINE := process
# Two at a time: most tests wait for processes of their own. For one alone: PYTEST_OPTIONS=
PYTEST_OPTIONS ?= -n 2 --dist worksteal
# Made, and made anew when PYTHON or the checkout's place changes, by this file: name no environment
# of your own. EXTRAS is what is installed beside qmill for the tests.
VENV := .venv
EXTRAS := dev
BENCH_VENV := .venvs/bench
CORE := src/qmill/queues/shared/core

SHELL := /bin/sh
BIN := $(VENV)/bin
# Nothing that is set on one developer's machine changes what the recipes do.
NEUTRAL := sh tools/neutral.sh
PIP_INSTALL := $(NEUTRAL) $(BIN)/python -m pip --disable-pip-version-check --no-input install -qq

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-all test-portable native chaos check bench clean FORCE

help:
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r target text; do printf '  %-13s %s\n' "$$target" "$$text"; done

run: $(VENV)/.run $(if $(filter dask,$(ENGINE)),$(VENV)/.dask)  ## count the functions of the standard library, in parallel and serially
	@$(NEUTRAL) $(BIN)/python examples/stdlib_census.py --engine $(ENGINE) $(ARGS)

test: $(VENV)/.dev  ## run all tests with one interpreter (PYTHON, default python3)
	@$(NEUTRAL) $(BIN)/python -m pytest $(PYTEST_OPTIONS) $(ARGS)
	@if $(NEUTRAL) $(BIN)/python -c "import distributed" 2>/dev/null; then \
		echo "== on a Dask cluster"; \
		$(NEUTRAL) $(BIN)/python -m pytest -m cluster $(ARGS) || [ $$? -eq 5 ]; \
	fi

test-all: export ARGS := $(ARGS)
test-all:  ## run all tests with every supported interpreter found, with all extras
	@MAKE="$(MAKE)" sh tools/test_all.sh

test-portable: export ARGS := $(ARGS)
test-portable:  ## run all tests on an installation without the native core: no compiler is found
	@MAKE="$(MAKE)" PYTHON="$(PYTHON)" sh tools/test_without_core.sh

native:  ## test the native core by itself: kill it at each point, with sanitizers (minutes)
	@sh tools/test_native.sh full

# QMILL_CHAOS_SEED chooses the first of the seeds, which are printed; ARGS, some of the tests.
chaos: $(VENV)/.dev  ## kill at every point, storms, damaged files, endurance (half an hour)
	@sh tools/test_native.sh full
	@sh tools/fuzz_native.sh
	@$(NEUTRAL) $(BIN)/python -m pytest -m chaos -s -o faulthandler_timeout=900 $(ARGS)

check: $(VENV)/.dev  ## lint, check the format and check the types
	@$(NEUTRAL) $(BIN)/ruff check --quiet .
	@$(NEUTRAL) $(BIN)/ruff format --quiet --check . || { echo "the fix: $(BIN)/ruff format ."; exit 1; }
	@$(NEUTRAL) $(BIN)/mypy
	@$(NEUTRAL) $(BIN)/basedpyright --warnings

# In an environment of its own, with the libraries that qmill is compared with.
bench:  ## measure queues, jobs and maps, beside others of their kind
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) EXTRAS=bench $(BENCH_VENV)/.dev
	@$(NEUTRAL) $(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

clean:  ## remove environments, caches and everything built or measured
	@rm -rf .venv .venvs build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@rm -rf src/*.egg-info
	@find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# Three stamps, each standing on the one before, so that `make -j check test` installs once:
# .python (the environment exists), .run (qmill is in it, with what `run` shows), .dev (and EXTRAS).

# Runs each time, but is only rewritten when it has to be, and only then are the others out of date.
# The checkout's place counts because an editable install and the scripts in bin/ contain it.
$(VENV)/.python: FORCE
	@made_with="$$(PYTHON="$(PYTHON)" $(NEUTRAL) sh tools/identify_python.sh)" || exit 1; \
	made_with="$$made_with in $(CURDIR)"; \
	if [ "$$made_with" != "$$(cat $@ 2>/dev/null)" ]; then \
		echo "making $(VENV)"; \
		$(NEUTRAL) $(PYTHON) -m venv --clear $(VENV) && echo "$$made_with" > $@; \
	fi

# Of Python, setup.py names the modules that are compiled.
$(VENV)/.run: $(VENV)/.python pyproject.toml setup.py \
		$(wildcard $(CORE)/*.[ch] $(CORE)/*.pyx $(CORE)/*.px[di] src/qmill/system/*.pyx) \
		$(shell sed -n '/^whole/,$$s|^        "\([a-z_.]*\)",$$|\1|p' setup.py | sed 's|\.|/|g; s|.*|src/qmill/&.py|')
	@echo "installing qmill into $(VENV), with progress bars and plots"
	@$(PIP_INSTALL) -e '.[progress,plot]'
	@touch $@

$(VENV)/.dask: $(VENV)/.run
	@echo "installing what a Dask cluster needs into $(VENV)"
	@$(PIP_INSTALL) -e '.[dask]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing the extras $(EXTRAS) into $(VENV)"
	@$(PIP_INSTALL) -e '.[$(EXTRAS)]'
	@touch $@
