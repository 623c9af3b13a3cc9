"""The layers of FitNets: `Maxout` and the regressor between guided layer and hint."""

import math
from typing import Any

import keras
from keras import ops

from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.checks import is_integer

# Ends the error for a wrong number of pieces.
_PAPER_PIECES = "The paper uses 2 for convolutions and 5 for dense layers."


@keras.saving.register_keras_serializable(package="keras_fitnets")
class Maxout(keras.layers.Layer):
    """The elementwise maximum over `pieces` equal parts of the channels.

    `y[c] = max_p x[p * channels + c]`, Goodfellow et al., "Maxout Networks" (arXiv
    1302.4389). It stands after a convolution or dense layer with `pieces` times as
    many filters, or units, and holds no weights.

    Args:
        pieces: how many parts compete, at least 1.
        axis: the axis of the channels or units; 0 is the batch.
        **kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if `pieces` is no positive integer, or does not divide the
            number of channels, or if there is no such `axis`.

    Example:

    >>> import keras
    >>> keras.layers.Dense(20)(keras.Input((4,))).shape
    (None, 20)
    >>> Maxout(pieces=2)(keras.Input((20,))).shape
    (None, 10)
    """

    def __init__(self, pieces: int = 2, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pieces = check_integer("pieces", pieces, advice=_PAPER_PIECES)
        if not is_integer(axis, minimum=None) or axis == 0:
            raise ValueError(
                "`axis` must be the position of the channels, an integer other than 0, "
                f"which is the batch; received {axis!r}. The last one is -1."
            )
        self.axis = axis
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> Any:
        parts = ops.split(inputs, self.pieces, axis=self.axis)
        best = parts[0]
        for part in parts[1:]:
            best = ops.maximum(best, part)
        return best

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        shape = list(input_shape)
        if not -len(shape) < self.axis < len(shape):
            raise ValueError(
                f"Maxout layer '{self.name}' with `axis` {self.axis} has no such axis "
                f"behind the batch; received {tuple(input_shape)}. The last one is -1."
            )
        channels = shape[self.axis]
        if channels is None or channels % self.pieces:
            raise ValueError(
                f"Maxout layer '{self.name}' with pieces={self.pieces} needs a number "
                f"of channels that {self.pieces} divides; received {channels} on axis "
                f"{self.axis} of {tuple(input_shape)}. Give the layer before it "
                "`pieces` times as many filters or units."
            )
        shape[self.axis] = channels // self.pieces
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pieces": self.pieces, "axis": self.axis}


@keras.saving.register_keras_serializable(package="keras_fitnets")
class HintRegressor(keras.layers.Layer):
    """From the guided layer's output to the shape of the hint.

    The convolutional regressor of Romero et al., "FitNets" (arXiv 1412.6550): along
    each dimension a *valid* convolution with a kernel of `guided - hint + 1`, which
    needs `k1 * k2 * hint_channels * guided_channels` weights. Along a dimension in
    which the hint is larger it is the mirror image, a transposed convolution with a
    kernel of `hint - guided + 1`. Where one of the two is flat, or their ranks
    differ, it is dense.

    Args:
        target_shape: the hint's shape without the batch; `None` for a dimension that
            is unknown in the guided output too, and the same in both.
        kind: `"conv"`, `"dense"`, or `"auto"`: convolutional where it can be.
        activation: the hint layer's non-linearity, as any Keras layer takes it, or a
            layer without weights, such as a LeakyReLU.
        pieces: for a maxout hint, the number of its pieces; excludes `activation`.
        data_format: `"channels_last"` or `"channels_first"`, of the guided output;
            Keras' own setting by default.
        target_data_format: the same of the hint; that of the guided output by default.
        **kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: for arguments out of range, and, when it is built, for shapes that
            cannot meet.

    Example:

    >>> import keras
    >>> regressor = HintRegressor((4, 4, 8), activation="relu")
    >>> regressor(keras.Input((6, 6, 2))).shape, regressor.count_params()
    ((None, 4, 4, 8), 152)
    """

    def __init__(
        self,
        target_shape: Any,
        kind: str = "auto",
        activation: Any = None,
        pieces: int | None = None,
        data_format: str | None = None,
        target_data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.target_shape = _check_target_shape(target_shape)
        if not isinstance(kind, str) or kind not in ("auto", "conv", "dense"):
            raise ValueError(
                f'`kind` must be "auto", "conv" or "dense"; received {kind!r}.'
            )
        self.kind = kind
        self.activation = _activation(activation)
        if pieces is not None:
            pieces = check_integer("pieces", pieces, advice=_PAPER_PIECES)
        self.pieces = pieces
        if pieces is not None and self.activation is not keras.activations.linear:
            raise ValueError(
                "A maxout regressor has no other non-linearity; received "
                f"pieces={pieces} and activation={activation!r}. Leave one out."
            )
        self.data_format = _check_data_format(
            "data_format", data_format, keras.config.image_data_format()
        )
        self.target_data_format = _check_data_format(
            "target_data_format", target_data_format, self.data_format
        )
        self._steps: list[keras.layers.Layer] = []

    def build(self, input_shape: Any) -> None:
        guided = tuple(input_shape)[1:]
        steps = self._conv(guided) if self._is_conv(guided) else self._dense(guided)
        shape = tuple(input_shape)
        for step in steps:
            step.build(shape)
            shape = step.compute_output_shape(shape)
        self._check_activation()
        self._steps = steps

    def call(self, inputs: Any) -> Any:
        for step in self._steps:
            inputs = step(inputs)
        return inputs

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (input_shape[0], *self.target_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "target_shape": self.target_shape,
            "kind": self.kind,
            "activation": _serialized(self.activation),
            "pieces": self.pieces,
            "data_format": self.data_format,
            "target_data_format": self.target_data_format,
        }

    def _check_activation(self) -> None:
        """Refuse what is no elementwise function, such as a GLU or a Dense layer."""
        shape = (None, *self.target_shape)
        layer = isinstance(self.activation, keras.layers.Layer)
        try:
            given = keras.KerasTensor(shape, dtype=self.compute_dtype)
            # A Lambda calls on a symbolic tensor what is no layer.
            call = self.activation if layer else keras.layers.Lambda(self.activation)
            fits = tuple(call(given).shape) == shape
        except Exception as error:
            raise ValueError(_about_activation(self.activation, str(error))) from error
        if not fits or (layer and self.activation.weights):
            reason = "it has weights, or gives another shape"
            raise ValueError(_about_activation(self.activation, reason))

    def _is_conv(self, guided: tuple[Any, ...]) -> bool:
        possible = len(guided) == len(self.target_shape) and 2 <= len(guided) <= 4
        if self.kind == "conv" and not possible:
            raise ValueError(
                "A convolutional regressor needs a guided output and a hint of the "
                f"same rank, with 1 to 3 spatial dimensions; received {guided} and "
                f'{self.target_shape}. Use kind="dense", or other layers.'
            )
        return possible and self.kind != "dense"

    def _conv(self, guided: tuple[Any, ...]) -> list[keras.layers.Layer]:
        """At most two convolutions: one shrinks, one grows, dimension by dimension.

        They run with the channels last, as every device can.
        """
        policy, rank = self.dtype_policy, len(guided)
        hint = self.target_shape
        before, after = [*range(2, rank + 1), 1], [rank, *range(1, rank)]
        first: list[keras.layers.Layer] = []
        last: list[keras.layers.Layer] = []
        if self.data_format == "channels_first":
            guided = (*guided[1:], guided[0])
            first.append(keras.layers.Permute(before, dtype=policy))
        if self.target_data_format == "channels_first":
            hint = (*hint[1:], hint[0])
            last.append(keras.layers.Permute(after, dtype=policy))
        self._check_known(guided, hint, slice(0, -1))
        gaps = [
            0 if g is None else g - h
            for g, h in zip(guided[:-1], hint[:-1], strict=True)
        ]
        kernels = {
            "": [max(gap, 0) + 1 for gap in gaps],
            "Transpose": [max(-gap, 0) + 1 for gap in gaps],
        }
        if max(kernels["Transpose"]) == 1:
            del kernels["Transpose"]
        elif max(kernels[""]) == 1:
            del kernels[""]
        convolutions: list[keras.layers.Layer] = []
        for suffix, kernel in kernels.items():
            final = suffix == list(kernels)[-1]
            convolutions.append(
                getattr(keras.layers, f"Conv{rank - 1}D{suffix}")(
                    hint[-1] * (self.pieces or 1 if final else 1),
                    kernel,
                    data_format="channels_last",
                    activation=self.activation if final else None,
                    dtype=policy,
                )
            )
        if self.pieces:
            convolutions.append(Maxout(self.pieces, dtype=policy))
        return [*first, *convolutions, *last]

    def _dense(self, guided: tuple[Any, ...]) -> list[keras.layers.Layer]:
        self._check_known(guided, self.target_shape, slice(0, 0))
        policy = self.dtype_policy
        units = math.prod(self.target_shape)
        steps: list[keras.layers.Layer] = [
            keras.layers.Flatten(dtype=policy),
            keras.layers.Dense(
                units * (self.pieces or 1), self.activation, dtype=policy, name="dense"
            ),
        ]
        if self.pieces:
            steps.append(Maxout(self.pieces, dtype=policy))
        steps.append(keras.layers.Reshape(self.target_shape, dtype=policy))
        return steps

    def _check_known(self, guided: Any, hint: Any, free: slice) -> None:
        """Only the axes in `free` may be unknown, and in both shapes at once."""
        unknown = [
            {i for i, size in enumerate(shape) if size is None}
            for shape in (guided, hint)
        ]
        if unknown[0] != unknown[1] or unknown[0] - set(range(len(guided))[free]):
            raise ValueError(
                f"A guided output of shape {tuple(guided)} cannot meet a hint of shape "
                f"{self.target_shape}: some dimensions are unknown. Give the networks "
                "inputs of a fixed shape, or pick layers in which the same spatial "
                "dimensions are unknown."
            )


def _check_target_shape(shape: Any) -> tuple[Any, ...]:
    try:
        dimensions = () if isinstance(shape, (dict, set, bytes)) else tuple(shape)
    except TypeError:
        dimensions = ()
    if not dimensions or not all(d is None or is_integer(d) for d in dimensions):
        raise ValueError(
            "`target_shape` must hold the hint's dimensions without the batch, each a "
            f"positive integer or None; received {shape!r}. For example (8, 8, 64)."
        )
    return tuple(d if d is None else int(d) for d in dimensions)


def _check_data_format(argument: str, data_format: Any, default: str) -> str:
    known = ("channels_last", "channels_first")
    if data_format is None:
        return default
    if not isinstance(data_format, str) or data_format not in known:
        raise ValueError(
            f'`{argument}` must be "channels_last", "channels_first" or None; '
            f"received {data_format!r}."
        )
    return data_format


def _activation(identifier: Any) -> Any:
    """The function, or the layer, that an activation is given as."""
    try:
        if isinstance(identifier, dict):
            identifier = keras.saving.deserialize_keras_object(identifier)
        return keras.activations.get(identifier)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(_about_activation(identifier, "there is none")) from error


def _about_activation(activation: Any, reason: str) -> str:
    return (
        "`activation` must be the name of a Keras activation, a function of a tensor "
        "that keeps its shape, or a layer without weights; received "
        f'{activation!r}: {reason}. For example "relu", or None.'
    )


def _serialized(activation: Any) -> Any:
    if isinstance(activation, keras.layers.Layer):
        return keras.saving.serialize_keras_object(activation)
    return keras.activations.serialize(activation)
