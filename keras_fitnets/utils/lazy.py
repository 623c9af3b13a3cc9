"""TensorFlow, imported when it is first used.

On Keras' JAX and PyTorch backends networks are trained without TensorFlow, whose import
takes seconds and which need not be installed. Where it is needed on every backend, for
`tf.data` or a converter, the first use of `tf` imports it.
"""

import importlib
import sys
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    import tensorflow as tf
else:

    class _LazyModule:
        """A module that is imported when one of its attributes is first read."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    tf = _LazyModule("tensorflow")


def is_tf_dataset(data: Any) -> bool:
    """Whether something is a `tf.data.Dataset`; TensorFlow is not imported for it."""
    return _is_imported() and isinstance(data, tf.data.Dataset)


def is_ragged(value: Any) -> bool:
    """Whether something is a ragged tensor of TensorFlow, or the spec of one."""
    kinds = ("RaggedTensor", "RaggedTensorSpec")
    return _is_imported() and isinstance(value, tuple(getattr(tf, k) for k in kinds))


def _is_imported() -> bool:
    # Whoever has made such an object has imported TensorFlow.
    return sys.modules.get("tensorflow") is not None
