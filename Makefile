# run: the whole ring on MovieLens, then serve until Ctrl-C      run-once: the same, ask three questions, end
# test: the suite but for test-slow, which takes minutes a test      check: style, types, import rules
PYTHON ?= python3
STORAGE ?= $(HOME)/rayline
SPEC := jobs/specs/recommender.yaml
BIN := .venv/bin
RING := $(BIN)/python -m jobs.pipeline $(SPEC) storage=$(STORAGE) $(ARGS)
SERVE := $(BIN)/python -m serving.app $(SPEC) storage=$(STORAGE) $(ARGS)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: run run-once test test-cluster test-local test-slow check

run: .venv/demo
	$(BIN)/python -m jobs.movielens $(STORAGE)
	$(BIN)/python -m cluster run -- sh -c '$(RING) && exec $(SERVE)'

run-once: .venv/demo
	$(BIN)/python -m jobs.movielens $(STORAGE)
	$(BIN)/python -m cluster run -- sh -c '$(RING) && exec $(SERVE) --once'

# Two halves side by side: what needs a cluster waits much of its time. A test that fails there is tried once more:
# most start processes, and a machine this busy may lose a race; the end tells which had a second try, and why.
test: .venv/test
	$(MAKE) --jobs=2 test-cluster test-local PYTEST='$(PYTEST) --reruns 1 --rerun-show-tracebacks -raR'

test-cluster test-local test-slow: .venv/test
test-cluster:
	$(PYTEST) -m 'ray and not slow'
test-local:
	$(PYTEST) -m 'not ray'

test-slow:
	$(PYTEST) -m slow

check: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

.venv/test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[demo,test,dev]'
	touch $@ .venv/demo
