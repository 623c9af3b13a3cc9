"""A user's augmentation of one example: of inputs alone, or with labels and weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_fitnets.utils.lazy import tf
from keras_fitnets.utils.tensors import flatten_present

# What a function takes before its seed, for each number of these.
_FORMS = ("f(x, seed)", "f(x, y, seed)", "f(x, y, sample_weight, seed)")


class Augmentation:
    """Calls an augmentation with as many parts of an example as it takes.

    Args:
        function: `f(x, seed)`, `f(x, y, seed)` or `f(x, y, sample_weight, seed)`,
            told apart by its signature. It returns what it takes, without the seed.

    Attributes:
        num_parts: how many parts of an example it takes.

    Raises:
        TypeError: if `function` is no function of these forms.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.num_parts = _count_parts(function)

    def __call__(self, example: Any, seed: Any) -> tuple[Any, ...]:
        """Return the parts of one example, the first ones augmented."""
        parts = example if isinstance(example, tuple) else (example,)
        count = self.num_parts
        if len(parts) < count:
            raise ValueError(
                f"`augment` is of the form {_FORMS[count - 1]}, and the examples of "
                f"`dataset` have {len(parts)} part(s). Leave out what they lack."
            )
        augmented = self._function(*parts[:count], seed)
        if count == 1:
            return (augmented, *parts[1:])
        if not isinstance(augmented, tuple) or len(augmented) != count:
            raise ValueError(
                f"`augment` of the form {_FORMS[count - 1]} must return a tuple of "
                f"{count}, what it takes without the seed; received {augmented!r:.200}."
            )
        return (*augmented, *parts[count:])

    def check_maps(self, inputs: Any, labels: Any, weights: Any) -> None:
        """Raise if labels or weights have a value for each pixel and would stay behind.

        Args:
            inputs, labels, weights: batches as arrays, in any structure, or None.

        Raises:
            ValueError: naming both shapes.
        """
        left = {"labels": labels, "sample weights": weights}
        for count, (name, arrays) in enumerate(left.items(), start=2):
            if count <= self.num_parts:
                continue
            for array in flatten_present(arrays):
                for image in flatten_present(inputs):
                    if _is_map_of(np.shape(array)[1:], np.shape(image)[1:]):
                        raise ValueError(
                            f"The {name} of `dataset` have the shape "
                            f"{np.shape(array)[1:]}, a value for each place of the "
                            f"inputs of shape {np.shape(image)[1:]}, and `augment` is "
                            f"of the form {_FORMS[self.num_parts - 1]}: it would move "
                            f"the pixels and leave the {name}. Pass {_FORMS[count - 1]}"
                            ", which returns all that it takes but the seed, those "
                            "that do not move as they are."
                        )


def _count_parts(function: Any) -> int:
    """Return how many parts of an example a function takes before its seed."""
    if not callable(function):
        raise TypeError(
            "`augment` must be a function of an example's inputs and a seed; received "
            f"{function!r}."
        )
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        # Functions of other languages may show no signature.
        return 1
    places = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    names = [p.name for p in places]
    has_any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    required = sum(p.default is p.empty for p in places)
    # A parameter of this name tells most; what comes after it is an option.
    count = names.index("seed") if "seed" in names else required - 1
    if has_any_number and "seed" not in names:
        return max(1, count)
    if not 1 <= count <= len(_FORMS):
        raise TypeError(
            f"`augment` must be one of {', '.join(_FORMS)}; received a function of "
            f"({', '.join(names)})."
        )
    return count


def _is_map_of(shape: tuple[int, ...], image: tuple[int, ...]) -> bool:
    """Whether one shape has a place for each place, or block of places, of an image."""
    # Labels may have any number of channels, first or last.
    candidates = [shape, shape[:-1], shape[1:]]
    return any(
        len(sizes) == len(pixels) >= 2 and _is_whole_fraction(sizes, pixels)
        for pixels in _find_spatial_sizes(image)
        for sizes in candidates
    )


def _find_spatial_sizes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return what may be the spatial part of a shape: without channels, last or first.

    Channels are rarely more than the places of an axis.
    """
    if len(shape) < 3:
        return [shape]
    channels_last = [shape[:-1]] if shape[-1] <= shape[0] else []
    channels_first = [shape[1:]] if shape[0] <= shape[-1] else []
    return [shape, *channels_last, *channels_first]


def _is_whole_fraction(sizes: tuple[int, ...], pixels: tuple[int, ...]) -> bool:
    """Whether a map is of an image's size, or reduced by one whole factor."""
    if min(sizes) < 2:
        return sizes == pixels
    factors = {pixel / size for size, pixel in zip(sizes, pixels, strict=True)}
    return len(factors) == 1 and factors.pop().is_integer()


def make_views(
    dataset: tf.data.Dataset, augment: Augmentation, views: int, batch_size: int
) -> tf.data.Dataset:
    """Return the augmented views of a dataset one after the other."""

    def make_view(number: int) -> tf.data.Dataset:
        def augment_example(i: Any, example: Any) -> Any:
            # A seed that depends on nothing but view and example, so that the same
            # view can be made again whenever the cache is opened.
            seed = tf.stack([tf.constant(number), tf.cast(i, "int32")])
            return augment(example, seed)

        examples = dataset.unbatch().enumerate()
        return examples.map(augment_example, tf.data.AUTOTUNE).batch(batch_size)

    whole = make_view(0)
    for number in range(1, views):
        whole = whole.concatenate(make_view(number))
    return whole
