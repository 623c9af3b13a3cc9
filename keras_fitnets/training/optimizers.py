"""Copies and descriptions of optimizers, of classes that Keras need not know."""

from typing import Any

import keras

from keras_fitnets.utils.keras_private import get_optimizer_config


def copy_optimizer(optimizer: Any) -> keras.optimizers.Optimizer:
    """Return an optimizer of the same arguments, without a state.

    A schedule, or a class of the user's own, need not be registered with Keras, as it
    need not be for `fit`: a schedule is taken over as it is, and the class is at hand.

    Raises:
        ValueError: if the optimizer does not tell its arguments.
    """
    try:
        config = get_optimizer_config(optimizer)
        if "inner_optimizer" in config:
            inner = copy_optimizer(optimizer.inner_optimizer)
            del config["inner_optimizer"]
            return type(optimizer)(inner, **config)
        return type(optimizer).from_config(config)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(
            f"Each stage starts with a copy of its optimizer, and a "
            f"{type(optimizer).__name__} cannot be copied: {error}. Let its "
            "`get_config` return every argument of its `__init__`."
        ) from error


def describe_optimizer(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Describe an optimizer by its configuration, to compare it with a later run's.

    Its name is left out: Keras counts it up with each optimizer of a process.

    Raises:
        ValueError: if it holds something without a configuration.
    """
    try:
        config = optimizer.get_config()
    except (TypeError, NotImplementedError, ValueError) as error:
        raise ValueError(
            f"A checkpoint describes its optimizer, so that no other run goes on from "
            f"it, and that of a {type(optimizer).__name__} fails: {error}. Give its "
            "learning rate schedule a `get_config`, or leave out `checkpoint_dir`."
        ) from error
    return {name: config[name] for name in config.keys() - {"name"}}
