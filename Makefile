# Every target does its own set-up: a fresh machine needs Python 3.11 or newer, make and git.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH ?= torch==2.13.0

# Types are checked and test files run side by side, but for tests of the boxes, which try what a machine can bear; 0 does
# all one by one.
WORKERS ?= 2

# Where `make nano` works, on what (cpu or cuda), how long its first stage trains, and from which checkpoint (none: anew).
NANO ?= .nano
DEVICE ?= cpu
MINUTES ?= $(if $(filter cuda,$(DEVICE)),5,60)
INIT ?=
# Of running the tests of each package that nano learns real faults from.
TEST_SECONDS ?= 300
PARTS ?= $(if $(filter cuda,$(DEVICE)),1 2 3 4 5 6 7 8 9 10 11 12,1 2 3)
BATCH_TOKENS ?= $(if $(filter cuda,$(DEVICE)),65536,8192)

# A file whose making was cut off is no file.
.DELETE_ON_ERROR:

.PHONY: help setup run nano nano-data nano-train nano-ranking test check test-drawn test-slow test-gpu test-docker bench format clean

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

# Each file is made once and begun training goes on; to begin anew, remove $(NANO) or what should be made again.
BUNDLED := engine/kodkod_engine/nano
WEIGHTS := model-00001-of-00001.safetensors
DATA := $(BIN)/python -m kodkod_app.nano
TRAINING := $(BIN)/python -m kodkod_engine.training
SIMULATED := $(foreach part,$(PARTS),$(NANO)/simulated-$(part).safetensors)

nano: $(BUNDLED)/$(WEIGHTS) ## make the model that comes along from nothing; MINUTES=60 DEVICE=cpu, work in NANO=.nano

# A processor learns what teaches most for its tokens, in two stages; a GPU learns whole documents, in one.
ON_GPU := $(filter cuda,$(DEVICE))
LAST_STAGE := $(NANO)/$(if $(ON_GPU),whole,stage-2)
LEARNT := $(if $(ON_GPU),joined held-out,abridged selected) transcripts

# What a machine without a network needs: `make nano-data` here, carry $(NANO) there, `make nano-train` there.
nano-data: $(LEARNT:%=$(NANO)/%.safetensors)

nano-train: $(LAST_STAGE)/checkpoint/$(WEIGHTS)

$(NANO)/tokenizer/tokenizer.json: | $(READY)
	@$(DATA) tokenizer --output $(@D)

$(SIMULATED): $(NANO)/simulated-%.safetensors: $(NANO)/tokenizer/tokenizer.json
	@$(DATA) simulated --tokenizer $(<D) --output $@ --part $*/12 --seed 3

$(NANO)/held-out.safetensors: $(NANO)/tokenizer/tokenizer.json
	@$(DATA) simulated --tokenizer $(<D) --output $@ --validation --per-package 150 --seed 9

$(NANO)/transcripts.safetensors: $(NANO)/tokenizer/tokenizer.json
	@$(DATA) transcripts --tokenizer $(<D) --output $@ --seed 1 --seconds $(TEST_SECONDS)

$(NANO)/abridged.safetensors $(NANO)/selected.safetensors $(NANO)/joined.safetensors: $(NANO)/%.safetensors: $(SIMULATED)
	@$(DATA) $* --tokenizer $(NANO)/tokenizer --output $@ $^

$(NANO)/stage-1/trained: $(NANO)/abridged.safetensors
	@$(TRAINING) train --data $< --output $(@D) --minutes $(MINUTES) --device $(DEVICE) \
		--batch-tokens $(BATCH_TOKENS) $(if $(INIT),--init $(INIT))
	@touch $@

$(NANO)/stage-1/checkpoint/$(WEIGHTS): $(NANO)/stage-1/trained
	@$(TRAINING) export $(<D) $(@D)

$(NANO)/stage-2/trained: $(NANO)/stage-1/checkpoint/$(WEIGHTS) \
		$(NANO)/selected.safetensors $(NANO)/abridged.safetensors $(NANO)/transcripts.safetensors
	@$(TRAINING) train --init $(<D) --output $(@D) --device $(DEVICE) --batch-tokens $(BATCH_TOKENS) \
		--data $(NANO)/selected.safetensors:2 --data $(NANO)/abridged.safetensors:1 \
		--data $(NANO)/transcripts.safetensors:1 \
		--minutes $$(awk 'BEGIN { print $(MINUTES) / 4 }') \
		--learning-rate 2e-3 --table-learning-rate 1e-2 --warmup-steps 10
	@touch $@

$(NANO)/whole/trained: $(LEARNT:%=$(NANO)/%.safetensors)
	@$(TRAINING) train --output $(@D) --minutes $(MINUTES) --device $(DEVICE) --batch-tokens $(BATCH_TOKENS) \
		--data $(NANO)/joined.safetensors:5 --data $(NANO)/transcripts.safetensors:0.02@0.4-1 \
		--validation $(NANO)/held-out.safetensors --table-learning-rate 1e-2 --weight-decay 0.05 \
		$(if $(INIT),--init $(INIT))
	@touch $@

$(LAST_STAGE)/checkpoint/$(WEIGHTS): $(LAST_STAGE)/trained
	@$(TRAINING) export $(<D) $(@D)
	@cp $(NANO)/tokenizer/tokenizer.json $(BUNDLED)/kodkod.json $(@D)/

$(BUNDLED)/$(WEIGHTS): $(LAST_STAGE)/trained
	@cp $(NANO)/tokenizer/tokenizer.json $(@D)/
	@$(TRAINING) export $(<D) $(@D)

# The weights that order plausible edits: from simulated faults, and from real ones in packages that are learnt from.
RANKING := $(BIN)/python -m kodkod_app.nano.ranking
PLAUSIBLE := app/kodkod_app/nano/ranking/weights.npz

nano-ranking: $(PLAUSIBLE) ## learn again which edits are plausible

$(NANO)/simulated-cases.npz $(NANO)/real-cases.npz: | $(READY)
	@mkdir -p $(@D)
	@$(RANKING) $(if $(findstring simulated,$@),simulated,real) --output $@ --seed 1

$(PLAUSIBLE): $(NANO)/simulated-cases.npz $(NANO)/real-cases.npz
	@$(RANKING) fit --simulated $(word 1,$^) --real $(word 2,$^) --output $@

check: $(READY) ## format, lint, types and import contracts
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --num-workers $(WORKERS)
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports

# Properties are tried with the same examples in every run, so that a change is judged by what it changes.
SAME := --hypothesis-profile=ci

# Each worker computes with all cores: threads that wait let others compute.
test: export OMP_WAIT_POLICY := passive
test: check     ## the checks and the test suite
	@$(BIN)/python -m pytest $(SAME) --numprocesses $(WORKERS) --dist loadfile --ignore tests/sandbox
	@$(BIN)/python -m pytest $(SAME) tests/sandbox

test-drawn: $(READY) ## properties with examples that are drawn anew
	@$(BIN)/python -m pytest -m "hypothesis and not slow and not gpu and not docker"

test-slow: $(READY) ## tests that take minutes
	@$(BIN)/python -m pytest -m slow

test-gpu: $(READY) ## tests that need a CUDA device, and the engine's own with their models on it
	@$(BIN)/python -m pytest -m gpu
	@KODKOD_TEST_DEVICE=cuda $(BIN)/python -m pytest $(addprefix tests/engine/,core speculation backends test_equality.py)

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
