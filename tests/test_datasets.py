"""The digits, and the pipeline that serves every dataset."""

import socket
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from keras_fitnets import datasets
from keras_fitnets.datasets import digits

IMAGE = tfds.features.Image(shape=(4, 5, 3), dtype=np.uint8)
SIZES = {"train": 1097, "validation": 350, "test": 350}


class FitnetsStripes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    FEATURES = {"image": IMAGE, "label": tfds.features.ClassLabel(num_classes=6)}
    SUPERVISED = ("image", "label")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.FEATURES),
            supervised_keys=self.SUPERVISED,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for label in range(6):
            example = {"image": np.full((4, 5, 3), 50 * label, "uint8"), "label": label}
            yield label, {name: example[name] for name in self.FEATURES}


class FitnetsUnlabelled(FitnetsStripes):
    FEATURES = {"image": IMAGE}
    SUPERVISED = None


def arrays(dataset):
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")


@pytest.mark.parametrize("split", SIZES)
def test_digits_have_the_documented_form(split):
    dataset = datasets.load("digits", split=split)
    images, labels = arrays(dataset)
    assert len(dataset) == SIZES[split]
    assert images.shape == (SIZES[split], 8, 8, 1) and images.dtype == np.float32
    assert labels.shape == (SIZES[split],) and labels.dtype == np.int64
    assert images.min() == 0 and images.max() == 1


def test_digits_are_those_of_scikit_learn_each_once():
    grey, labels = load_digits(return_X_y=True)
    read = [arrays(datasets.load("digits", split, shuffle=False)) for split in SIZES]
    images = np.concatenate([images for images, _ in read]).reshape(-1, 64)
    found = np.column_stack([np.rint(images * 16), np.hstack([y for _, y in read])])
    expected = np.column_stack([grey, labels])
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


def test_digits_splits_are_stratified_disjoint_and_fixed():
    _, labels = load_digits(return_X_y=True)
    parts = digits.stratified_split(labels)
    for split in ("validation", "test"):
        assert np.bincount(labels[parts[split]]).tolist() == [35] * 10
    assert np.unique(np.concatenate(list(parts.values()))).size == 1797
    first = {split: indices[:3].tolist() for split, indices in parts.items()}
    assert first == {
        "train": [328, 1105, 656],
        "validation": [1516, 1663, 178],
        "test": [458, 276, 526],
    }


def test_digits_are_prepared_once_in_silence_and_offline(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(socket, "socket", refuse)
    datasets.load("digits", data_dir=tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    written = [path.stat().st_mtime_ns for path in files]
    monkeypatch.setattr(digits.Digits, "_split_generators", refuse)
    datasets.load("digits", split="test", data_dir=tmp_path)
    assert [path.stat().st_mtime_ns for path in files] == written
    assert not list(tmp_path.rglob("*incomplete*"))
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_preparation_is_done_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(digits, "stratified_split", refuse)
        with pytest.raises(AssertionError):
            datasets.load("digits", data_dir=tmp_path)
    assert len(datasets.load("digits", data_dir=tmp_path)) == SIZES["train"]


def test_two_processes_may_prepare_at_once(tmp_path, monkeypatch):
    split = digits.stratified_split

    def overtaken(labels):
        monkeypatch.setattr(digits, "stratified_split", split)
        digits.Digits(data_dir=tmp_path).download_and_prepare()
        return split(labels)

    monkeypatch.setattr(digits, "stratified_split", overtaken)
    assert len(datasets.load("digits", data_dir=tmp_path)) == SIZES["train"]


@pytest.mark.parametrize(
    ("split", "shuffle", "moves"),
    [
        ("train", None, True),
        ("train[:50%]", None, True),
        ("test", None, False),
        ("train", False, False),
        ("test", True, True),
    ],
)
def test_shuffle(split, shuffle, moves):
    dataset = datasets.load("digits", split=split, shuffle=shuffle)
    first, second = arrays(dataset)[0], arrays(dataset)[0]
    assert (first != second).any() == moves
    assert (
        np.sort(first.sum((1, 2, 3))).tolist()
        == np.sort(second.sum((1, 2, 3))).tolist()
    )


def test_a_seed_repeats_the_order():
    first, second = (arrays(datasets.load("digits", seed=3))[1] for _ in range(2))
    assert (first == second).all()


def test_batches():
    dataset = datasets.load("digits", split="test", batch_size=100)
    assert [len(labels) for _, labels in dataset] == [100, 100, 100, 50]
    assert dataset.element_spec[0] == tf.TensorSpec((None, 8, 8, 1), tf.float32)


def test_any_other_name_goes_through_the_same_pipeline(tmp_path, capfd):
    first = datasets.load("fitnets_stripes", data_dir=tmp_path, download=True)
    again = datasets.load("fitnets_stripes", batch_size=4, data_dir=tmp_path)
    assert len(first) == 6 and len(again) == 2
    images, labels = arrays(first)
    assert images.shape == (6, 4, 5, 3) and images.dtype == np.float32
    assert images[:, 0, 0, 0] * 255 == pytest.approx(50.0 * labels)


def test_other_data_than_images_with_a_label_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="8-bit images.*fitnets_unlabelled.*FeaturesDi"
    ):
        datasets.load("fitnets_unlabelled", data_dir=tmp_path, download=True)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"name": 3}, TypeError, "`name` must be a string.*name=3"),
        ({"name": "digitz"}, ValueError, "list_builders.*name='digitz'"),
        ({"name": "cifar10"}, FileNotFoundError, "cifar10/3.*download=True.*data_dir"),
        ({"split": None}, TypeError, "`split` must be a string.*split=None"),
        ({"split": "valid"}, ValueError, "'validation'.*split='valid'"),
        ({"split": "train[:200%]"}, ValueError, "part of.*split='train"),
        ({"batch_size": 0}, ValueError, "at least 1.*batch_size=0"),
        ({"batch_size": 2.0}, TypeError, "an integer.*batch_size=2.0"),
        ({"batch_size": True}, TypeError, "an integer.*batch_size=True"),
        ({"shuffle": 1000}, TypeError, "True, False.*shuffle=1000"),
    ],
)
def test_wrong_arguments(arguments, error, words, tmp_path):
    if arguments.get("name") == "cifar10":
        arguments = {**arguments, "data_dir": tmp_path}
    with pytest.raises(error, match=words):
        datasets.load(**{"name": "digits", **arguments})


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("tensorflow_datasets", "pip install tensorflow-datasets"),
        ("sklearn.datasets", "pip install scikit-learn"),
    ],
)
def test_a_missing_package_names_the_line_that_installs_it(
    missing, line, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=line):
        datasets.load("digits", data_dir=tmp_path)
