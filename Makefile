# Every target does its own set-up: a fresh machine needs Python 3.11 or newer, make and git.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH ?= torch==2.13.0

.PHONY: help setup run nano test check test-slow test-gpu test-docker bench format clean

help:           ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV): packages from the package index, about 1 GB on disk with a CPU build of torch"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$(TORCH)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

setup: $(READY) ## create .venv with everything in it (quick the second time)

run: $(READY)   ## mend a failing test with the model that comes along; PACKAGE=name==version breaks one first
	@$(BIN)/kodkod demo $(if $(PACKAGE),--package $(PACKAGE)) $(if $(SEED),--seed $(SEED))

check: $(READY) ## format, lint, types and import contracts
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports

test: check     ## the checks and the test suite
	@$(BIN)/python -m pytest

test-slow: $(READY) ## tests that take minutes
	@$(BIN)/python -m pytest -m slow

test-gpu: $(READY) ## tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

test-docker: $(READY) ## tests that need a Docker daemon
	@$(BIN)/python -m pytest -m docker

bench: $(READY) ## latency against transformers and the read limit; results in engine/bench/results
	@$(BIN)/python engine/bench/latency.py
	@$(BIN)/python engine/bench/prefix.py

format: $(READY) ## rewrite the files in the house format
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

clean:          ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
