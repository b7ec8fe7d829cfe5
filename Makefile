# Two commands do everything from a fresh clone: `make demo` and `make test`. They need python3, make and git.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin

.PHONY: demo smoke test lint types pytest soak release clean

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

# A process a core, and in each a thread of torch: half the time of one process with all of them.
pytest: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

# Kills, damage and nonsense at random, with counts; not a part of `make test`. SOAK="--kills 1000" for more, FAULTS="--every 7" for less.
soak: $(VENV)/ready
	$(BIN)/python benchmarks/soak.py $(SOAK)
	$(BIN)/python benchmarks/faults.py $(FAULTS)

# Builds and checks both distributions, and publishes nothing. The build takes its setuptools from a package index.
release:
	$(PYTHON) -m venv $(VENV)/release
	$(VENV)/release/bin/python -m pip install --quiet --disable-pip-version-check 'build>=1.2' 'twine>=6.1'
	rm -rf build dist
	$(VENV)/release/bin/python -m build
	$(VENV)/release/bin/python -m twine check --strict dist/*
	for part in tests docs examples; do \
		tar -tzf dist/pldistill-*.tar.gz | grep "^[^/]*/$$part/" > /dev/null || { echo "no $$part in the sdist"; exit 1; }; \
	done
	ls -l dist

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
