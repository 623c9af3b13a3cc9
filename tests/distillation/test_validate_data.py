"""Data that no step could use is told before the first update, wherever it is passed.

A second table beside that of `test_errors`: data sets, checkpoints, and the rest of the
public names.
"""

import functools
import shutil
import zipfile

import keras
import numpy as np
import old_checkpoints
import pytest
import tensorflow as tf
from keras import layers
from mistakes import FROM_LOGITS
from mistakes import ONE
from mistakes import ONE_HOT
from mistakes import PAIR
from mistakes import X
from mistakes import Y
from mistakes import check
from mistakes import compiled
from mistakes import conv_net
from mistakes import forked_distiller
from mistakes import net
from mistakes import raised
from mistakes import two_stages

import keras_fitnets as kf

CATEGORICAL = keras.losses.CategoricalCrossentropy(from_logits=True)
BINARY = keras.losses.BinaryCrossentropy(from_logits=True)
IGNORING = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=9)
# Keras warns when it learns how many batches there were.
RUNS_OUT = pytest.mark.filterwarnings("ignore:Your input ran out of data")
ORDERED = {"verbose": 0, "shuffle": False}
IMAGES = np.ones((8, 8, 8, 1), "float32")


def dataset(*parts, batch=4):
    data = tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0])
    return data.batch(batch) if batch else data


class Batches(keras.utils.PyDataset):
    def __init__(self, *batch, length=2):
        super().__init__()
        self.batch, self.length = batch, length

    @property
    def num_batches(self):
        return self.length

    def __getitem__(self, i):
        return self.batch


def of_images(**options):
    teacher, student = conv_net("teacher", 4), conv_net()
    return compiled(None, (), teacher=teacher, student=student, hints=("conv", "conv"))


def multi_label():
    return compiled(BINARY, (), activation="sigmoid")


def of_two_inputs():
    def joined(name):
        shapes = {"left": (4,), "right": (2,)}
        inputs = {key: keras.Input(shape, name=key) for key, shape in shapes.items()}
        x = layers.Concatenate()(list(inputs.values()))
        outputs = layers.Dense(3)(layers.Dense(2, name="hidden")(x))
        return keras.Model(inputs, outputs, name=name)

    return compiled(teacher=joined("teacher"), student=joined("student"))


def with_loss(loss):
    return lambda: compiled(loss, ())


def two_outputs():
    return forked_distiller({"a": FROM_LOGITS, "b": FROM_LOGITS})


BOTH = {"left": X, "right": X[:, :2]}

# The Distiller; x, y and sample weights; what the message names; the way out.
BAD = {
    # The inputs.
    "no inputs": (compiled, (None, None), "received a NoneType", "numpy.asarray"),
    "a file as inputs": (compiled, ("x.npz", Y), "a str: 'x.npz'", "numpy.asarray"),
    "lists as inputs": (compiled, (X.tolist(), Y), "a float: 0.12", "numpy.asarray"),
    "words as inputs": (
        *(compiled, (X.astype(str), Y)),
        *("(`x`|inputs of).*dtype str", "load_img"),
    ),
    "objects as inputs": (
        *(compiled, (X.astype(object), Y)),
        *("(`x`|inputs of).*dtype object", "load_img"),
    ),
    "files as inputs in a dataset": (
        *(compiled, (dataset(np.array(["a.png"] * 8), Y),)),
        *("inputs of .*dtype string", "load_img"),
    ),
    "other features": (
        *(compiled, (X[:, :3], Y)),
        *(r"'student' takes.*\(None, 4\).*of shape \(8, 3\)", "build the networks"),
    ),
    "other features in a dataset": (
        *(compiled, (dataset(X[:, :3], Y),)),
        *(r"\(None, 4\).*inputs of .*\(None, 3\)", "build the networks"),
    ),
    "images of another size": (
        *(of_images, (IMAGES[:, :6], Y)),
        *(r"\(None, 8, 8, 1\).*\(8, 6, 8, 1\)", "Resize"),
    ),
    "images of another rank": (
        *(of_images, (IMAGES.reshape(8, 64), Y)),
        *(r"\(None, 8, 8, 1\).*\(8, 64\)", "reshape"),
    ),
    "images with the channels first": (
        *(of_images, (np.ones((8, 3, 8, 8)), Y)),
        *(r"\(None, 8, 8, 1\).*\(8, 3, 8, 8\)", "reshape"),
    ),
    "one image": (
        *(of_images, (IMAGES[0], Y)),
        *(r"\(None, 8, 8, 1\).*\(8, 8, 1\)", "one sample without a batch"),
    ),
    "a dataset without batches": (
        *(compiled, (dataset(X, Y, batch=None),)),
        *(r"\(None, 4\).*inputs of .*\(4,\)", r"`.batch\(32\)`"),
    ),
    "a dataset of images without batches": (
        *(of_images, (dataset(IMAGES, Y, batch=None),)),
        *(r"inputs of .*\(8, 8, 1\)", r"`.batch\(32\)`"),
    ),
    "a dataset of numbers": (
        *(compiled, (tf.data.Dataset.range(5),)),
        *(r"inputs of .*\(\)", "reshape"),
    ),
    "a dictionary as element": (
        *(compiled, (dataset({"image": X, "label": Y}),)),
        *(r"takes \(None, 4\).*'image'.*'label'", r"dataset.map\(lambda d: \(d\["),
    ),
    "four parts of an element": (
        *(compiled, (dataset(X, Y, Y, Y),)),
        *(r"received 4 parts.*\(None, 4\)", r"\(\(x1, x2\), y\)"),
    ),
    "four parts that are no arrays": (
        *(compiled, (Batches(1, 2, 3, 4),)),
        *(r"received 4 parts.*'1', '2'", r"\(\(x1, x2\), y\)"),
    ),
    "four parts of a PyDataset": (
        *(compiled, (Batches(X, Y, Y, Y),)),
        *(r"received 4 parts.*\(8, 4\)", r"\(\(x1, x2\), y\)"),
    ),
    "other features in a PyDataset": (
        *(compiled, (Batches(X[:, :3], Y),)),
        *(r"\(None, 4\).*inputs of .*\(8, 3\)", "build the networks"),
    ),
    "one input of two": (
        *(of_two_inputs, (X, Y)),
        *(r"'left'.*'right'.*\(8, 4\)", "for each input"),
    ),
    "an input of another name": (
        *(of_two_inputs, ({"left": X, "rigth": X}, Y)),
        *("'right'.*'rigth'", "with these names"),
    ),
    "one of two inputs of another shape": (
        *(of_two_inputs, ({**BOTH, "right": X}, Y)),
        *(r"\(None, 2\).*\(8, 4\)", "build the networks"),
    ),
    # What there is not.
    "no samples": (compiled, (X[:0], Y[:0]), "no samples.* 0, .* 0", "at least one"),
    "a dataset of nothing": (
        *(compiled, (dataset(X, Y).take(0),)),
        *("(is an empty _Take|turned out to be empty)", "at least one"),
    ),
    "a batch too large to be full": (
        compiled,
        (dataset(X, Y, batch=None).batch(9, drop_remainder=True),),
        *("empty", "at least one"),
    ),
    "an empty PyDataset": (
        *(compiled, (Batches(X, Y, length=0),)),
        *("is an empty Batches", "at least one"),
    ),
    "fewer labels than inputs": (
        *(compiled, (X, Y[:5])),
        *("differ: .* 8, .* 5", "Pass for each sample its label"),
    ),
    "fewer labels in a PyDataset": (
        *(compiled, (Batches(X, Y[:5]),)),
        *("differ: .* 8, .* 5", "Pass for each sample its label"),
    ),
    "fewer samples in one input": (
        *(of_two_inputs, ({**BOTH, "right": X[:5, :2]}, Y)),
        *("differ: .* 5 and 8", "Pass for each sample"),
    ),
    "fewer weights than samples": (
        *(compiled, (X, Y, np.ones(5))),
        *("differ: .* 8, .* 8, .* 5", "its weight"),
    ),
    "a number as weights": (
        *(compiled, (X, Y, 2.0)),
        *("weight.*received a float: 2.0", "numpy.asarray"),
    ),
    "words as weights": (
        *(compiled, (X, Y, np.array(["a"] * 8))),
        *("weight.*dtype str", "number"),
    ),
    # The labels.
    "a list as labels": (compiled, (X, Y.tolist()), "received a int", "numpy.asarray"),
    "words as labels": (
        *(compiled, (X, Y.astype(str))),
        *("(`y`|labels of).*dtype str", "StringLookup"),
    ),
    "words as labels in a dataset": (
        *(compiled, (dataset(X, Y.astype(str)),)),
        *("labels of .*dtype string", "StringLookup"),
    ),
    "a class too high": (
        *(compiled, (X, Y + 1)),
        *("3 classes.*0 to 2.*from 1 to 3", "Number the classes from 0"),
    ),
    "one class too high among many": (
        *(compiled, (X, np.r_[Y[:7], 255])),
        *("3 classes.*from 0 to 255", "as many units"),
    ),
    "a negative class": (
        *(compiled, (X, Y - 1)),
        *("from -1 to 1", "Number the classes from 0"),
    ),
    "a negative class in a PyDataset": (
        *(compiled, (Batches(X, Y - 1),)),
        *("labels of .* from -1 to 1", "Number the classes from 0"),
    ),
    "a class beside the ignored one": (
        *(with_loss(IGNORING), (X, np.r_[Y[:6], 9, 8])),
        *("from 0 to 8", "Number the classes from 0"),
    ),
    "half a class": (
        *(compiled, (X, Y + 0.5)),
        *("whole numbers.* with 0.5", "Round the labels"),
    ),
    "classes as tensors": (
        *(compiled, (tf.constant(X), tf.constant(Y + 1))),
        *("from 1 to 3", "Number the classes from 0"),
    ),
    "one-hot labels for a sparse loss": (
        *(compiled, (X, ONE_HOT)),
        *(r"sparse.*\(None,\).*\(8, 3\)", r"losses.CategoricalCrossentropy\(from_log"),
    ),
    "one-hot labels for a sparse loss in a dataset": (
        *(compiled, (dataset(X, ONE_HOT),)),
        *(r"sparse.*\(None,\).*\(None, 3\)", r"argmax\(-1\)"),
    ),
    "numbers for a one-hot loss": (
        *(with_loss(CATEGORICAL), (X, Y)),
        *(r"'categorical.*\(None, 3\).*\(8,\)", r"SparseCategoricalCrossentropy\(fro"),
    ),
    "numbers for a one-hot loss in a dataset": (
        *(with_loss(CATEGORICAL), (dataset(X, Y),)),
        *(r"'categorical.*\(None, 3\).*\(None,\)", r"to_categorical\(y, 3\)"),
    ),
    "one-hot labels of other classes": (
        *(with_loss(CATEGORICAL), (X, np.eye(5)[Y])),
        *(r"\(None, 3\).*\(8, 5\)", "same number of classes"),
    ),
    "one label for several units": (
        *(multi_label, (X, Y > 0)),
        *(r"'binary.*\(None, 3\).*\(8,\)", "same number of classes"),
    ),
    "labels of one output of two": (
        *(two_outputs, (X, {"a": Y})),
        *("'a'.*'b'.*received .*{'a'", "one array for each output"),
    ),
    "labels of two outputs of one": (
        *(compiled, (X, [Y, Y])),
        *(r"gives \(None, 3\).*\(8,\).*\(8,\)", "one array for each output"),
    ),
    "named labels of the only output": (
        *(compiled, (X, {"in": Y})),
        *(r"gives \(None, 3\).*'in'", "one array for each output"),
    ),
    "a class too high in one output": (
        *(two_outputs, (X, {"a": Y, "b": Y + 1})),
        *("3 classes.*from 1 to 3", "Number the classes from 0"),
    ),
}


def error_before_update(model, act):
    """The message of the error, which leaves the student as it was."""
    student = getattr(model, "student", model)
    before = student.get_weights()
    message = raised(lambda: act(model))
    for old, new in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return message


@functools.cache
def shared(make, stages=1):
    """One Distiller for every row of a table that needs it, by the stages it trains."""
    return make()


def options(source):
    """A dataset brings its batches along."""
    return {"verbose": 0} if len(source) == 1 else ONE


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_reported_before_the_first_update(case):
    make, source, named, remedy = BAD[case]
    x, y, weights = (*source, None, None)[:3]
    message = error_before_update(
        shared(make), lambda m: m.fit(x, y, sample_weight=weights, **options(source))
    )
    check(message, named, remedy)


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_reported_before_stage_1(case):
    make, source, named, remedy = BAD[case]
    x, y, weights = (*source, None, None)[:3]
    train = two_stages(x, y, sample_weight=weights, verbose=0)
    check(error_before_update(shared(make, 2), train), named, remedy)


GOOD = {of_images: IMAGES, of_two_inputs: BOTH}


@pytest.mark.parametrize("case", [case for case in BAD if case != "no inputs"])
@pytest.mark.parametrize("stages", [1, 2])
def test_bad_validation_data_is_reported_before_the_first_update(case, stages):
    make, source, named, remedy = BAD[case]
    model, x, y = shared(make, stages), GOOD.get(make, X), Y
    if make is two_outputs:
        y = {"a": Y, "b": Y}
    elif make is multi_label or "one-hot loss" in case or "of other cl" in case:
        y = ONE_HOT
    data = source if len(source) > 1 else source[0]
    if stages == 2:
        train = two_stages(x, y, validation_data=data)
    else:

        def train(model):
            model.fit(x, y, validation_data=data, **ONE)

    message = error_before_update(model, train)
    check(message, named, remedy)
    assert "`validation_data`" in message


@pytest.mark.parametrize("data", [(X[:, :3], Y), (X, Y[:5])], ids=["shape", "count"])
def test_keras_alone_reports_validation_data_after_an_epoch(data):
    """When this fails, `validate_data` need not check shapes and counts any more."""
    model = net("plain")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    raised(lambda: model.fit(X, Y, validation_data=data, **ONE))
    pairs = zip(before, model.get_weights(), strict=True)
    assert any(np.any(old != new) for old, new in pairs)


@pytest.mark.parametrize("case", [case for case in BAD if BAD[case][0] is compiled])
def test_bad_data_is_reported_before_it_is_evaluated(case):
    make, source, named, remedy = BAD[case]
    x, y, weights = (*source, None, None)[:3]
    evaluated = error_before_update(
        shared(make),
        lambda m: m.evaluate(x, y, sample_weight=weights, **options(source)),
    )
    check(evaluated, named, remedy)


ENDLESS = dataset(X, Y).repeat()
FILTERED = dataset(X, Y, batch=None).filter(lambda x, y: y > 5).batch(4)
RUN = {
    "a dataset without end": (
        lambda m: m.fit(ENDLESS, verbose=0),
        *("`x` is a _RepeatDataset without end", "`steps_per_epoch`"),
    ),
    "a dataset without end in evaluate": (
        lambda m: m.evaluate(ENDLESS, verbose=0),
        *("without end", "`steps` to `evaluate`"),
    ),
    "a dataset without end to validate on": (
        lambda m: m.fit(X, Y, validation_data=ENDLESS, **ONE),
        *("`validation_data` is a _Repeat", "`validation_steps`"),
    ),
    "a dataset without end in two stages": (
        two_stages(ENDLESS, None),
        *("`x` is a _RepeatDataset without end", "`steps_per_epoch`"),
    ),
    "a PyDataset without end": (
        lambda m: m.fit(Batches(X, Y, length=None), verbose=0),
        *("`x` is a Batches without end", "`steps_per_epoch`"),
    ),
    "a class too high in a dataset of two stages": (
        two_stages(dataset(X, Y + 1), None),
        *("of a batch of `x` from 1 to 3", "Number the classes from 0"),
    ),
    "a class too high in a dataset to validate on": (
        two_stages(validation_data=dataset(X, Y + 1)),
        *(
            "of a batch of `validation_data` from 1 to 3",
            "Number the classes from 0",
        ),
    ),
    "a dataset from which all is filtered, in two stages": (
        two_stages(FILTERED, None),
        *("`x` is a dataset that turned out to be empty", "`.filter"),
    ),
    "a dataset to validate on from which all is skipped": (
        two_stages(validation_data=dataset(X, Y).filter(lambda x, y: False)),
        *("`validation_data` is a dataset that turned out", "`.skip"),
    ),
    "a dataset from which all is filtered": (
        lambda m: m.fit(FILTERED, **ORDERED),
        *("data gave no batch", "`.filter"),
    ),
    "a dataset from which all is filtered, in evaluate": (
        lambda m: m.evaluate(FILTERED, verbose=0),
        *("data gave no batch", "`.filter"),
    ),
    "a generator for two stages": (
        two_stages(((X, Y) for _ in range(9)), None),
        *("`x` is read in both stages.*<generator", "tf.data.Dataset"),
    ),
    "a generator to validate two stages on": (
        two_stages(validation_data=((X, Y) for _ in range(9))),
        *("`validation_data` is read in both.*<generator", "tf.data.Dataset"),
    ),
    "half a sample in a batch": (
        lambda m: m.fit(X, Y, batch_size=2.5),
        *("`batch_size`.*received 2.5", "at least 1"),
    ),
    "batches of no sample": (
        lambda m: m.fit(X, Y, batch_size=0),
        *("`batch_size`.*received 0", "at least 1"),
    ),
    "a negative number of steps": (
        lambda m: m.fit(X, Y, steps_per_epoch=-1),
        *("`steps_per_epoch`.*received -1", "at least 1"),
    ),
    "weights of classes in a list": (
        lambda m: m.fit(X, Y, class_weight=[1, 2, 3], **ONE),
        *(r"`class_weight`.*received \[1, 2, 3\]", "{0: 1.0"),
    ),
    "the weight of a class that there is not": (
        lambda m: m.fit(X, Y, class_weight={0: 1.0, 3: 2.0}, **ONE),
        *(r"3 classes.*`class_weight` with \[3\]", "from 0"),
    ),
    "the weight of a class by name": (
        lambda m: m.fit(X, Y, class_weight={"cat": 2.0}, **ONE),
        *(r"`class_weight` with \['cat'\]", "number the classes"),
    ),
    "the weight of a class in words": (
        lambda m: m.fit(X, Y, class_weight={0: "much"}, **ONE),
        *(r"`class_weight`.*received \['much'\]", "a number for each class"),
    ),
}


@RUNS_OUT
@pytest.mark.parametrize("case", RUN)
def test_what_runs_wrongly_is_reported_before_the_first_update(case):
    act, named, remedy = RUN[case]
    check(error_before_update(compiled(), act), named, remedy)


def test_labels_must_be_arrays_in_stage_hint_too():
    message = raised(lambda: compiled(stage="hint").fit(X, Y.tolist(), **ONE))
    check(message, "received a int", "numpy.asarray")


@pytest.mark.slow
def test_labels_are_not_looked_at_in_stage_hint():
    for bad in (Y + 7, ONE_HOT, Y - 0.5):
        model = compiled(stage="hint")
        model.fit(X, bad, **ONE)
        model.fit(dataset(X, bad), **ORDERED)
    compiled(stage="hint").fit(dataset(X, Y.astype(str)), **ORDERED)


def generated():
    yield from ((X, Y), (X, Y))


WORKING = {
    "a cardinality that is unknown": dataset(X, Y, batch=None)
    .filter(lambda x, y: y > 0)
    .batch(3),
    "a dataset of one batch": tf.data.Dataset.from_tensors((X, Y)),
    "shapes that are unknown": tf.data.Dataset.from_generator(
        generated, output_types=("float32", "int64")
    ),
    "a PyDataset": Batches(X, Y),
    "weights in the dataset": dataset(X, Y, np.ones(8)),
    "labels in a column": dataset(X, Y[:, None]),
}


@pytest.mark.slow
@RUNS_OUT
@pytest.mark.parametrize("case", WORKING)
def test_what_says_little_of_itself_trains(case):
    model = compiled()
    data = WORKING[case]
    logs = model.fit(data, validation_data=data, **ORDERED).history
    assert np.isfinite(logs["val_loss"]).all()
    history = two_stages(data, None, batch_size=None, shuffle=False)(compiled())
    assert np.isfinite(history.kd.history["loss"]).all()


@RUNS_OUT
def test_a_generator_is_not_read_before_it_trains():
    read = []

    def batches():
        for i in range(3):
            read.append(i)
            yield X, Y

    source = batches()
    model = compiled()
    with pytest.raises(TypeError):
        two_stages(source, None)(model)
    assert not read
    model.fit(source, **ORDERED)
    assert read == [0, 1, 2]


# What is made, what of it the message names, and the way out that it shows.
MADE = {
    "a data set of another name": (
        lambda: kf.datasets.load("digitz"),
        *("'digitz'", r"list_builders\(\)"),
    ),
    "a data set of no name": (
        lambda: kf.datasets.load(None),
        *("`name`.*name=None", "must be a string"),
    ),
    "a split in a list": (
        lambda: kf.datasets.load("digits", split=["train"]),
        *(r"`split`.*split=\['train'\]", "must be a string"),
    ),
    "a split that there is not": (
        lambda: kf.datasets.load("digits", split="dev"),
        *("split='dev'", "'train', 'validation'"),
    ),
    "a negative batch": (
        lambda: kf.datasets.load("digits", batch_size=-4),
        *("`batch_size`.*at least 1; received -4", "Pass None for single samples"),
    ),
    "a batch in words": (
        lambda: kf.datasets.load("digits", batch_size="8"),
        *("`batch_size`.*an integer.*received '8'", "Pass None for single samples"),
    ),
    "shuffling in words": (
        lambda: kf.datasets.load("digits", shuffle="yes"),
        *("shuffle='yes'", "True, False, or None"),
    ),
    "annealing over half an epoch": (
        lambda: kf.TemperatureAnnealing(4.0, 1.0, epochs=0.5),
        *("epochs=0.5", "at least one whole epoch"),
    ),
    "annealing over a yes": (
        lambda: kf.LambdaAnnealing(4.0, 1.0, epochs=True),
        *("epochs=True", "at least one whole epoch"),
    ),
    "annealing with half a delay": (
        lambda: kf.LambdaAnnealing(4.0, 1.0, epochs=5, delay=0.5),
        *("delay=0.5", "at least one whole epoch"),
    ),
    "annealing from infinity": (
        lambda: kf.LambdaAnnealing(float("inf"), 1.0, epochs=5),
        *("`start`.*received inf", "finite"),
    ),
    "annealing to nothing known": (
        lambda: kf.TemperatureAnnealing(3.0, float("nan"), epochs=5),
        *("`end`.*received nan", "finite"),
    ),
    "annealing by a list": (
        lambda: kf.LambdaAnnealing([4.0, 3.0, 2.0]),
        *(r"`start`.*received \[4.0, 3.0, 2.0\]", "one finite"),
    ),
    "annealing by a schedule and a delay": (
        lambda: kf.TemperatureAnnealing(lambda epoch: 2.0, delay=3),
        *("delay=3", "a schedule alone"),
    ),
    "a student's file without an end": (
        lambda: kf.StudentCheckpoint("student"),
        *("'?student", ".keras"),
    ),
    "a student's weights in a file of another end": (
        lambda: kf.StudentCheckpoint("student.keras", save_weights_only=True),
        *("student.keras", ".weights.h5"),
    ),
    "a dictionary of teachers": (
        lambda: kf.Teacher({"a": net("a")}),
        *("'a': <Functional", "a list of them"),
    ),
    "a list in the list of teachers": (
        lambda: kf.Teacher([[net("a")]]),
        *("position 0 is", "must be a keras.Model"),
    ),
    "weights of teachers that are infinite": (
        lambda: kf.Teacher([net("a"), net("b")], weights=[1.0, float("inf")]),
        *("`weights`.*received inf", "positive"),
    ),
    "weights of teachers by name": (
        lambda: kf.Teacher([net("a"), net("b")], weights={"a": 1, "b": 2}),
        *("received {'a': 1, 'b': 2}", "each of the 2 teachers"),
    ),
    "a weight for no teacher": (
        lambda: kf.Teacher(net("a"), weights=[]),
        *(r"received \[\]", "each of the 1 teachers"),
    ),
    "a loss at a negative temperature": (
        lambda: kf.SoftTargetCrossentropy(temperature=-1.0),
        *("`temperature`.*received -1.0", "positive"),
    ),
    "a loss at a temperature in words": (
        lambda: kf.SoftTargetCrossentropy(temperature="3"),
        *("`temperature`.*received '3'", "number"),
    ),
    "soft targets of another rank": (
        lambda: kf.SoftTargetCrossentropy()(np.zeros((2, 5, 3)), np.zeros((2, 3))),
        *(r"\(2, 5, 3\) \(teacher\) and \(2, 3\) \(student\)", "Nothing is broadcast"),
    ),
    "hints of one channel": (
        lambda: kf.HintLoss()(np.zeros((2, 4, 4, 8)), np.zeros((2, 4, 4, 1))),
        *(r"\(2, 4, 4, 8\) \(teacher\)", "HintRegressor"),
    ),
    "a maxout over the batch": (
        lambda: kf.Maxout(2, axis=0),
        *("`axis`.*received 0", "-1"),
    ),
    "a maxout over an axis in words": (
        lambda: kf.Maxout(2, axis="channels"),
        *("`axis`.*received 'channels'", "integer"),
    ),
    "a maxout over an axis that there is not": (
        lambda: kf.Maxout(2, axis=3)(np.ones((2, 4))),
        *(r"`axis` .*received axis=3 .*\(2, 4\)", "The last one is -1"),
    ),
    "a regressor with an unknown activation": (
        lambda: kf.HintRegressor((4,), activation="rellu"),
        *("`activation`.*received 'rellu'", '"relu", or None'),
    ),
    "a regressor with an activation that halves": (
        lambda: kf.HintRegressor((4,), activation="glu")(np.ones((2, 3))),
        *("`activation`.*<function glu.*changes the shape", "keeps its shape"),
    ),
    "a regressor with a layer that learns": (
        lambda: kf.HintRegressor((4,), activation=layers.PReLU())(np.ones((2, 3))),
        *("`activation`.*<PReLU.*weights", "a layer without weights"),
    ),
    "a regressor to bytes": (
        lambda: kf.HintRegressor(b"888"),
        *("`target_shape`.*received b'888'", r"\(8, 8, 64\)"),
    ),
    "a regressor without a data format": (
        lambda: kf.HintRegressor((4, 4, 2), data_format=""),
        *("`data_format`.*received ''", '"channels_last"'),
    ),
    "a regressor from other dimensions": (
        lambda: kf.HintRegressor((4, 4, 2), kind="conv")(np.ones((2, 8))),
        *(r"received \(8,\) and \(4, 4, 2\)", 'kind="dense"'),
    ),
    "a member by name": (
        lambda: kf.Hint(*PAIR, member="first"),
        *("`member`.*received 'first'", "counted from 0"),
    ),
    "a regressor's class": (
        lambda: kf.Hint(*PAIR, regressor=kf.HintRegressor),
        *("`regressor`.*received <class", "a Keras layer"),
    ),
}


@pytest.mark.parametrize("case", MADE)
def test_what_else_is_made_wrongly_is_reported_at_once(case):
    act, named, remedy = MADE[case]
    check(raised(act), named, remedy)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Both stages of a run, as they lie on disk."""
    directory = tmp_path_factory.mktemp("run")
    # The weights that each test begins with.
    keras.utils.set_random_seed(0)
    two_stages(checkpoint_dir=directory)(compiled())
    return directory


def largest(directory, pattern):
    return max(directory.glob(pattern), key=lambda path: path.stat().st_size)


def truncated(directory):
    path = largest(directory, "hint/*.npz")
    path.write_bytes(path.read_bytes()[:-200])


def with_a_flipped_byte(directory):
    path = largest(directory, "hint/*.npz")
    content = bytearray(path.read_bytes())
    # In the middle of an array: in a gap between two it would do no harm.
    with zipfile.ZipFile(path) as file:
        array = file.read("variable 0.npy")
    content[content.index(array) + len(array) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def without_a_variable(directory):
    path = largest(directory, "hint/*.npz")
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    del arrays["variable 0"]
    np.savez(path, **arrays)


def of_something_else(directory):
    np.savez(largest(directory, "hint/*.npz"), weight=np.ones(3))


def _in_the_old_format(directory):
    old_checkpoints.rewrite(directory / "hint")
    return directory / "hint"


def old_and_truncated(directory):
    path = largest(_in_the_old_format(directory), "*.data-*")
    path.write_bytes(path.read_bytes()[:-200])


def old_without_its_index(directory):
    largest(_in_the_old_format(directory), "*.index").unlink()


def old_without_its_data(directory):
    largest(_in_the_old_format(directory), "*.data-*").unlink()


def a_file(directory):
    shutil.rmtree(directory)
    directory.write_text("history")


DAMAGED = {
    truncated: ("hint/checkpoint-.*damaged", "Bring it back.*delete"),
    with_a_flipped_byte: ("hint/checkpoint-.* cannot be read", "delete '.*/hint'"),
    without_a_variable: ("hint/checkpoint-.* cannot be read", "delete '.*/hint'"),
    of_something_else: ("hint/checkpoint-.* cannot be read", "delete '.*/hint'"),
    old_and_truncated: ("hint/ckpt-.* cannot be read", "delete '.*/hint'"),
    old_without_its_index: ("hint/ckpt-.*cannot be read.*missing", "delete '.*/hint'"),
    old_without_its_data: ("hint/ckpt-.*cannot be read.*missing", "delete '.*/hint'"),
    a_file: ("`checkpoint_dir` must be a directory", "Pass another"),
}


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_reported_before_the_first_update(
    tmp_path, run, damage
):
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    damage(directory)
    message = error_before_update(compiled(), two_stages(checkpoint_dir=directory))
    check(message, *DAMAGED[damage])
