# make demo   environment, two simulated slides, the whole workflow, runs/demo/results/report.html
# make test   environment, all tests
# Everything else: make help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
CORES  ?= 2
SNAKEMAKE = PATH="$(BIN):$$PATH" snakemake --snakefile workflow/Snakefile --cores $(CORES)
READY  := $(VENV)/.ready
PLANTED_TRAIN = planted_1 planted_2 planted_3 planted_4
PLANTED_TEST  = planted_5

.PHONY: help env demo real planted study test lint stress clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

env: $(READY)  ## the Python environment, from the pinned versions

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "spatia needs Python 3.11 - 3.13 (found $$($(PYTHON) -V)); set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)  ## two simulated slides through the whole workflow
	$(SNAKEMAKE) --directory runs/demo --configfile config/demo/config.yaml
	@echo "open runs/demo/results/report.html"

real: $(READY)  ## real slides: make real DATA=folder that holds the bundles of config/real/slides.tsv
	@test -n "$(DATA)" || { echo "make real DATA=DIR: DIR is the folder that holds the bundles" >&2; exit 2; }
	$(SNAKEMAKE) --directory runs/real --configfile config/real/config.yaml --config bundles="$(abspath $(DATA))"
	@echo "open runs/real/results/report.html"

planted: $(READY)  ## five simulated donors: what embeddings and generated cells find of what was planted
	$(SNAKEMAKE) --directory runs/planted --configfile config/planted/config.yaml
	$(BIN)/python benchmarks/counterfactuals.py --run runs/planted --slide $(PLANTED_TEST) --generated runs/planted/results/generate/$(PLANTED_TEST)/generated
	$(BIN)/python benchmarks/spatial_conditioning.py runs/planted --train $(PLANTED_TRAIN) --test $(PLANTED_TEST)
	$(BIN)/python benchmarks/planted_classes.py runs/planted --train $(PLANTED_TRAIN) --test $(PLANTED_TEST)

study: $(READY)  ## a study after make real: make study STUDY=ablation DATA=folder of the bundles
	@test -n "$(STUDY)" -a -n "$(DATA)" || { echo "make study STUDY=NAME DATA=DIR: a file of config/studies, the bundles" >&2; exit 2; }
	mkdir -p runs/study/$(STUDY)
	PATH="$(BIN):$$PATH" snakemake --snakefile workflow/studies/Snakefile --cores $(CORES) --directory runs/study/$(STUDY) \
	  --rerun-incomplete --config study="$(STUDY)" bundles="$(abspath $(DATA))"
	@cat runs/study/$(STUDY)/table.md

test: $(READY)  ## all tests
	PATH="$(BIN):$$PATH" $(BIN)/python -m pytest --numprocesses $(CORES) --dist loadfile

lint: $(READY)  ## ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflow
	PATH="$(BIN):$$PATH" snakemake --snakefile workflow/Snakefile --lint

stress: $(READY)  ## kill the workflow 20 times at random moments
	SPATIA_KILLS=20 PATH="$(BIN):$$PATH" $(BIN)/python -m pytest tests/test_workflow.py -k killed -s

clean:  ## remove the demo and the environment
	rm -rf runs/demo $(VENV)
