"""The names of a network's outputs, and what is given for each of them.

Keras takes losses, labels, weights and metrics by the name of an output, or in the
order of the outputs. `align_to_outputs` brings either form into the order in which
Keras flattens the outputs, and `match_outputs` finds the teacher's output for each of
the student's.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.inspection import graph
from keras_fitnets.utils.keras_private import get_producer


def get_output_names(network: keras.Model, outputs: Any) -> list[str] | None:
    """Return the names by which Keras knows a network's outputs, None without any.

    Args:
        network: the network.
        outputs: its symbolic outputs.

    Returns:
        A name for each output, in the order in which Keras flattens them: the keys of a
        dictionary, else the names of the layers that give the outputs.
    """
    if isinstance(outputs, dict):
        return _get_paths(outputs)
    count = len(keras.tree.flatten(outputs))
    names = getattr(network, "output_names", None) if _is_graph(network) else None
    return list(names) if names and len(names) == count else None


def match_outputs(
    teacher: keras.Model, teacher_outputs: Any, student: keras.Model, outputs: Any
) -> list[int | None]:
    """Return the position of the teacher's output for each of the student's.

    Outputs with names are matched by name: the keys of dictionaries, and the names that
    users gave to the layers of the last outputs. By position only where neither side
    has such names.

    Args:
        teacher, student: the two networks.
        teacher_outputs, outputs: their symbolic outputs.

    Returns:
        Positions among the teacher's flat outputs; None for an output of the student
        that the teacher does not have.

    Raises:
        ValueError: if only one of the two has names, or the names have nothing in
            common.
    """
    theirs = len(keras.tree.flatten(teacher_outputs))
    own = len(keras.tree.flatten(outputs))
    # With one output on each side there is nothing that could be confused.
    if own == theirs == 1 and not isinstance(outputs, dict):
        return [0]
    names = _get_given_names(student, outputs)
    teacher_names = _get_given_names(teacher, teacher_outputs)
    is_named = [
        None not in given and len(set(given)) == len(given)
        for given in (names, teacher_names)
    ]
    if all(is_named):
        positions = [
            teacher_names.index(name) if name in teacher_names else None
            for name in names
        ]
        if any(position is not None for position in positions):
            return positions
    elif not any(is_named):
        # A name that both sides have must not stand for different outputs.
        moved = {
            name
            for i, name in enumerate(names)
            if name is not None and name in teacher_names and i < theirs
            if teacher_names[i] != name
        }
        if not moved:
            return [i if i < theirs else None for i in range(own)]
    raise ValueError(
        f"It cannot be seen which output of teacher '{teacher.name}' is which of "
        f"student '{student.name}': the teacher's are {_describe(teacher_names)}, the "
        f"student's are {_describe(names)}. Give the outputs of both the same names, "
        'by a dictionary of outputs or by `name="..."` of the last layers; without '
        "names in either of them they are taken in order."
    )


def align_to_outputs(
    values: Any, names: Sequence[str] | None, count: int, argument: str
) -> list[Any]:
    """Return what was given for each output, in the order of the outputs.

    Args:
        values: one value for all outputs, a list in the order of the outputs, or a
            dictionary by their names, in which outputs may be missing.
        names: the names of the outputs, None if they have none.
        count: the number of outputs.
        argument: what a message calls the values.

    Returns:
        A list of `count` values, None for an output that is missing.

    Raises:
        ValueError: for names that no output has, or another number of values.
    """
    if not keras.tree.is_nested(values):
        return [values] * count
    if isinstance(values, dict) and names is not None:
        given = dict(zip(_get_paths(values), keras.tree.flatten(values), strict=True))
        unknown = [name for name in given if name not in names]
        if not unknown:
            return [given.get(name) for name in names]
        raise ValueError(
            f"`{argument}` names {unknown}, and the outputs are {list(names)}. Use "
            "the names of the outputs: the keys of a dictionary, or the names of the "
            "last layers."
        )
    flat = keras.tree.flatten(values)
    if isinstance(values, dict):
        raise ValueError(
            f"`{argument}` names {_get_paths(values)}, and the outputs have no names. "
            "Pass a list in the order of the outputs."
        )
    if len(flat) != count:
        raise ValueError(
            f"`{argument}` holds {len(flat)} value(s) for {count} output(s). Pass one "
            "for each output, or one for all."
        )
    return flat


def align_losses(loss: Any, names: Sequence[str] | None, count: int) -> list[Any]:
    """Return the loss of each output, as `compile` takes losses, None without one."""
    # Of a list of losses for a single output Keras takes the first.
    if isinstance(loss, (list, tuple)) and count == 1:
        return [keras.tree.flatten(loss)[0]] if loss else [None]
    return align_to_outputs(loss, names, count, "loss")


def _get_paths(structure: Any, prefix: str = "") -> list[str]:
    """Return for each leaf its keys, joined by slashes, in the order of Keras."""
    if isinstance(structure, dict):
        # Keras flattens dictionaries by sorted key.
        items: Any = sorted(structure.items())
    elif isinstance(structure, (list, tuple)):
        items = enumerate(structure)
    else:
        return [prefix]
    separator = "/" if prefix else ""
    return [
        path
        for key, value in items
        for path in _get_paths(value, f"{prefix}{separator}{key}")
    ]


def _get_given_names(network: keras.Model, outputs: Any) -> list[str | None]:
    """Return the name of each output, None for one that Keras has made up."""
    names = get_output_names(network, outputs)
    flat = keras.tree.flatten(outputs)
    if names is None:
        return [None] * len(flat)
    if isinstance(outputs, dict):
        return list(names)
    return [
        None if _has_made_up_name(name, tensor) else name
        for name, tensor in zip(names, flat, strict=True)
    ]


def _has_made_up_name(name: str, tensor: Any) -> bool:
    """Whether Keras named the layer of an output after its class, as "dense_3"."""
    producer = get_producer(tensor)
    if producer is None:
        return True
    return graph.is_made_up_name(name, type(producer.operation).__name__)


def _is_graph(network: keras.Model) -> bool:
    return graph.is_symbolic(network) and not isinstance(network, keras.Sequential)


def _describe(names: Sequence[str | None]) -> str:
    return f"{[name or 'without a name' for name in names]}"
