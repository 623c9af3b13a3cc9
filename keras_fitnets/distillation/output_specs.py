"""How the outputs of teacher and student are compared: as classes, or as numbers.

Classes may come as logits or as probabilities, and the two networks need not agree:
log p equals the logits up to a constant, which no softmax sees. Numbers, those of a
regression, are compared as they are. For every output this module decides which of
these it is: from what the user says, from the last layers, or from the label loss.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_fitnets.distillation.label_losses import describe_loss
from keras_fitnets.distillation.output_names import align_losses
from keras_fitnets.distillation.output_names import align_to_outputs
from keras_fitnets.distillation.output_names import get_output_names
from keras_fitnets.distillation.output_names import match_outputs
from keras_fitnets.inspection import activations
from keras_fitnets.inspection import graph
from keras_fitnets.losses import to_logits
from keras_fitnets.utils.checks import check_choice
from keras_fitnets.utils.tensors import upcast_to_float32

ACTIVATIONS = ("softmax", "sigmoid", "linear")
_CHOICES = (
    '"softmax" (one class of several), "sigmoid" (independent units), "linear" '
    "(numbers, compared by their squared difference), or None for an output that the "
    "teacher does not teach"
)
_PROBABILITIES = ("softmax", "sigmoid")
_LOGITS = ("linear", "log_softmax")
# Stands where neither the networks nor the user nor a loss says what an output means.
UNDECIDED = "auto"


class OutputSpec(NamedTuple):
    """How to read one output of one network.

    Attributes:
        activation: "softmax" or "sigmoid", which turns its logits to probabilities, or
            "linear" for numbers; "auto" if that is not known yet.
        from_logits: whether the output is logits, or numbers; else it is probabilities.
    """

    activation: str
    from_logits: bool

    def logits(self, output: Any) -> Any:
        """Return the output as logits, in float32 at least."""
        # A number for each sample: without an axis of units the losses, which average
        # over the last axis, would average over the samples.
        if len(output.shape) == 1:
            output = ops.expand_dims(output, -1)
        if not self.from_logits:
            if self.activation == UNDECIDED:
                raise ValueError(
                    "It cannot be seen whether an output is logits or probabilities "
                    "before the Distiller is compiled. Compile it, or pass "
                    f"`activation` to it: {_CHOICES}."
                )
            return to_logits(output, self.activation)
        return upcast_to_float32(output)


class OutputPair(NamedTuple):
    """How to read one of the student's outputs, and the same output of each teacher.

    Attributes:
        activation: what the output means: "softmax", "sigmoid" or "linear"; "auto" if
            that is not known yet.
        student: how to read the student's output.
        members: how to read that of each network of the teacher.
        positions: where each of these networks has the output, among its flat outputs.
        units: the size of the output's last dimension, None if it is unknown.
        description: what a message calls the output.
    """

    activation: str
    student: OutputSpec
    members: tuple[OutputSpec, ...]
    positions: tuple[int, ...]
    units: int | None
    description: str


class OutputMatcher:
    """Finds for each of the student's outputs how to compare it with the teacher's.

    Args:
        members: the teacher's networks.
        student: the student.
        inputs: symbolic inputs of all of them, or None if no network shows any.
        activation: as for `Distiller`: "auto", or one for each output.
        members_from_logits: whether the teachers return logits; "auto": see for each.
        student_from_logits: whether the student does; "auto": see. It holds for a
            teacher too, where neither its end nor `members_from_logits` tells.
        soft_loss: as for `Distiller`: a loss for all outputs, or one for each.

    Attributes:
        names: the names of the student's outputs, None if they have none.
        shapes: the shapes of the student's outputs, with the batch.
        wanted: for each output what `activation` says of it, None if it is left out.
        soft_losses: the user's own soft loss of each output, or None.

    Raises:
        ValueError: if the arguments are no possible values.
    """

    def __init__(
        self,
        members: Sequence[keras.Model],
        student: keras.Model,
        inputs: Any,
        activation: Any,
        members_from_logits: bool | str,
        student_from_logits: bool | str,
        soft_loss: Any = None,
    ) -> None:
        self._networks = [student, *members]
        for network in self._networks:
            if inputs is None and not graph.is_symbolic(network):
                raise ValueError(
                    f"The inputs of network '{network.name}', a "
                    f"{type(network).__name__}, cannot be seen. Make teacher or "
                    "student a Functional or Sequential network, which shows its "
                    "inputs."
                )
        check_from_logits(student_from_logits)
        self._outputs = [graph.get_outputs(n, inputs) for n in self._networks]
        self._flat = [keras.tree.flatten(outputs) for outputs in self._outputs]
        self._all_names = [
            get_output_names(network, outputs)
            for network, outputs in zip(self._networks, self._outputs, strict=True)
        ]
        self.names = self._all_names[0]
        self.shapes = [tuple(tensor.shape) for tensor in self._flat[0]]
        # Outputs of the teacher that `activation` leaves out.
        self._ignored: set[str] = set()
        self.soft_losses = self.align(soft_loss, "soft_loss")
        self.wanted = self._align_activation(activation)
        ends = [activations.output_activations(network) for network in self._networks]
        # Of a network without a graph no end is known.
        self._ends = [
            end if len(end) == len(flat) else [None] * len(flat)
            for end, flat in zip(ends, self._flat, strict=True)
        ]
        self._from_logits = [
            student_from_logits,
            *[members_from_logits] * len(members),
        ]

    @property
    def count(self) -> int:
        """The number of the student's outputs."""
        return len(self._flat[0])

    def align(self, values: Any, argument: str) -> list[Any]:
        """Return what was given for each output; see `align_to_outputs`."""
        # The order of a dictionary's outputs is that of their sorted names, which
        # nobody would expect of a list.
        if isinstance(self._outputs[0], dict) and isinstance(values, (list, tuple)):
            raise ValueError(
                f"The outputs have names, {self.names}; received `{argument}` as a "
                f"list: {values!r}. Pass a dictionary by these names."
            )
        return align_to_outputs(values, self.names, self.count, argument)

    def order(self, values: Any, argument: str) -> Any:
        """Return what is given by name in the structure of the outputs.

        Keras does so with the labels of several outputs, but neither with those of a
        single one nor with sample weights.
        """
        is_named = isinstance(values, dict) and self.names is not None
        if not is_named or isinstance(self._outputs[0], dict):
            return values
        flat = self.align(values, argument)
        return flat if keras.tree.is_nested(self._outputs[0]) else flat[0]

    @functools.cached_property
    def _positions(self) -> list[list[Any]]:
        """The position of each of the student's outputs in each network, itself first.

        Raises:
            ValueError: if the outputs cannot be matched, or differ in shape.
        """
        student, outputs = self._networks[0], self._outputs[0]
        positions: list[list[Any]] = [list(range(self.count))]
        for m, member in enumerate(self._networks[1:], start=1):
            found = match_outputs(member, self._outputs[m], student, outputs)
            self._check_same_shapes(m, found)
            positions.append(found)
        return positions

    def pair(self, loss: Any = None, is_compiled: bool = False) -> list[Any]:
        """Return for each output how it is compared, None if it is left out.

        Args:
            loss: the label loss, as `compile` takes it.
            is_compiled: whether there is a label loss if there will be one.

        Returns:
            An `OutputPair` or None for each of the student's outputs.

        Raises:
            ValueError: if the outputs of the networks do not fit, or if what the
                networks show contradicts the arguments.
        """
        if not any(self.wanted):
            return [None] * self.count
        losses = align_losses(loss, self.names, self.count)
        return [
            None if wanted is None else self._pair(i, wanted, losses[i], is_compiled)
            for i, wanted in enumerate(self.wanted)
        ]

    def _pair(self, i: int, wanted: str, loss: Any, is_compiled: bool) -> OutputPair:
        places = [positions[i] for positions in self._positions]
        outputs = [
            _Output(network, end[place], from_logits)
            for network, end, from_logits, place in zip(
                self._networks, self._ends, self._from_logits, places, strict=True
            )
        ]
        units = _count_units(self._flat[0][i])
        activation = self._decide(i, wanted, outputs, units, loss, is_compiled)
        specs = [
            OutputSpec(activation, output.is_logits(activation, outputs[0]))
            for output in outputs
        ]
        return OutputPair(
            activation=activation,
            student=specs[0],
            members=tuple(specs[1:]),
            positions=tuple(places[1:]),
            units=units,
            description=self._describe(i),
        )

    def _decide(
        self,
        i: int,
        wanted: str,
        outputs: list["_Output"],
        units: int | None,
        loss: Any,
        is_compiled: bool,
    ) -> str:
        """Return what an output means, "auto" if nothing tells yet."""
        if wanted == "linear":
            return wanted
        shown = {
            output.network.name: output.ends_in.removeprefix("log_")
            for output in outputs
            if output.ends_in in (*_PROBABILITIES, "log_softmax")
        }
        # All networks, and the argument, must agree on one meaning.
        kinds: set[Any] = set(shown.values()) | ({wanted} - {"auto"})
        if len(kinds) > 1:
            raise ValueError(
                "Soft targets need one meaning of the outputs, softmax (one class of "
                "several) or sigmoid (independent units); received "
                f"activation={wanted!r}, and the networks end in {shown}. Make them "
                "agree."
            )
        # Only a softmax or sigmoid at the end tells the meaning. A linear end fits
        # classes and numbers; then the loss says it, else that of a trained network.
        if not kinds:
            kinds.add(describe_loss(loss, units).activation)
            kinds.discard(None)
        if not kinds:
            kinds.update(self._get_compiled_kinds(i, units))
        if len(kinds) > 1:
            raise ValueError(
                f"The losses that the networks were compiled with say of "
                f"{self._describe(i)} that it is {' and '.join(sorted(kinds))}. Pass "
                f"`activation` to the Distiller: {_CHOICES}."
            )
        if kinds:
            activation = kinds.pop()
        elif self.soft_losses[i] is not None:
            # The user's own loss is given the outputs as they are.
            activation = "linear"
        elif loss is None and units != 1 and (is_compiled or _are_logits(outputs)):
            # Several units and no loss anywhere: classes, as in the paper.
            activation = "softmax"
            if is_compiled:
                _note_softmax(self._describe(i))
        else:
            activation = UNDECIDED
        if activation == "softmax" and units == 1:
            raise ValueError(
                "A softmax over one unit is always 1, so it teaches nothing. Use "
                'activation="sigmoid" for a single unit, or more units.'
            )
        return activation

    def _get_compiled_kinds(self, i: int, units: int | None) -> set[Any]:
        """Return what the losses of the trained networks say of output `i`."""
        kinds: set[Any] = set()
        for n, network in enumerate(self._networks):
            loss, place = getattr(network, "loss", None), self._positions[n][i]
            if loss is None or place is None:
                continue
            losses = align_losses(loss, self._all_names[n], len(self._flat[n]))
            kinds.add(describe_loss(losses[place], units).activation)
        return kinds - {None}

    def _align_activation(self, activation: Any) -> list[Any]:
        """Return the argument for each output, checked."""
        if activation is None:
            return [None] * self.count
        if isinstance(activation, dict) and self.names is not None:
            # A teacher may have outputs that the student lacks; None leaves them out.
            theirs = {name for names in self._all_names[1:] for name in names or ()}
            self._ignored = {
                name
                for name in theirs - set(self.names)
                if name in activation and activation[name] is None
            }
            activation = {
                name: value
                for name, value in activation.items()
                if name not in self._ignored
            }
        try:
            wanted = self.align(activation, "activation")
            if isinstance(activation, dict) and len(activation) != self.count:
                raise ValueError("Name every output.")
        except ValueError as error:
            raise ValueError(
                f'`activation` must be "auto", {_CHOICES}, or one of these for each '
                f"output; received {activation!r} for the outputs of student "
                f"'{self._networks[0].name}': {graph.format_shapes(self._outputs[0])}. "
                f"{error}"
            ) from error
        for value in wanted:
            if value is not None:
                check_choice(
                    "activation",
                    value,
                    ("auto", *ACTIVATIONS),
                    f'Use "auto", {_CHOICES}.',
                )
        return wanted

    def _check_same_shapes(self, m: int, found: list[int | None]) -> None:
        """Raise if a network lacks an output that is not left out, or has other shapes.

        Args:
            m: the position of the network; the student is at 0.
            found: where the network has each of the student's outputs.
        """
        for i, place in enumerate(found):
            if self.wanted[i] is None:
                continue
            own = tuple(self._flat[0][i].shape)
            other = None if place is None else tuple(self._flat[m][place].shape)
            if other is not None and graph.has_same_shapes([own], [other]):
                continue
            raise ValueError(
                "Teacher and student must have the same outputs, with the same number "
                f"of classes; teacher '{self._networks[m].name}' gives "
                f"{graph.format_shapes(self._outputs[m])}, student "
                f"'{self._networks[0].name}' gives "
                f"{graph.format_shapes(self._outputs[0])}. Change the last layer of "
                "one of them, or leave an output out with `activation=None` in its "
                "place."
            )
        unused = set(range(len(self._flat[m]))) - set(found)
        names: list[Any] = self._all_names[m] or [None] * len(self._flat[m])
        if any(names[place] not in self._ignored for place in unused):
            raise ValueError(
                "Teacher and student must have the same outputs; teacher "
                f"'{self._networks[m].name}' gives "
                f"{graph.format_shapes(self._outputs[m])}, student "
                f"'{self._networks[0].name}' gives "
                f"{graph.format_shapes(self._outputs[0])}. Leave out by name what the "
                'student lacks, as in activation={"classes": "auto", "auxiliary": '
                "None}, or give the student these outputs."
            )

    def _describe(self, i: int) -> str:
        """Return what a message calls one of the student's outputs."""
        student = self._networks[0].name
        if self.count == 1:
            return f"the output of student '{student}'"
        name = f"'{self.names[i]}'" if self.names else f"{i}"
        return f"output {name} of student '{student}'"


def check_decided(output_pairs: Sequence[OutputPair | None]) -> None:
    """Raise if nothing tells what an output means that the teacher is to teach."""
    for pair in output_pairs:
        if pair is not None and pair.activation == UNDECIDED:
            raise ValueError(
                f"It cannot be seen what {pair.description} means: the networks end in "
                "neither softmax nor sigmoid, and no loss of Keras that they are "
                "compiled with tells. Pass `activation` to the Distiller: "
                f"{_CHOICES}."
            )


def check_from_logits(from_logits: Any) -> Any:
    """Return `from_logits`, or raise a `ValueError` if it is no possible value."""
    is_auto = isinstance(from_logits, str) and from_logits == "auto"
    if not isinstance(from_logits, bool) and not is_auto:
        raise ValueError(
            f'`from_logits` must be True, False or "auto"; received {from_logits!r}.'
        )
    return from_logits


def _are_logits(outputs: Sequence["_Output"]) -> bool:
    """Whether every network's end, or an argument, tells logits or probabilities.

    Another end, such as a ReLU, may yet be that of a regression: its loss will tell.
    """
    return all(
        output.ends_in in _LOGITS or output.from_logits_argument != "auto"
        for output in outputs
    )


@functools.cache
def _note_softmax(description: str) -> None:
    """Tell once that an output is taken for classes, where nothing says so."""
    logging.getLogger("keras_fitnets").warning(
        "%s is taken for the logits of classes (softmax), since no loss says what it "
        'is. Pass activation="softmax" to the Distiller if it is, "sigmoid" or '
        '"linear" (a regression) if it is not.',
        description.capitalize(),
    )


def _count_units(output: Any) -> int | None:
    return output.shape[-1] if len(output.shape) > 1 else 1


class _Output(NamedTuple):
    """One output of a network: the activation it ends in, and what the user says."""

    network: keras.Model
    ends_in: str | None
    from_logits_argument: bool | str

    def is_logits(self, activation: str, student: "_Output") -> bool:
        """Return whether the output is logits, by its end or by the argument.

        Args:
            activation: what the output means.
            student: the same output of the student.
        """
        if activation == "linear":
            return True
        argument = self.from_logits_argument
        is_shown = self.ends_in in _PROBABILITIES or self.ends_in in _LOGITS
        # What is said of the student holds for a teacher that shows no end.
        if argument == "auto" and not is_shown:
            argument = student.from_logits_argument
        if argument == "auto":
            if is_shown:
                return self.ends_in in _LOGITS
            # Numbers need not be told apart from logits: the loss may yet say so.
            if activation == UNDECIDED:
                return False
            raise ValueError(
                f"It cannot be seen whether network '{self.network.name}' returns "
                "logits or probabilities: it ends in "
                f"{self.ends_in or 'code that shows no activation'}. Say so with "
                "`from_logits=True` or `False` in the Distiller, or in "
                "keras_fitnets.Teacher for a teacher that differs; or leave the "
                "output out with `activation=None` in its place."
            )
        if argument and self.ends_in in _PROBABILITIES:
            raise ValueError(
                f"Network '{self.network.name}' ends in {self.ends_in}, so it returns "
                'probabilities; received from_logits=True. Leave it at "auto".'
            )
        return bool(argument)
