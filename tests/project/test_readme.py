"""The Python of the README and of the pages runs as it stands, from top to end."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

HERE = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Searches of fewer and shorter trials.
SHORT = {r"max_trials=\d+": "max_trials=1", r"epochs=\d+": "epochs=1"}


def teacher():
    layers = [keras.layers.Dense(32, "relu", name="fc1"), keras.layers.Dense(10)]
    flat = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
    return keras.Sequential([*flat, *layers])


def run(path, namespace, short):
    text = path.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks, f"{path} shows no Python"
    for block in blocks:
        code = block[1]
        for pattern, replacement in short.items():
            code = re.sub(pattern, replacement, code)
        # Blank lines, so that a traceback gives the line of the page.
        padding = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(padding + code, str(path), "exec"), namespace)


@pytest.mark.slow
def test_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(HERE / "README.md", {"__name__": "readme"}, {})


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((HERE / "docs").glob("*.md")), ids=str)
@pytest.mark.usefixtures("eager")
def test_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher().save("teacher.keras")
    x, y = np.random.default_rng(0).normal(size=(16, 8, 8, 1)), np.arange(16) % 10
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    given = {"teacher": teacher(), "x": x, "y": y, "validation": (x, y), "loss": loss}
    run(path, {"__name__": "page", **given}, SHORT)
