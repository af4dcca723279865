# The menu. `make help` lists it. Every target sets up what it needs first.

PYTHON  ?= python3
DATASET ?= glyphs
RESULTS ?= results
REPORT  ?= reports/latest
UV      := 0.13.9

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready

comma := ,
run_options = --dataset $(DATASET) --results $(RESULTS) \
  $(if $(PROTOCOL),--protocol $(PROTOCOL)) $(if $(METHODS),--methods $(METHODS)) \
  $(if $(SEEDS),--seeds $(SEEDS)) $(if $(DATA),--data $(DATA)) \
  $(if $(WORKERS),--workers $(WORKERS)) $(if $(INCLUDE),--include $(INCLUDE)) $(if $(BUDGET),--budget $(BUDGET))

.DEFAULT_GOAL := help
.PHONY: help setup bench tune report check test test-long lint types reference parity docs perf lock clean

help: ## show this menu
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  options of bench: DATASET=glyphs DATA=dir PROTOCOL=name METHODS=a,b SEEDS=0,1 RESULTS=dir WORKERS=n INCLUDE=path BUDGET=share"

setup: $(READY) ## virtual environment with pinned packages

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bench needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

bench: $(READY) ## run the default methods (METHODS=all: every one) on DATASET, then write the report
	@status=0; $(BIN)/bench run $(run_options) || status=$$?; \
	if [ $$status -le 1 ]; then $(BIN)/bench report --html --results $(RESULTS) --out $(REPORT) || status=$$?; fi; \
	exit $$status

tune: $(READY) ## search hyper-parameters of METHODS under PROTOCOL, run the winners, then write the report
	@status=0; $(BIN)/bench tune $(filter-out --seeds $(SEEDS),$(run_options)) || status=$$?; \
	if [ $$status -le 1 ]; then $(BIN)/bench report --html --results $(RESULTS) --out $(REPORT) || status=$$?; fi; \
	exit $$status

report: $(READY) ## write REPORT/index.html from the records in RESULTS
	$(BIN)/bench report --html --results $(RESULTS) --out $(REPORT)

check: $(READY) ## tiny regression check of every method against the committed baseline
	$(BIN)/bench check

test: $(READY) ## the test suite
	$(BIN)/python -m pytest -n auto -m "not long"

test-long: $(READY) ## the test suite with its long tests
	$(BIN)/python -m pytest -n auto

lint: $(READY) ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## types, strictly
	$(BIN)/mypy

reference: $(READY) ## train every method on glyphs, posed glyphs and, with DATA, cars196; renew the docs tables
	$(BIN)/bench run --results $(RESULTS) --methods all
	$(BIN)/bench run --results $(RESULTS) --methods log_ratio,triplet_dense,triplet_binary,untrained,multi_similarity --dataset posed_glyphs
	$(if $(DATA),$(BIN)/bench run --results $(RESULTS) --methods all --dataset cars196 --protocol frozen-trunk --data $(DATA))
	$(BIN)/python -m bench.reference $(RESULTS)

docs: $(READY) ## regenerate the generated pages under docs/
	$(BIN)/python -m bench.docs

parity: $(READY) ## compare with the stored numbers of official code, renew results/reference/parity.json
	$(BIN)/python -m pytest tests -n auto -m parity --parity-report results/reference/parity.json

perf: $(READY) ## speed beside what a user would use instead, in one run
	$(BIN)/python -m tests.perf

lock: $(READY) ## renew the pinned packages from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	  --all-extras --output-file requirements.lock pyproject.toml

clean: ## remove the environment and what tools leave; results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
