# venv: everything the other targets start from. EXTRAS=cuda12 (or cuda13, tpu) adds an accelerator.
PYTHON ?= python3
EXTRAS ?= test,lint
DEMO ?= runs/digits
DEMO_TEXT ?= runs/scenes
VENV := .venv
BIN := $(VENV)/bin
# Another Python begins with an empty environment.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STAMP := $(VENV)/.installed-$(VERSION)
OLDEST := .venv-oldest

GUIDED_DIFFUSION ?= $(VENV)/guided-diffusion
GUIDED_DIFFUSION_COMMIT := 22e0df8183507e13a7813f8d38d51b072ca1e67c

.PHONY: help venv demo demo-text test test-all test-optimised test-oldest test-tpu-plan test-parity lint

help:
	@echo 'make demo   set up, train on real digits, sample with guidance, score a sweep over w'
	@echo 'make demo-text   set up, train an autoencoder and text to image in its latents, score over w'
	@echo 'make test   set up, run the test suite'
	@echo 'make test-all   the same, and the walks that are slow by nature'
	@echo 'make test-optimised   the same, compiled as users compile; takes twice as long'
	@echo 'make test-oldest   the test suite with the oldest versions that setup.cfg allows'
	@echo 'make test-tpu-plan   compile for TPUs that are not there; installs libtpu (205 MB)'
	@echo 'make test-parity   compare with other projects; installs torch, fetches their code'
	@echo 'make lint   style, types, and the order of the rooms'
	@echo 'make venv   set up only: $(VENV), from the tested versions in constraints.txt'

venv: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "cfg_jax needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $$(test -x $(BIN)/python$(VERSION) || echo --clear) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: venv
	$(BIN)/python -m cfg_jax train --config configs/digits.py --workdir $(DEMO)
	$(BIN)/python -m cfg_jax sample --workdir $(DEMO) --w 1 --out $(DEMO)/samples.png
	$(BIN)/python -m cfg_jax evaluate --workdir $(DEMO) --w 0,0.1,0.3,1,4
	@echo 'Look at $(DEMO)/samples.png and $(DEMO)/evaluation/: report.md, tradeoff.png, samples_by_w.png'

demo-text: venv
	$(BIN)/python -m cfg_jax train --config configs/scenes_codec.py \
	  --workdir $(DEMO_TEXT)_codec --config.train.steps=1000
	$(BIN)/python -m cfg_jax train --config configs/scenes.py --workdir $(DEMO_TEXT) \
	  --config.codec.run=$(DEMO_TEXT)_codec --config.train.steps=4400
	$(BIN)/python -m cfg_jax sample --workdir $(DEMO_TEXT) --w 3 --per-label 8 \
	  --prompt 'a red three left of a blue seven' --out $(DEMO_TEXT)/samples.png
	$(BIN)/python -m cfg_jax evaluate --workdir $(DEMO_TEXT) --w 0,1,3
	@echo 'Look at $(DEMO_TEXT)/samples.png and $(DEMO_TEXT)/evaluation/: report.md, accuracy.png, samples_by_w.png'

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: venv
	$(PYTEST) -m 'not slow'

test-all: venv
	$(PYTEST)

test-optimised: export CFG_JAX_TEST_OPTIMISED = 1
test-optimised: test-all

test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python \
	  --resolution lowest-direct --editable '.[test]'
	$(OLDEST)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-tpu-plan: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[tpu-plan]'
	$(BIN)/python -m pytest -m tpu_compiler

test-parity: venv $(GUIDED_DIFFUSION)/setup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[parity]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps torch-fidelity==0.4.0 pytorch-fid==0.3.0
	GUIDED_DIFFUSION=$(GUIDED_DIFFUSION) $(BIN)/python -m pytest -m 'guided_diffusion or parity'

$(GUIDED_DIFFUSION)/setup.py:
	git init --quiet $(@D)
	git -C $(@D) fetch --quiet --depth 1 \
	  https://github.com/openai/guided-diffusion $(GUIDED_DIFFUSION_COMMIT)
	git -C $(@D) checkout --quiet FETCH_HEAD

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck --external-sources $$(find experiments -name '*.sh') .ci/run
