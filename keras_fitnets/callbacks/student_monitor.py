"""The callback that compares the student with its teacher on held-out inputs."""

from typing import Any

import keras

from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.evaluation import EvaluationData
from keras_fitnets.distillation.evaluation import StudentEvaluator
from keras_fitnets.distillation.evaluation import divide_or_nan


class StudentMonitor(keras.callbacks.Callback):
    """Logs how well the student predicts the hint and the teacher, epoch by epoch.

    On inputs that are not trained on, in inference mode:

    - `hint_r2`, in stages `"hint"` and `"joint"`: how much of the hint the regressed
      guided layer predicts, `1 - Σ ‖u_h - r(v_g)‖² / Σ ‖u_h - mean(u_h)‖²`, sums over
      the samples of the norm in Eq. 3 of Romero et al., "FitNets" (arXiv 1412.6550).
      1 is all of it; 0 is no more than the mean of each feature over the samples.
      Steps that a mask leaves out do not count.
    - `agreement`, in stages `"kd"` and `"joint"`: the share of the samples in which
      student and teacher choose the same class, the fidelity of Stanton et al. (arXiv
      2106.05945); of sigmoid units, the share on the same side of 1/2. An ensemble
      chooses by its soft targets, at the present temperature.
    - `output_r2` in its place for numbers of a regression: their R², as of a hint.

    From the logs of the epoch, and its λ:

    - `label_share`, `kd_share`, `hint_share`: the share in the loss of each term that
      the stage has, `λ · kd_loss / loss` for the soft targets, which is never without
      their entropy. What is missing to 1 is regularisation.

    Several pairs of hints, or outputs, have a log each, `hint_r2_0`, `hint_r2_1`, …

    The logs are those of the epoch: `History` and the progress bar show them, and so do
    `CSVLogger` and `TensorBoard`, and `EarlyStopping` can judge by them, if they come
    after this callback. The teacher runs once, not in each epoch, and its outputs for
    `x` stay in memory. Nothing of the student changes.

    Args:
        x: the inputs to look at, `(samples, ...)`, in the structure that the networks
            take; some hundred are enough.
        batch_size: how many are looked at in one pass.

    Raises:
        TypeError: if `x` is no array, or a structure of arrays, and when it is given to
            a model that is no `Distiller`.
        ValueError: if `x` is empty or of a shape that the networks do not take, and for
            a hint that is the same for every sample.

    Example:

    >>> import keras, numpy as np
    >>> def net(width):
    ...     return keras.Sequential([
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(width, name="hidden"),
    ...         keras.layers.Dense(3, name="logits"),
    ...     ])
    >>> distiller = Distiller(net(16), net(2), hints=("hidden", "hidden"))
    >>> distiller.compile("adam")
    >>> x = np.random.default_rng(0).normal(size=(32, 4))
    >>> monitor = StudentMonitor(x[:16])
    >>> logs = distiller.fit(x[16:], callbacks=[monitor], verbose=0).history
    >>> sorted(logs.keys() - {"loss", "kd_loss", "hint_loss"})
    ['agreement', 'hint_r2', 'hint_share', 'kd_share']
    """

    def __init__(self, x: Any, batch_size: int = 32) -> None:
        super().__init__()
        self._sample = EvaluationData("StudentMonitor", x, batch_size)
        self._evaluator: StudentEvaluator | None = None
        self._fingerprints: Any = None

    def set_model(self, model: Any) -> None:
        if not isinstance(model, Distiller):
            raise TypeError(
                "StudentMonitor compares the student of a keras_fitnets.Distiller with "
                f"its teacher; it was given to {model!r}. Leave it out there."
            )
        self._sample.check(model)
        if model is not self.model:
            self._evaluator = None
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        # A tuple, because the checkpoints of `fit_stagewise` would store a list.
        prints = tuple(self.model.teacher.fingerprints())
        # A teacher that was trained on since has other outputs: compute them again.
        if prints != self._fingerprints:
            self._evaluator, self._fingerprints = None, prints
        for i in self._get_evaluator().constant_hints:
            hint = self.model.hints[i]
            raise ValueError(
                f"Of the {len(self._sample)} sample(s) in `x` of StudentMonitor, hint "
                f"layer '{hint.hint_layer}' says the same: there is nothing to predict "
                "and no R². Pass more samples, or choose a hint that is alive."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            model = self.model
            hint_weight = 1.0 if model.stage == "hint" else model.hint_weight
            weights = {"label": 1.0, "kd": model.lambda_, "hint": hint_weight}
            # The rest of the factor depends on the sizes of each batch.
            if model.stage == "joint" and model.is_hint_weight_per_position:
                del weights["hint"]
            shares = _shares(logs, weights)
            logs.update({**self._get_evaluator().compute(), **shares})

    def _get_evaluator(self) -> StudentEvaluator:
        """Return the evaluator for the present stage, made anew for each stage."""
        model = self.model
        active_hints = model.active_hints if model.stage == "hint" else None
        key = (model.stage, active_hints, model.run_eagerly)
        # An evaluator holds a traced function, which is right for one stage only.
        if self._evaluator is None or self._evaluator.key != key:
            self._evaluator = StudentEvaluator(model, self._sample, *key)
        return self._evaluator


def _shares(logs: dict[str, Any], weights: dict[str, float]) -> dict[str, float]:
    """Return the share in the loss of each term that has a weight."""
    return {
        f"{term}_share": divide_or_nan(weight * logs[f"{term}_loss"], logs["loss"])
        for term, weight in weights.items()
        if f"{term}_loss" in logs
    }
