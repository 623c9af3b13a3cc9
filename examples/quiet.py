"""Import this module first in a program to silence TensorFlow's start-up log.

To read the log nevertheless, set TF_CPP_MIN_LOG_LEVEL yourself, for example to 0.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# At this level the package also suppresses the lines that TensorFlow writes while it is
# being imported, which the variable alone does not.
import keras_fitnets  # noqa: F401
