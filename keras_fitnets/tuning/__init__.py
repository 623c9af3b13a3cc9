"""Search over λ, τ, learning rates and hint pairs with KerasTuner."""

try:
    import keras_tuner  # noqa: F401
except ImportError as error:
    raise ImportError(
        "`keras_fitnets.tuning` searches with KerasTuner, which cannot be imported: "
        f"{error}. Install keras-fitnets[tuner]."
    ) from error

from keras_fitnets.tuning import atomic_save
from keras_fitnets.tuning.hypermodel import FitNetHyperModel
from keras_fitnets.tuning.plotting import plot

atomic_save.write_whole()

__all__ = ["FitNetHyperModel", "plot"]
