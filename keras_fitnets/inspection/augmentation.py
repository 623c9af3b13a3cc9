"""Layers of a network that change its inputs at random while it is trained.

A layer that changes brightness or adds noise leaves each feature where it was. One that
moves pixels does not: another network that is given the same image sees them elsewhere.
"""

from collections.abc import Sequence

import keras

from keras_fitnets.inspection import graph

# By name, since not every supported Keras has all of them.
_MOVING = (
    *("AugMix", "CutMix", "MixUp", "RandAugment", "RandomCrop"),
    *("RandomElasticTransform", "RandomFlip", "RandomPerspective", "RandomRotation"),
    *("RandomShear", "RandomTranslation", "RandomZoom"),
)
# These mix the images of a batch, so that even their classes are no longer their own.
_MIXING = ("CutMix", "MixUp")


def find_moving_layers(
    layers: Sequence[keras.layers.Layer],
) -> list[keras.layers.Layer]:
    """Return those of some layers that move pixels at random in training."""
    return _filter(layers, _MOVING)


def find_mixing_layers(
    layers: Sequence[keras.layers.Layer],
) -> list[keras.layers.Layer]:
    """Return those of some layers that mix the images of a batch in training."""
    return _filter(layers, _MIXING)


def _filter(
    layers: Sequence[keras.layers.Layer], names: Sequence[str]
) -> list[keras.layers.Layer]:
    kinds = tuple(
        getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)
    )
    found = [layer for layer in layers if isinstance(layer, kinds)]
    # Some of them have others inside.
    inner = {id(child) for layer in found for child in graph.get_descendants(layer)}
    return [layer for layer in found if id(layer) not in inner]
