"""Imports go one way: each package imports only those that the table grants it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_fitnets

PACKAGE = Path(keras_fitnets.__file__).parent
NAME = "keras_fitnets"
HERE = Path(__file__).parents[2]

# In the order of the flow: a package is granted only those above it.
MAY_IMPORT = {
    "version": set(),
    "startup_log": {"tensorflow"},
    "utils": {"keras", "tensorflow", "matplotlib"},
    "backend": {"keras", "tensorflow", "jax", "torch", "utils"},
    "losses": {"keras", "utils"},
    "layers": {"keras", "utils"},
    "models": {"keras", "layers", "utils"},
    "datasets": {"keras", "tensorflow", "tensorflow_datasets", "sklearn", "utils"},
    "inspection": {"keras", "tensorflow", "layers", "utils", "backend"},
    "distribution": {"keras", "tensorflow", "utils", "backend"},
    "distillation": {
        *("keras", "tensorflow", "utils", "backend"),
        *("losses", "layers", "inspection", "distribution"),
    },
    "callbacks": {"keras", "utils", "backend", "distribution", "distillation"},
    "training": {
        *("keras", "tensorflow", "utils", "backend"),
        *("inspection", "distribution", "distillation", "callbacks"),
    },
    "cache": {
        *("keras", "tensorflow", "filelock"),
        *("utils", "backend", "inspection", "distillation"),
    },
    "runtimes": {
        *("keras", "tensorflow"),
        *("utils", "losses", "inspection", "distillation"),
    },
    "report": {"keras", "utils", "backend", "losses", "inspection", "runtimes"},
    "export": {"keras", "tensorflow", "utils", "backend", "inspection", "runtimes"},
    "plots": {"keras", "matplotlib", "utils", "inspection", "distillation"},
    "tuning": {
        *("keras", "keras_tuner", "tensorflow", "matplotlib"),
        *("utils", "inspection", "distribution", "distillation", "training", "cache"),
    },
    "cli": {"click", "version", "datasets", "report", "export", "utils"},
    "__main__": {"cli"},
}
FREE = set(sys.stdlib_module_names) | {"numpy"}
LATE = ["keras_tuner", "matplotlib", "sklearn", "tensorflow_datasets"]
SOURCES = sorted(PACKAGE.rglob("*.py"))


def unit(source):
    """The row of the table for a file: its module, or its top folder."""
    return source.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(source):
    """Every dotted name that the file imports, wherever in the file."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.name}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def row_of(dotted):
    """The name under which the table knows an imported module."""
    # TensorFlow is imported there, once it is used.
    if dotted == f"{NAME}.utils.lazy.tf":
        return "tensorflow"
    parts = dotted.split(".")
    return parts[1] if parts[0] == NAME else parts[0]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_module_imports_only_what_the_table_grants_it(source):
    if source == PACKAGE / "__init__.py":
        granted = set(MAY_IMPORT)
    else:
        assert unit(source) in MAY_IMPORT, f"give {source.name} a row in MAY_IMPORT"
        granted = MAY_IMPORT[unit(source)] | {unit(source)}
    reached = {row_of(dotted) for dotted in imports(source)}
    assert reached <= granted | FREE


def test_the_table_goes_one_way():
    rows = list(MAY_IMPORT)
    for position, row in enumerate(rows):
        assert MAY_IMPORT[row].isdisjoint(rows[position:])


# What is private in Keras stands in one module, and in KerasTuner in another.
PRIVATE_PLACES = {
    PACKAGE / "utils" / "keras_private.py",
    PACKAGE / "tuning" / "atomic_save.py",
}
PRIVATE_MODULES = ("keras.src", "keras_tuner.src", "tensorflow.python")
PRIVATE_NAMES = {
    "_apply_weight_decay",
    "_backend_update_step",
    "_compile_config",
    "_compile_loss",
    "_compile_metrics",
    "_distribute_strategy",
    "_flat_losses",
    "_get_current_learning_rate",
    "_fn_kwargs",
    "_inbound_nodes",
    "_keras_history",
    "_keras_logits",
    "_keras_mask",
    "_learning_rate",
    "_loss_tracker",
    "_maybe_symbolic_build",
    "_run_through_graph",
    "_symbolic_build",
    "_use_cached_eval_dataset",
    "_var_key",
    "_y_pred_build_structure",
}


def names(tree):
    """Every attribute that is read or set, method that is defined, and whole string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def private_parts(text):
    """What a module imports or names that Keras or TensorFlow keeps to itself."""
    tree = ast.parse(text)
    modules = [
        f"{getattr(node, 'module', '')}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    ]
    found = {m for m in modules for private in PRIVATE_MODULES if private in m}
    return found | (PRIVATE_NAMES & set(names(tree)))


@pytest.mark.parametrize(
    "source",
    [one for one in SOURCES if one not in PRIVATE_PLACES],
    ids=lambda path: path.stem,
)
def test_what_is_private_in_keras_stands_in_one_place(source):
    assert not private_parts(source.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "import keras.src",
        "from keras.src.ops import function",
        "from keras_tuner.src.engine import stateful",
        "from tensorflow.python import keras",
        "x._keras_mask = None",
        "getattr(x, '_keras_logits', None)",
        "network._run_through_graph(x)",
        "class M:\n    def _maybe_symbolic_build(self): ...",
    ],
)
def test_what_is_private_is_recognised(text):
    assert private_parts(text)


@pytest.mark.slow
def test_importing_the_package_needs_no_late_one():
    # Keras itself imports some of these where they are: hence made absent here.
    program = f"import sys; sys.modules.update(dict.fromkeys({LATE})); import {NAME}"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_backends_have_the_same_names():
    """With the same arguments, and no other."""
    found = {}
    for name in ("common", "tensorflow", "jax", "torch"):
        source = PACKAGE / "backend" / f"{name}.py"
        found[name] = {
            part.name: [argument.arg for argument in part.args.args]
            for part in ast.parse(source.read_text("utf-8")).body
            if isinstance(part, ast.FunctionDef) and part.name[0] != "_"
        }
        shared = [one.rpartition(".") for one in imports(source)]
        found[name] |= {
            shared_name: found["common"][shared_name]
            for module, _, shared_name in shared
            if module == f"{NAME}.backend.common"
        }
    # Of the arguments of a step JAX has one more, the state.
    assert found["jax"].pop("run_step") == ["model", "step", "state", "data"]
    for name in ("tensorflow", "torch"):
        assert found[name].pop("run_step") == ["model", "step", "data"]
    assert found["tensorflow"] == found["jax"] == found["torch"]
    chosen = (PACKAGE / "backend" / "__init__.py").read_text("utf-8")
    for name in [*found["jax"], "run_step"]:
        assert f"\n{name} = _backend.{name}\n" in chosen


# The picture of the table, in CONTRIBUTING.md


def picture():
    """The groups of the picture in CONTRIBUTING.md, and for each those it leads to."""
    text = (HERE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.search(r"^```mermaid\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]
    groups = {
        name: modules.split(" · ")
        for name, modules in re.findall(r'^ *(\w+)\[".*<br/>(.*)"\]$', lines, re.M)
    }
    below = {name: set() for name in groups}
    for line in re.findall(r"^ *(\w+(?: --> \w+)+)$", lines, re.MULTILINE):
        names = line.split(" --> ")
        for upper, lower in zip(names, names[1:], strict=False):
            below[upper].add(lower)
    for _ in groups:
        for lower in below.values():
            lower |= {name for group in lower for name in below[group]}
    return groups, below


def test_the_picture_has_every_module_once():
    groups, _ = picture()
    drawn = [module for modules in groups.values() for module in modules]
    assert sorted(drawn) == sorted(MAY_IMPORT)


def test_the_picture_leads_from_what_is_imported_to_what_imports_it():
    groups, below = picture()
    group_of = {module: name for name, modules in groups.items() for module in modules}
    assert [name for name, lower in below.items() if name in lower] == []
    missing = [
        (group_of[granted], group_of[row])
        for row, grants in MAY_IMPORT.items()
        for granted in grants & group_of.keys()
        if group_of[granted] != group_of[row]
        and group_of[row] not in below[group_of[granted]]
    ]
    assert missing == []
