"""Text files that are read, and replaced, as a whole."""

import os
from pathlib import Path

from keras_fitnets.utils.lazy import tf


def read_text(path: str) -> str | None:
    """Return the text of a file, None if there is no such file."""
    # TensorFlow reads what lies in a cloud, such as "gs://bucket/log.csv".
    if "://" in path:
        if not tf.io.gfile.exists(path):
            return None
        with tf.io.gfile.GFile(path, "r") as file:
            return file.read()
    return Path(path).read_text() if Path(path).exists() else None


def replace_text(path: str, text: str) -> None:
    """Write a file, so that a kill leaves the former one or the new one."""
    # Several processes may write the same file; the last one's is kept.
    partial = f"{path}.{os.getpid()}.new"
    if "://" in path:
        with tf.io.gfile.GFile(partial, "w") as file:
            file.write(text)
        tf.io.gfile.rename(partial, path, overwrite=True)
        return
    Path(partial).write_text(text)
    os.replace(partial, path)
