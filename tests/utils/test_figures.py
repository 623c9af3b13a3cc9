"""A figure is displayed by a notebook, and its error says how to install Matplotlib."""

import pickle
import subprocess
import sys

import pytest

from keras_fitnets.utils import figures


def test_a_notebook_displays_a_figure_without_pyplot():
    figure = figures.create_figure(2.0, 1.5)
    figure.subplots().plot([1, 2])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert tuple(figure.get_size_inches()) == (2.0, 1.5)


def test_a_figure_can_be_pickled():
    figure = figures.create_figure(2.0, 1.5)
    figure.subplots().plot([1, 2])
    copy = pickle.loads(pickle.dumps(figure))
    assert copy._repr_png_() == figure._repr_png_()


def test_a_figure_is_saved_where_there_is_a_path(tmp_path):
    figure = figures.create_figure(2.0, 1.5)
    assert figures.save_figure(figure, None) is figure
    assert figures.save_figure(figure, tmp_path / "a.png") is figure
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_module_is_imported_without_matplotlib():
    program = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('f', sys.argv"
        "[1]); s.loader.exec_module(u.module_from_spec(s)); "
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, figures.__file__], check=True)


def test_without_matplotlib_the_error_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        figures.create_figure(2.0, 1.5)
