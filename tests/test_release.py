"""What is said of versions in several places is the same in all."""

import re
from pathlib import Path

import yaml

import keras_fitnets

HERE = Path(__file__).parents[1]


def read(path):
    return (HERE / path).read_text(encoding="utf-8")


def test_the_workflow_runs_everything_on_every_python():
    [job] = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"].values()
    pythons = job["strategy"]["matrix"]["python"]
    classified = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', read("setup.py")
    )
    assert pythons == classified == ["3.10", "3.11", "3.12", "3.13"]
    assert "Python 3.10 to 3.13" in read("README.md")
    assert f'python_requires=">={pythons[0]}"' in read("setup.py")
    [command] = [step["run"] for step in job["steps"] if "run" in step]
    assert command == "bash .ci/run"


def test_ci_runs_what_a_person_runs():
    targets = re.findall(r"^make (\S+)$", read(".ci/run"), re.MULTILINE)
    assert targets == ["test-lowest", "test", "wheel"]
    for target in targets:
        assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE)


def test_the_version_is_semantic_and_in_the_changelog():
    version = keras_fitnets.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    headings = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] in ("Unreleased", version)
