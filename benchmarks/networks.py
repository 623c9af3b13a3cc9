"""The networks that are measured, for CIFAR: maxout networks of the paper, ResNets."""

from collections.abc import Sequence

import keras

import keras_fitnets as kf

# The channels of a block's convolutions, the size of their kernels, and size and stride
# of the pool behind them.
Block = tuple[list[int], int, int, int]


def fitnet1(more: int = 0) -> keras.Model:
    """FitNet 1 of Romero et al., "FitNets" (arXiv 1412.6550), Table 7."""
    return maxout("fitnet1", _fitnet1(1), 2, more)


def wide_fitnet1() -> keras.Model:
    """The same with twice the channels: a teacher with as many layers."""
    return maxout("wide_fitnet1", _fitnet1(2), 2)


def maxout_teacher(width: int = 96, more: int = 0) -> keras.Model:
    """The paper's teacher, of Goodfellow et al., "Maxout Networks" (arXiv 1302.4389).

    Its width is 96; with others the network keeps its proportions.
    """
    sizes = (width, 8, 4, 2), (2 * width, 8, 4, 2), (2 * width, 5, 2, 2)
    blocks = [([channels], *rest) for channels, *rest in sizes]
    return maxout("maxout_teacher", blocks, 5, more)


def maxout(
    name: str, blocks: Sequence[Block], pieces: int, more: int = 0
) -> keras.Model:
    """Maxout convolutions, with `more` of them in the last block, 500 units, logits."""
    inputs = x = keras.Input((32, 32, 3))
    layer = 0
    for at, (block, kernel, size, stride) in enumerate(blocks, 1):
        for channels in block + block[-1:] * (more if at == len(blocks) else 0):
            layer += 1
            x = keras.layers.Conv2D(2 * channels, kernel, padding="same")(x)
            x = kf.Maxout(2, name=f"conv{layer}")(x)
        pool = keras.layers.MaxPooling2D(size, stride, "same", name=f"pool{at}")
        x = pool(x)
    x = keras.layers.Dense(500 * pieces)(keras.layers.Flatten()(x))
    x = kf.Maxout(pieces, name="fc")(x)
    outputs = keras.layers.Dense(10, name="logits")(x)
    return keras.Model(inputs, outputs, name=name)


def resnet(last: str = "conv5_block3_out", more: int = 0) -> keras.Model:
    """ResNet50 up to some layer, `more` convolutions with BatchNorm, and logits."""
    whole = keras.applications.ResNet50(False, weights=None, input_shape=(64, 64, 3))
    x = whole.get_layer(last).output
    for _ in range(more):
        x = keras.layers.Conv2D(128, 3, padding="same")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(10, name="logits")(x)
    return keras.Model(whole.input, outputs, name="resnet")


def _fitnet1(factor: int) -> list[Block]:
    blocks = [([16, 16, 16], 3, 2, 2), ([32, 32, 32], 3, 2, 2), ([48, 48, 64], 3, 8, 8)]
    return [([factor * c for c in channels], *rest) for channels, *rest in blocks]
