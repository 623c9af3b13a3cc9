"""The file of a stage's checkpoint: JSON and arrays, on every backend of Keras.

It is a `.npz` of NumPy, which checks each array by its CRC-32, and is read with
`allow_pickle=False`. A file takes its place as a whole, and only then the one before it
goes, so that a kill leaves one that can be read.
"""

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_fitnets.utils.lazy import tf

_FILE = re.compile(r"checkpoint-(\d+)\.npz")
# What earlier versions have written with `tf.train.CheckpointManager`.
_OLD_FILE = re.compile(r"ckpt-(\d+)\.(index|data-\d+-of-\d+)")


class CheckpointFile:
    """The newest checkpoint in a directory.

    Args:
        directory: of the checkpoints of one stage; it is made if need be.

    Raises:
        OSError: if the directory cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory

    def find(self) -> Path | None:
        """Return the newest checkpoint, None if there is none."""
        names = [path.name for path in self.directory.iterdir()]
        for pattern, name in ((_FILE, "checkpoint-{}.npz"), (_OLD_FILE, "ckpt-{}")):
            found = [match for match in map(pattern.fullmatch, names) if match]
            if found:
                newest = max(int(match[1]) for match in found)
                return self.directory / name.format(newest)
        return None

    def read(self, path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the content of a checkpoint, and its arrays by name."""
        if not _FILE.fullmatch(path.name):
            return _read_old(path)
        # NumPy leaves a file open that it cannot read.
        with path.open("rb") as file:
            return _unpack(file)

    def write(
        self, number: int, content: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> None:
        """Write a checkpoint in place of the one before it.

        Args:
            number: a higher one than that of the checkpoint before.
            content: what JSON can hold.
            arrays: arrays by name.
        """
        path = self.directory / f"checkpoint-{number}.npz"
        partial = self.directory / "checkpoint.partial"
        with partial.open("wb") as file:
            content_array = np.array(json.dumps(content))
            np.savez(file, allow_pickle=False, content=content_array, **arrays)
            file.flush()
            # Without this, a power failure could leave the name without the data.
            os.fsync(file.fileno())
        partial.replace(path)
        for other in self.directory.iterdir():
            is_of_a_checkpoint = _FILE.fullmatch(other.name) or (
                _OLD_FILE.fullmatch(other.name) or other.name == "checkpoint"
            )
            if is_of_a_checkpoint and other != path:
                other.unlink(missing_ok=True)


def to_storable(values: Sequence[np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return arrays by a name and their number, as NumPy can store them."""
    return {
        # NumPy has no bfloat16 and no float8: their bits are stored.
        f"{name} {i}": value
        if value.dtype.isbuiltin
        else value.view(f"uint{8 * value.dtype.itemsize}")
        for i, value in enumerate(map(np.asarray, values))
    }


def from_storable(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return what `to_storable` was given, of this dtype."""
    return array if dtype.isbuiltin else array.view(dtype)


def _read_old(prefix: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what an earlier version has written with `tf.train.Checkpoint`."""
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        keys = reader.get_variable_to_shape_map()
        tensors = {key: reader.get_tensor(key) for key in keys}
    except tf.errors.OpError as error:
        raise ValueError(str(error)) from error
    content, arrays = _unpack(io.BytesIO(tensors["state/.ATTRIBUTES/py_state"]))
    for key, tensor in tensors.items():
        if parts := re.fullmatch(r"variables/(\d+)/\.ATTRIBUTES/VARIABLE_VALUE", key):
            arrays[f"variable {parts[1]}"] = tensor
    return content, arrays


def _unpack(file: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(file, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return json.loads(str(arrays.pop("content"))), arrays
