# Everything a person does with a clone. Needs python3 (3.11 to 3.13) with venv, and make; each target sets up .venv by itself.
#   PYTHON=python3.12   another interpreter for .venv
#   JOBS=3              processes for the tests, which wait more than they compute; a few tests at a time, for the slow ones lie side by side
#   PIP_FLAGS=...       flags for pip install, such as an index that has the CPU build of torch

PYTHON ?= python3
PIP_FLAGS ?=
JOBS ?= 3
RUN := .venv/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)
PYTEST := $(RUN) -m pytest -n $(JOBS) --maxschedchunk 4
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo check test faults chaos bench format clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 16

demo: .venv/.models ## SAM and YOLO take turns on one device, on real input, in under 3 minutes
	.venv/bin/warden demo

check: .venv/.dev ## format, lint, types, import contracts, fast tests; under a minute
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	.venv/bin/lint-imports
	$(PYTEST) -q -m "not slow and not models and not faults"

test: .venv/.dev .venv/.models ## every test; under 12 minutes
	$(PYTEST)

faults: .venv/.dev ## only the tests in which real processes stall, leak, crash and are killed
	$(PYTEST) -m faults

chaos: .venv/.dev ## ten minutes of random faults against a whole supervisor, every invariant checked; SECONDS=60 for less
	PYTHONPATH=. $(RUN) -m tests.chaos --seconds $(or $(SECONDS),600)

bench: .venv/.dev .venv/.models ## measure; each script in tests/bench prints its table
	@for script in tests/bench/[a-z]*.py; do \
		if [ -e "$$script" ]; then echo "== $$script"; PYTHONPATH=. $(RUN) "$$script" || exit 1; else echo "there is no script in tests/bench"; fi; \
	done

format: .venv/.dev ## lay out the code and sort the imports
	$(RUN) -m ruff check --quiet --fix --select I .
	$(RUN) -m ruff format .

clean: ## remove .venv, caches and builds; logs, state and weights stay
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov
	find supervisor workers tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is made last, so that a set-up that was broken off is taken up again.
.venv/.base:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): install Python 3.11, 3.12 or 3.13, or name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Warden needs Python 3.11, 3.12 or 3.13, found $$($(PYTHON) -V 2>&1): name another with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv: install it (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@[ -x $(RUN) ] || { echo "Making .venv with $$($(PYTHON) -V)"; $(PYTHON) -m venv .venv; }
	@touch $@

.venv/.dev: .venv/.base pyproject.toml
	@echo "Installing Warden and its development tools into .venv"
	@$(PIP) --editable '.[dev]'
	@touch $@

.venv/.models: .venv/.base pyproject.toml
	@echo "Installing Warden with torch and ultralytics into .venv (more than a gigabyte the first time)"
	@$(PIP) --editable '.[models]'
	@touch $@
