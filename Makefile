# `make test` and `make demo` set up all they need in .venv; a torch that the active python has is kept.
.DELETE_ON_ERROR:
.PHONY: test lint types unit format demo train clean

PYTHON ?= python3
RUN := .venv/bin/python
READY := .venv/ready

test: lint types unit

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(READY)
	$(RUN) -m mypy

unit: $(READY)
	$(RUN) -m pytest -q -n 2 -m "not gpu and not slow and not nightly"

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

demo: $(READY)
	$(RUN) examples/demo.py

train: $(READY)
	$(RUN) examples/train_lm.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt .ci/setup
	PYTHON="$(PYTHON)" .ci/setup .venv
	touch $@
