"""The measured networks: the paper's maxout networks for CIFAR-10, and ResNets."""

import dataclasses

import keras

from keras_fitnets import models

# Goodfellow et al., "Maxout Networks" (arXiv 1302.4389), but all pools use "same"
# padding.
MAXOUT = models.Plan(
    ((96,), (192,), (192,)),
    pools=((4, 2, "same"), (4, 2, "same"), (2, 2, "same")),
    kernels=(8, 8, 5),
    unit_pieces=5,
)


def fitnet1(more: int = 0) -> keras.Model:
    """Build FitNet 1 of Romero et al., "FitNets" (arXiv 1412.6550), Table 7."""
    return models.build(_deeper(models.PLANS["fitnet1"], more), name="fitnet1")


def wide_fitnet1() -> keras.Model:
    """Build FitNet 1 with twice the channels: a teacher with equally many layers."""
    return models.build(_wider(models.PLANS["fitnet1"], 2), name="wide_fitnet1")


def maxout_teacher(width: int = 96, more: int = 0) -> keras.Model:
    """Build the paper's teacher; `width` scales all channels, and 96 is the paper's."""
    plan = _deeper(_wider(MAXOUT, width / 96), more)
    return models.build(plan, name="maxout_teacher")


def resnet(last: str = "conv5_block3_out", more: int = 0) -> keras.Model:
    """Build ResNet50 up to a layer, `more` convolutions with BatchNorm, and logits."""
    whole = keras.applications.ResNet50(False, weights=None, input_shape=(64, 64, 3))
    x = whole.get_layer(last).output
    for _ in range(more):
        x = keras.layers.Conv2D(128, 3, padding="same")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(10, name="logits")(x)
    return keras.Model(whole.input, outputs, name="resnet")


def _wider(plan: models.Plan, factor: float) -> models.Plan:
    blocks = [[int(factor * channels) for channels in block] for block in plan.blocks]
    return dataclasses.replace(plan, blocks=blocks)


def _deeper(plan: models.Plan, more: int) -> models.Plan:
    """Return the plan with further convolutions in its last block."""
    *blocks, last = plan.blocks
    blocks += [[*last, *last[-1:] * more]]
    sides = [*plan.sides, *plan.sides[-1:] * more]
    return dataclasses.replace(plan, blocks=blocks, kernels=sides)
