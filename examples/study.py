"""Shared by the programs in this folder: resumable runs, progress bars and results."""

import json
import platform
import sys
from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import keras
import numpy as np
import tensorflow as tf


def parse_options(parser, arguments, counts=("seeds",)):
    """Parse the options, and check that a run in the folder can continue with them.

    The options named in `counts` may change from call to call. The others are kept in
    the folder as `settings.json`; a call with different ones ends with an error.
    """
    options = parser.parse_args(arguments)
    settings = {k: v for k, v in vars(options).items() if k not in ("folder", *counts)}
    options.folder.mkdir(parents=True, exist_ok=True)
    kept = options.folder / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        parser.error(
            f"{options.folder} holds a run of {kept.read_text()}; use --folder."
        )
    kept.write_text(json.dumps(settings))
    # One thread is the default: the steps are so small that several threads would
    # spend most of their time waiting for each other.
    threads = getattr(options, "threads", 1)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.experimental.enable_op_determinism()
    # Each training traces its own step. TensorFlow would warn that this is slow.
    tf.get_logger().setLevel("ERROR")
    return options, settings


def record(folder, settings, **found):
    """Write the results of a run to `results.json`, with its command and versions."""
    program, *given = sys.argv
    # The folders of this machine do not belong in the published command.
    for place in {"--folder", "--data-dir", "--teacher"}.intersection(given):
        at = given.index(place)
        del given[at : at + 2]
    results = {
        "command": " ".join(["python", f"examples/{Path(program).name}", *given]),
        "settings": settings,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        **found,
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def run(main):
    """Run a program; when it is interrupted, say that it can be resumed."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command goes on where this one stopped.")


def load_or_run(path, make):
    """Return the result of a part of a run: from its file, or else by computing it."""
    if not path.exists():
        found = make()
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def format_mean(values, places=2):
    """Format the mean of some values, with their standard deviation if several."""
    spread = f" ± {np.std(values):.{places}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{places}f}{spread}"


class Bar(keras.callbacks.Callback):
    """One progress bar for a whole training."""

    def __init__(self, title, epochs):
        super().__init__()
        self.title, self.epochs = title, epochs

    def on_train_begin(self, logs=None):
        print(self.title)
        self.bar = keras.utils.Progbar(self.epochs, stateful_metrics=["val_accuracy"])

    def on_epoch_end(self, epoch, logs=None):
        shown = [(k, logs[k]) for k in ("loss", "val_accuracy") if k in logs]
        self.bar.update(epoch + 1, shown)


def measure_accuracy(network, data):
    """Return the accuracy in percent; one logit distinguishes two classes."""
    images, labels = data
    logits = network.predict(images, batch_size=1000, verbose=0)
    classes = logits.argmax(-1) if logits.shape[-1] > 1 else logits[:, 0] > 0
    return 100 * float(np.mean(classes == labels))
