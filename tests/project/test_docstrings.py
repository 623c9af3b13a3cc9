"""Every public name is documented, and every example in a docstring runs."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import keras_fitnets

# What they import may not be installed.
OTHER_BACKENDS = ("keras_fitnets.backend.jax", "keras_fitnets.backend.torch")
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(keras_fitnets.__path__, "keras_fitnets.")
    if module.name not in OTHER_BACKENDS
]
EXAMPLES = [
    example
    for module in MODULES
    for example in doctest.DocTestFinder().find(module)
    if example.examples
]


def public_objects():
    """Classes and functions that users meet, by the name they meet them under."""
    for module in (keras_fitnets, *MODULES):
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield pytest.param(value, id=f"{module.__name__}.{name}")


def test_the_package_lists_its_public_names():
    assert keras_fitnets.__all__ == sorted(keras_fitnets.__all__)
    assert all(hasattr(keras_fitnets, name) for name in keras_fitnets.__all__)


@pytest.mark.parametrize("value", list(public_objects()))
def test_a_public_name_is_documented_with_an_example(value):
    documentation = inspect.getdoc(value) or ""
    first, _, detail = documentation.partition("\n")
    assert first.endswith("."), "the first line is one sentence"
    assert "Example" in detail and ">>>" in detail, "there is an Example"
    if inspect.signature(value).parameters:
        assert "Args:" in detail, "there is a list of arguments"


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
@pytest.mark.usefixtures("eager")
def test_an_example_prints_what_it_says(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report = []
    doctest.DocTestRunner(optionflags=flags).run(example, out=report.append)
    assert not report, "".join(report)
