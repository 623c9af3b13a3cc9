"""The digits, and the pipeline that serves every dataset."""

import os
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
            example = {
                "image": np.full((4, 5, 3), 50 * label, "uint8"),
                "label": label,
            }
            yield label, {name: example[name] for name in self.FEATURES}


class FitnetsUnlabelled(FitnetsStripes):
    FEATURES = {"image": IMAGE}
    SUPERVISED = None


def arrays(dataset):
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")


@pytest.mark.slow
@pytest.mark.parametrize("split", SIZES)
def test_digits_have_the_documented_form(split):
    dataset = datasets.load("digits", split=split)
    images, labels = arrays(dataset)
    assert len(dataset) == SIZES[split]
    assert images.shape == (SIZES[split], 8, 8, 1) and images.dtype == np.float32
    assert labels.shape == (SIZES[split],) and labels.dtype == np.int64
    assert images.min() == 0 and images.max() == 1


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_interrupted_preparation_is_done_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(digits, "stratified_split", refuse)
        with pytest.raises(AssertionError):
            datasets.load("digits", data_dir=tmp_path)
    assert len(datasets.load("digits", data_dir=tmp_path)) == SIZES["train"]


@pytest.mark.slow
def test_two_processes_may_prepare_at_once(tmp_path, monkeypatch):
    split = digits.stratified_split

    def overtaken(labels):
        monkeypatch.setattr(digits, "stratified_split", split)
        digits.Digits(data_dir=tmp_path).download_and_prepare()
        return split(labels)

    monkeypatch.setattr(digits, "stratified_split", overtaken)
    assert len(datasets.load("digits", data_dir=tmp_path)) == SIZES["train"]


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_seed_repeats_the_order():
    first, second = (arrays(datasets.load("digits", seed=3))[1] for _ in range(2))
    assert (first == second).all()


def test_batches():
    dataset = datasets.load("digits", split="test", batch_size=100)
    assert [len(labels) for _, labels in dataset] == [100, 100, 100, 50]
    assert dataset.element_spec[0] == tf.TensorSpec((None, 8, 8, 1), tf.float32)


def test_a_remainder_is_dropped():
    dataset = datasets.load("digits", "test", batch_size=100, drop_remainder=True)
    assert [len(labels) for _, labels in dataset] == [100, 100, 100]
    assert dataset.element_spec[0].shape == (100, 8, 8, 1)


@pytest.mark.slow
def test_half_of_the_images_are_flipped_others_in_each_pass_and_again_by_a_seed():
    options = {"name": "digits", "split": "train", "shuffle": False}
    plain = arrays(datasets.load(**options))[0]
    flipped = datasets.load(**options, flip=True, seed=1)
    passes = [arrays(flipped)[0] for _ in range(2)]
    mirrored = [(one != plain).any((1, 2, 3)) for one in passes]
    for one, moved in zip(passes, mirrored, strict=True):
        np.testing.assert_array_equal(one[moved], plain[moved][:, :, ::-1])
        # Four standard deviations of 1,097 throws.
        assert abs(moved.mean() - 0.5) < 0.06
    assert 0.4 < (mirrored[0] != mirrored[1]).mean() < 0.6
    again = arrays(datasets.load(**options, flip=True, seed=1))[0]
    np.testing.assert_array_equal(again, passes[0])


@pytest.mark.slow
def test_workers_read_each_image_once():
    whole = arrays(datasets.load("digits", split="test"))[0]
    parts = []
    for worker in range(3):
        context = tf.distribute.InputContext(3, worker, 3)
        dataset = datasets.load("digits", split="test", input_context=context)
        parts.append(arrays(dataset)[0])
    assert [len(part) for part in parts] == [117, 117, 116]
    found = np.concatenate(parts).reshape(350, -1)
    assert sorted(map(tuple, found)) == sorted(map(tuple, whole.reshape(350, -1)))


IMAGES = {
    "mnist": {"train": 60_000, "test": 10_000},
    "fashion_mnist": {"train": 60_000, "test": 10_000},
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "svhn_cropped": {"train": 73_257, "test": 26_032, "extra": 531_131},
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_papers_divisions_cover_the_training_images_once(name):
    known = {
        split: tfds.core.SplitInfo(name=split, shard_lengths=[size], num_bytes=0)
        for split, size in IMAGES[name].items()
    }
    parts = datasets.splits(name)
    assert parts["test"] == "test"
    ranges = []
    for part in ("train", "validation"):
        instruction = tfds.core.ReadInstruction.from_spec(parts[part])
        for one in instruction.to_absolute(known):
            stop = one.to or IMAGES[name][one.splitname]
            ranges.append((one.splitname, one.from_ or 0, stop))
    held_out = 6_000 if name == "svhn_cropped" else 10_000
    assert (
        sum(stop - start for _, start, stop in ranges[len(ranges) // 2 :]) == held_out
    )
    for split in set(known) - {"test"}:
        [(_, *first), (_, *second)] = sorted(r for r in ranges if r[0] == split)
        assert first == [0, second[0]] and second[1] == IMAGES[name][split]


@pytest.mark.parametrize("name", IMAGES)
def test_the_papers_data_are_read(name, tmp_path, monkeypatch):
    """The real builders and files, with images that are made up."""
    made = tfds.builder_cls(name)
    rng = np.random.default_rng(0)

    def examples(builder, count):
        for number in range(count):
            example = {}
            for key, feature in builder.info.features.items():
                if key == "image":
                    example[key] = rng.integers(256, size=feature.shape, dtype="uint8")
                elif key == "id":
                    example[key] = str(number)
                else:
                    example[key] = number % feature.num_classes
            yield number, example

    monkeypatch.setattr(
        made, "_split_generators", lambda self, _: {"train": examples(self, 20)}
    )
    with pytest.raises(FileNotFoundError, match=f"{name}.*not found in {tmp_path}"):
        datasets.load(name, data_dir=tmp_path)
    first = datasets.load(
        name, "train[:75%]", data_dir=tmp_path, download=True, batch_size=15
    )
    rest = datasets.load(name, "train[75%:]", data_dir=tmp_path, shuffle=False)
    images, labels = next(iter(first))
    side, channels = (28, 1) if "mnist" in name else (32, 3)
    assert images.shape == (15, side, side, channels) and images.dtype == tf.float32
    assert len(rest) == 5
    found = sorted([*labels.numpy(), *arrays(rest)[1]])
    classes = 100 if name == "cifar100" else 10
    assert found == sorted(number % classes for number in range(20))
    pixels = np.rint(images.numpy() * 255)
    np.testing.assert_allclose(pixels / 255, images, atol=1e-7)
    assert pixels.min() == 0 and pixels.max() == 255


@pytest.mark.slow
@pytest.mark.skipif("CIFAR10_DIR" not in os.environ, reason="no $CIFAR10_DIR")
def test_cifar10_itself():
    parts = datasets.splits("cifar10")
    folder = os.environ["CIFAR10_DIR"]
    loaded = {
        part: datasets.load("cifar10", split, data_dir=folder)
        for part, split in parts.items()
    }
    assert [len(dataset) for dataset in loaded.values()] == [40_000, 10_000, 10_000]
    images, labels = next(iter(loaded["test"].batch(10_000)))
    assert images.shape == (10_000, 32, 32, 3)
    assert np.bincount(labels).tolist() == [1_000] * 10
    normalized = datasets.GlobalContrastNormalization()(images[:100]).numpy()
    flat = images[:100].numpy().astype("float64").reshape(100, -1)
    flat -= flat.mean(1, keepdims=True)
    expected = 55 * flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(normalized.reshape(100, -1), expected, atol=1e-4)


def test_other_data_have_no_division_of_the_papers():
    with pytest.raises(ValueError, match="'svhn_cropped'.*'imagenet2012'.*90%"):
        datasets.splits("imagenet2012")


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
        ({"batch_size": 0}, ValueError, "`batch_size`.*at least 1; received 0"),
        ({"batch_size": 2.0}, ValueError, "an integer.*received 2.0"),
        ({"batch_size": True}, ValueError, "an integer.*received True"),
        ({"shuffle": 1000}, TypeError, "True, False.*shuffle=1000"),
        ({"flip": "left"}, TypeError, "`flip` must be True or False.*'left'"),
        ({"drop_remainder": 1}, TypeError, "`drop_remainder` must be.*=1"),
        ({"drop_remainder": True}, ValueError, "needs a `batch_size`"),
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
