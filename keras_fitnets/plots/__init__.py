"""Pictures of a training: its stages, its hints, its curriculum."""

from keras_fitnets.plots.confidence import curriculum
from keras_fitnets.plots.maps import hint_maps
from keras_fitnets.plots.progress import stages

__all__ = ["curriculum", "hint_maps", "stages"]
