"""Each notebook is what its text says, was run as it stands, and runs."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
SHORT = {
    "quickstart": "TEACHER_EPOCHS, HINT_EPOCHS, KD_EPOCHS = 10, 10, 20",
    "search": "TEACHER_EPOCHS, HINT_EPOCHS, EPOCHS, TRIALS = 2, 1, 1, 4",
    "hints": "TEACHER_EPOCHS, HINT_EPOCHS, KD_EPOCHS = 1, 1, 2",
}


def notebook(name):
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_notebook_and_text_are_a_pair(name):
    text = jupytext.read(EXAMPLES / f"{name}.py")
    cells = [(cell.cell_type, cell.source) for cell in notebook(name).cells]
    assert cells == [(cell.cell_type, cell.source) for cell in text.cells]


@pytest.mark.parametrize("name", SHORT)
def test_it_was_run_from_its_top_to_its_end(name):
    cells = [cell for cell in notebook(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    kinds = {output.output_type for output in outputs}
    assert "error" not in kinds
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "/home/" not in str(outputs) and "/work/" not in str(outputs)


@pytest.mark.parametrize("name", SHORT)
def test_it_runs_in_a_short_setting(name, tmp_path):
    found = notebook(name)
    [parameters] = [
        cell for cell in found.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    names = parameters.source.split(" = ")[0]
    assert SHORT[name].startswith(f"{names} = ")
    parameters.source = SHORT[name]
    for cell in found.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(
        found, timeout=300, resources={"metadata": {"path": tmp_path}}
    ).execute()
    text = [o.text for c in found.cells for o in c.get("outputs", []) if "text" in o]
    assert any("%" in one for one in text)
