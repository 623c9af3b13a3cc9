"""The site builds without a warning, and has a place for every public name."""

import importlib
import pkgutil
import re
import warnings
import zlib
from pathlib import Path

import pytest
from sphinx.cmd.build import build_main

import keras_fitnets

HERE = Path(__file__).parents[2]
PAGES = [*sorted((HERE / "docs").glob("*.md")), HERE / "CONTRIBUTING.md"]
COMMAND = re.compile(r"sphinx-build (.*) docs site$", re.MULTILINE)
NETWORK = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//|@import"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as `make docs` builds it, but in this process, where TensorFlow is."""
    makefile = (HERE / "Makefile").read_text(encoding="utf-8")
    options = COMMAND.search(makefile)[1].split()
    assert "--fail-on-warning" in options
    folder = tmp_path_factory.mktemp("site")
    with warnings.catch_warnings():
        # Python's, of what Sphinx's own extensions will have to change; not Sphinx'.
        warnings.simplefilter("ignore")
        assert build_main([*options, str(HERE / "docs"), str(folder)]) == 0
    return folder


def public_names():
    """Each public name, dotted, with the modules that hold them."""
    for name in keras_fitnets.__all__:
        yield f"keras_fitnets.{name}"
    for found in pkgutil.iter_modules(keras_fitnets.__path__, "keras_fitnets."):
        module = importlib.import_module(found.name)
        names = getattr(module, "__all__", ())
        if module is keras_fitnets.models:
            names = ("NAMES", "Plan", "build")
        yield from (f"{found.name}.{name}" for name in names)
        if names:
            yield found.name


@pytest.mark.slow
def test_every_public_name_has_a_place(site):
    _, body = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)
    places = {line.split()[0] for line in zlib.decompress(body).decode().splitlines()}
    assert [name for name in public_names() if name not in places] == []
    assert "keras_fitnets.tuning.FitNetHyperModel" in places


@pytest.mark.slow
def test_what_keras_documents_is_not_repeated(site):
    text = (site / "reference.html").read_text(encoding="utf-8")
    assert 'id="keras_fitnets.Distiller.with_teacher_outputs"' in text
    assert 'id="keras_fitnets.Distiller.summary"' not in text


@pytest.mark.slow
def test_each_page_is_there(site):
    for page in PAGES[:-1]:
        title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        # Sphinx has pages of its own, which take the place of others of their names.
        built = (site / page.with_suffix(".html").name).read_text(encoding="utf-8")
        assert f"<h1>{title}<" in built


@pytest.mark.slow
def test_a_page_reads_nothing_from_the_network(site):
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(list(site.glob("*.html"))) > len(PAGES)
    assert [f.name for f in files if NETWORK.search(f.read_text("utf-8"))] == []


def slugs(page):
    """The anchors of a page's headings, in the repository as in the site."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_what_is_in_the_repository(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", prose)
    inner = [link for link in links if not link.startswith("https://")]
    assert inner
    for link in inner:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link
