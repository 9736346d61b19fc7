# make run: set-up and the default study.  make test: set-up and the tests.  make help lists the rest.
PYTHON ?= python3
CORES ?= all
STUDY ?= config.yaml
TARGET ?= all
OUT ?= results/gpu
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ncpipe-installed
DEVELOP := $(VENV)/.ncpipe-develop
INSTALL := $(BIN)/python .ci/packages.py install
COMPILE = $(BIN)/python .ci/packages.py compile --no-header --no-annotate $(UPGRADE) pyproject.toml
# By file, whose fixtures are made once. In the order of the files: by their number of tests the dearest would come last.
TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25

.DEFAULT_GOAL := help
.PHONY: help setup develop run test test-all test-slurm test-kubernetes test-faults lint format fuzz bench docs gpu audit ui lock

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18
	@echo 'With snakemake itself a target stands before --configfile: snakemake --cores all figures --configfile FILE'

setup: $(SETUP)  ## create .venv with the locked versions of what studies need
develop: $(DEVELOP)  ## and of what tests, checks and clusters without a shared folder need

$(SETUP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ncpipe needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "set-up 1/3: $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV)
	@echo "set-up 2/3: $$(wc -l < requirements.lock) packages of requirements.lock, 1.5 GB on disk"
	@$(INSTALL) --requirement requirements.lock
	@echo "set-up 3/3: ncpipe itself"
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m ncpipe.system.vision  # beside a CPU build of torch
	@touch $(SETUP)

$(DEVELOP): $(SETUP) requirements-dev.lock
	@echo "set-up: tools of requirements-dev.lock, 0.4 GB more"
	@$(INSTALL) --requirement requirements-dev.lock
	@touch $(DEVELOP)

# A target stands before --configfile, which takes all that follows for config files.
run: setup  ## run TARGET (all; models, tables, figures, report) of the study STUDY (config.yaml) on CORES (all) cores
	$(BIN)/snakemake --cores $(CORES) $(TARGET) --configfile $(STUDY)

test: develop  ## run the tests, but for the dear ones, and print what takes longest
	$(BIN)/python -m pytest $(TWO)

test-all: develop  ## run these and the dear ones, with all cases of those that are drawn
	$(BIN)/python -m pytest $(TWO) \
	  -m 'not slurm and not kubernetes and not faults and not audit'

test-slurm: develop  ## run a study on a SLURM cluster on this machine (as root)
	$(BIN)/python -m pytest -m slurm tests/slurm

test-kubernetes: develop  ## run a study on pods without a shared folder, over an object store
	$(BIN)/python -m pytest -m kubernetes tests/kubernetes

test-faults: develop  ## break a small study in every way and see it recover (an hour; FAULTS_TABLE=FILE keeps the table)
	$(BIN)/python -m pytest tests/faults -m faults

lint: develop  ## check style, types and workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow ncpipe/cli/template/Snakefile
	$(BIN)/snakemake --lint
	$(BIN)/hadolint workflow/Containerfile

format: develop  ## format code and workflow, write the schema and what the docs lack
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow ncpipe/cli/template/Snakefile
	$(BIN)/ncpipe schema workflow/schemas/study.schema.json
	$(BIN)/python docs/reference.py

fuzz: develop  ## run 10,000 cases of bad input and count their outcomes
	PYTHONPATH=tests $(BIN)/python -m fuzz

bench: develop  ## print speed ratios against named baselines
	$(BIN)/python benchmarks/collapse.py
	$(BIN)/python benchmarks/measuring_share.py
	$(BIN)/python benchmarks/ufm.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/mirror.py --problems 1000

docs: develop  ## build the documentation site into docs/_site; a warning is an error
	@$(PYTHON) -m venv .venv/docs && .venv/docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	PYTHONPATH=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	.venv/docs/bin/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_site

gpu: develop  ## on a machine with a GPU: its tests, then all figures of docs/gpu.md into OUT (results/gpu), eight minutes
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m benchmarks.gpu $(OUT)

audit: develop  ## look for licences and known vulnerabilities of the locked packages, and for secrets that leak
	@$(PYTHON) -m venv .venv/audit && .venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit || true
	$(BIN)/python docs/audit.py .venv/audit/bin/pip-audit
	$(BIN)/python -m pytest -m audit

ui: setup  ## open the MLflow UI on the results of STUDY
	$(BIN)/ncpipe ui $(STUDY)

lock: develop  ## write both locks from pyproject.toml, with the versions that they have (UPGRADE=--upgrade: the newest)
	printf 'uv\nsetuptools>=77\n' | $(COMPILE) --extra pipeline --output-file requirements.lock - > /dev/null
	$(COMPILE) --extra kubernetes --extra dev requirements.lock --output-file requirements-dev.lock > /dev/null
	sed -i -E '/^(nvidia-|cuda-|triton=)/d; s/\+(cpu|cu[0-9]+)$$//' requirements.lock requirements-dev.lock  # CUDA's: torch names them
