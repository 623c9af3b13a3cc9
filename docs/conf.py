"""The site: these pages, and a reference out of the docstrings."""

import importlib
import inspect
import os
import pkgutil
import re
import types
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util.docstrings import prepare_docstring
from sphinx.util.docutils import SphinxDirective
from sphinx.util.docutils import SphinxRole
from sphinx.util.inspect import stringify_signature

import keras_fitnets

project = "keras_fitnets"
version = release = keras_fitnets.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "name"
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_preserve_defaults = True
# What overrides a method of Keras has Keras' docstring, which is no reStructuredText.
autodoc_inherit_docstrings = False
# As fields, `x, y: as for fit` would be a parameter y of the type x.
napoleon_use_param = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"keras_fitnets {release}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False


def public_modules():
    """The package, and those of its modules that users meet."""
    yield keras_fitnets
    for found in pkgutil.iter_modules(keras_fitnets.__path__):
        module = importlib.import_module(f"keras_fitnets.{found.name}")
        listed = found.name in keras_fitnets.__all__
        # One of the names in the package is that of a module and of its function.
        is_module = vars(keras_fitnets)[found.name] is module
        if (listed and is_module) or hasattr(module, "__all__"):
            yield module


def public_names(module):
    """What users meet in a module by its name, but for other modules."""
    if hasattr(module, "__all__"):
        named = {name: getattr(module, name) for name in module.__all__}
    else:
        named = {
            name: value
            for name, value in vars(module).items()
            if name == "NAMES"
            or (name[0] != "_" and getattr(value, "__module__", "") == module.__name__)
        }
    return {n: v for n, v in named.items() if not isinstance(v, types.ModuleType)}


def section(module):
    """The source of a module's section: a table of its names, then each in full."""
    title, names = module.__name__, public_names(module)
    yield from (title, "-" * len(title), "", f".. automodule:: {title}", "")
    yield from (".. list-table::", "")
    for name, value in names.items():
        if callable(value):
            summary = inspect.getdoc(value).partition("\n")[0]
            yield from (f"   * - `{name}`", f"     - {summary}")
    for name, value in names.items():
        if isinstance(value, type):
            yield from ("", f".. autoclass:: {name}")
            yield from ("   :members:", "   :inherited-members:")
        elif callable(value):
            yield from ("", f".. autofunction:: {name}")
        else:
            yield from ("", f".. py:data:: {name}", f"   :value: {value!r}")
    yield ""


class Reference(SphinxDirective):
    """A section for each public module."""

    def run(self):
        lines = [line for module in public_modules() for line in section(module)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Name(SphinxRole):
    """Code in a docstring, which leads to what it names if that is public."""

    def run(self):
        code = nodes.literal(self.rawtext, self.text)
        if isinstance(getattr(keras_fitnets, self.text, None), types.ModuleType):
            return [code], []
        found = self.text in keras_fitnets.__all__
        link = linked(code, f"keras_fitnets.{self.text}" if found else self.text)
        link["py:module"] = self.env.ref_context.get("py:module")
        link["py:class"] = self.env.ref_context.get("py:class")
        return [link], []


def linked(code, target):
    """Code as a link to a name in the reference; if there is none it stays code."""
    return addnodes.pending_xref(
        *("", code), refdomain="py", reftype="obj", reftarget=target, refexplicit=True
    )


class Links(SphinxTransform):
    """The links of the pages, as the site can follow them.

    `kf.name` leads to its place in the reference. What is in the repository, and not
    among the pages, is a link there; here it is a file to download, or no link.
    """

    default_priority = 200

    def apply(self, **kwargs):
        here = Path(self.env.doc2path(self.env.docname)).parent
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link["reftype"] != "myst":
                continue
            target = link["reftarget"]
            page = link["refdomain"] == "doc" and target not in self.env.found_docs
            folder = target.startswith("../") and (here / target).is_dir()
            if page or folder:
                link.replace_self(link.children)
        for code in list(self.document.findall(nodes.literal)):
            if re.fullmatch(r"kf(\.\w+)+", code.astext()):
                target = code.astext().replace("kf", "keras_fitnets", 1)
                code.replace_self(linked(code.deepcopy(), target))


def is_foreign(app, what, name, value, skip, options):
    """Leave out what a class has from Keras, or from Python."""
    function = getattr(value, "fget", value)
    own = (getattr(function, "__module__", None) or "").startswith("keras_fitnets")
    return None if own else True


def arguments(app, what, name, value, options, signature, returned):
    """Those of `__init__`, where Keras has a `__new__` that takes anything."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    shown = inspect.signature(value.__init__)
    shown = shown.replace(parameters=list(shown.parameters.values())[1:])
    return stringify_signature(shown, show_annotation=False), None


def property_text(app, what, name, value, options, lines):
    """As it is written: napoleon takes what stands before a colon for a type."""
    if what == "property":
        lines[:] = prepare_docstring(inspect.getdoc(value))


def setup(app):
    app.connect("autodoc-skip-member", is_foreign)
    app.connect("autodoc-process-signature", arguments)
    app.connect("autodoc-process-docstring", property_text, priority=900)
    app.add_directive("reference", Reference)
    app.add_role("name", Name())
    app.add_transform(Links)
