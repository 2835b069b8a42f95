# Every verb of the project; CI calls the same ones. `make` lists them.

VENV := .venv
BIN := $(VENV)/bin
# The first of these that is 3.11 or newer makes the environment; `make setup PYTHON=/path/to/python` chooses another.
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
SUITABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
# More words for pytest: `make test ARGS='-k ledger -x'`.
ARGS ?=
# Most tests wait for processes, so two at a time are worth it even on two cores; a file's tests stay together.
PARALLEL ?= -n 2 --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo up test test-faults lint fmt types arch bench bench-litellm bench-gateway bench-serving bench-train bench-plan \
  map docs constraints system-packages clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.setup ## make .venv with everything that the tests need (once, and when a dependency changes)
	@:

demo: $(VENV)/.setup-run ## the whole loop on real input: train, measure, release, roll out, ask, trace back
	@$(BIN)/tandem demo

up: $(VENV)/.setup-run ## start the platform in this terminal
	@$(BIN)/tandem up

test: setup system-packages lint types arch ## check everything: style, types, architecture, tests
	@$(BIN)/pytest -m 'not slow' $(PARALLEL) $(ARGS)

test-faults: setup ## train for real while workers are killed, disks fill and files change; go through the demo
	@$(BIN)/pytest -m slow $(ARGS)

lint: setup ## check style and layout
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .

fmt: setup ## lay the code out and mend what can be mended
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

types: setup ## check the types
	@$(BIN)/mypy

arch: setup ## check the storeys of the house
	@$(BIN)/lint-imports

bench: bench-gateway bench-serving bench-train bench-plan ## run all benchmarks

bench-litellm: setup ## install LiteLLM's proxy in an environment of its own, for bench-gateway to measure beside ours
	@test -x .bench/litellm/bin/python || $(BIN)/python -m venv .bench/litellm
	@.bench/litellm/bin/python -m pip install --quiet --upgrade pip
	@.bench/litellm/bin/python -m pip install --quiet 'litellm[proxy]==1.106.2'

bench-gateway: setup ## measure the gateway against a bare pass-through, nginx and LiteLLM
	@$(BIN)/python benchmarks/bench_gateway.py

bench-serving: setup ## measure serving against llama.cpp's own server
	@$(BIN)/python benchmarks/bench_serving.py

bench-train: setup ## measure training against a plain PyTorch loop and transformers' Trainer; TEXT=file for another text
	@$(INSTALL) --group bench
	@$(BIN)/python benchmarks/bench_train.py $(if $(TEXT),--text $(TEXT))

bench-plan: setup ## measure real runs next to what the planner foretells, and how long large plans take; ten minutes
	@$(BIN)/python benchmarks/bench_plan.py

map: setup ## write docs/map.md from the modules' first lines
	@$(BIN)/python docs/generate.py map

docs: setup ## write the map and the reference pages from the code
	@$(BIN)/python docs/generate.py

constraints: ## resolve the newest allowed dependencies and write constraints.txt
	@.ci/constraints

# Only for tests; a machine where this may not or cannot happen skips those tests, and says so.
system-packages: ## install what some tests can use: PostgreSQL (needs apt and root)
	@if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo 'Installing PostgreSQL for the tests.'; \
	  { timeout 60 apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive timeout 180 apt-get -qq install --no-install-recommends postgresql; } \
	    >/dev/null 2>&1 || echo 'PostgreSQL could not be installed: the tests that need it are skipped.'; \
	fi

clean: ## remove everything that was made here, the environment too
	rm -rf $(VENV) .demo .bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@for python in $(PYTHON); do \
	  if $$python -c '$(SUITABLE)' >/dev/null 2>&1; then \
	    echo "Making $(VENV) with $$($$python --version)."; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo 'No Python 3.11 or newer with its venv module was found. Install one, or name it: make PYTHON=/path/to/python' >&2; \
	exit 1

# What the program needs to run. torch first and alone: so nothing else decides which build of it is taken.
$(VENV)/.setup-run: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing Tandem; torch is large.'
	@$(INSTALL) --upgrade pip
	@$(INSTALL) torch==2.13.0
	@$(INSTALL) --editable '.[llamacpp,postgres,train,evals]' --group demo
	@touch $@

# What the tests need besides.
$(VENV)/.setup: $(VENV)/.setup-run
	@echo 'Installing what the tests need.'
	@$(INSTALL) --group lint --group test --group parity
	@touch $@
