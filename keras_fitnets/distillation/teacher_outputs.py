"""What the teacher says of a batch: asked of it, or remembered."""

import contextlib
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras

from keras_fitnets.inspection import graph
from keras_fitnets.inspection.feature_extractors import features
from keras_fitnets.distillation.hints import Hint
from keras_fitnets.distillation.hints import check_member
from keras_fitnets.losses import mask_of
from keras_fitnets.distillation.output_specs import Pairing
from keras_fitnets.distillation.teacher import Teacher


class Lesson(NamedTuple):
    """What the teacher says of a batch, as far as a stage wants to know.

    Attributes:
        logits: for each member the logits of its outputs, None for one left out;
            empty where the stage needs none.
        hints: the hints by position among the pairs.
    """

    logits: list[list[Any]]
    hints: dict[int, Any]


class Taught(NamedTuple):
    """Inputs together with what the teacher said of them; it stands where they stand.

    Args:
        inputs: a batch of inputs, as the networks take it.
        said: for each network of the teacher, by its fingerprint, the tensors by name:
            `"output 0"`, its logits, `"hint conv2 (layer 3)"`, a layer's output.

    Example:

    >>> import keras
    >>> from keras_fitnets import Distiller
    >>> def net(): return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> taught = Distiller(net(), net()).taught(keras.ops.ones((2, 4)))
    >>> [{name: tuple(tensor.shape) for name, tensor in one.items()}
    ...  for one in taught.said.values()]
    [{'output 0': (2, 3)}]
    """

    inputs: Any
    said: dict[str, dict[str, Any]]


def inputs_in(x: Any) -> Any:
    """The inputs, whether or not something was said of them."""
    return x.inputs if isinstance(x, Taught) else x


class Lessons:
    """A teacher's forward passes, and where in their results a lesson is found.

    Args:
        teacher: the `Teacher`.
        hints: the `Hint` pairs whose hint layers are asked for.
        pairings: how each output is read; None for one that is left out.
        inputs: symbolic inputs, for networks that show no graph.
    """

    def __init__(
        self,
        teacher: Teacher,
        hints: Sequence[Hint],
        pairings: Sequence[Pairing | None],
        inputs: Any,
    ) -> None:
        self._teacher = teacher
        self._members = teacher.models
        self._hints = hints
        self._pairings = pairings
        self._inputs = inputs
        for hint in hints:
            check_member(hint, self._members)
        self._positions = {
            m: [i for i, hint in enumerate(hints) if hint.member == m]
            for m in {hint.member for hint in hints}
        }
        self._features = {
            m: features(self._members[m], [hints[i].hint_layer for i in at], inputs)
            for m, at in self._positions.items()
        }
        self._names = [f"{hint.hint_layer} ({self._place(hint)})" for hint in hints]
        shapes = [
            (i, shape)
            for m, at in self._positions.items()
            for i, shape in zip(at, self._features[m].shapes, strict=True)
        ]
        self.shapes = [shape for _, shape in sorted(shapes)]

    def of(self, layers: Sequence[tuple[str, int]]) -> "Lessons":
        """The same with hints of further layers, given by their path and member."""
        known = [(hint.hint_layer, hint.member) for hint in self._hints]
        new = [layer for layer in layers if tuple(layer) not in known]
        if not new:
            return self
        more = [Hint(path, path, member=member) for path, member in new]
        hints = [*self._hints, *more]
        return Lessons(self._teacher, hints, self._pairings, self._inputs)

    def everything(self, fingerprints: Sequence[str]) -> list[tuple[str, str]]:
        """What `said` holds, but for masks: the network and the name of each tensor."""
        return self.names(fingerprints, "joint", range(len(self._hints)))

    def asked(self, x: Any, stage: str, wanted: Sequence[int]) -> Lesson:
        """A stage's lesson on a batch; nothing more of the teacher is run."""
        if stage == "hint":
            return Lesson([], self._only_hints(x, wanted))
        if stage == "joint":
            outputs, hints = self._both(x)
            return Lesson(self._logits(outputs), hints)
        outputs = [graph.run(member, x, training=False) for member in self._members]
        return Lesson(self._logits(outputs), {})

    def names(
        self, fingerprints: Sequence[str], stage: str, wanted: Sequence[int]
    ) -> list[tuple[str, str]]:
        """Each tensor of a stage's lesson, but for masks: its network, and its name."""
        outputs = [
            (member, self._output(i, m))
            for m, member in enumerate(fingerprints)
            for i, pairing in enumerate(self._pairings)
            if pairing is not None and stage != "hint"
        ]
        hints = [
            (fingerprints[self._hints[i].member], self._hint(i))
            for i in wanted
            if stage != "kd"
        ]
        return list(dict.fromkeys(outputs + hints))

    def said(self, x: Any, fingerprints: Sequence[str]) -> dict[str, dict[str, Any]]:
        """All lessons on a batch, as `Taught` holds them."""
        outputs, hints = self._both(x)
        found: dict[str, dict[str, Any]] = {member: {} for member in fingerprints}
        for m, logits in enumerate(self._logits(outputs)):
            for i, one in enumerate(logits):
                if one is not None:
                    found[fingerprints[m]][self._output(i, m)] = one
        for i, hint in hints.items():
            of_member = found[fingerprints[self._hints[i].member]]
            of_member[self._hint(i)] = hint
            if mask_of(hint) is not None:
                of_member[self._mask(i)] = mask_of(hint)
        return found

    def remembered(
        self,
        said: dict[str, dict[str, Any]],
        fingerprints: Sequence[str],
        stage: str,
        wanted: Sequence[int],
    ) -> Lesson:
        """A stage's lesson out of what was said of a batch.

        Raises:
            ValueError: if it was said by others, or of other layers.
        """
        logits, hints = [], {}
        if stage != "hint":
            logits = [
                [
                    pairing and self._find(said, member, self._output(i, m))
                    for i, pairing in enumerate(self._pairings)
                ]
                for m, member in enumerate(fingerprints)
            ]
        for i in wanted if stage != "kd" else ():
            member = fingerprints[self._hints[i].member]
            hints[i] = self._find(said, member, self._hint(i))
            mask = said[member].get(self._mask(i))
            if mask is not None:
                # Where specifications are looked at, they hold no mask.
                with contextlib.suppress(AttributeError):
                    hints[i]._keras_mask = mask
        return Lesson(logits, hints)

    def _find(self, said: dict[str, dict[str, Any]], member: str, name: str) -> Any:
        if member not in said:
            raise ValueError(
                f"The data hold what another teacher said: of {sorted(said)}; a network"
                f" of this Distiller's teacher has the fingerprint {member!r}, of its "
                "layers and weights. Was it trained on since? Make a cache with this "
                "Distiller, in a directory of its own."
            )
        if name not in said[member]:
            raise ValueError(
                f"The data hold no {name!r} of the teacher, but {sorted(said[member])}."
                " Make a cache, in a directory of its own, with a Distiller whose "
                "`hints` name every layer that is to be tried."
            )
        return said[member][name]

    def _output(self, i: int, m: int) -> str:
        reading = self._pairings[i].members[m]  # type: ignore[union-attr]
        # What probabilities are as logits depends on what they are meant as.
        return f"output {i}" + ("" if reading.from_logits else f" {reading.activation}")

    def _hint(self, i: int) -> str:
        return f"hint {self._names[i]}"

    def _mask(self, i: int) -> str:
        return f"mask {self._names[i]}"

    def _place(self, hint: Hint) -> str:
        """Where the layer is: a name that Keras made up may be another's next time."""
        network = self._members[hint.member]
        layer = graph.layer_at(network, hint.hint_layer)
        layers = graph.descendants(network)
        return f"layer {next(i for i, one in enumerate(layers) if one is layer)}"

    def _logits(self, outputs: Sequence[Any]) -> list[list[Any]]:
        """Each member's outputs as logits."""
        return [
            [
                pairing and pairing.members[m].logits(output)
                for pairing, output in zip(
                    self._pairings, keras.tree.flatten(outputs[m]), strict=True
                )
            ]
            for m in range(len(outputs))
        ]

    def _only_hints(self, x: Any, wanted: Sequence[int]) -> dict[int, Any]:
        """The hints at some positions; nothing above them is run."""
        found: dict[int, Any] = {}
        for member, positions in self._positions.items():
            local = [n for n, i in enumerate(positions) if i in wanted]
            if local:
                tensors = self._features[member].upto(x, False, local)
                found.update(zip([positions[n] for n in local], tensors, strict=True))
        return found

    def _both(self, x: Any) -> tuple[list[Any], dict[int, Any]]:
        """Each member's outputs and all hints, in one pass through each."""
        outputs: list[Any] = []
        found: dict[int, Any] = {}
        for m, member in enumerate(self._members):
            if m in self._features:
                member_outputs, tensors = self._features[m].full(x, False)
                found.update(zip(self._positions[m], tensors, strict=True))
            else:
                member_outputs = graph.run(member, x, training=False)
            outputs.append(member_outputs)
        return outputs, found
