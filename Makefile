# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# An environment with the oldest Diffusers that a variant's `python` may have; torch and the rest are
# this one's.
OLDER := .venv-older
OLDER_STAMP := $(OLDER)/.installed
OLDEST := diffusers==0.31.0 transformers==4.48.3 tokenizers==0.21.0 huggingface_hub==0.27.1

.PHONY: demo test older lint bench selftest weights clean

demo: $(STAMP) weights
	$(BIN)/parity run experiment=demo

test: $(STAMP) older chromium weights lint
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

# Planted faults and harmless changes through the whole procedure; about 20 of each, the rest by hand.
selftest: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.selftest --sample 20

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

older: $(OLDER_STAMP)

$(OLDER_STAMP): $(STAMP) Makefile
	rm -rf $(OLDER)
	$(BIN)/python -m venv --without-pip $(OLDER)
	$(BIN)/python -m pip install --quiet --no-deps --target $(OLDER)/packages $(OLDEST)
	folder='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	printf '%s\n' "$(abspath $(OLDER))/packages" "$$($(BIN)/python -c "$$folder")" \
		> "$$($(OLDER)/bin/python -c "$$folder")/older.pth"
	touch $@

# The report's page is tested in a real browser: Debian's package, installed only where it is missing.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium)

clean:
	rm -rf $(VENV) $(OLDER) build dist *.egg-info
