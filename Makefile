# attlas: `make demo` on a fresh machine with python3 and make is all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv demo test test-slow test-gpu docs bench-smoke lint types format check clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

venv: $(STAMP)  ## make the virtual environment and install everything

# torch goes first and by its exact version, so that no other package pulls a larger build of it
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[s3,test,dev]'
	touch $@

demo: venv  ## capture the embedded model, name its heads, show a row
	$(BIN)/attlas demo

test: venv  ## the test suite, and every docstring example
	$(BIN)/python -m pytest --doctest-modules attlas
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: venv  ## tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: venv  ## tests that need a GPU
	$(BIN)/python -m pytest -m gpu

docs: venv  ## the API reference, from docstrings, into build/reference
	$(BIN)/python scripts/reference.py

bench-smoke: venv  ## has anything become slower? ratios against the recorded ones
	$(BIN)/python benchmarks/smoke.py

lint: venv  ## ruff, rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv  ## mypy, strict
	$(BIN)/mypy

format: venv  ## put the code into the format that `make lint` asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types docs test  ## all that CI runs

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
