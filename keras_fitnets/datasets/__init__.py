"""Image datasets as pipelines of (image, label)."""

from keras_fitnets.datasets.loading import load

__all__ = ["load"]
