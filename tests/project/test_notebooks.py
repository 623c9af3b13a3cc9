"""Each notebook is what its text says, was run as it stands, and runs."""

import re

import jupytext
import nbformat
import notebooks
import pytest

SHORT = {
    "quickstart": "TEACHER_EPOCHS, HINT_EPOCHS, KD_EPOCHS = 10, 10, 20",
    "search": "TEACHER_EPOCHS, HINT_EPOCHS, EPOCHS, TRIALS = 2, 1, 1, 3",
    "hints": "TEACHER_EPOCHS, HINT_EPOCHS, KD_EPOCHS = 1, 1, 2",
}


def committed(name):
    return nbformat.read(notebooks.EXAMPLES / f"{name}.ipynb", as_version=4)


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def check(notebook):
    """It was run in order, shows a picture and figures, and complains of nothing."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = outputs_of(notebook)
    assert not [o for o in outputs if o.output_type == "error"]
    told = [o.text for o in outputs if o.get("name") == "stderr"]
    # A student as thin as these is smaller than its regressor, which is told once.
    assert all(text.startswith("WARNING:keras_fitnets:The regressor") for text in told)
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert any("%" in o.get("text", "") for o in outputs)


def test_every_notebook_is_tested():
    assert {path.stem for path in notebooks.EXAMPLES.glob("*.ipynb")} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_notebook_and_text_are_a_pair(name):
    text = jupytext.read(notebooks.EXAMPLES / f"{name}.py")
    found = committed(name)
    nbformat.validate(found)
    cells = [(cell.cell_type, cell.source) for cell in found.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in text.cells]


@pytest.mark.parametrize("name", SHORT)
def test_it_was_run_from_its_top_to_its_end(name):
    found = committed(name)
    check(found)
    shown = str([o.get("text", "") for o in outputs_of(found)])
    assert "/home/" not in shown and "/tmp/" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_it_runs_in_a_short_setting(name, tmp_path):
    found = committed(name)
    [parameters] = [
        c for c in found.cells if "parameters" in c.metadata.get("tags", [])
    ]
    assert SHORT[name].startswith(parameters.source.split("=")[0] + "= ")
    parameters.source = SHORT[name]
    check(notebooks.run(found, tmp_path))
    if name == "quickstart":
        *_, last = outputs_of(found)
        header, *rows = [re.split(r"  +", row) for row in last.text.splitlines()]
        teacher, student = [dict(zip(header, row, strict=True)) for row in rows]
        assert (teacher[""], teacher["parameters"]) == ("teacher", "85,002")
        assert (student[""], student["parameters"]) == ("student", "3,610 (23.5×)")
        assert float(student["accuracy, %"]) > 85
