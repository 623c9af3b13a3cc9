"""Checks of shapes that only a running step can make.

A network whose image size is unknown until a batch comes, as `Input((None, None, 3))`,
has outputs of unknown size. Where teacher and student reduce it differently, TensorFlow
would broadcast a map of one pixel in silence.
"""

from typing import Any

from keras_fitnets.utils.lazy import tf

_REMEDY = (
    "Teacher and student reduce the size of their inputs differently. Let their "
    "strides agree, put a resizing layer behind one of them, or give both networks a "
    "fixed input size, so that a regressor can be made for it."
)


def check_same_shape(one: Any, other: Any, description: str) -> Any:
    """Return the teacher's tensor; the step fails if the student's has another shape.

    Nothing is added to the step where the shapes, but for the batch, are known.

    Args:
        one: the teacher's tensor.
        other: the student's tensor.
        description: what a message calls them.

    Raises:
        ValueError: if the shapes are known to differ.
    """
    shapes = tuple(one.shape), tuple(other.shape)
    if len(shapes[0]) != len(shapes[1]) or any(
        None not in sizes and sizes[0] != sizes[1]
        for sizes in zip(*shapes, strict=True)
    ):
        raise ValueError(
            f"The shapes of {description} differ: teacher {shapes[0]}, student "
            f"{shapes[1]}. {_REMEDY}"
        )
    if None not in [*shapes[0][1:], *shapes[1][1:]]:
        return one
    sizes = tf.shape(one), tf.shape(other)
    message = f"The shapes of {description} differ: teacher"
    check = tf.debugging.Assert(
        tf.reduce_all(tf.equal(sizes[0], sizes[1])),
        [message, sizes[0], "student", sizes[1], _REMEDY],
        summarize=len(shapes[0]),
    )
    # Eagerly the assertion has raised already, and returns None.
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(one)
