"""What SECURITY.md promises: no file that is read runs code that stands in it."""

import ast
import io
import json
import re
import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np
import old_checkpoints
import pytest
import tiny

import keras_fitnets as kf
from keras_fitnets.cli import main

PACKAGE = Path(kf.__file__).parent
# Modules that build any object that a file asks for, by calling what it names.
PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
RUN_TEXT = {"__import__", "eval", "exec"}
UNSAFE = {"enable_unsafe_deserialization"}
# What Keras' own error has said since the lowest version that is supported.
REFUSED = r"lambda[\s\S]*If you trust the source[\s\S]*`safe_mode=False`"


def faults(source):
    """The calls and imports in a module by which a file could run code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        else:
            imported = []
        for name in imported:
            if name.split(".")[0] in PICKLES:
                yield f"imports {name}"
        if isinstance(node, ast.Name) and node.id in RUN_TEXT:
            yield f"uses {node.id}"
        if isinstance(node, ast.Attribute) and node.attr in UNSAFE:
            yield f"uses {node.attr}"
        if isinstance(node, ast.Call):
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            function = ast.unparse(node.func)
            if function in ("np.load", "numpy.load"):
                if given.get("allow_pickle") != "False":
                    yield f"calls {function} without allow_pickle=False"
            elif given.get("allow_pickle", "False") != "False":
                yield f"passes allow_pickle to {function}"
            if given.get("safe_mode", "True") != "True":
                yield f"passes safe_mode to {function}"


@pytest.mark.parametrize(
    "source, fault",
    [
        ("import pickle", "imports pickle"),
        ("from joblib.externals import loky", "imports joblib.externals"),
        ("eval(text)", "uses eval"),
        ("__import__(name)", "uses __import__"),
        ("np.load(path)", "calls np.load without allow_pickle=False"),
        (
            "np.load(path, allow_pickle=True)",
            "calls np.load without allow_pickle=False",
        ),
        ("np.savez(path, a, allow_pickle=True)", "passes allow_pickle to np.savez"),
        ("load_model(path, safe_mode=False)", "passes safe_mode to load_model"),
        (
            "keras.config.enable_unsafe_deserialization()",
            "uses enable_unsafe_deserialization",
        ),
    ],
)
def test_the_search_for_faults_finds_them(source, fault):
    assert list(faults(source)) == [fault]


def test_no_module_reads_a_pickle_or_runs_text():
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 30
    found = {
        str(module.relative_to(PACKAGE)): list(faults(module.read_text("utf-8")))
        for module in modules
    }
    assert {module: told for module, told in found.items() if told} == {}


class Payload:
    """An object whose pickle, when it is read, writes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """The file that a payload writes."""
    return tmp_path / "written by a payload"


def pickled(marker):
    """A pickled array as bytes of a .npy file, which work where pickles are read."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    np.load(io.BytesIO(buffer.getvalue()), allow_pickle=True)
    assert marker.exists()
    marker.unlink()
    return buffer.getvalue()


def distiller(teacher=None, student=None, loss=None):
    loss = loss or tiny.FROM_LOGITS
    return tiny.make_distiller(teacher, student, label_loss=loss, activation="softmax")


def with_lambda(marker):
    """A network with a Lambda layer that writes a file whenever it is called."""
    path = str(marker)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4, name="hidden")(inputs)
    x = keras.layers.Lambda(lambda x: (open(path, "w").close(), x)[1])(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="out")(x))


def loss_with_lambda(marker):
    path = str(marker)
    return lambda y, y_pred: (open(path, "w").close(), y_pred - y)[1]


def saved(path, marker, place):
    """A file of a Distiller with code at one place, which has not run since."""
    made = {
        "teacher": lambda: distiller(teacher=with_lambda(marker)),
        "ensemble": lambda: distiller(
            teacher=kf.Teacher([tiny.network(hidden=6), with_lambda(marker)])
        ),
        "student": lambda: distiller(student=with_lambda(marker)),
        "loss": lambda: distiller(loss=loss_with_lambda(marker)),
    }[place]()
    made.save(path)
    marker.unlink(missing_ok=True)


# Keras warns whoever saves a `lambda` that it will be refused.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize("place", ["teacher", "ensemble", "student", "loss"])
def test_code_in_a_saved_distiller_is_refused_by_keras(tmp_path, marker, place):
    path = tmp_path / "distiller.keras"
    saved(path, marker, place)
    with pytest.raises(ValueError, match=REFUSED):
        keras.saving.load_model(path)
    assert not marker.exists()
    # The file is one that does harm where safe mode is off.
    loaded = keras.saving.load_model(path, safe_mode=False)
    loaded.evaluate(*tiny.data(), verbose=0)
    assert marker.exists()


def test_a_distiller_made_from_a_configuration_is_as_safe(marker):
    config = distiller(student=with_lambda(marker)).get_config()
    marker.unlink()
    with pytest.raises(ValueError, match=REFUSED):
        kf.Distiller.from_config(config)
    assert not marker.exists()


@pytest.mark.parametrize("whole", [True, False])
def test_reports_and_exports_load_networks_in_safe_mode(
    tmp_path, marker, capsys, whole
):
    path = tmp_path / "stranger.keras"
    if whole:
        saved(path, marker, "student")
    else:
        with_lambda(marker).save(path)
        marker.unlink()
    refused = f"cannot be read.*{REFUSED}"
    with pytest.raises(ValueError, match=refused):
        kf.report.compare({"stranger": path}, repeats=0, verbose=0)
    with pytest.raises(ValueError, match=refused):
        kf.export.export_student(path, tmp_path / "student.tflite")
    with pytest.raises(SystemExit) as end:
        main(["report", str(path), "--repeats", "0"])
    assert end.value.code == 1
    assert re.search(refused, capsys.readouterr().err)
    assert not marker.exists()


def test_data_of_the_command_are_not_unpickled(tmp_path, marker, capsys):
    tiny.network().save(tmp_path / "student.keras")
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as file:
        file.writestr("x.npy", pickled(marker))
    with pytest.raises(SystemExit) as end:
        main(["report", f"{tmp_path}/student.keras", "--data", f"{tmp_path}/data.npz"])
    assert end.value.code == 1
    assert "allow_pickle=False" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.slow
def test_a_pickled_shard_of_a_cache_is_refused(tmp_path, marker):
    model, (x, y) = distiller(), tiny.data()

    def cached():
        return kf.cache_teacher(model, tiny.batches(x, y), tmp_path / "cache")

    model.fit(cached(), shuffle=False, verbose=0)
    shard, *_ = sorted((tmp_path / "cache").glob("*.npy"))
    content = pickled(marker)
    # With the right checksum in its name, it does not pass for an accident.
    place = shard.stem.rpartition("-")[0]
    shard.with_name(f"{place}-{zlib.crc32(content):08x}.npy").write_bytes(content)
    shard.unlink()
    with pytest.raises(ValueError, match="Python objects"):
        cached()
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("member", ["content", "of a callback"])
@pytest.mark.parametrize("kind", ["now", "of an earlier version"])
def test_a_pickled_array_in_a_checkpoint_is_refused(tmp_path, marker, kind, member):
    x, y = tiny.data()

    def train():
        return kf.fit_stagewise(
            distiller(), x, y, 1, 1, checkpoint_dir=tmp_path, verbose=0
        )

    train()
    if kind == "now":
        [path] = (tmp_path / "hint").glob("*.npz")
        path.write_bytes(with_a_pickle(path.read_bytes(), member, marker))
    else:
        old_checkpoints.rewrite(
            tmp_path / "hint", lambda packed: with_a_pickle(packed, member, marker)
        )
    with pytest.raises(ValueError, match="cannot be read") as refused:
        train()
    assert "allow_pickle=False" in str(refused.value.__cause__)
    assert not marker.exists()


def with_a_pickle(packed, member, marker):
    """A file of NumPy's arrays, with a pickle in place of one, or as one more."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
        arrays = dict(stored)
    assert json.loads(str(arrays["content"]))["epoch"] == 1
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, array in {**arrays, member: None}.items():
            part = io.BytesIO()
            if array is not None:
                np.save(part, array, allow_pickle=False)
            content = pickled(marker) if array is None else part.getvalue()
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()
