"""Imported before all else by a program: TensorFlow's start-up log stays unprinted.

Set TF_CPP_MIN_LOG_LEVEL yourself, to 0 for instance, to read the log all the same.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# At this level the package also holds back what TensorFlow writes while it is imported.
import keras_fitnets  # noqa: F401
