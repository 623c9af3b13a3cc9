"""Search over λ, τ, learning rates and hint pairs with KerasTuner.

A tuner asks `hypermodel` for a student and has it train that student, trial by trial.
`search_space` turns the user's ranges and hint candidates into hyperparameters.
`shared_stages` keeps on disk what does not depend on a trial's λ and τ, so that it is
computed once: the teacher's outputs, by `keras_fitnets.cache`, and the trained hint
stages, by `keras_fitnets.training`. `atomic_save` keeps the files of a killed search
readable, and `plotting` draws its trials. Importing this package imports KerasTuner;
`import keras_fitnets` does not import it.
"""

try:
    import keras_tuner  # noqa: F401
except ImportError as error:
    raise ImportError(
        "`keras_fitnets.tuning` searches with KerasTuner, which cannot be imported: "
        f"{error}. Install keras-fitnets[tuner]."
    ) from error

from keras_fitnets.tuning.atomic_save import save_atomically
from keras_fitnets.tuning.hypermodel import FitNetHyperModel
from keras_fitnets.tuning.plotting import plot

__all__ = ["FitNetHyperModel", "plot", "save_atomically"]
