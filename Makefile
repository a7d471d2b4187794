# `make table2` is all a reviewer needs; bare `make` lists the words.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready
SMALL := .work/smoke
LOWEST := .work/lower-bounds
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1
.DEFAULT_GOAL := help
# stages run side by side, a GPU each or a core each; `make -j1 table2` (or JOBS=1 make table2, where make is older than
# 4.2) runs one at a time
JOBS ?= $(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),auto)
REPRO = python -m pipeline.parallel $(JOBS)
# run what a word stands for: the suites say which stages those are
run = targets=$$(python -m pipeline.config.targets $(1)) && $(REPRO) $$targets
.PHONY: help setup params tables toy search-lambda quirks prepare teacher features baseline wide student ablation \
        derived refined evaluate figures smoke suites leftovers montage dag plan bench bench-dag bench-step \
        bench-consistency bench-store gpu kernels kernels-versions test test-slow test-faults test-lower-bounds \
        lint clean

help:  ## list the words
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## the environment: .venv with the packages of pyproject.toml
$(READY): pyproject.toml
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@# DVC takes the enclosing Git clone for the project's own; elsewhere it must not look for one
	@test "$$(git rev-parse --show-toplevel 2>/dev/null)" = "$(CURDIR)" || dvc config --local core.no_scm true
	@touch $@

params: $(READY)  ## check every suite's params.yaml as a whole and say what is in force
	@python -m pipeline.config

# a table's word is its name: table2, table3, or `table-` and its name; `make tables` lists those of every suite
table%: params  ## a table: run what is stale, print it (table1 ... table4, table-balancers, table-xtask-cityscapes, ...)
	@$(call run,$@) && python -m pipeline.show $(patsubst table-%,%,$@)
tables: $(READY)  ## list the tables and the suite of each
	@python -m pipeline.config.targets
search-lambda: params  ## lambda by trials on images held out, then trained on all: pipeline/suites/search
	@$(call run,$@) && cat out/tables/search.md
quirks: params  ## what each behaviour of the released code is worth, three seeds
	@$(call run,$@) && cat out/tables/quirks.md
toy: $(READY)  ## Aligned-MTL's two-task problem: out/toy/toy.png, and the gaps to the optimum
	@dvc repro pipeline/config/toy/dvc.yaml:toy
	@cat out/toy/toy.md

# the stages of a verb or a group, in the suites that have rows for it
prepare: params  ## stage: images and targets as compact arrays
teacher: params  ## stage: a single-task network a task
features: params  ## stage: the frozen teachers' activations
baseline: params  ## stage: multi-task networks on the labels alone
wide: params  ## stage: further rows on the labels alone, for the wide tables
student: params  ## stage: multi-task networks that follow the teachers
ablation: params  ## stage: students with other taps and adaptors
derived: params  ## stage: networks that go on from one run's weights
refined: params  ## stage: networks that go on from the run of their own name
evaluate: params  ## stage: metrics under both protocols and every selection rule
prepare teacher features baseline wide student ablation derived refined evaluate:
	@$(call run,$@)
figures: $(READY)  ## task losses and feature distances of the students that have run, in out/figures
	@python -m pipeline.figures

smoke: $(READY)  ## every suite at its smallest, in a copy under .work
	@rm -rf $(SMALL) && mkdir -p $(SMALL)/.dvc
	@cp -r dvc.yaml params.yaml .dvcignore pipeline models kernels $(SMALL) && cp .dvc/config $(SMALL)/.dvc
	@test ! -d .work/kernels || { mkdir -p $(SMALL)/.work && cp -r .work/kernels $(SMALL)/.work; }
	@cd $(SMALL) && rm -f pipeline/suites/*/dvc.lock pipeline/config/toy/dvc.yaml && dvc config --local core.no_scm true && \
	    python -m pipeline.config.smoke && $(REPRO) $$(python -m pipeline.config.targets all) && ls out/tables/*.md

suites: $(READY)  ## bring every suite's copy of dvc.yaml up to date
	@for suite in pipeline/suites/*/; do cp dvc.yaml $$suite; done
leftovers: $(READY)  ## outputs of rows and suites no longer in force; `make leftovers REMOVE=1` removes them
	@python -m pipeline.leftovers $(if $(REMOVE),remove)

montage: prepare  ## out/<suite>/montage.png: the prepared images and targets, to be looked at
	@python -m pipeline.prepare montage

dag: $(READY)  ## draw the stages
	@dvc dag --collapse-foreach-matrix
plan: $(READY)  ## what would rerun and why, and how long it takes; runs nothing
	@python -m pipeline.plan

bench: $(READY)  ## check every kernel, then time it beside eager torch and torch.compile
	@python -m kernels.bench
bench-dag: $(READY)  ## DVC's own cost a stage, with stub commands
	@python -m pipeline.bench.dag
bench-step: $(READY)  ## time a training step beside the released recipe's, with peaks of memory
	@python -m pipeline.bench.step
bench-consistency: $(READY)  ## what consistency's losses add to a step, beside its convolutions
	@python -m pipeline.bench.consistency
bench-store: $(READY)  ## write and read the feature store beside the disk and memory it stands on
	@python -m pipeline.bench.store
gpu:  ## on a GPU: check, measure and train, 7 minutes at most; LIMIT=240 NYUV2=folder PARTS=abc MORE=1
	@python3 -m pipeline.bench.gpu $(if $(LIMIT),seconds=$(LIMIT)) $(if $(PARTS),parts=$(PARTS)) \
	    $(if $(NYUV2),nyuv2=$(NYUV2)) $(if $(OUT),out=$(OUT)) $(if $(MORE),more)
kernels: $(READY)  ## compile every kernel for this CPU, and for sm_80, sm_90 and sm_100 without a GPU; a spill fails
	@python -m kernels.compile_cpu
	@python -m kernels.compile
kernels-versions: $(READY)  ## the same with each Triton that is tried, installed under .work: a line a version
	@python -m kernels.versions

test: $(READY) lint  ## lint and the fast tests
	@python -m pytest -n logical --maxprocesses 4 --dist worksteal
test-slow: $(READY)  ## the tests that train for minutes, and the whole toy
	@python -m pytest -m slow
test-faults: $(READY)  ## 2,000 edits of params.yaml, 1,000 damaged files, 100 kills
	@python -m pytest tests/test_faults_*.py -m "slow or not slow" --hypothesis-profile many -n 2
test-lower-bounds: $(LOWEST)/ready  ## the fast tests with pyproject.toml's oldest packages, in their own environment
	@PATH=$(CURDIR)/$(LOWEST)/bin:$$PATH python -m pytest -n logical --maxprocesses 4 --dist worksteal
$(LOWEST)/ready: pyproject.toml tests/lower_bounds.py
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(PYTHON) tests/lower_bounds.py pyproject.toml > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt \
	    --editable '.[dev]'
	@touch $@
lint: $(READY)  ## ruff, and which way imports flow between folders
	@ruff check
	@lint-imports --no-cache --no-logo

clean:  ## remove unfinished runs and cached features; results and the environment stay
	rm -rf .work
