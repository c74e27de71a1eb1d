# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench weights clean

demo: $(STAMP) weights
	$(BIN)/parity run experiment=demo

test: $(STAMP) chromium weights lint
	@# One process per core and one thread each: small tensors do not fill two cores.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The weights of LPIPS, once for this user; where they cannot be had, the demo says that LPIPS is unscored.
weights: $(STAMP)
	-$(BIN)/parity fetch lpips

# Compares, measures, and writes tests/benchmarks/RESULTS.md; best on a machine with nothing else to do.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python tests/benchmarks/bench.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The report's page is tested in a real browser: Debian's package, installed only where it is missing.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium)

clean:
	rm -rf $(VENV) build dist *.egg-info
