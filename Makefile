# Every target works in a fresh checkout: the first one run creates .venv and installs into it.
# PYTHON names the interpreter to create it with (3.11 or newer). constraints.txt pins the tested set.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready
# One thread a process: pytest runs several processes, and on small machines torch with more threads is
# 20 times slower when they compete (measured: digits training 245 s instead of 5 s).
export OMP_NUM_THREADS := 1
# Byte code is kept where the environment says otherwise: tests start dozens of processes that load the package.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint types unit

demo: $(READY)
	$(BIN)/python tools/demo.py

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/python tools/check_types.py

# `slow` suites take minutes each: `make test-slow`.
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal tests

unit: $(READY)
	$(PYTEST) -m "not slow"

test-slow: $(READY)
	$(PYTEST) -m slow

$(READY): pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    && $(PYTHON) -m venv .venv; } \
	  || { echo "cimc needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,dev,viz,scale,gpu]'
	touch $(READY)
