# PYTHON is the first of these that is Python 3.10 to 3.13.
PYTHON ?= $(shell for python in python3 python3.12 python3.13 python3.11 python3.10 python; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
	>/dev/null 2>&1 && echo $$python && break; done)
BIN := .venv/bin
LOWEST := .venv-lowest/bin
# Tests of programs, pages and tools, of kills and of random input, for which the newest
# versions will do.
NEWEST := benchmarks docs examples fuzz notebooks readme release reliability studies
# The folders whose slow tests the lowest versions can fail where they pass the fast ones:
# checkpoints, files, strategies, XLA and the converters differ between versions.
LOWEST_SLOW := cache callbacks distillation distribution export training

# What a student goes through while it is trained, on Keras' other backends.
TRAINING := backends cache callbacks distillation inspection plots training tuning
# The release that the tests are run with: PyTorch for CPUs is not in every index.
TORCH := torch==2.13.0

.PHONY: demo test test-fast test-lowest test-jax test-torch coverage check docs wheel format notebooks clean

demo: .venv/installed
	$(BIN)/python examples/digits.py

test: check
	$(BIN)/python -m pytest

# All but the tests that are marked slow, for the time between two edits.
test-fast: .venv/installed
	$(BIN)/python -m pytest -m "not slow"

# Lines and branches that the tests run, in the processes that they start as well.
coverage: .venv/installed
	$(BIN)/python -m pytest --cov --cov-report=term --cov-report=json:coverage.json

test-lowest: .venv-lowest/installed
	$(LOWEST)/python -m pytest -m "not slow" $(NEWEST:%=--ignore tests/project/test_%.py)
	$(LOWEST)/python -m pytest -m slow $(LOWEST_SLOW:%=tests/%)

# Without what is for TensorFlow alone: see tests/left_out.py. The backends beside each
# other are run once.
test-jax test-torch: test-%: .venv/backends
	KERAS_BACKEND=$* $(BIN)/python -m pytest -m "not slow" $(TRAINING:%=tests/%) \
		tests/test_losses.py tests/test_layers.py
	KERAS_BACKEND=$* $(BIN)/python -m pytest -m slow tests/training \
		$(if $(findstring jax,$*),tests/backends)

.venv/backends: .venv/installed
	$(BIN)/python -m pip install --editable '.[jax]' $(TORCH)
	touch $@

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs site

# Installed where nothing else is, and used from another folder.
wheel: .venv/installed
	rm -rf build dist .venv-wheel
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet dist/*.whl
	cd / && $(CURDIR)/.venv-wheel/bin/python -I $(CURDIR)/tests/smoke.py

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: .venv/installed
	$(BIN)/python tests/project/notebooks.py quickstart search hints

clean:
	rm -rf .venv .venv-lowest .venv-wheel build dist site .coverage* coverage.json

# An old pip does not come to an end resolving tensorflow-datasets on Python 3.10.
%/installed: pyproject.toml requirements.txt setup.py
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 is needed; name it: make PYTHON=..." >&2; exit 1; }
	@echo "Installing TensorFlow and Keras into $*; this takes some minutes, once."
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --upgrade pip
	: > $*/constraints.txt
	$(if $(findstring lowest,$*),sed -n 's/>=/==/p' requirements.txt > $*/constraints.txt)
	$*/bin/python -m pip install --constraint $*/constraints.txt --editable '.[dev]'
	touch $@
