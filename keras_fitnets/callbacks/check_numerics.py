"""The callback that finds the first NaN or infinity of a training."""

from typing import Any

import keras

from keras_fitnets.distillation.finite_guard import find_not_finite_weights


class CheckNumerics(keras.callbacks.Callback):
    """Stops training at the first NaN or infinity, and says where it came from.

    While it is there each step looks at the data, the outputs of teacher and student,
    the hints, every term of the loss and the gradients. A step with a number that is
    not finite changes no weight: the student, the optimizer and any checkpoint are as
    they were before it. It costs a copy of the weights and a pass over those tensors;
    without it nothing is done.

    Raises:
        TypeError: when it is given to a model that is no `Distiller`.
        FloatingPointError: while training, naming the step, where such numbers
            were, in the order in which they are computed, and weights that hold them.

    Example:

    >>> callbacks = [CheckNumerics()]  # for `fit` or `fit_stagewise`
    """

    def set_model(self, model: Any) -> None:
        if not hasattr(model, "check_numerics"):
            raise TypeError(
                "CheckNumerics watches a keras_fitnets.Distiller; it was given to "
                f"{model!r}. Use keras.callbacks.TerminateOnNaN there."
            )
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.check_numerics = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The step has looked, has undone its updates, and has kept what it found.
        found = self.model.first_not_finite
        if found is None:
            return
        step, places = found
        # `on_train_end` does not run after an exception: switch the check off here.
        self.model.check_numerics = False
        # The teacher's weights are not among the Distiller's, but may hold NaN as well.
        networks = [self.model, *self.model.teacher.models]
        weights = [
            weight.path
            for network in networks
            for weight in find_not_finite_weights(network)
        ]
        raise FloatingPointError(
            f'Step {step} of stage "{self.model.stage}" (epoch {self._epoch + 1}) met '
            f"NaN or infinity: first in the {places[0]}"
            + (f", then in {', '.join(places[1:])}" if places[1:] else "")
            + (f". Weights that hold it: {', '.join(weights)}" if weights else "")
            + ". The step was undone: no weight and no checkpoint has changed by it. "
            "Mend what is named, or lower the learning rate if it is the gradients."
        )

    def on_train_end(self, logs: Any = None) -> None:
        self.model.check_numerics = False
