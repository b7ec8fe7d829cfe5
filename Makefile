# Two commands do everything from a fresh clone: `make demo` and `make test`. They need python3, make and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo smoke test lint types pytest clean

demo: $(VENV)/ready
	$(BIN)/pldistill demo

smoke: $(VENV)/ready
	rm -rf runs/demo-smoke
	$(BIN)/pldistill demo --smoke

test: lint types pytest

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/pyright --pythonpath $(BIN)/python

pytest: $(VENV)/ready
	$(BIN)/python -m pytest

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
