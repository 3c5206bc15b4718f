# The door to everything. CI calls the same targets.
#
#   make demo    a whole fleet on this machine, from nothing to an answer
#   make test    every test that is quick            make test-long   the ones that take minutes
#   make check   style, types, rules, generated docs make docs        write the generated docs
#   make up      a fleet that stays                  make bench, make soak
#   make bench-wasm   the compiler against torch, onnxruntime and onnxruntime-web (node, npm)
#   make bench-data   telemetry, stores, sync, residency; docs/benchmarks-data.md says what came out
#   make bench-federated   learning together: aggregation, pFedMe, liars, Flower beside it (half an hour)
#
# PYTHON=python3.12 make ... chooses the interpreter of a new environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.for-running
DEV := $(VENV)/.for-developing
BENCH := $(VENV)/.for-benchmarking
FLOWER := .venv-flower/.for-benchmarking
WEB := benchmarks/wasm/node_modules/.package-lock.json

.PHONY: help venv venv-dev demo up test test-long check docs bench bench-wasm bench-federated bench-data soak clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '1,2d;/^$$/q'

# One environment. Running needs the devices and the cloud; developing adds the compiler and the tools.
# The stamps are newer than pyproject.toml once its dependencies are installed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Shoal needs Python 3.11 or newer: PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "install python3-venv (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(RUN) $(DEV)

$(RUN): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[edge,cloud]'
	@touch $(RUN)

$(BENCH): pyproject.toml $(DEV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $(BENCH)

# Without npm the table has a row that says so.
$(WEB): benchmarks/wasm/package.json benchmarks/wasm/package-lock.json
	@if command -v npm >/dev/null; then cd benchmarks/wasm && npm ci --no-audit --no-fund --ignore-scripts && touch node_modules/.package-lock.json; \
	else echo "npm is missing: onnxruntime-web is not measured (Debian: apt-get install npm)" >&2; fi

venv: $(RUN)
venv-dev: $(DEV)

demo: $(RUN)
	$(BIN)/shoal demo

up: $(RUN)
	$(BIN)/shoal up

test: $(DEV)
	$(BIN)/pytest -n 3 --dist loadfile

test-long: $(DEV)
	$(BIN)/pytest -m long

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check

docs: $(DEV)
	$(BIN)/python -m docs.generate

bench: $(DEV)
	$(BIN)/python -m benchmarks

# make bench-wasm BENCH_WASM="--models mlp cnn --rounds 3"
bench-wasm: $(BENCH) $(WEB)
	$(BIN)/python -m benchmarks.bench_wasm $(BENCH_WASM)

# Flower pins versions of its own, so it has an environment of its own.
$(FLOWER): benchmarks/federated/flower/requirements.txt
	$(PYTHON) -m venv .venv-flower
	.venv-flower/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/federated/flower/requirements.txt
	@touch $(FLOWER)

# make bench-federated BENCH_FEDERATED="--only aggregation robust"
bench-federated: $(DEV) $(FLOWER)
	$(BIN)/python -m benchmarks.federated $(BENCH_FEDERATED)

# make bench-data BENCH_DATA="--only ingest desired"
bench-data: $(DEV)
	$(BIN)/python -m benchmarks.data $(BENCH_DATA)

soak: $(DEV)
	$(BIN)/python -m benchmarks.soak

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
