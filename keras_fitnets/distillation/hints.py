"""Hint pairs: which layer of the teacher guides which layer of the student."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_fitnets.distillation.hint_losses import check_loss_type
from keras_fitnets.distillation.hint_losses import format_loss
from keras_fitnets.inspection import graph
from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.keras_private import serialize_loss

# The words for a regressor that the Distiller makes itself.
_KINDS = ("auto", "conv", "dense")


@keras.saving.register_keras_serializable(package="keras_fitnets")
@dataclasses.dataclass(frozen=True, repr=False)
class Hint:
    """One pair of layers: the student's guided layer learns the teacher's hint.

    A pair of names, `("conv2", "conv6")`, is enough for the usual case. Use a `Hint` to
    give a pair a weight or a regressor of its own, or to take the hint from one network
    of an ensemble. The pair adds `weight · ½ ‖u_h(x) - r(v_g(x))‖²` to the hint loss,
    Eq. 3 in Romero et al., "FitNets" (arXiv 1412.6550), with the hint `u_h`, the guided
    layer `v_g` and the regressor `r`.

    Args:
        hint_layer: the name of the teacher's layer, or its path into nested models,
            such as `"backbone/block3_out"`.
        guided_layer: the same for the student.
        weight: the factor of this pair's loss, a positive number.
        regressor: `"auto"`, `"conv"` or `"dense"`, a `HintRegressor` of that kind, or
            your own layer that maps `(batch, ...)` of the guided layer to the shape of
            the hint.
        member: the position in an ensemble of the network that gives the hint,
            counted from 0.
        loss: in place of Eq. 3, a `keras.losses.Loss`, its name, or a function of the
            hint and its prediction, both `(batch, ...)`, that returns a value for each
            sample, or for each step of it: `(batch, ...)`, of which the mean is taken.
            A function may compare other shapes, behind a regressor of your own.
        mask: the name of the input that says which time steps count, 1 or True, in
            both networks; `"auto"` takes `"padding_mask"` or `"attention_mask"`, if
            there is one. None looks at no input. The masks of the layers themselves
            always hold.
        places: where the layers are in their networks. It is saved with a Distiller,
            so that its layers are found in another process, where Keras may have given
            them other names. Do not pass it.

    Raises:
        ValueError: if the weight is not positive, a path is empty, the regressor or
            the loss is unknown, or the member is negative.
        TypeError: if a path or the mask is not a string, or the loss no loss.

    Example:

    >>> Hint("conv2", "conv6", weight=0.5)
    Hint('conv2', 'conv6', weight=0.5)
    """

    hint_layer: str
    guided_layer: str
    weight: float = 1.0
    regressor: Any = "auto"
    member: int = 0
    loss: Any = None
    mask: str | None = "auto"
    places: Any = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for argument in ("hint_layer", "guided_layer"):
            path = getattr(self, argument)
            if not isinstance(path, str):
                raise TypeError(
                    f"`{argument}` must be the name of a layer, or its path in nested "
                    f"models; received {path!r}. Pass `layer.name`."
                )
            if not all(path.split("/")):
                raise ValueError(
                    f"`{argument}` must name a layer, with single slashes between "
                    f"nested models; received {path!r}."
                )
        check_number("weight", self.weight, "positive")
        is_kind = isinstance(self.regressor, str) and self.regressor in _KINDS
        if not is_kind and not isinstance(self.regressor, keras.layers.Layer):
            raise ValueError(
                '`regressor` must be "auto", "conv", "dense" or a Keras layer; '
                f"received {self.regressor!r}."
            )
        position = "It is a network's position in the ensemble, counted from 0."
        check_integer("member", self.member, minimum=0, advice=position)
        check_loss_type(self.loss)
        if self.mask is not None and not isinstance(self.mask, str):
            raise TypeError(
                '`mask` must be the name of an input, "auto" or None; received '
                f'{self.mask!r}. For example "padding_mask".'
            )

    def __repr__(self) -> str:
        # Only what differs from the default is shown: a dataclass would show it all.
        text = f"Hint({self.hint_layer!r}, {self.guided_layer!r}"
        for field in dataclasses.fields(self)[2:]:
            value = getattr(self, field.name)
            if field.repr and value != field.default:
                # The address of a function would be another one in each process.
                shown = format_loss(value) if field.name == "loss" else repr(value)
                text += f", {field.name}={shown}"
        return text + ")"

    def get_config(self) -> dict[str, Any]:
        regressor, loss = self.regressor, self.loss
        # A layer of the user's own goes into a `.keras` file with its configuration.
        if not isinstance(regressor, str):
            regressor = keras.saving.serialize_keras_object(regressor)
        if loss is not None and not isinstance(loss, str):
            loss = serialize_loss(loss)
        return {
            "hint_layer": self.hint_layer,
            "guided_layer": self.guided_layer,
            "weight": self.weight,
            "regressor": regressor,
            "member": self.member,
            "loss": loss,
            "mask": self.mask,
            "places": self.places,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Hint":
        deserialize = keras.saving.deserialize_keras_object
        # Files of earlier versions know neither losses nor masks nor places.
        regressor, loss = config["regressor"], config.get("loss")
        if not isinstance(regressor, str):
            regressor = deserialize(regressor)
        if loss is not None and not isinstance(loss, str):
            loss = deserialize(loss)
        return cls(**{**config, "regressor": regressor, "loss": loss})


def parse_hints(
    hints: Any, members: Sequence[keras.Model], student: keras.Model
) -> tuple[Hint, ...]:
    """Return the `hints` argument of a `Distiller` as a tuple of `Hint`.

    Args:
        hints: the argument, in any of its forms.
        members: the teacher's networks.
        student: the student.

    Raises:
        TypeError: if it has none of the forms that a Distiller takes.
        ValueError: if it is an empty list or names the same pair twice.
    """
    if hints is None:
        return ()
    # The paper takes the middle layers of both networks. An ensemble's first network
    # stands for all of them.
    if isinstance(hints, str) and hints == "middle":
        return (
            Hint(graph.find_middle_layer(members[0]), graph.find_middle_layer(student)),
        )
    if isinstance(hints, Hint) or _is_pair(hints):
        hints = [hints]
    # A word is a sequence too, of letters.
    if isinstance(hints, str) or not isinstance(hints, Sequence):
        raise TypeError(
            '`hints` must be a pair ("hint_layer", "guided_layer"), a Hint, a list of '
            f'these, "middle", or None; received {hints!r}.'
        )
    pairs = []
    for hint in hints:
        if not isinstance(hint, Hint) and not _is_pair(hint):
            raise TypeError(
                'Each of `hints` must be a pair ("hint_layer", "guided_layer") or a '
                f"keras_fitnets.Hint; received {hint!r} among {hints!r}."
            )
        hint = hint if isinstance(hint, Hint) else Hint(*hint)
        pairs.append(_relocate(hint, members, student))
    # Two equal pairs would train two regressors on the same difference. Their weights
    # are left out here: to count a pair twice is to double its weight.
    keys = [(hint.member, hint.hint_layer, hint.guided_layer) for hint in pairs]
    if not pairs or len(set(keys)) < len(keys):
        raise ValueError(
            "`hints` must hold at least one pair, and none twice; received "
            f"{hints!r}. For distillation without hints pass None."
        )
    return tuple(pairs)


def serialize_hint(
    hint: Hint, members: Sequence[keras.Model], student: keras.Model
) -> Any:
    """Return a hint as it is saved, with where its layers are, whatever their names."""
    networks = members[hint.member], student
    paths = hint.hint_layer, hint.guided_layer
    places = [
        list(graph.find_place(network, path))
        for network, path in zip(networks, paths, strict=True)
    ]
    # Keras recognises what it has serialised by its address, so that a copy of the hint
    # which is gone afterwards would be taken for the next one.
    config = keras.saving.serialize_keras_object(hint)
    return {**config, "config": {**config["config"], "places": places}}


def describe_layers(
    hint: Hint, members: Sequence[keras.Model], student: keras.Model
) -> str:
    """Describe a pair in words that are the same in every process.

    A name that Keras made up is left out; the place of the layer tells.
    """
    networks = members[hint.member], student
    paths = hint.hint_layer, hint.guided_layer
    known = []
    for network, path in zip(networks, paths, strict=True):
        place = graph.find_place(network, path)
        name = place.kind if graph.has_made_up_name(network, path) else path
        known.append(f"{name} (layer {place.position})")
    # A layer's text holds a name that Keras counts up from run to run.
    return repr(
        dataclasses.replace(
            hint, hint_layer=known[0], guided_layer=known[1], regressor="auto"
        )
    )


def _relocate(hint: Hint, members: Sequence[keras.Model], student: keras.Model) -> Hint:
    """Return a hint of a saved Distiller with the paths that hold in this process."""
    if hint.places is None or hint.member >= len(members):
        return hint
    hint_place, guided_place = (graph.Place(*place) for place in hint.places)
    return dataclasses.replace(
        hint,
        hint_layer=graph.relocate(members[hint.member], hint.hint_layer, hint_place),
        guided_layer=graph.relocate(student, hint.guided_layer, guided_place),
        places=None,
    )


def check_member(hint: Hint, members: Sequence[keras.Model]) -> None:
    """Raise if a hint names a network that the ensemble does not have."""
    if hint.member >= len(members):
        raise ValueError(
            f"{hint} names member {hint.member} of a teacher that has {len(members)} "
            "network(s); members are counted from 0."
        )


def _is_pair(value: Any) -> bool:
    """Whether a value is a pair of names."""
    is_sequence = isinstance(value, (list, tuple)) and len(value) == 2
    return is_sequence and all(isinstance(part, str) for part in value)
