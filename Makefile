# make demo   harden a trained network and run it with and without the custom-op library
# make test   run the tests, a file at a time on each core
# make lint   check style and types
# make bench  measure what the CPU can show, on a quiet machine: half an hour; ARGS=--write keeps it
# Each sets up what it needs in .venv.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml constraints.txt $(shell find onnxfit custom_ops -type f -not -name '*.pyc')

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/python examples/demo.py

test: .venv/installed
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: .venv/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python benchmarks/latency.py compiled $(ARGS)
	$(BIN)/python benchmarks/latency.py plain --batch 1 $(ARGS)
	$(BIN)/python benchmarks/cpu_kernel.py $(ARGS)

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'onnxfit needs Python 3.11 or newer; name one: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/pip $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt '.[all]'
	touch $@

.venv/linters: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt ruff mypy
	touch $@

clean:
	rm -rf .venv build dist
