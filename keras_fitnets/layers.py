"""The layers of FitNets: `Maxout`, and the regressor from guided layer to hint."""

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

    The non-linearity of the paper's networks. Use it after a convolution or dense layer
    without activation that has `pieces` times as many filters, or units, as are wanted.

    `y[c] = max_p x[p * channels + c]`, Goodfellow et al., "Maxout Networks" (arXiv
    1302.4389). It has no weights, and passes masks on.

    Args:
        pieces: the number of parts, at least 1.
        axis: the axis of the channels or units; 0 is the batch. From
            `(batch, ..., pieces * channels)` it makes `(batch, ..., channels)`.
        **kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if `pieces` is not a positive integer or `axis` is 0; when it is
            built, if `pieces` does not divide the number of channels, or there is no
            such axis.

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
        # There are no weights to make; this checks the shape before the first batch.
        self.compute_output_shape(input_shape)

    def call(self, inputs: Any) -> Any:
        # Slices need nothing of the other axes. A reshape to (pieces, channels) would
        # need their sizes, of which several may be unknown.
        parts = ops.split(inputs, self.pieces, axis=self.axis)
        maximum = parts[0]
        for part in parts[1:]:
            maximum = ops.maximum(maximum, part)
        return maximum

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        shape = list(input_shape)
        if not -len(shape) < self.axis < len(shape):
            raise ValueError(
                f"`axis` of Maxout layer '{self.name}' must be an axis of its input, "
                f"other than the batch; received axis={self.axis} for the shape "
                f"{tuple(input_shape)}. The last one is -1."
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
    """Maps the guided layer's output to the shape of the hint.

    The regressor `r` of Eq. 3. A `Distiller` makes one for each pair of layers; use it
    yourself to pass other arguments, as `Hint(..., regressor=HintRegressor(...))`.

    It is the convolutional regressor of Romero et al., "FitNets" (arXiv 1412.6550):
    along each dimension a *valid* convolution with a kernel of `guided - hint + 1`,
    which needs `k1 * k2 * hint_channels * guided_channels` weights. Along a dimension
    in which the hint is larger it is the reverse, a transposed convolution with a
    kernel of `hint - guided + 1`. Where the guided output or the hint is flat, or their
    ranks differ, it is a dense layer.

    Args:
        target_shape: the hint's shape without the batch; `None` for a dimension that
            is unknown, and equal, in hint and guided output.
        kind: `"conv"`, `"dense"`, or `"auto"`, which is convolutional where possible.
        activation: the hint layer's non-linearity, as any Keras layer takes it, or a
            layer without weights, such as a LeakyReLU.
        pieces: for the hint of a maxout layer, the number of its pieces; then there is
            no `activation`.
        data_format: `"channels_last"` or `"channels_first"`, of the guided output;
            Keras' own setting by default.
        target_data_format: that of the hint; by default that of the guided output.
        **kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range; when it is built, if it cannot map
            the guided output's shape to the hint's.

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
        self.activation = _get_activation(activation)
        if pieces is not None:
            pieces = check_integer("pieces", pieces, advice=_PAPER_PIECES)
        self.pieces = pieces
        if pieces is not None and self.activation is not keras.activations.linear:
            raise ValueError(
                "A regressor with `pieces` ends in a maxout and takes no other "
                f"non-linearity; received pieces={pieces} and "
                f"activation={activation!r}. Pass one of the two."
            )
        self.data_format = _check_data_format(
            "data_format", data_format, keras.config.image_data_format()
        )
        self.target_data_format = _check_data_format(
            "target_data_format", target_data_format, self.data_format
        )
        # Keras saves the weights under the name of this attribute.
        self._steps: list[keras.layers.Layer] = []

    def build(self, input_shape: Any) -> None:
        guided = tuple(input_shape)[1:]
        make = self._make_conv if self._is_conv(guided) else self._make_dense
        steps = make(guided)
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

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return which steps of the prediction count.

        A step does if any of the guided steps that it is made of does. A flat hint has
        no steps, and no mask.
        """
        guided = tuple(inputs.shape)[1:]
        has_steps = min(len(guided), len(self.target_shape)) > 1
        formats = {self.data_format, self.target_data_format}
        if previous_mask is None or not has_steps or "channels_first" in formats:
            return None
        steps, target_steps = guided[0], self.target_shape[0]
        # Steps of unknown number are the same in both.
        if steps == target_steps or None in (steps, target_steps):
            return previous_mask
        if len(previous_mask.shape) != 2 or not self._is_conv(guided):
            return None
        mask = ops.cast(ops.expand_dims(previous_mask, -1), "float32")
        kernel = abs(steps - target_steps) + 1
        if steps < target_steps:
            # A transposed convolution spreads each step over as many as its kernel has.
            mask = ops.pad(mask, [(0, 0), (kernel - 1, kernel - 1), (0, 0)])
        pooled = ops.max_pool(
            mask, kernel, strides=1, padding="valid", data_format="channels_last"
        )
        return ops.squeeze(pooled, -1) > 0

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (input_shape[0], *self.target_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "target_shape": self.target_shape,
            "kind": self.kind,
            "activation": _serialize_activation(self.activation),
            "pieces": self.pieces,
            "data_format": self.data_format,
            "target_data_format": self.target_data_format,
        }

    def _check_activation(self) -> None:
        """Raise if the activation is no elementwise function of a tensor.

        A GLU, which halves the channels, or a Dense layer are not.
        """
        shape = (None, *self.target_shape)
        is_layer = isinstance(self.activation, keras.layers.Layer)
        try:
            inputs = keras.KerasTensor(shape, dtype=self.compute_dtype)
            # A function may refuse a symbolic tensor; within a Lambda it does not.
            call = self.activation if is_layer else keras.layers.Lambda(self.activation)
            keeps_shape = tuple(call(inputs).shape) == shape
        # The function may be the user's own and raise anything.
        except Exception as error:
            raise ValueError(
                _describe_bad_activation(self.activation, str(error))
            ) from error
        if not keeps_shape or (is_layer and self.activation.weights):
            reason = "it has weights, or changes the shape"
            raise ValueError(_describe_bad_activation(self.activation, reason))

    def _is_conv(self, guided: tuple[Any, ...]) -> bool:
        """Whether the regressor is convolutional for this shape of guided output."""
        is_possible = len(guided) == len(self.target_shape) and 2 <= len(guided) <= 4
        if self.kind == "conv" and not is_possible:
            raise ValueError(
                "A convolutional regressor needs a guided output and a hint of the "
                f"same rank, with 1 to 3 spatial dimensions; received {guided} and "
                f'{self.target_shape}. Use kind="dense", or choose other layers.'
            )
        return is_possible and self.kind != "dense"

    def _make_conv(self, guided: tuple[Any, ...]) -> list[keras.layers.Layer]:
        """Return at most two convolutions, one that shrinks and one that grows.

        Each does so along the dimensions in which it must, and has a kernel of 1 along
        the others. They run with the channels last, which every device supports.
        """
        policy, rank = self.dtype_policy, len(guided)
        hint = self.target_shape
        before: list[keras.layers.Layer] = []
        after: list[keras.layers.Layer] = []
        if self.data_format == "channels_first":
            guided = (*guided[1:], guided[0])
            to_last = [*range(2, rank + 1), 1]
            before.append(keras.layers.Permute(to_last, dtype=policy))
        if self.target_data_format == "channels_first":
            hint = (*hint[1:], hint[0])
            to_first = [rank, *range(1, rank)]
            after.append(keras.layers.Permute(to_first, dtype=policy))
        self._check_known(guided, hint, slice(0, -1))
        # A dimension that is unknown is the same in both.
        gaps = [
            0 if g is None else g - h
            for g, h in zip(guided[:-1], hint[:-1], strict=True)
        ]
        # A valid convolution with a kernel of k makes n into n - k + 1, its transposed
        # counterpart n into n + k - 1.
        kernels = {
            "": [max(gap, 0) + 1 for gap in gaps],
            "Transpose": [max(-gap, 0) + 1 for gap in gaps],
        }
        # One of them suffices unless dimensions have to shrink and to grow. Where the
        # sizes are equal it is the plain convolution, with a kernel of 1.
        if max(kernels["Transpose"]) == 1:
            del kernels["Transpose"]
        elif max(kernels[""]) == 1:
            del kernels[""]
        convolutions: list[keras.layers.Layer] = []
        for suffix, kernel in kernels.items():
            # The non-linearity, or the maxout, stands behind the last of them only.
            is_last = len(convolutions) == len(kernels) - 1
            pieces = (self.pieces or 1) if is_last else 1
            convolution = getattr(keras.layers, f"Conv{rank - 1}D{suffix}")
            convolutions.append(
                convolution(
                    hint[-1] * pieces,
                    kernel,
                    data_format="channels_last",
                    activation=self.activation if is_last else None,
                    dtype=policy,
                )
            )
        if self.pieces:
            convolutions.append(Maxout(self.pieces, dtype=policy))
        return [*before, *convolutions, *after]

    def _make_dense(self, guided: tuple[Any, ...]) -> list[keras.layers.Layer]:
        """Return a dense layer from all guided features to all of the hint's."""
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
        """Raise if an axis is unknown that is not in `free`, or is so in one shape."""
        unknown = [
            {i for i, size in enumerate(shape) if size is None}
            for shape in (guided, hint)
        ]
        if unknown[0] != unknown[1] or unknown[0] - set(range(len(guided))[free]):
            raise ValueError(
                f"A guided output of shape {tuple(guided)} cannot be mapped to a hint "
                f"of shape {self.target_shape}: some dimensions are unknown. Give the "
                "networks inputs of a fixed shape, or choose layers in which the same "
                "spatial dimensions are unknown."
            )


def _check_target_shape(shape: Any) -> tuple[Any, ...]:
    """Return the hint's shape as a tuple of integers and None."""
    try:
        # These can be iterated over too, but are not meant as shapes.
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
    """Return the data format, or the default in place of None."""
    known = ("channels_last", "channels_first")
    if data_format is None:
        return default
    if not isinstance(data_format, str) or data_format not in known:
        raise ValueError(
            f'`{argument}` must be "channels_last", "channels_first" or None; '
            f"received {data_format!r}."
        )
    return data_format


def _get_activation(identifier: Any) -> Any:
    """Return the function or layer that an activation stands for."""
    try:
        # In a loaded configuration a layer is a dictionary.
        if isinstance(identifier, dict):
            identifier = keras.saving.deserialize_keras_object(identifier)
        return keras.activations.get(identifier)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(_describe_bad_activation(identifier, "unknown")) from error


def _describe_bad_activation(activation: Any, reason: str) -> str:
    """Return the message of the error for an activation."""
    return (
        "`activation` must be the name of a Keras activation, a function of a tensor "
        "that keeps its shape, or a layer without weights; received "
        f'{activation!r}: {reason}. For example "relu", or None.'
    )


def _serialize_activation(activation: Any) -> Any:
    """Return the activation as it stands in a configuration."""
    if isinstance(activation, keras.layers.Layer):
        return keras.saving.serialize_keras_object(activation)
    return keras.activations.serialize(activation)
