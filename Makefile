# Everything is installed into .venv/ in this folder (the servers of test-servers into .servers/); nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: quickstart quickstart-models test test-long test-servers lint bench docs-check docs clean

quickstart: .venv/run.stamp  ## the whole method on a tiny world, offline, in under 90 seconds after the install
	$(BIN)/ssd-run recipes/quickstart.yaml

quickstart-models: .venv/run.stamp  ## make the tiny teachers and student of the quickstart again
	$(BIN)/python recipes/quickstart/make_models.py

test: .venv/dev.stamp lint  ## what CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-long: .venv/dev.stamp  ## the nightly numbers of the fault tests, then the mutants of our own code
	$(BIN)/python -m pytest tests/faults --long --durations=0 --durations-min=1
	$(BIN)/python tests/faults/mutants.py

test-servers: .venv/dev.stamp  ## a real llama.cpp and a real vLLM, built into .servers/ (5 GB, once), up to 30 minutes
	tests/servers/install.sh .servers
	$(BIN)/python tests/servers/compare.py

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev.stamp  ## ratios against the plain way, measured side by side
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

docs-check: .venv/dev.stamp  ## run the commands of the README again and compare its output blocks
	$(BIN)/python -m pytest tests/test_docs.py

docs: .venv/dev.stamp  ## write the output of this machine into the README's blocks
	SSD_WRITE_DOCS=1 $(BIN)/python -m pytest tests/test_docs.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -c constraints.txt -e '.[local]'
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -c constraints.txt -e '.[local,reasoning-gym,dev]'
	$(PIP) install --no-deps text-generation==0.7.0
	touch $@ .venv/run.stamp
