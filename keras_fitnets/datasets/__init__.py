"""Image datasets as `tf.data` pipelines, and the preprocessing of the paper as layers.

The experiments of the paper need the same splits and pixels everywhere. Data flow
through two steps:

1. `loading.load` reads a dataset of tensorflow-datasets, or `digits`, which is prepared
   from scikit-learn without a download, and returns batches of `(image, label)`.
   `loading.splits` names the paper's training, validation and test split.
2. `preprocessing` has contrast normalisation and ZCA whitening as Keras layers. They
   can be part of a network, and of the file that `export_student` writes.

tensorflow-datasets and scikit-learn are imported on first use.
"""

from keras_fitnets.datasets.loading import load
from keras_fitnets.datasets.loading import splits
from keras_fitnets.datasets.preprocessing import GlobalContrastNormalization
from keras_fitnets.datasets.preprocessing import ZCAWhitening

__all__ = ["GlobalContrastNormalization", "ZCAWhitening", "load", "splits"]
