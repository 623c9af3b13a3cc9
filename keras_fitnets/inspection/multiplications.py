"""How many multiplications a network needs for one sample.

One forward pass is traced into a TensorFlow graph, and TensorFlow's profiler adds up
what it knows of each operation. Nothing is computed, and no weight is read.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_fitnets import backend
from keras_fitnets.inspection import graph
from keras_fitnets.inspection.graph import check_built
from keras_fitnets.utils.checks import is_text_dtype
from keras_fitnets.utils.lazy import tf

# The profiler counts two operations, a multiplication and an addition, for each
# product in these.
_PRODUCTS = [
    "MatMul",
    "BatchMatMul(V[23])?",
    "Conv[23]D",
    "DepthwiseConv2dNative",
]
# Operations that run others which do not appear in the graph, and so hide them from the
# count.
_HIDING = ("While", "If", "Case", "PartitionedCall", "XlaLaunch", "PyFunc")


def multiplications(network: keras.Model, x: Any = None) -> int:
    """The multiplications of one forward pass of one sample.

    Counted are those of matrix products and convolutions, a padded border included, as
    in the tables of Romero et al., "FitNets" (arXiv 1412.6550). TensorFlow's profiler
    counts a traced pass; for an einsum and a transposed convolution, for which it has
    no exact formula, there is one here. Recurrent layers are unrolled.

    Args:
        network: the network, built.
        x: a batch of its inputs, or a structure of them; needed if a dimension of
            their shapes is unknown.

    Raises:
        TypeError: if `network` is not a `keras.Model`.
        ValueError: if a shape is unknown, or the pass contains something that hides
            its operations, such as a loop.

    Example:

    >>> import keras_fitnets as kf
    >>> kf.report.multiplications(kf.models.build("fitnet1"))
    30150024
    """
    backend.check_tensorflow(
        "kf.report.multiplications",
        "Save the network as a `.keras` file, and run KERAS_BACKEND=tensorflow "
        "keras-fitnets report network.keras.",
    )
    if not isinstance(network, keras.Model):
        raise TypeError(f"A network must be a keras.Model; received {network!r}.")
    graph = _traced(check_built(network), _one_sample(network, x))
    operations = graph.get_operations()
    hiding = {op.type for op in operations if op.type.endswith(_HIDING)}
    if hiding:
        raise ValueError(
            f"The multiplications of network '{network.name}' cannot be counted: its "
            f"pass contains {', '.join(sorted(hiding))}, behind which others are "
            "hidden. Count the network that it was made of, or leave the number out."
        )
    # The profiler leaves out, in silence, what it does not know the shapes of.
    unknown = {op.type for op in operations if _is_product(op) and not _is_known(op)}
    if unknown:
        raise ValueError(
            f"The multiplications of network '{network.name}' cannot be counted: the "
            f"shapes of {', '.join(sorted(unknown))} in its pass depend on the data, "
            "as behind TextVectorization. Count the part of the network behind it."
        )
    return _by_the_profiler(graph) + sum(map(_by_formula, operations))


def _is_product(operation: tf.Operation) -> bool:
    """Whether an operation is one of those that are counted."""
    products = [*_PRODUCTS, "Einsum", "Conv2DBackpropInput", "Conv3DBackpropInputV2"]
    return re.fullmatch("|".join(products), operation.type) is not None


def _is_known(operation: tf.Operation) -> bool:
    """Whether the shapes of all inputs of an operation are known."""
    return all(tensor.shape.is_fully_defined() for tensor in operation.inputs)


def _one_sample(network: keras.Model, x: Any) -> Any:
    """Return zeros in the shape of one sample of the network's inputs."""
    if x is None:
        x = graph.get_inputs(network)
    else:
        x = keras.tree.map_structure(np.asarray, x)
    if x is None or None in [d for t in keras.tree.flatten(x) for d in t.shape[1:]]:
        shapes = None if x is None else graph.format_shapes(x)
        raise ValueError(
            f"The shape of the inputs of network '{network.name}' is not known in all "
            f"dimensions: {shapes}. Pass a batch of them."
        )

    def zeros(tensor: Any) -> Any:
        is_text = is_text_dtype(tensor.dtype)
        dtype = "string" if is_text else keras.backend.standardize_dtype(tensor.dtype)
        return tf.zeros((1, *tensor.shape[1:]), dtype)

    return keras.tree.map_structure(zeros, x)


def _traced(network: keras.Model, x: Any) -> tf.Graph:
    """Return the graph of one forward pass, with the functions in it opened.

    `tf.compat.v1` is public, and the only way to the profiler: neither Keras 3.15 nor
    TensorFlow 2 counts operations.
    """
    specs = [tf.TensorSpec.from_tensor(tensor) for tensor in keras.tree.flatten(x)]
    forward = graph.make_flat_pass(network, x)
    eager = tf.config.functions_run_eagerly()
    # Otherwise a `tf.function` inside the network, such as Keras makes for XLA, would
    # be a single operation of the graph.
    tf.config.run_functions_eagerly(True)
    try:
        with unrolled(network):
            return tf.compat.v1.wrap_function(forward, specs).graph
    finally:
        tf.config.run_functions_eagerly(eager)


@contextlib.contextmanager
def unrolled(network: keras.Model) -> Iterator[None]:
    """Let recurrent layers run step by step, instead of in a loop, inside the block."""
    layers = graph.get_descendants(network)
    loops = [layer for layer in layers if getattr(layer, "unroll", None) is False]
    for layer in loops:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in loops:
            layer.unroll = False


def _by_the_profiler(graph: tf.Graph) -> int:
    profiler = tf.compat.v1.profiler
    builder = profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output()
    options.with_accounted_types([f"^{name}$" for name in _PRODUCTS])
    logger = tf.get_logger()
    level = logger.level
    # The profiler warns that it belongs to TensorFlow 1, which no user can change.
    logger.setLevel("ERROR")
    try:
        counted = profiler.profile(graph, options=options.build(), cmd="op")
    finally:
        logger.setLevel(level)
    # A multiplication and an addition count as two.
    return counted.total_float_ops // 2


def _by_formula(operation: tf.Operation) -> int:
    shapes = [tuple(tensor.shape) for tensor in operation.inputs]
    if operation.type == "Einsum":
        return _of_einsum(operation.get_attr("equation").decode(), shapes)
    if operation.type in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):
        # A transposed convolution multiplies each input pixel, of all channels, with
        # the whole kernel, whose last axis is the input's channels.
        _, kernel, inputs = shapes
        return math.prod(inputs) * math.prod(kernel[:-1])
    return 0


def _of_einsum(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """Return the multiplications of an einsum of two factors.

    There is one for each combination of all indices, "ij,jk->ik" having I · J · K; an
    einsum of a single factor only moves or adds up values.
    """
    sizes: dict[str, int] = {}
    terms = equation.split("->")[0].split(",")
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, behind = term.partition("...")
        named = [*before, *behind]
        # Dots stand for leading dimensions that broadcast, which are aligned at their
        # end: each is named by its distance from there.
        spare = range(len(shape) - len(named), 0, -1) if dots else ()
        indices = [*before, *(f"...{n}" for n in spare), *behind]
        for index, size in zip(indices, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    return math.prod(sizes.values()) if len(terms) > 1 else 0
