# `make table2` is all a reviewer needs; bare `make` lists the words.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready
SMALL := .work/smoke
LOWEST := .work/lower-bounds
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1
.DEFAULT_GOAL := help
# `make -j4 table2` (or JOBS=4 make table2, where make is older than 4.2) runs four stages at a time
JOBS ?= $(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),1)
REPRO = $(if $(filter-out 1,$(JOBS)),python -m pipeline.parallel $(JOBS),dvc repro)
.PHONY: help setup params table1 table2 table3 table4 table-balancers table-xtask-cityscapes table-xtask-nyuv2 \
        toy search-lambda quirks \
        prepare teacher features baseline wide student ablation evaluate figures smoke montage \
        dag plan bench bench-step bench-consistency bench-store kernels kernels-versions test test-slow test-lower-bounds lint \
        clean

help:  ## list the words
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## the environment: .venv with the packages of pyproject.toml
$(READY): pyproject.toml
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@# DVC takes the enclosing Git clone for the project's own; elsewhere it must not look for one
	@test "$$(git rev-parse --show-toplevel 2>/dev/null)" = "$(CURDIR)" || dvc config --local core.no_scm true
	@touch $@

params: $(READY)  ## check params.yaml as a whole and say what is in force
	@python -m pipeline.config.params

table1: params  ## KD4MTL's Table 1, two domains through one LeNet: run what is stale, print it
	$(REPRO) table1
	@cat out/tables/table1.md
table2: params  ## KD4MTL's Table 2, rooms (NYUv2)
	$(REPRO) table2
	@cat out/tables/table2.md
table3: params  ## KD4MTL's Table 3, streets (Cityscapes)
	$(REPRO) table3
	@cat out/tables/table3.md
table4: params  ## KD4MTL's Table 4, which taps and adaptors
	$(REPRO) table4
	@cat out/tables/table4.md
table-balancers: params  ## every balancer on one network
	$(REPRO) table-balancers
	@cat out/tables/balancers.md
table-xtask-cityscapes: params  ## XTasC-Net's table, streets (Cityscapes): cross-task consistency, with distillation too
	$(REPRO) table-xtask-cityscapes
	@cat out/tables/xtask-cityscapes.md
table-xtask-nyuv2: params  ## the same on rooms (NYUv2)
	$(REPRO) table-xtask-nyuv2
	@cat out/tables/xtask-nyuv2.md
toy: $(READY)  ## Aligned-MTL's two-task problem: out/toy/toy.png, and the gaps to the optimum
	$(REPRO) toy
	@cat out/toy/toy.md

search-lambda: params  ## lambda by trials on images held out, then trained on all: `search` in params.yaml
	$(REPRO) search-lambda
	@cat out/tables/search.md
quirks: params  ## what each behaviour of the released code is worth, three seeds
	$(REPRO) quirks
	@cat out/tables/quirks.md

# the stages of a verb, in the suites that have it
XTASK := xtask_streets xtask_rooms
FIGURED := rooms streets domains
SUITES := $(FIGURED) $(XTASK)
prepare: params  ## stage: images and targets as compact arrays
	$(REPRO) $(SUITES:%=prepare-%)
teacher: params  ## stage: a single-task network a task
	$(REPRO) $(SUITES:%=teacher-%)
features: params  ## stage: the frozen teachers' activations
	$(REPRO) $(SUITES:%=features-%)
baseline: params  ## stage: multi-task networks on the labels alone
	$(REPRO) $(SUITES:%=baseline-%)
wide: params  ## stage: further balancers, for the wide table
	$(REPRO) wide-rooms $(XTASK:%=wide-%)
student: params  ## stage: multi-task networks that follow the teachers
	$(REPRO) $(SUITES:%=student-%)
ablation: params  ## stage: students with other taps and adaptors, for Table 4
	$(REPRO) ablation-rooms
evaluate: params  ## stage: metrics under both protocols and every selection rule
	$(REPRO) $(foreach group,teacher baseline student,$(SUITES:%=evaluate-$(group)-%)) \
	    $(patsubst %,evaluate-wide-%,rooms $(XTASK)) evaluate-ablation-rooms
figures: params  ## stage: task losses and feature distances over training, in out/figures
	$(REPRO) $(FIGURED:%=figures-%)

smoke: $(READY)  ## Tables 1 to 4 and one of XTasC-Net's at their smallest, in a copy under .work
	@rm -rf $(SMALL) && mkdir -p $(SMALL)/.dvc
	@cp -r dvc.yaml params.yaml .dvcignore pipeline models kernels $(SMALL) && cp .dvc/config $(SMALL)/.dvc
	@sed -i.bak -e 's/^protocol: .*/protocol: smoke/' -e 's/^    baselines: \[uniform, uncert.*/    baselines: [uniform]/' \
	    -e 's/models: \[segnet, mtan\]/models: [segnet]/' -e 's/models: \[mtan, resnet\]/models: [resnet]/' $(SMALL)/params.yaml
	@cd $(SMALL) && dvc config --local core.no_scm true && python -m pipeline.config.params && \
	    dvc repro table1 table2 table3 table4 table-xtask-nyuv2 && cat out/tables/*.md

montage: prepare  ## out/<suite>/montage.png: the prepared images and targets, to be looked at
	@for suite in $(SUITES); do python -m pipeline.prepare montage $$suite || exit 2; done

dag: $(READY)  ## draw the stages
	@dvc dag --collapse-foreach-matrix
plan: $(READY)  ## what would rerun and why, hours, bytes; runs nothing
	@python -m pipeline.plan

bench: $(READY)  ## check every kernel, then time it beside eager torch and torch.compile
	@python -m kernels.bench
bench-step: $(READY)  ## time a training step beside the released recipe's, with peaks of memory
	@python -m pipeline.bench.step
bench-consistency: $(READY)  ## what consistency's losses add to a step, beside its convolutions
	@python -m pipeline.bench.consistency
bench-store: $(READY)  ## write and read the feature store beside the disk and memory it stands on
	@python -m pipeline.bench.store
kernels: $(READY)  ## compile every kernel for sm_80, sm_90 and sm_100, no GPU needed; a spill fails
	@python -m kernels.compile
kernels-versions: $(READY)  ## the same with each Triton that is tried, installed under .work: a line a version
	@python -m kernels.versions

test: $(READY) lint  ## lint and the fast tests
	@python -m pytest -n logical --maxprocesses 4 --dist worksteal
test-slow: $(READY)  ## the tests that train for minutes, and the whole toy
	@python -m pytest -m slow
test-lower-bounds: $(LOWEST)/ready  ## the fast tests with pyproject.toml's oldest packages, in their own environment
	@PATH=$(CURDIR)/$(LOWEST)/bin:$$PATH python -m pytest -n logical --maxprocesses 4 --dist worksteal
$(LOWEST)/ready: pyproject.toml tests/lower_bounds.py
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(PYTHON) tests/lower_bounds.py pyproject.toml > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt \
	    --editable '.[dev]'
	@touch $@
lint: $(READY)  ## ruff
	@ruff check

clean:  ## remove unfinished runs and cached features; results and the environment stay
	rm -rf .work
