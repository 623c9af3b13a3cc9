"""The teacher's outputs for a batch, computed now or read from a cache."""

import contextlib
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras

from keras_fitnets.distillation.hints import Hint
from keras_fitnets.distillation.hints import check_member
from keras_fitnets.distillation.output_specs import OutputPair
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.inspection import graph
from keras_fitnets.inspection.feature_extractors import create_feature_extractor
from keras_fitnets.utils.tensors import get_mask


class TeacherOutputs(NamedTuple):
    """The teacher's outputs for a batch, as far as a stage needs them.

    Attributes:
        logits: for each member the logits of its outputs, None for one left out;
            empty where the stage needs none.
        hints: the hints by position among the pairs.
    """

    logits: list[list[Any]]
    hints: dict[int, Any]


class CachedInputs(NamedTuple):
    """Inputs with their cached teacher outputs, to use wherever inputs are taken.

    Args:
        inputs: a batch of inputs, as the networks take it.
        teacher_outputs: for each network of the teacher, by its fingerprint, the
            tensors by name: `"output 0"` for its logits, `"hint conv2 (layer 3)"` for
            a layer's output.

    Example:

    >>> import keras
    >>> from keras_fitnets import Distiller
    >>> def net(): return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> cached = Distiller(net(), net()).with_teacher_outputs(keras.ops.ones((2, 4)))
    >>> [{name: tuple(tensor.shape) for name, tensor in one.items()}
    ...  for one in cached.teacher_outputs.values()]
    [{'output 0': (2, 3)}]
    """

    inputs: Any
    teacher_outputs: dict[str, dict[str, Any]]


def unwrap_inputs(x: Any) -> Any:
    """Return the plain inputs, whether or not teacher outputs come with them."""
    return x.inputs if isinstance(x, CachedInputs) else x


class TeacherOutputProvider:
    """Computes the teacher's outputs for a batch, or looks them up in a cache.

    Args:
        teacher: the `Teacher`.
        hints: the `Hint` pairs whose hint layers are asked for.
        output_pairs: how each output is read; None for one that is left out.
        inputs: symbolic inputs, for networks that show no graph.
    """

    def __init__(
        self,
        teacher: Teacher,
        hints: Sequence[Hint],
        output_pairs: Sequence[OutputPair | None],
        inputs: Any,
    ) -> None:
        self._teacher = teacher
        self._members = teacher.models
        self._hints = hints
        self._output_pairs = output_pairs
        self._inputs = inputs
        for hint in hints:
            check_member(hint, self._members)
        self._positions = {
            m: [i for i, hint in enumerate(hints) if hint.member == m]
            for m in {hint.member for hint in hints}
        }
        self._extractors = {
            m: create_feature_extractor(
                self._members[m], [hints[i].hint_layer for i in at], inputs
            )
            for m, at in self._positions.items()
        }
        self._names = [f"{hint.hint_layer} ({self._place(hint)})" for hint in hints]
        shapes = [
            (i, shape)
            for m, at in self._positions.items()
            for i, shape in zip(at, self._extractors[m].shapes, strict=True)
        ]
        self.shapes = [shape for _, shape in sorted(shapes)]

    def with_layers(self, layers: Sequence[tuple[str, int]]) -> "TeacherOutputProvider":
        """The same with hints of further layers, given by their path and member."""
        known = [(hint.hint_layer, hint.member) for hint in self._hints]
        new = [layer for layer in layers if tuple(layer) not in known]
        if not new:
            return self
        more = [Hint(path, path, member=member) for path, member in new]
        hints = [*self._hints, *more]
        return TeacherOutputProvider(
            self._teacher, hints, self._output_pairs, self._inputs
        )

    def all_keys(self, fingerprints: Sequence[str]) -> list[tuple[str, str]]:
        """What `said` holds, but for masks: the network and the name of each tensor."""
        return self.keys(fingerprints, "joint", range(len(self._hints)))

    def compute(self, x: Any, stage: str, wanted: Sequence[int]) -> TeacherOutputs:
        """Compute what a stage needs for a batch; run nothing more of the teacher."""
        if stage == "hint":
            return TeacherOutputs([], self._only_hints(x, wanted))
        if stage == "joint":
            outputs, hints = self._both(x)
            return TeacherOutputs(self._logits(outputs), hints)
        outputs = [
            graph.call_network(member, x, training=False) for member in self._members
        ]
        return TeacherOutputs(self._logits(outputs), {})

    def keys(
        self, fingerprints: Sequence[str], stage: str, wanted: Sequence[int]
    ) -> list[tuple[str, str]]:
        """Each tensor of a stage's teacher_outputs, but for masks: its network, and "
        "its name."""
        outputs = [
            (member, self._output(i, m))
            for m, member in enumerate(fingerprints)
            for i, output_pair in enumerate(self._output_pairs)
            if output_pair is not None and stage != "hint"
        ]
        hints = [
            (fingerprints[self._hints[i].member], self._hint(i))
            for i in wanted
            if stage != "kd"
        ]
        return list(dict.fromkeys(outputs + hints))

    def compute_all(
        self, x: Any, fingerprints: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """Compute all outputs for a batch, as `CachedInputs` holds them."""
        outputs, hints = self._both(x)
        found: dict[str, dict[str, Any]] = {member: {} for member in fingerprints}
        for m, logits in enumerate(self._logits(outputs)):
            for i, one in enumerate(logits):
                if one is not None:
                    found[fingerprints[m]][self._output(i, m)] = one
        for i, hint in hints.items():
            of_member = found[fingerprints[self._hints[i].member]]
            of_member[self._hint(i)] = hint
            if get_mask(hint) is not None:
                of_member[self._mask(i)] = get_mask(hint)
        return found

    def lookup(
        self,
        teacher_outputs: dict[str, dict[str, Any]],
        fingerprints: Sequence[str],
        stage: str,
        wanted: Sequence[int],
    ) -> TeacherOutputs:
        """Look up what a stage needs among the cached outputs of a batch.

        Raises:
            ValueError: if another teacher made them, or a layer is missing.
        """
        logits, hints = [], {}
        if stage != "hint":
            logits = [
                [
                    output_pair
                    and self._find(teacher_outputs, member, self._output(i, m))
                    for i, output_pair in enumerate(self._output_pairs)
                ]
                for m, member in enumerate(fingerprints)
            ]
        for i in wanted if stage != "kd" else ():
            member = fingerprints[self._hints[i].member]
            hints[i] = self._find(teacher_outputs, member, self._hint(i))
            mask = teacher_outputs[member].get(self._mask(i))
            if mask is not None:
                # Where specifications are looked at, they hold no mask.
                with contextlib.suppress(AttributeError):
                    hints[i]._keras_mask = mask
        return TeacherOutputs(logits, hints)

    def _find(
        self, teacher_outputs: dict[str, dict[str, Any]], member: str, name: str
    ) -> Any:
        if member not in teacher_outputs:
            raise ValueError(
                "The cache was made with a different teacher, of the fingerprints "
                f"{sorted(teacher_outputs)}; a network"
                f" of this Distiller's teacher has the fingerprint {member!r}, of its "
                "layers and weights. Was it trained on since? Make a cache with this "
                "Distiller, in a directory of its own."
            )
        if name not in teacher_outputs[member]:
            raise ValueError(
                f"The data hold no {name!r} of the teacher, but "
                f"{sorted(teacher_outputs[member])}."
                " Make a cache, in a directory of its own, with a Distiller whose "
                "`hints` name every layer that is to be tried."
            )
        return teacher_outputs[member][name]

    def _output(self, i: int, m: int) -> str:
        reading = self._output_pairs[i].members[m]  # type: ignore[union-attr]
        # What probabilities are as logits depends on what they are meant as.
        return f"output {i}" + ("" if reading.from_logits else f" {reading.activation}")

    def _hint(self, i: int) -> str:
        return f"hint {self._names[i]}"

    def _mask(self, i: int) -> str:
        return f"mask {self._names[i]}"

    def _place(self, hint: Hint) -> str:
        """Where the layer is: a name that Keras made up may be another's next time."""
        network = self._members[hint.member]
        layer = graph.find_layer(network, hint.hint_layer)
        layers = graph.get_descendants(network)
        return f"layer {next(i for i, one in enumerate(layers) if one is layer)}"

    def _logits(self, outputs: Sequence[Any]) -> list[list[Any]]:
        """Each member's outputs as logits."""
        return [
            [
                output_pair and output_pair.members[m].logits(output)
                for output_pair, output in zip(
                    self._output_pairs, keras.tree.flatten(outputs[m]), strict=True
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
                tensors = self._extractors[member].extract(x, False, local)
                found.update(zip([positions[n] for n in local], tensors, strict=True))
        return found

    def _both(self, x: Any) -> tuple[list[Any], dict[int, Any]]:
        """Each member's outputs and all hints, in one pass through each."""
        outputs: list[Any] = []
        found: dict[int, Any] = {}
        for m, member in enumerate(self._members):
            if m in self._extractors:
                member_outputs, tensors = self._extractors[m].outputs_and_features(
                    x, False
                )
                found.update(zip(self._positions[m], tensors, strict=True))
            else:
                member_outputs = graph.call_network(member, x, training=False)
            outputs.append(member_outputs)
        return outputs, found
