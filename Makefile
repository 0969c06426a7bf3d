# make tiny: a base model, then GRPO, on this machine.   make test: set-up (if needed), lint, tests.
PYTHON ?= python3
PY := .venv/bin/python
CONFIG ?= tiny

.PHONY: tiny test lint bench setup clean

tiny: .venv/dev
	$(PY) grpo.py --config tiny
	@echo "pictures: out/tiny/grpo/curves.png   samples: out/tiny/grpo/samples.jsonl"

test: lint
	$(PY) -m pytest

bench: .venv/oracles
	$(PY) bench.py

lint: .venv/dev
	$(PY) -m ruff check .

setup: .venv/dev

.venv/dev: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -r requirements.txt
	$(PY) -m pip install -q -r requirements-dev.txt
	touch $@

# the heavy oracles (trl, math-verify); without them a few tests are skipped and say so
.venv/oracles: .venv/dev requirements-oracles.txt
	$(PY) -m pip install -q -r requirements-oracles.txt
	touch $@

clean:
	rm -rf .venv out
