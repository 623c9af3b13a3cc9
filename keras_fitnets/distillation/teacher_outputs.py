"""The teacher's outputs for a batch, computed now or read from a cache.

A step asks for them in one of two ways. `TeacherOutputProvider.compute` runs the
teacher, no further than the stage needs; `TeacherOutputProvider.lookup` takes the same
tensors out of a batch of `CachedInputs`. Both return `TeacherOutputs`, so that the
losses do not know where they came from.

A hint of a sequence has a mask. It is passed beside the values, not attached to a
tensor, because tensors that come from a file or from another backend carry none.
"""

import re
from collections.abc import Callable
from collections.abc import Iterable
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
from keras_fitnets.utils.keras_private import get_mask


class TeacherOutputs(NamedTuple):
    """The teacher's outputs for a batch, as far as a stage needs them.

    Attributes:
        logits: for each network of the teacher the logits of its outputs, None for an
            output that is left out; empty in stage "hint".
        hints: the values of each hint, `(batch, ...)`, and its mask, `(batch, steps)`
            or None, by the position of the pair; empty in stage "kd".
    """

    logits: list[list[Any]]
    hints: dict[int, tuple[Any, Any]]


class CachedInputs(NamedTuple):
    """Inputs with their cached teacher outputs. Use it wherever inputs are accepted.

    Args:
        inputs: a batch of inputs, in the structure that the networks take.
        teacher_outputs: for each network of the teacher, by its fingerprint, the
            tensors by name: `"output 0"` for its logits, `"hint conv2 (layer 3)"` for
            a layer's output, `"mask conv2 (layer 3)"` for the mask of that output.

    Example:

    >>> import keras
    >>> from keras_fitnets import Distiller
    >>> def net(): return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> cached = Distiller(net(), net()).with_teacher_outputs(keras.ops.ones((2, 4)))
    >>> [tensors] = cached.teacher_outputs.values()
    >>> {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    {'output 0': (2, 3)}
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
        hints: the `Hint` pairs whose hint layers are wanted.
        get_output_pairs: returns how each output is read as logits, None for one that
            is left out.
        inputs: symbolic inputs, for networks that show no graph.

    Attributes:
        shapes: the shape of each hint without the batch, by the position of its pair.
    """

    def __init__(
        self,
        teacher: Teacher,
        hints: Sequence[Hint],
        get_output_pairs: Callable[[], Sequence[OutputPair | None]],
        inputs: Any,
    ) -> None:
        self._teacher = teacher
        self._members = teacher.models
        self._hints = hints
        self._get_output_pairs = get_output_pairs
        self._inputs = inputs
        for hint in hints:
            check_member(hint, self._members)
        # Each network of an ensemble has its own extractor for all of its hint layers,
        # so that one pass through the network gives them all.
        self._positions = {
            m: [i for i, hint in enumerate(hints) if hint.member == m]
            for m in {hint.member for hint in hints}
        }
        self._extractors = {
            m: create_feature_extractor(
                self._members[m], [hints[i].hint_layer for i in positions], inputs
            )
            for m, positions in self._positions.items()
        }
        self._layer_names = [self._describe_layer(hint) for hint in hints]
        shapes = {
            i: shape
            for m, positions in self._positions.items()
            for i, shape in zip(positions, self._extractors[m].shapes, strict=True)
        }
        self.shapes = [shapes[i] for i in range(len(hints))]

    def with_layers(self, layers: Sequence[tuple[str, int]]) -> "TeacherOutputProvider":
        """Return a provider that has hints of further layers too.

        Args:
            layers: the path of each layer, and the position of its network.
        """
        known = [(hint.hint_layer, hint.member) for hint in self._hints]
        new = [layer for layer in layers if tuple(layer) not in known]
        if not new:
            return self
        # A provider reads nothing of the guided layer of a pair.
        more = [Hint(path, path, member=member) for path, member in new]
        hints = [*self._hints, *more]
        return TeacherOutputProvider(
            self._teacher, hints, self._get_output_pairs, self._inputs
        )

    def compute(self, x: Any, stage: str, active: Sequence[int]) -> TeacherOutputs:
        """Run the teacher on a batch, no further than a stage needs.

        Args:
            x: a batch of plain inputs.
            stage: `"hint"`, `"kd"` or `"joint"`.
            active: the positions of the pairs that stage "hint" trains.
        """
        # The layers above the hint layers cost time and are not needed here.
        if stage == "hint":
            return TeacherOutputs([], self._compute_hints(x, active))
        if stage == "joint":
            outputs, hints = self._compute_outputs_and_hints(x)
            return TeacherOutputs(self._to_logits(outputs), hints)
        # In stage "kd" no hint is read, so that the networks are called as they are.
        outputs = [
            graph.call_network(member, x, training=False) for member in self._members
        ]
        return TeacherOutputs(self._to_logits(outputs), {})

    def compute_all(
        self, x: Any, fingerprints: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """Run the teacher on a batch; return all outputs as `CachedInputs` holds them.

        Args:
            x: a batch of plain inputs.
            fingerprints: that of each network of the teacher.
        """
        outputs, hints = self._compute_outputs_and_hints(x)
        cached: dict[str, dict[str, Any]] = {member: {} for member in fingerprints}
        output_pairs = self._get_output_pairs()
        for m, member_logits in enumerate(self._to_logits(outputs)):
            for pair, logits in zip(output_pairs, member_logits, strict=True):
                if pair is not None:
                    cached[fingerprints[m]][_name_output(pair, m)] = logits
        for i, (values, mask) in hints.items():
            of_member = cached[fingerprints[self._hints[i].member]]
            of_member[self._hint_name(i)] = values
            if mask is not None:
                of_member[self._mask_name(i)] = mask
        return cached

    def lookup(
        self,
        teacher_outputs: dict[str, dict[str, Any]],
        fingerprints: Sequence[str],
        stage: str,
        active: Sequence[int],
    ) -> TeacherOutputs:
        """Look up what a stage needs among the cached outputs of a batch.

        Args:
            teacher_outputs: those of a `CachedInputs`, or their specifications.
            fingerprints: that of each network of this teacher.
            stage: `"hint"`, `"kd"` or `"joint"`.
            active: the positions of the pairs that the stage uses.

        Raises:
            ValueError: if a different teacher computed them, or a layer is missing.
        """
        logits: list[list[Any]] = []
        hints: dict[int, tuple[Any, Any]] = {}
        output_pairs = self._get_output_pairs() if stage != "hint" else ()
        for m, member in enumerate(fingerprints if stage != "hint" else ()):
            names = [
                None if pair is None else _name_output(pair, m) for pair in output_pairs
            ]
            logits.append(
                [
                    None if name is None else _find(teacher_outputs, member, name)
                    for name in names
                ]
            )
        # The masks of a hint are no part of `keys`: they come with their values.
        for i in active if stage != "kd" else ():
            member = fingerprints[self._hints[i].member]
            values = _find(teacher_outputs, member, self._hint_name(i))
            # Most layers have no mask, and then the cache holds none.
            cached = teacher_outputs[member]
            mask = find_cached(self._mask_name(i), cached)
            hints[i] = values, None if mask is None else cached[mask]
        return TeacherOutputs(logits, hints)

    def keys(
        self, fingerprints: Sequence[str], stage: str, active: Sequence[int]
    ) -> list[tuple[str, str]]:
        """List the cached tensors that a stage needs, but for masks.

        Args:
            fingerprints: that of each network of the teacher.
            stage: `"hint"`, `"kd"` or `"joint"`.
            active: the positions of the pairs that the stage uses.

        Returns:
            For each tensor the fingerprint of its network, and its name.
        """
        output_pairs = self._get_output_pairs() if stage != "hint" else ()
        outputs = [
            (member, _name_output(output_pair, m))
            for m, member in enumerate(fingerprints)
            for output_pair in output_pairs
            if output_pair is not None
        ]
        hints = [
            (fingerprints[self._hints[i].member], self._hint_name(i))
            for i in active
            if stage != "kd"
        ]
        # Several pairs may use one hint layer, which is cached once. A dictionary
        # drops the repetitions and keeps the order.
        return list(dict.fromkeys(outputs + hints))

    def all_keys(self, fingerprints: Sequence[str]) -> list[tuple[str, str]]:
        """List all cached tensors, but for masks, as `keys` does."""
        return self.keys(fingerprints, "joint", range(len(self._hints)))

    def _hint_name(self, i: int) -> str:
        return f"hint {self._layer_names[i]}"

    def _mask_name(self, i: int) -> str:
        return f"mask {self._layer_names[i]}"

    def _describe_layer(self, hint: Hint) -> str:
        """Return the path of a hint layer and its place among the network's layers.

        Keras numbers unnamed layers as they are made ("conv2d_7"), so that in another
        process the same path may be that of another layer. The place tells.
        """
        place = graph.find_place(self._members[hint.member], hint.hint_layer)
        return f"{hint.hint_layer} (layer {place.position})"

    def _to_logits(self, outputs: Sequence[Any]) -> list[list[Any]]:
        """Return each network's outputs as logits, None for one that is left out."""
        output_pairs = self._get_output_pairs()
        logits = []
        for m, member_outputs in enumerate(outputs):
            flat = keras.tree.flatten(member_outputs)
            logits.append(
                [
                    None
                    if pair is None
                    else pair.members[m].logits(flat[pair.positions[m]])
                    for pair in output_pairs
                ]
            )
        return logits

    def _compute_hints(
        self, x: Any, active: Sequence[int]
    ) -> dict[int, tuple[Any, Any]]:
        """Return the hints at some positions; no layer above them is run."""
        hints: dict[int, tuple[Any, Any]] = {}
        for member, positions in self._positions.items():
            # An extractor counts the hint layers of its own network alone.
            local = [n for n, i in enumerate(positions) if i in active]
            if local:
                features = self._extractors[member].extract(x, False, local)
                hints.update(_with_masks([positions[n] for n in local], features))
        return hints

    def _compute_outputs_and_hints(
        self, x: Any
    ) -> tuple[list[Any], dict[int, tuple[Any, Any]]]:
        """Return each network's outputs and all hints, by one pass through each."""
        outputs: list[Any] = []
        hints: dict[int, tuple[Any, Any]] = {}
        for m, member in enumerate(self._members):
            if m in self._extractors:
                extractor = self._extractors[m]
                # One pass gives both; calling the network as well would double it.
                member_outputs, features = extractor.outputs_and_features(x, False)
                hints.update(_with_masks(self._positions[m], features))
            else:
                member_outputs = graph.call_network(member, x, training=False)
            outputs.append(member_outputs)
        return outputs, hints


def _with_masks(
    positions: Sequence[int], features: Sequence[Any]
) -> dict[int, tuple[Any, Any]]:
    """Return each layer's output and its mask by the position of its pair."""
    return {
        i: (values, get_mask(values))
        for i, values in zip(positions, features, strict=True)
    }


def _name_output(output_pair: OutputPair, m: int) -> str:
    """Return the name of an output of network `m` of the teacher in a cache."""
    spec, place = output_pair.members[m], output_pair.positions[m]
    if spec.from_logits:
        return f"output {place}"
    # Probabilities were turned into logits by the inverse of this activation; with
    # the other one a cache of them would be wrong.
    return f"output {place} {spec.activation}"


def _find(
    teacher_outputs: dict[str, dict[str, Any]], fingerprint: str, name: str
) -> Any:
    """Return one cached tensor of the network with this fingerprint."""
    if fingerprint not in teacher_outputs:
        raise ValueError(
            "The cache was made with a different teacher: its networks have the "
            f"fingerprints {sorted(teacher_outputs)}, and one of this Distiller's "
            f"teacher has {fingerprint!r}. A fingerprint changes with the layers and "
            "the weights. If the teacher was trained since, make a new cache with this "
            "Distiller, in a new directory."
        )
    found = find_cached(name, teacher_outputs[fingerprint])
    if found is None:
        raise ValueError(
            f"The cache has no {name!r} of the teacher; it has "
            f"{sorted(teacher_outputs[fingerprint])}. Make a new cache, in a new "
            "directory, with a Distiller whose `hints` name every layer that is to be "
            "used."
        )
    return teacher_outputs[fingerprint][found]


def find_cached(name: str, names: Iterable[str]) -> str | None:
    """Return which of some cached tensors is one of a name, None if it is not there.

    The layers of one fingerprint are the same whatever they are called, and Keras calls
    them otherwise in each process: only the place in the network tells.
    """
    same = [n for n in names if _drop_path(n) == _drop_path(name)]
    return name if name in same else next(iter(same), None)


def _drop_path(name: str) -> str:
    """Return the name of a cached tensor without the path of a hint layer."""
    return re.sub(r"(hint|mask) .* (\(layer \d+\))$", r"\1 \2", name)
