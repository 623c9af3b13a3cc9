"""Contrast normalisation and whitening as layers, to export with the student."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fitnets.utils.checks import check_number
from keras_fitnets.utils.lazy import is_tf_dataset
from keras_fitnets.utils.tensors import upcast_to_float32


@keras.saving.register_keras_serializable(package="keras_fitnets")
class GlobalContrastNormalization(keras.layers.Layer):
    """Gives every image the mean 0 and the same contrast.

    Use it in front of a network for natural images, alone or before `ZCAWhitening`.
    `y = scale * (x - mean(x)) / sqrt(bias + sum((x - mean(x)) ** 2))`, over all pixels
    and channels of an image: Goodfellow et al., "Maxout Networks" (arXiv 1302.4389),
    after Coates et al. (2011). An image of a single grey becomes 0.

    Args:
        scale: the Euclidean norm of every image; 55 in the papers' code.
        bias: added to the sum of squares, against the noise of flat images; in units of
            a squared pixel.
        **kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if `scale` is not positive, or `bias` negative.

    Example:

    >>> import numpy as np
    >>> layer = GlobalContrastNormalization(scale=1.0)
    >>> np.asarray(layer(np.array([[[[0.0], [0.0], [2.0], [2.0]]]]))).ravel().tolist()
    [-0.5, -0.5, 0.5, 0.5]
    """

    def __init__(self, scale: float = 55.0, bias: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = check_number("scale", scale, "positive")
        self.bias = check_number("bias", bias)

    def call(self, inputs: Any) -> Any:
        axes = tuple(range(1, len(inputs.shape)))
        x = upcast_to_float32(inputs)
        precision = np.finfo(keras.backend.standardize_dtype(x.dtype)).eps
        centred = x - ops.mean(x, axes, keepdims=True)
        power = ops.sum(ops.square(centred), axes, keepdims=True)
        # Subtracting the mean leaves rounding errors in an image of a single grey, and
        # the division would blow them up to full contrast. They are a few units of
        # rounding of the largest pixel; an image with less than 8 of them is flat.
        rounding = 8 * float(precision) * ops.max(ops.abs(x), axes, keepdims=True)
        is_flat = power <= math.prod(x.shape[1:]) * ops.square(rounding)
        length = ops.sqrt(ops.where(is_flat, 1.0, power + self.bias))
        normalized = ops.where(is_flat, 0.0, self.scale * centred / length)
        # The inputs may be bytes, so that their dtype is not that of the result.
        return ops.cast(normalized, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "bias": self.bias}


@keras.saving.register_keras_serializable(package="keras_fitnets")
class ZCAWhitening(keras.layers.Layer):
    """Removes the correlation between pixels, changing images as little as possible.

    Use it behind `GlobalContrastNormalization`, as the paper does for CIFAR.
    `y = (x - m) U (S + bias)^(-1/2) U^T`, where `m` is the mean of the training images
    and `U S U^T` their covariance: Krizhevsky, "Learning Multiple Layers of Features
    from Tiny Images" (2009). `adapt` computes both; until then the output is NaN.
    They are weights that are saved but not trained: 38 MB for 32x32x3 pixels.

    Args:
        bias: added to each variance, against noise; 0.1 in the papers' code, for images
            of contrast 55.
        **kwargs: as for `keras.layers.Layer`.

    Raises:
        ValueError: if `bias` is negative.

    Example:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 2, 2, 1)) ** 3
    >>> layer = ZCAWhitening(bias=0.0)
    >>> layer.adapt(x)
    >>> white = np.asarray(layer(x)).reshape(500, 4)
    >>> bool(np.allclose(np.cov(white.T, ddof=0), np.eye(4), atol=1e-3))
    True
    """

    def __init__(self, bias: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bias = check_number("bias", bias)

    def build(self, input_shape: Any) -> None:
        if None in tuple(input_shape)[1:]:
            raise ValueError(
                f"ZCAWhitening layer '{self.name}' needs images of a fixed shape; "
                f"received {tuple(input_shape)}. Resize or crop them first."
            )
        pixels = math.prod(input_shape[1:])
        options = {"initializer": _fill_with_nan, "trainable": False}
        self.mean = self.add_weight((pixels,), name="mean", **options)
        self.matrix = self.add_weight((pixels, pixels), name="matrix", **options)

    def adapt(self, data: Any, batch_size: int = 1024) -> None:
        """Compute the whitening matrix from training images.

        Args:
            data: an array of images `(samples, ...)`, or a `tf.data.Dataset` of batches
                of images or of (image, label).
            batch_size: how many images of an array are read at a time.

        Raises:
            ValueError: if there are no images, or they differ in shape, or are not
                finite.
        """
        # One pass over the data: the covariance is E[x xᵀ] - E[x] E[x]ᵀ. In float64,
        # since the difference cancels many digits.
        count, total, products = 0, 0.0, 0.0
        shape: tuple[int, ...] = ()
        for batch in _iterate_batches(data, batch_size):
            if count and shape != batch.shape[1:]:
                raise ValueError(
                    f"All images must have one shape; received {shape} and then "
                    f"{batch.shape[1:]}."
                )
            shape = batch.shape[1:]
            flat = batch.reshape(len(batch), -1).astype("float64")
            count += len(flat)
            total = total + flat.sum(0)
            products = products + flat.T @ flat
        if not count or not np.isfinite(products).all():
            received = "NaN or infinity" if count else "none"
            raise ValueError(
                f"`adapt` needs images of finite pixels; received {received}. Pass the "
                "training images, scaled as the network will see them."
            )
        mean = np.asarray(total) / count
        covariance = products / count - np.outer(mean, mean)
        variances, axes = np.linalg.eigh(covariance)
        # A variance is never negative, but rounding makes some of the smallest so.
        variances = np.maximum(variances, 0.0) + self.bias
        if variances[0] <= 1e-12 * variances[-1]:
            raise ValueError(
                "Some pixels, or combinations of them, never vary, so that they cannot "
                f"be whitened with `bias` {self.bias}. Pass a positive `bias`."
            )
        if not hasattr(self, "matrix"):
            self.build((None, *shape))
            self.built = True
        self.mean.assign(mean)
        self.matrix.assign((axes / np.sqrt(variances)) @ axes.T)

    def call(self, inputs: Any) -> Any:
        flat = ops.reshape(inputs, (-1, math.prod(inputs.shape[1:])))
        white = ops.matmul(flat - self.mean, self.matrix)
        return ops.reshape(white, (-1, *inputs.shape[1:]))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bias": self.bias}


def _fill_with_nan(shape: Any, dtype: Any = None) -> Any:
    """Initialise weights so that a layer without `adapt` cannot go unnoticed."""
    return ops.full(shape, float("nan"), dtype)


def _iterate_batches(data: Any, batch_size: int) -> Any:
    if not is_tf_dataset(data):
        array = np.asarray(data)
        for start in range(0, len(array), batch_size):
            yield array[start : start + batch_size]
        return
    for element in data.as_numpy_iterator():
        yield element[0] if isinstance(element, tuple) else element
