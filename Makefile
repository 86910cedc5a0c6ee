# Every target works in a fresh checkout: the first one run creates .venv and installs into it.
# PYTHON names the interpreter to create it with (3.11 or newer). constraints.txt pins the tested set.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready
# One thread a process: pytest runs several processes, and on small machines torch with more threads is
# 20 times slower when they compete (measured: digits training 245 s instead of 5 s).
export OMP_NUM_THREADS := 1

.PHONY: demo test test-slow lint types unit

demo: $(READY)
	$(BIN)/python tools/demo.py

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/python tools/check_types.py

# A process pool a folder: one pool for all of them grew to 22 GB (onnxruntime, torch and numba keep what they
# allocate) and was killed. Exit 5 is a folder without a test of the kind.
SUITES = tests/test_layout.py tests/test_layering.py $(sort $(filter-out tests/__pycache__/,$(wildcard tests/*/)))
define run_suites
@set -e; for suite in $(SUITES); do echo "$$suite"; \
  $(BIN)/python -m pytest -q -m "$(1)" -n $(WORKERS) --dist loadfile $$suite || [ $$? -eq 5 ]; done
endef

unit: $(READY)
	$(call run_suites,not slow)

test-slow: $(READY)
	$(call run_suites,slow)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    && $(PYTHON) -m venv .venv; } \
	  || { echo "cimc needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,dev]'
	touch $(READY)
