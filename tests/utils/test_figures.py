"""A picture is shown by a notebook, and says what it needs."""

import sys

import pytest

from keras_fitnets.utils import figures


def test_a_notebook_shows_it_without_pyplot():
    figure = figures.create_figure(2.0, 1.5)
    figure.subplots().plot([1, 2])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert tuple(figure.get_size_inches()) == (2.0, 1.5)


def test_without_matplotlib_it_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        figures.create_figure(2.0, 1.5)
