# venv: everything the other targets start from. EXTRAS=cuda12 (or cuda13, tpu) adds an accelerator.
PYTHON ?= python3
EXTRAS ?= test,lint
DEMO ?= runs/digits
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv demo test test-tpu-plan lint

help:
	@echo 'make demo   set up, train on real digits, sample with guidance, score a sweep over w'
	@echo 'make test   set up, run the whole test suite'
	@echo 'make test-tpu-plan   compile for TPUs that are not there; installs libtpu (205 MB)'
	@echo 'make lint   style, types, and the order of the rooms'
	@echo 'make venv   set up only: $(VENV), from the tested versions in constraints.txt'

venv: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "cfg_jax needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: venv
	$(BIN)/python -m cfg_jax train --config configs/digits.py --workdir $(DEMO)
	$(BIN)/python -m cfg_jax sample --workdir $(DEMO) --w 1 --out $(DEMO)/samples.png
	$(BIN)/python -m cfg_jax evaluate --workdir $(DEMO) --w 0,0.1,0.3,1,4
	@echo 'Look at $(DEMO)/samples.png and $(DEMO)/evaluation/: report.md, tradeoff.png, samples_by_w.png'

test: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-tpu-plan: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[tpu-plan]'
	$(BIN)/python -m pytest -m tpu_compiler

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck --external-sources $$(find experiments -name '*.sh') .ci/run
