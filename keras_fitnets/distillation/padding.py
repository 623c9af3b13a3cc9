"""Padding that an input of the networks says, rather than a mask of Keras.

The networks of KerasHub, for example, have an input "padding_mask", which is 1 or True
for each token of a text and 0 or False for what fills it up.
"""

from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_fitnets.distillation.hints import Hint

_NAMES = ("padding_mask", "attention_mask")


class PaddingInput(NamedTuple):
    """An input that says which steps count: its name, and its place among them all."""

    name: str
    place: int


def find_padding_of_hint(
    hint: Hint, inputs: Any, shape: tuple[int | None, ...]
) -> PaddingInput | None:
    """Return the input that masks a hint, None if there is none.

    Args:
        hint: the pair.
        inputs: the symbolic inputs of the networks.
        shape: the shape of the hint, without the batch.

    Raises:
        ValueError: if the hint names an input that does not exist, or is no mask of its
            steps; or if the name is to be found and several inputs are named so.
    """
    if hint.mask is None:
        return None
    if hint.mask == "auto":
        found = _list_paddings(inputs, shape)
        if len(found) > 1:
            raise ValueError(
                "Several inputs may say which steps of hint layer "
                f"'{hint.hint_layer}' are padding: {[one.name for one in found]}. Pass "
                "the name of the right one to the Hint, as in kf.Hint(..., "
                f"mask={found[0].name!r}), or mask=None."
            )
        return found[0] if found else None
    names, tensors = _list_inputs(inputs)
    place = names.index(hint.mask) if hint.mask in names else None
    if place is None or not _is_mask(tensors[place], shape):
        shapes = dict(zip(names, [tuple(t.shape) for t in tensors], strict=True))
        raise ValueError(
            "`mask` of a Hint must name an input of shape (batch, steps), with as many "
            f"steps as hint layer '{hint.hint_layer}', of shape {shape}; received "
            f"{hint.mask!r}, and the inputs are {shapes}."
        )
    return PaddingInput(hint.mask, place)


def find_padding_of_output(
    inputs: Any, shape: tuple[int | None, ...]
) -> PaddingInput | None:
    """Return the input that masks the steps of an output, None if none clearly does.

    Args:
        inputs: the symbolic inputs of the networks.
        shape: the shape of the output, with the batch.
    """
    found = _list_paddings(inputs, shape[1:])
    return found[0] if len(found) == 1 else None


def _list_paddings(inputs: Any, shape: tuple[int | None, ...]) -> list[PaddingInput]:
    """Return the inputs that by their names mask a tensor of steps and features."""
    # A map of an image has more axes, and a tensor of whole samples has fewer.
    if len(shape) != 2:
        return []
    names, tensors = _list_inputs(inputs)
    found = [
        PaddingInput(name, i)
        for i, (name, tensor) in enumerate(zip(names, tensors, strict=True))
        if name.endswith(_NAMES) and _is_mask(tensor, shape)
    ]
    return [one for one in found if one.name in _NAMES] or found


def read_padding(padding: PaddingInput | None, x: Any) -> Any:
    """Return the mask among a batch of inputs, None if there is none.

    Args:
        padding: which input it is.
        x: the inputs.
    """
    if padding is None:
        return None
    # A dictionary may hold more than the inputs.
    if isinstance(x, dict) and padding.name in x:
        mask = x[padding.name]
    else:
        mask = keras.tree.flatten(x)[padding.place]
    # An optional input may be None.
    return None if mask is None else ops.cast(mask, "bool")


def has_steps_of(mask: Any, tensor: Any) -> bool:
    """Whether a mask, `(batch, steps)`, is one of the steps of a tensor."""
    return mask is not None and _is_mask(mask, tuple(tensor.shape)[1:])


def _is_mask(mask: Any, shape: tuple[int | None, ...]) -> bool:
    """Whether the shape of a mask fits a tensor of steps, `(steps, ..., features)`."""
    return len(mask.shape) == 2 and len(shape) > 1 and mask.shape[1] == shape[0]


def _list_inputs(inputs: Any) -> tuple[list[str], list[Any]]:
    """Return the names of symbolic inputs and these themselves, in Keras' order."""
    if isinstance(inputs, dict):
        # Keras flattens dictionaries by sorted key.
        names = sorted(inputs)
        if not any(keras.tree.is_nested(inputs[name]) for name in names):
            return names, [inputs[name] for name in names]
    flat = keras.tree.flatten(inputs)
    return [str(getattr(tensor, "name", "")) for tensor in flat], flat
