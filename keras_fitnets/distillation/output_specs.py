"""How the outputs of teacher and student are read as logits of the same classes.

Networks may return logits or probabilities, and the two need not agree: log p equals
the logits up to a constant, which no softmax sees. For every output this module decides
from the last layers, or from what the user says, which of the two it is.
"""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras

from keras_fitnets.inspection import activations
from keras_fitnets.inspection import graph
from keras_fitnets.losses import check_activation
from keras_fitnets.losses import to_logits
from keras_fitnets.utils.tensors import upcast_to_float32

_PROBABILITIES = ("softmax", "sigmoid")
_LOGITS = ("linear", "log_softmax")


class OutputSpec(NamedTuple):
    """How to read one output of one network.

    Attributes:
        activation: "softmax" or "sigmoid", which turns its logits to probabilities.
        from_logits: whether the output is logits; else it is probabilities.
    """

    activation: str
    from_logits: bool

    def logits(self, output: Any) -> Any:
        """Return the output as logits, in float32 at least."""
        if not self.from_logits:
            return to_logits(output, self.activation)
        return upcast_to_float32(output)


class OutputPair(NamedTuple):
    """How to read one of the student's outputs, and the same output of each teacher.

    Attributes:
        activation: "softmax" or "sigmoid", the same for all of them.
        student: how to read the student's output.
        members: how to read that of each network of the teacher.
    """

    activation: str
    student: OutputSpec
    members: tuple[OutputSpec, ...]


def pair_outputs(
    members: Sequence[keras.Model],
    student: keras.Model,
    inputs: Any,
    activation: Any,
    members_from_logits: bool | str,
    student_from_logits: bool | str,
) -> list[OutputPair | None]:
    """Return for each output how to compare teachers and student, None if left out.

    Args:
        members: the teacher's networks.
        student: the student.
        inputs: symbolic inputs of all of them, or None if no network shows any.
        activation: as for `Distiller`: "auto", or one for each output.
        members_from_logits: whether the teachers return logits; "auto": see for each.
        student_from_logits: whether the student does; "auto": see.

    Raises:
        ValueError: if the outputs differ in number or shape, or if their meaning
            cannot be seen or contradicts the arguments.
    """
    networks = [student, *members]
    for network in networks:
        if inputs is None and not graph.is_symbolic(network):
            raise ValueError(
                f"The inputs of network '{network.name}', a {type(network).__name__}, "
                "cannot be seen. Make teacher or student a Functional or Sequential "
                "network, which shows its inputs."
            )
    check_from_logits(student_from_logits)
    outputs = [graph.get_outputs(network, inputs) for network in networks]
    _check_same_shapes(networks, outputs)
    flat = keras.tree.flatten(outputs[0])
    wanted = _activation_per_output(activation, outputs[0], student)
    ends = [activations.output_activations(network) for network in networks]
    # Of a network without a graph no end is known.
    ends = [end if len(end) == len(flat) else [None] * len(flat) for end in ends]
    from_logits_arguments = [student_from_logits, *[members_from_logits] * len(members)]
    pairs: list[OutputPair | None] = []
    for i, tensor in enumerate(flat):
        outputs_here = [
            _Output(network, end[i], from_logits)
            for network, end, from_logits in zip(
                networks, ends, from_logits_arguments, strict=True
            )
        ]
        is_left_out = wanted[i] is None
        pairs.append(
            None if is_left_out else _pair(wanted[i], outputs_here, tensor.shape[-1])
        )
    return pairs


def check_from_logits(from_logits: Any) -> Any:
    """Return `from_logits`, or raise a `ValueError` if it is no possible value."""
    is_auto = isinstance(from_logits, str) and from_logits == "auto"
    if not isinstance(from_logits, bool) and not is_auto:
        raise ValueError(
            f'`from_logits` must be True, False or "auto"; received {from_logits!r}.'
        )
    return from_logits


class _Output(NamedTuple):
    """One output of a network: the activation it ends in, and what the user says."""

    network: keras.Model
    ends_in: str | None
    from_logits_argument: bool | str

    def from_logits(self) -> bool:
        """Return whether the output is logits, by its end or by the argument."""
        if self.from_logits_argument == "auto":
            if self.ends_in in _PROBABILITIES or self.ends_in in _LOGITS:
                return self.ends_in in _LOGITS
            raise ValueError(
                f"It cannot be seen whether network '{self.network.name}' returns "
                "logits or probabilities: it ends in "
                f"{self.ends_in or 'code that shows no activation'}. Say so with "
                "`from_logits=True` or `False`: in the Distiller for the student, in "
                "keras_fitnets.Teacher for a teacher; or leave the output out with "
                "`activation=None` in its place."
            )
        if self.from_logits_argument and self.ends_in in _PROBABILITIES:
            raise ValueError(
                f"Network '{self.network.name}' ends in {self.ends_in}, so it returns "
                'probabilities; received from_logits=True. Leave it at "auto".'
            )
        return bool(self.from_logits_argument)


def _pair(wanted: str, outputs: list[_Output], units: int | None) -> OutputPair:
    # Only a softmax or sigmoid at the end tells the meaning; linear ends fit both.
    shown = {
        output.network.name: output.ends_in.removeprefix("log_")
        for output in outputs
        if output.ends_in in (*_PROBABILITIES, "log_softmax")
    }
    # All networks, and the argument, must agree on one meaning.
    kinds = set(shown.values()) | ({wanted} - {"auto"})
    if len(kinds) > 1:
        raise ValueError(
            "Soft targets need one meaning of the outputs, softmax (one class of "
            f"several) or sigmoid (independent units); received activation={wanted!r}, "
            f"and the networks end in {shown}. Make them agree."
        )
    # Where nothing tells it, a single unit must be independent: see the next error.
    activation = kinds.pop() if kinds else ("sigmoid" if units == 1 else "softmax")
    if activation == "softmax" and units == 1:
        raise ValueError(
            "A softmax over one unit is always 1, so it teaches nothing. Use "
            'activation="sigmoid" for a single unit, or more units.'
        )
    # The student comes first in `outputs`.
    specs = [OutputSpec(activation, output.from_logits()) for output in outputs]
    return OutputPair(activation, specs[0], tuple(specs[1:]))


def _check_same_shapes(networks: list[keras.Model], outputs: list[Any]) -> None:
    for network, output in zip(networks[1:], outputs[1:], strict=True):
        if not graph.has_same_structure(output, outputs[0]):
            raise ValueError(
                "Teacher and student must have the same outputs, with the same number "
                f"of classes; teacher '{network.name}' gives "
                f"{graph.format_shapes(output)}, student '{networks[0].name}' gives "
                f"{graph.format_shapes(outputs[0])}. Change the last layer of one of "
                "them."
            )


def _activation_per_output(
    activation: Any, outputs: Any, student: keras.Model
) -> list[Any]:
    count = len(keras.tree.flatten(outputs))
    if isinstance(activation, str):
        wanted = [activation] * count
    else:
        # Keras flattens dictionaries by sorted key, so that other keys would silently
        # give their activations to other outputs.
        has_same_keys = not isinstance(outputs, dict) or (
            isinstance(activation, dict) and activation.keys() == outputs.keys()
        )
        wanted = keras.tree.flatten(activation) if has_same_keys else []
        if len(wanted) != count or activation is None:
            raise ValueError(
                '`activation` must be "auto", "softmax", "sigmoid", or one of these or '
                f"None for each output; received {activation!r} for the outputs of "
                f"student '{student.name}': {graph.format_shapes(outputs)}."
            )
    if not any(wanted):
        raise ValueError(
            "`activation` leaves out every output, so that the teacher has nothing to "
            f"teach; received {activation!r}."
        )
    return [w if w in (None, "auto") else check_activation(w) for w in wanted]
