"""Metadata that stand in several places agree in all of them."""

import re
import sys
from pathlib import Path

import yaml

import keras_fitnets

if sys.version_info >= (3, 11):
    import tomllib
else:
    # pytest itself needs it on Python 3.10.
    import tomli as tomllib

HERE = Path(__file__).parents[2]


def read(path):
    return (HERE / path).read_text(encoding="utf-8")


def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


def test_the_workflow_runs_everything_on_every_python():
    [job] = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"].values()
    pythons = job["strategy"]["matrix"]["python"]
    classifiers = "\n".join(project()["classifiers"])
    classified = re.findall(r"Programming Language :: Python :: (3\.\d+)", classifiers)
    assert pythons == classified == ["3.10", "3.11", "3.12", "3.13"]
    assert "Python 3.10 to 3.13" in read("README.md")
    assert project()["requires-python"] == f">={pythons[0]}"
    [command] = [step["run"] for step in job["steps"] if "run" in step]
    assert command == "bash .ci/run"


def test_ci_runs_what_a_person_runs():
    names = re.findall(r"^ *run (.*)$", read(".ci/run"), re.MULTILINE)
    targets = [name for name in " ".join(names).split() if name[0] != "."]
    assert targets == ["test-lowest", "test", "wheel", "test-jax", "test-torch"]
    for target in targets:
        assert re.search(rf"^[a-z -]*{target}[a-z -]*:", read("Makefile"), re.MULTILINE)


def test_the_version_is_semantic_and_in_the_changelog():
    version = keras_fitnets.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    headings = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] in ("Unreleased", version)


def test_the_dependencies_are_those_of_requirements_txt():
    assert set(project()["dynamic"]) == {"dependencies", "version"}
    dynamic = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"] == {"file": ["requirements.txt"]}
    assert dynamic["version"] == {"attr": "keras_fitnets.version.__version__"}
    # `make test-lowest` turns each lower bound into the one version that it installs.
    lines = [line for line in read("requirements.txt").splitlines() if line[:1] != "#"]
    assert len(lines) > 5
    for line in lines:
        assert re.fullmatch(r"[A-Za-z_-]+>=\d+(\.\d+)+", line), line


def test_every_extra_that_is_recommended_exists():
    extras = project()["optional-dependencies"]
    assert set(extras) == {
        *("tuner", "examples", "export", "hub", "jax", "torch", "docs", "dev")
    }
    files = [
        *HERE.glob("*.md"),
        *HERE.glob("docs/*.md"),
        *HERE.glob("keras_fitnets/**/*.py"),
        HERE / "pyproject.toml",
    ]
    told = set()
    for file in files:
        for names in re.findall(r"keras-fitnets\[([\w,]+)\]", file.read_text("utf-8")):
            told |= set(names.split(","))
    assert {"tuner", "export"} <= told <= set(extras)


def test_every_folder_with_modules_is_a_package():
    # Setuptools finds the packages of the wheel by their `__init__.py`.
    package = Path(keras_fitnets.__file__).parent
    folders = {module.parent for module in package.rglob("*.py")}
    assert [str(one) for one in folders if not (one / "__init__.py").exists()] == []


def test_the_citation_names_the_software_and_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == keras_fitnets.__version__
    assert citation["license"] == project()["license"]
    assert citation["authors"] == project()["authors"]
    [paper] = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    surnames = [author["family-names"] for author in paper["authors"]]
    written = ", ".join(surnames)
    assert written == "Romero, Ballas, Kahou, Chassang, Gatta, Bengio"
    assert (paper["year"], paper["title"].split(":")[0]) == (2015, "FitNets")
    assert paper["url"].endswith("/1412.6550")
    assert paper["url"] in read("README.md")


def test_hooks_before_a_commit_are_those_of_make_check_and_download_nothing():
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system", "pygrep"}
    entries = [hook["entry"] for hook in hooks if hook["language"] == "system"]
    commands = [entry.replace(" --force-exclude", "") for entry in entries]
    recipe = re.search(r"^check:.*\n((?:\t.+\n)+)", read("Makefile"), re.MULTILINE)[1]
    checks = recipe.replace("$(BIN)", ".venv/bin").split("\n")
    assert commands == [check.strip() for check in checks if check]
