"""Thin, deep, fast Keras networks out of wide ones: FitNet hints and distillation."""

import importlib
from typing import Any

# Before all that imports TensorFlow, whose log it holds back where a command is typed.
import keras_fitnets.startup_log  # noqa: F401  # isort: skip
from keras_fitnets import datasets
from keras_fitnets import export
from keras_fitnets import models
from keras_fitnets import plots
from keras_fitnets import report
from keras_fitnets.cache.teacher_cache import cache_teacher
from keras_fitnets.callbacks.check_numerics import CheckNumerics
from keras_fitnets.callbacks.schedules import LambdaAnnealing
from keras_fitnets.callbacks.schedules import TemperatureAnnealing
from keras_fitnets.callbacks.student_checkpoint import StudentCheckpoint
from keras_fitnets.callbacks.student_monitor import StudentMonitor
from keras_fitnets.distillation.cached_dataset import CachedDataset
from keras_fitnets.distillation.distiller import Distiller
from keras_fitnets.distillation.hints import Hint
from keras_fitnets.distillation.teacher import Teacher
from keras_fitnets.distribution.strategy import strategy
from keras_fitnets.layers import HintRegressor
from keras_fitnets.layers import Maxout
from keras_fitnets.losses import HintLoss
from keras_fitnets.losses import SoftTargetCrossentropy
from keras_fitnets.losses import hint_loss
from keras_fitnets.losses import soft_target_crossentropy
from keras_fitnets.training.stage import Stage
from keras_fitnets.training.stagewise import StagewiseHistory
from keras_fitnets.training.stagewise import fit_stagewise
from keras_fitnets.version import __version__

__all__ = [
    "CachedDataset",
    "CheckNumerics",
    "Distiller",
    "Hint",
    "HintLoss",
    "HintRegressor",
    "LambdaAnnealing",
    "Maxout",
    "SoftTargetCrossentropy",
    "Stage",
    "StagewiseHistory",
    "StudentCheckpoint",
    "StudentMonitor",
    "Teacher",
    "TemperatureAnnealing",
    "__version__",
    "cache_teacher",
    "datasets",
    "export",
    "fit_stagewise",
    "hint_loss",
    "models",
    "plots",
    "report",
    "soft_target_crossentropy",
    "strategy",
    "tuning",
]


def __getattr__(name: str) -> Any:
    # `tuning` imports KerasTuner, which takes seconds and may not be installed.
    if name == "tuning":
        return importlib.import_module("keras_fitnets.tuning")
    raise AttributeError(f"module 'keras_fitnets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
