"""Files of a KerasTuner search that are complete whenever the search is killed."""

import json
from typing import Any

import keras_tuner

from keras_fitnets.utils.files import replace_text


def save_atomically(tuner: Any) -> Any:
    """Make a tuner replace its files as a whole instead of overwriting them in place.

    KerasTuner 1.4 truncates a file and then writes it. A kill between the two leaves an
    empty file, with which the search can never be resumed. After this call a state is
    written to a second file first, which then takes the place of the old one.

    A search with `FitNetHyperModel` does this by itself when its first trial begins.
    Call it before `tuner.search` to protect the moment before that in a resumed search,
    and in the chief of a search on several machines, which runs no trial. Only this
    tuner and its oracle change; the classes of KerasTuner stay as they are.

    Args:
        tuner: a tuner of KerasTuner. One whose class saves in a way of its own keeps
            it.

    Returns:
        The same tuner.

    Example:

    >>> import keras, keras_tuner, tempfile
    >>> from keras_fitnets.tuning import save_atomically
    >>> def build(hp):
    ...     return keras.Sequential([keras.layers.Dense(hp.Int("units", 1, 4))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tuner = keras_tuner.RandomSearch(build, "val_loss", directory=folder)
    ...     save_atomically(tuner).save()
    """
    oracle = tuner.oracle
    project = tuner.project_dir
    # A worker of a search on several machines has a client in place of the oracle. Its
    # chief saves the trials.
    is_worker = not isinstance(oracle, keras_tuner.Oracle)

    def save_oracle() -> None:
        replace_text(f"{project}/oracle.json", json.dumps(oracle.get_state()))

    def save_trial(trial: Any) -> None:
        folder = tuner.get_trial_dir(trial.trial_id)
        replace_text(f"{folder}/trial.json", json.dumps(trial.get_state()))

    def save_tuner() -> None:
        if not is_worker:
            oracle.save()
        replace_text(f"{project}/{tuner.tuner_id}.json", json.dumps(tuner.get_state()))

    # The attributes of the instances hide the methods of their classes.
    if not is_worker and type(oracle).save is keras_tuner.Oracle.save:
        oracle.save = save_oracle
        # KerasTuner has no public name for this. The tests fail if it is renamed.
        oracle._save_trial = save_trial
    if type(tuner).save is keras_tuner.Tuner.save:
        tuner.save = save_tuner
    return tuner
