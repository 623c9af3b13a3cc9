"""Image datasets as pipelines of (image, label), and what is done to their pixels."""

from keras_fitnets.datasets.loading import load
from keras_fitnets.datasets.loading import splits
from keras_fitnets.datasets.preprocessing import GlobalContrastNormalization
from keras_fitnets.datasets.preprocessing import ZCAWhitening

__all__ = ["GlobalContrastNormalization", "ZCAWhitening", "load", "splits"]
