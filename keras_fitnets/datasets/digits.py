"""The handwritten digits that scikit-learn carries, as a dataset builder."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

# Images of each digit in the test split, and as many in the validation split.
HELD_OUT_PER_CLASS = 35
SEED = 0


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8x8 pixels, prepared without a download.

    Use it through `load("digits")`. scikit-learn contains these images, so that
    preparing them needs no network. A grey level v in 0..16 is stored as the integer
    nearest to 255 v / 16, from which v can be recovered exactly.

    The splits are stratified: of each digit, shuffled with a fixed seed, 35 images are
    for `"test"`, 35 for `"validation"` and all others for `"train"`, which makes 350,
    350 and 1,097. They are the same on every machine.

    Reference: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten
    Digits, UCI Machine Learning Repository, 1998.

    Example:

    >>> import keras_fitnets as kf
    >>> test = kf.datasets.load("digits", split="test")
    >>> test.element_spec[0].shape
    TensorShape([8, 8, 1])
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="1,797 handwritten digits, 8x8 pixels, 10 classes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "The digits come with scikit-learn, which is not installed. "
                "Install it with `pip install scikit-learn`."
            ) from error
        grey, labels = load_digits(return_X_y=True)
        # tensorflow-datasets stores images as PNG files, hence the 8 bits.
        images = np.rint(grey * 255 / 16).astype("uint8").reshape(-1, 8, 8, 1)
        return {
            split: self._generate_examples(images, labels, indices)
            for split, indices in stratified_split(labels).items()
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in map(int, indices):
            yield index, {"image": images[index], "label": int(labels[index])}


def stratified_split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the indices of the images of each split.

    Args:
        labels: the class of each image, `(samples,)`.
    """
    # `RandomState` is frozen: it gives the same numbers in every release of NumPy,
    # which `default_rng` does not promise.
    order = np.random.RandomState(SEED).permutation(len(labels))
    by_class = [order[labels[order] == label] for label in np.unique(labels)]
    first, second = HELD_OUT_PER_CLASS, 2 * HELD_OUT_PER_CLASS
    return {
        "train": np.concatenate([of_class[second:] for of_class in by_class]),
        "validation": np.concatenate([of_class[first:second] for of_class in by_class]),
        "test": np.concatenate([of_class[:first] for of_class in by_class]),
    }
