"""Checkpoints of a stage as versions before the backends wrote them."""

import io
import json

import numpy as np
import tensorflow as tf

from keras_fitnets.training.checkpoint_file import CheckpointFile


class _Packed(tf.train.experimental.PythonState):
    def __init__(self, packed=b""):
        self.packed = packed

    def serialize(self):
        return self.packed

    def deserialize(self, packed):
        self.packed = packed


def rewrite(directory, change=lambda packed: packed):
    """Write the checkpoint in a directory anew, with `tf.train.CheckpointManager`.

    Args:
        directory: of one stage.
        change: a function of the bytes that hold all but the variables.
    """
    file = CheckpointFile(directory)
    path = file.find()
    content, arrays = file.read(path)
    names = [name for name in arrays if name.startswith("variable ")]
    variables = [tf.Variable(arrays.pop(f"variable {i}")) for i in range(len(names))]
    buffer = io.BytesIO()
    content = np.array(json.dumps(content))
    np.savez(buffer, allow_pickle=False, content=content, **arrays)
    checkpoint = tf.train.Checkpoint(
        variables=variables, state=_Packed(change(buffer.getvalue()))
    )
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=1)
    manager.save(int(path.stem.split("-")[1]))
    path.unlink()
