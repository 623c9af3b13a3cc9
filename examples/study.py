"""What the programs here share: a run that goes on, its progress, what it found."""

import json
import platform
import sys
from pathlib import Path

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split

import keras
import numpy as np
import tensorflow as tf


def begin(parser, arguments, counts=("seeds",)):
    """The options, and those of them that a folder's run cannot change, only go on."""
    options = parser.parse_args(arguments)
    settings = {k: v for k, v in vars(options).items() if k not in ("folder", *counts)}
    options.folder.mkdir(parents=True, exist_ok=True)
    kept = options.folder / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        parser.error(
            f"{options.folder} holds a run of {kept.read_text()}; use --folder."
        )
    kept.write_text(json.dumps(settings))
    # One thread by default: the steps are so small that several would mostly wait.
    threads = getattr(options, "threads", 1)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.experimental.enable_op_determinism()
    # Each training is traced anew, which TensorFlow takes for an oversight.
    tf.get_logger().setLevel("ERROR")
    return options, settings


def record(folder, settings, **found):
    """Write down what a run has found, and what it was."""
    program, *given = sys.argv
    # Where things lay is nobody else's business.
    for place in {"--folder", "--data-dir"}.intersection(given):
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
    """Run a program that can be interrupted."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command goes on where this one stopped.")


def kept(path, make):
    """What a piece of a run has found; from its file if it was done before."""
    if not path.exists():
        found = make()
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def shown(values, places=2):
    """Mean and standard deviation."""
    spread = f" ± {np.std(values):.{places}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{places}f}{spread}"


class Bar(keras.callbacks.Callback):
    """One bar of Keras' for a whole training."""

    def __init__(self, title, epochs):
        super().__init__()
        self.title, self.epochs = title, epochs

    def on_train_begin(self, logs=None):
        print(self.title)
        self.bar = keras.utils.Progbar(self.epochs, stateful_metrics=["val_accuracy"])

    def on_epoch_end(self, epoch, logs=None):
        shown = [(k, logs[k]) for k in ("loss", "val_accuracy") if k in logs]
        self.bar.update(epoch + 1, shown)


def accuracy(network, data):
    """In percent; a network of one logit tells two classes apart."""
    images, labels = data
    logits = network.predict(images, batch_size=1000, verbose=0)
    classes = logits.argmax(-1) if logits.shape[-1] > 1 else logits[:, 0] > 0
    return 100 * float(np.mean(classes == labels))
