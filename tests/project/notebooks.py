"""Make notebooks from their text and run them: `make notebooks`."""

import os
import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
# What TensorFlow says of the machine as it starts, which no variable silences.
OF_TENSORFLOW = re.compile(
    r"([IWE]\d{4} |WARNING: All log messages|To enable the foll)"
)


def run(notebook, folder):
    """Execute a notebook in a folder, from its top to its end."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=1200,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    client.execute(env={**os.environ, **inline})
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                lines = output.text.splitlines(keepends=True)
                kept = (line for line in lines if not OF_TENSORFLOW.match(line))
                output.text = "".join(kept).strip("\n")
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("text") != ""]
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(jupytext.read(EXAMPLES / f"{name}.py"), folder)
        # As what it was, not as what ran it.
        notebook.metadata.language_info = {"name": "python", "file_extension": ".py"}
        nbformat.write(notebook, EXAMPLES / f"{name}.ipynb")
        print(f"examples/{name}.ipynb")
