# PYTHON is the first of these that is Python 3.10 to 3.13.
PYTHON ?= $(shell for python in python3 python3.12 python3.13 python3.11 python3.10 python; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
	>/dev/null 2>&1 && echo $$python && break; done)
BIN := .venv/bin
LOWEST := .venv-lowest/bin

.PHONY: demo test test-lowest check docs format notebooks clean

demo: .venv/installed
	$(BIN)/python examples/digits.py

test: check
	$(BIN)/python -m pytest

test-lowest: .venv-lowest/installed
	$(LOWEST)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs site

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: .venv/installed
	$(BIN)/python tests/notebooks.py quickstart search hints

clean:
	rm -rf .venv .venv-lowest dist site

# An old pip does not come to an end resolving tensorflow-datasets on Python 3.10.
%/installed: setup.py requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 is needed; name it: make PYTHON=..." >&2; exit 1; }
	@echo "Installing TensorFlow and Keras into $*; this takes some minutes, once."
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --upgrade pip
	: > $*/constraints.txt
	$(if $(findstring lowest,$*),sed -n 's/>=/==/p' requirements.txt > $*/constraints.txt)
	$*/bin/python -m pip install --constraint $*/constraints.txt --editable '.[dev]'
	touch $@
