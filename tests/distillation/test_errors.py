"""Whatever is passed wrong is told before the first update: what, and the way out."""

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from mistakes import DATA
from mistakes import FROM_LOGITS
from mistakes import ONE
from mistakes import ONE_HOT
from mistakes import PAIR
from mistakes import X
from mistakes import Y
from mistakes import check
from mistakes import compiled
from mistakes import conv_net
from mistakes import distiller
from mistakes import forked
from mistakes import forked_distiller
from mistakes import net
from mistakes import raised
from mistakes import two_stages

import keras_fitnets as kf


def unbuilt(name):
    inside = [layers.Dense(2, name="hidden"), layers.Dense(3)]
    return keras.Sequential(inside, name=name)


def twice(name="student"):
    """A network that runs its hidden layer twice."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, name="hidden")
    return keras.Model(inputs, layers.Dense(3)(hidden(hidden(inputs))), name=name)


def recurrent(name="student"):
    """A network with a layer that gives several tensors."""
    inputs = keras.Input((5, 2))
    x, *_ = layers.LSTM(2, return_state=True, name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(3)(x), name=name)


def ending(end, units=3, **options):
    """A Distiller of two networks that end in an activation."""
    return distiller(
        net("teacher", 8, units, end), net("student", 2, units, end), **options
    )


def assign(attribute, value, **options):
    setattr(distiller(**options), attribute, value)


def plain():
    return net("plain")


# What is done, what of it the message names, and the way out that it shows.
CONSTRUCTED = {
    # The networks.
    "no teacher": (lambda: distiller([]), "list of teachers is empty", "at least one"),
    "a path as teacher": (
        lambda: distiller("teacher.keras"),
        *("'teacher.keras'", "must be a keras.Model, a list"),
    ),
    "a path among the teachers": (
        lambda: distiller([net("a"), "b.keras"]),
        *("position 1 is 'b.keras'", "load_model"),
    ),
    "a layer among the teachers": (
        lambda: distiller([net("a"), layers.Dense(3, name="b")]),
        *("position 1 is <Dense name=b", "must be a keras.Model"),
    ),
    "a path as student": (
        lambda: distiller(student="student.keras"),
        *("'student.keras'", "must be a keras.Model"),
    ),
    "a student not yet called": (
        lambda: distiller(student=net),
        *("<function net", "must be a keras.Model"),
    ),
    "teacher and student the same": (
        lambda: kf.Distiller(*[net("one")] * 2),
        *("'one' is both", "clone_model"),
    ),
    "the student in the ensemble": (
        lambda: (lambda one: kf.Distiller([net("a"), one], one))(net("one")),
        *("'one' is both", "clone_model"),
    ),
    "other classes": (
        lambda: distiller(net("teacher", units=10)),
        *(r"'teacher' gives \(None, 10\).*'student' gives \(None, 3\)", "last layer"),
    ),
    "other classes in one member": (
        lambda: distiller([net("a"), net("b", units=10)]),
        *(r"'b' gives \(None, 10\)", "last layer"),
    ),
    "fewer outputs": (
        lambda: distiller(forked("teacher", a=3, b=3), forked(a=3)),
        *("'teacher' gives {'a'.*'b'.*'student' gives {'a'", "same outputs"),
    ),
    "other names of outputs": (
        lambda: distiller(forked("teacher", a=3, b=3), forked(a=3, c=3)),
        *("{'a'.*'b'.*{'a'.*'c'", "same outputs"),
    ),
    "other inputs": (
        lambda: distiller(net("teacher", shape=(5,))),
        *(r"'teacher' takes .*5\).*'student' takes .*4\)", "reshaping layer"),
    ),
    "an unbuilt student": (
        lambda: distiller(student=unbuilt("student")),
        *("'student' has no weights", r"keras.Input\(...\)"),
    ),
    "an unbuilt teacher": (
        lambda: distiller(unbuilt("teacher")),
        *("'teacher' has no weights", r"keras.Input\(...\)"),
    ),
    # The numbers.
    "temperature 0": (lambda: distiller(temperature=0), "received 0", "positive"),
    "temperature below 0": (
        lambda: distiller(temperature=-3.0),
        *("`temperature`.*received -3.0", "positive"),
    ),
    "temperature NaN": (
        lambda: distiller(temperature=float("nan")),
        *("`temperature`.*received nan", "finite"),
    ),
    "temperature in words": (
        lambda: distiller(temperature="hot"),
        *("`temperature`.*received 'hot'", "number"),
    ),
    "several temperatures": (
        lambda: distiller(temperature=[3.0, 4.0]),
        *(r"`temperature`.*received \[3.0, 4.0\]", "one finite"),
    ),
    "temperature assigned": (
        lambda: assign("temperature", 0.0),
        *("`temperature`.*received 0.0", "positive"),
    ),
    "lambda below 0": (
        lambda: distiller(lambda_=-1),
        *("`lambda_`.*received -1", "non-negative"),
    ),
    "lambda NaN": (
        lambda: distiller(lambda_=float("nan")),
        *("`lambda_`.*received nan", "finite"),
    ),
    "lambda infinite": (
        lambda: distiller(lambda_=float("inf")),
        *("`lambda_`.*received inf", "finite"),
    ),
    "lambda assigned": (
        lambda: assign("lambda_", None),
        *("`lambda_`.*received None", "number"),
    ),
    "hint weight below 0": (
        lambda: distiller(hint_weight=-0.5),
        *("`hint_weight`.*received -0.5", "non-negative"),
    ),
    "learning rate factor below 0": (
        lambda: distiller(learning_rate_factor=-1),
        *("`learning_rate_factor`.*received -1", "non-negative"),
    ),
    "learning rate factor without hints": (
        lambda: distiller(hints=None, learning_rate_factor=0.1),
        *("has no hints; received 0.1", "Leave it at 1"),
    ),
    # The stage.
    "an unknown stage": (
        lambda: distiller(stage="distill"),
        *("received 'distill'", "'hint', 'kd', 'joint'"),
    ),
    "an empty stage": (
        lambda: distiller(stage=""),
        *("received ''", "'hint', 'kd', 'joint'"),
    ),
    "stage hint without hints": (
        lambda: distiller(hints=None, stage="hint"),
        *('Stage "hint" needs hints', 'hints=.*stage="kd"'),
    ),
    "stage joint without hints": (
        lambda: distiller(hints=None, stage="joint"),
        *('Stage "joint" needs hints', 'hints=.*stage="kd"'),
    ),
    "an unknown stage assigned": (
        lambda: assign("stage", "KD"),
        *("received 'KD'", "'hint', 'kd', 'joint'"),
    ),
    "stage hint assigned without hints": (
        lambda: assign("stage", "hint", hints=None),
        *('Stage "hint" needs hints', 'hints=.*stage="kd"'),
    ),
    "a pair to train that is not there": (
        lambda: assign("active_hints", (1,)),
        *(r"received \(1,\)", "among the 1 pairs.*from 0"),
    ),
    "no pair to train": (
        lambda: assign("active_hints", ()),
        *(r"received \(\)", "positions among"),
    ),
    "a pair to train, not in a list": (
        lambda: assign("active_hints", 0),
        *("`active_hints`.*received 0", "positions among"),
    ),
    # The hints.
    "an unknown hint layer": (
        lambda: distiller(hints=("hiden", "hidden")),
        *("'hiden' in network 'teacher'", "Did you mean 'hidden'"),
    ),
    "an unknown guided layer": (
        lambda: distiller(hints=("hidden", "conv7")),
        *("'conv7' in network 'student'", "It has: .*hidden, out"),
    ),
    "a path into a layer": (
        lambda: distiller(hints=("hidden", "hidden/conv1")),
        *("'hidden/conv1'.*hidden has no layer 'conv1'", "It has: none"),
    ),
    "the input as hint": (
        lambda: distiller(hints=("features", "hidden")),
        *("'features' of network 'teacher' is its input", "Choose a hidden layer"),
    ),
    "a layer that is run twice": (
        lambda: distiller(student=twice()),
        *("'hidden' is run 2 times.*'student'", "Identity"),
    ),
    "a layer of several tensors": (
        lambda: distiller(net("teacher", shape=(5, 2)), recurrent(), activation=None),
        *("outputs|'hidden'", "."),
    ),
    "hints of another type": (lambda: distiller(hints=7), "received 7", "a pair"),
    "hints as one word": (
        lambda: distiller(hints="hidden"),
        *("received 'hidden'", '"hint_layer", "guided_layer"'),
    ),
    "three layers in a pair": (
        lambda: distiller(hints=("hidden", "hidden", "hidden")),
        *("received 'hidden' among", '"hint_layer", "guided_layer"'),
    ),
    "layers instead of their names": (
        lambda: kf.Hint(net().get_layer("hidden"), "hidden"),
        *("`hint_layer`.*<Dense name=hidden", "layer.name"),
    ),
    "no hints in the list": (
        lambda: distiller(hints=[]),
        *(r"received \[\]", "at least one pair.*None"),
    ),
    "the same pair twice": (
        lambda: distiller(hints=[PAIR, kf.Hint(*PAIR, weight=2.0)]),
        *("'hidden', 'hidden'", "none twice"),
    ),
    "a path with a gap": (
        lambda: kf.Hint("a//b", "hidden"),
        *("received 'a//b'", "single slashes"),
    ),
    "a hint weight of 0": (
        lambda: kf.Hint(*PAIR, weight=0),
        *("`weight`.*received 0", "positive"),
    ),
    "a regressor of another kind": (
        lambda: kf.Hint(*PAIR, regressor="linear"),
        *("`regressor`.*received 'linear'", '"auto", "conv", "dense" or a Keras layer'),
    ),
    "a member before the first": (
        lambda: kf.Hint(*PAIR, member=-1),
        *("`member`.*received -1", "counted from 0"),
    ),
    "a member that is not there": (
        lambda: distiller([net("a"), net("b")], hints=kf.Hint(*PAIR, member=2)),
        *("member 2 of a teacher that has 2", "counted from 0"),
    ),
    "a regressor to another shape": (
        lambda: distiller(hints=kf.Hint(*PAIR, regressor=layers.Dense(5))),
        *(r"gives \(5,\)", r"'hidden' of teacher 'teacher', of shape \(8,\)"),
    ),
    "unknown dimensions": (
        lambda: distiller(
            conv_net("teacher", 4), conv_net(size=None), hints=("conv", "conv")
        ),
        *(
            r"'conv' of student 'student', of shape \(None, None, 2\)",
            "inputs of a fixed shape",
        ),
    ),
    "a convolution between flat layers": (
        lambda: distiller(hints=kf.Hint(*PAIR, regressor="conv")),
        *(r"received \(2,\) and \(8,\)", 'kind="dense"'),
    ),
    "the middle of a subclassed network": (
        lambda: distiller(
            *(networks.sequential(8, "teacher"), networks.Subclassed(2), "middle"),
            from_logits=True,
        ),
        *("'subclassed' is a Subclassed", "Name the layers"),
    ),
    "the middle of one layer": (
        lambda: distiller(
            student=keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="flat"),
            hints="middle",
        ),
        *(r"'flat' has 1 layer\(s\)", "needs a network with hidden layers"),
    ),
    # The outputs.
    "logits of a softmax network": (
        lambda: ending("softmax", from_logits=True),
        *("'student' ends in softmax.*from_logits=True", 'Leave it at "auto"'),
    ),
    "a teacher's logits of a softmax network": (
        lambda: distiller(
            kf.Teacher(net("teacher", 8, end="softmax"), from_logits=True)
        ),
        *("'teacher' ends in softmax.*from_logits=True", 'Leave it at "auto"'),
    ),
    "logits in words": (
        lambda: distiller(from_logits="yes"),
        *("`from_logits`.*received 'yes'", 'True, False or "auto"'),
    ),
    "a softmax over one unit": (
        lambda: ending("softmax", units=1),
        *("softmax over one unit", 'activation="sigmoid"'),
    ),
    "softmax and sigmoid": (
        lambda: distiller(net("teacher", 8, end="softmax"), net(end="sigmoid")),
        *("'teacher': 'softmax'", "Make them agree"),
    ),
    "another activation than the networks end in": (
        lambda: ending("softmax", activation="sigmoid"),
        *("activation='sigmoid'.*'softmax'", "Make them agree"),
    ),
    "an unknown activation": (
        lambda: distiller(activation="relu"),
        *("`activation`.*received 'relu'", "'softmax', 'sigmoid'"),
    ),
    "too many activations": (
        lambda: distiller(activation=["softmax", "softmax"]),
        *(r"received \['softmax', 'softmax'\]", "for each output"),
    ),
    "activations of other names": (
        lambda: distiller(forked("teacher", a=3), forked(a=3), activation={"b": None}),
        *("received {'b': None}.*'a'", "for each output"),
    ),
    "no output to teach": (
        lambda: distiller(activation=[None], stage="kd"),
        *(r"received \[None\]", "leaves out every output"),
    ),
    # The ensemble.
    "an unknown average": (
        lambda: kf.Teacher([net("a"), net("b")], average="median"),
        *("received 'median'", '"arithmetic".*"geometric"'),
    ),
    "too few weights": (
        lambda: kf.Teacher([net("a"), net("b")], weights=[1.0]),
        *(r"received .1.0", "each of the 2 teachers"),
    ),
    "a weight below 0": (
        lambda: kf.Teacher([net("a"), net("b")], weights=[1, -1]),
        *("`weights`.*received .*-1", "positive"),
    ),
    "weights in words": (
        lambda: kf.Teacher([net("a"), net("b")], weights=["much", "little"]),
        *("`weights`.*'much'", "positive number"),
    ),
    "one weight for all": (
        lambda: kf.Teacher([net("a"), net("b")], weights=1.0),
        *("`weights`.*received 1.0", "each of the 2 teachers"),
    ),
    "a teacher's logits in words": (
        lambda: kf.Teacher(net(), from_logits="no"),
        *("`from_logits`.*received 'no'", 'True, False or "auto"'),
    ),
    # The layers.
    "a hint of no size": (
        lambda: kf.HintRegressor((0, 4)),
        *(r"`target_shape`.*received \(0, 4\)", r"\(8, 8, 64\)"),
    ),
    "a hint's size alone": (
        lambda: kf.HintRegressor(64),
        *("`target_shape`.*received.*64", r"\(8, 8, 64\)"),
    ),
    "a regressor of an unknown kind": (
        lambda: kf.HintRegressor((4,), kind="linear"),
        *("`kind`.*received 'linear'", '"auto", "conv" or "dense"'),
    ),
    "maxout and relu": (
        lambda: kf.HintRegressor((4,), activation="relu", pieces=2),
        *("pieces=2 and activation='relu'", "Pass one of the two"),
    ),
    "an unknown data format": (
        lambda: kf.HintRegressor((4, 4, 2), data_format="NHWC"),
        *("`data_format`.*received 'NHWC'", '"channels_last", "channels_first"'),
    ),
    "a maxout of no pieces": (
        lambda: kf.Maxout(0),
        *("`pieces`.*received 0", "at least 1"),
    ),
    "a maxout of half a piece": (
        lambda: kf.Maxout(2.5),
        *("`pieces`.*received 2.5", "integer"),
    ),
    "channels that pieces do not divide": (
        lambda: net(between=[kf.Maxout(3, name="max")]),
        *(
            r"'max' with pieces=3.*received 2 on axis -1 of \(None, 2\)",
            "`pieces` times",
        ),
    ),
    # The losses.
    "a loss at temperature 0": (
        lambda: kf.SoftTargetCrossentropy(temperature=0.0),
        *("`temperature`.*received 0.0", "positive"),
    ),
    "a loss of an unknown activation": (
        lambda: kf.SoftTargetCrossentropy(activation="relu"),
        *("received 'relu'", "'softmax', 'sigmoid'"),
    ),
    "soft targets of other classes": (
        lambda: kf.soft_target_crossentropy(np.zeros((2, 3)), np.zeros((2, 1))),
        *(
            r"\(2, 3\) \(teacher\) and \(2, 1\) \(student\)",
            "make the two layers match",
        ),
    ),
    "a hint of another shape": (
        lambda: kf.hint_loss(np.zeros((2, 3)), np.zeros((2, 4))),
        *(r"\(2, 3\) \(teacher\) and \(2, 4\) \(student\)", "HintRegressor"),
    ),
    # The callbacks.
    "annealing to nowhere": (
        lambda: kf.LambdaAnnealing(4.0, epochs=10),
        *("end=None, epochs=10", r"LambdaAnnealing\(4.0, 1.0, epochs=500\)"),
    ),
    "annealing without epochs": (
        lambda: kf.TemperatureAnnealing(4.0, 1.0),
        *("start=4.0, end=1.0, epochs=None", r"Annealing\(4.0, 1.0, epochs=500\)"),
    ),
    "annealing over no epochs": (
        lambda: kf.LambdaAnnealing(4.0, 1.0, epochs=0),
        *("epochs=0", "at least one (whole )?epoch"),
    ),
    "annealing over epochs in words": (
        lambda: kf.LambdaAnnealing(4.0, 1.0, epochs="ten"),
        *("epochs='?ten", "at least one (whole )?epoch"),
    ),
    "annealing with a negative delay": (
        lambda: kf.LambdaAnnealing(4.0, 1.0, epochs=5, delay=-1),
        *("delay=-1", "no negative delay"),
    ),
    "annealing by a schedule and numbers": (
        lambda: kf.LambdaAnnealing(lambda epoch: 1.0, 1.0, epochs=5),
        *("end=1.0, epochs=5", "either a schedule alone"),
    ),
    "annealing lambda below 0": (
        lambda: kf.LambdaAnnealing(4.0, -1.0, epochs=5),
        *("-1.0", "non-negative"),
    ),
    "annealing temperature to 0": (
        lambda: kf.TemperatureAnnealing(3.0, 0.0, epochs=5),
        *("0.0", "positive"),
    ),
    "annealing from a word": (
        lambda: kf.LambdaAnnealing("4", 1.0, epochs=5),
        *("'4'|start=4", "number"),
    ),
    "annealing a plain model": (
        lambda: kf.LambdaAnnealing(4.0, 1.0, epochs=5).set_model(plain()),
        *("`lambda_`.*<Functional name=plain", "keras_fitnets.Distiller"),
    ),
    "annealing a plain model's temperature": (
        lambda: kf.TemperatureAnnealing(4.0, 1.0, epochs=5).set_model(plain()),
        *("`temperature`.*<Functional name=plain", "keras_fitnets.Distiller"),
    ),
    "a plain model's student": (
        lambda: kf.StudentCheckpoint("best.keras").set_model(plain()),
        *("<Functional name=plain", "keras.callbacks.ModelCheckpoint"),
    ),
    "a student's file of another kind": (
        lambda: kf.StudentCheckpoint("best.pb"),
        *("best.pb", "`.keras`"),
    ),
}


@pytest.mark.parametrize("case", CONSTRUCTED)
def test_what_is_made_wrongly_is_reported_at_once(case):
    act, named, remedy = CONSTRUCTED[case]
    check(raised(act), named, remedy)


def fit(x=X, y=Y, **options):
    return lambda model: model.fit(x, y, **ONE, **options)


def listed(make_stages, x=X, y=Y, **options):
    """Made within the test, where a Stage's own mistake is caught."""
    return lambda model: kf.fit_stagewise(
        model, x, y, stages=make_stages(), **ONE, **options
    )


def frozen(part, **options):
    model = distiller(**options)
    getattr(model, part).trainable = False
    return compiled(made=model)


def all_frozen():
    model = distiller(stage="hint")
    model.trainable = False
    return compiled(made=model)


def softmaxed(loss, **options):
    return compiled(loss, made=ending("softmax", **options))


PROBABILITIES = "sparse_categorical_crossentropy"
NO_LABELS = "Pass `y`, or a dataset of"
SAY_LOGITS = r"from_logits=True\)"

# The Distiller, what is done with it, and as above.
TRAINED = {
    "not compiled": (distiller, fit(), "compile", r"call `compile\(\)` before"),
    "outputs of a relu": (
        lambda: compiled(made=ending("relu")),
        *(fit(), "'student'.*ends in relu", "`from_logits=True` or `False`"),
    ),
    "outputs of a tanh": (
        lambda: compiled(made=distiller(net("teacher", 8, end="tanh"))),
        *(fit(), "'teacher'.*ends in tanh", "keras_fitnets.Teacher"),
    ),
    "logits of a subclassed network": (
        lambda: compiled(
            made=distiller(
                networks.sequential(8, "teacher"), networks.Subclassed(2), hints=None
            )
        ),
        lambda model: model.fit(np.zeros((8, 8, 8, 1)), np.zeros(8, "int32")),
        *("'subclassed'.*it ends in code", "`from_logits=True` or `False`"),
    ),
    "no labels in kd": (
        lambda: compiled(stage="kd"),
        *(fit(y=None), 'Stage "kd" needs labels', NO_LABELS),
    ),
    "no labels in joint": (
        compiled,
        *(fit(y=None), 'Stage "joint" needs labels', NO_LABELS),
    ),
    "no labels in the dataset": (
        compiled,
        lambda model: model.fit(tf.data.Dataset.from_tensors(X), shuffle=False),
        *('Stage "joint" needs labels', NO_LABELS),
    ),
    "no labels for the metrics": (
        lambda: compiled(None, stage="kd"),
        *(fit(y=None), 'Stage "kd" needs labels', NO_LABELS),
    ),
    "no labels in evaluate": (
        compiled,
        lambda model: model.evaluate(X, **ONE),
        *('Stage "joint" needs labels', NO_LABELS),
    ),
    "a loss on probabilities by name": (
        lambda: compiled(PROBABILITIES),
        fit(),
        *("'student' returns logits.*'sparse_categ.*from_logits=False", SAY_LOGITS),
    ),
    "a loss on probabilities as object": (
        lambda: compiled(keras.losses.CategoricalCrossentropy(), stage="kd"),
        fit(y=ONE_HOT),
        *("returns logits.*categorical_crossentropy.*from_logits=False", SAY_LOGITS),
    ),
    "a loss on probabilities as function": (
        lambda: compiled(keras.losses.sparse_categorical_crossentropy),
        fit(),
        *("returns logits.*sparse_categ.*from_logits=False", SAY_LOGITS),
    ),
    "a focal loss on probabilities": (
        lambda: compiled("categorical_focal_crossentropy"),
        fit(y=ONE_HOT),
        *("returns logits.*focal.*from_logits=False", SAY_LOGITS),
    ),
    "a loss on probabilities in a dictionary": (
        lambda: forked_distiller({"a": FROM_LOGITS, "b": PROBABILITIES}),
        fit(y={"a": Y, "b": Y}),
        *("returns logits.*'sparse_categ.*from_logits=False", SAY_LOGITS),
    ),
    "a loss on logits of a softmax network": (
        lambda: softmaxed(FROM_LOGITS),
        fit(),
        *("'student' returns probabilities.*from_logits=True", r"from_logits=False\)"),
    ),
    "a binary loss on classes": (
        lambda: softmaxed("binary_crossentropy"),
        fit(y=ONE_HOT),
        *("'binary_crossentropy' is for sigmoid.*'student'", "change the loss"),
    ),
    "the student frozen": (
        lambda: frozen("student", stage="kd"),
        *(fit(), "Stage \"kd\" has nothing to train.*'student'", "trainable = True"),
    ),
    "everything frozen": (
        all_frozen,
        *(fit(), 'Stage "hint" has nothing to train', "trainable = True"),
    ),
    "weights of two for a sample, label loss": (
        lambda: compiled(stage="kd"),
        fit(sample_weight=np.ones((8, 2))),
        *(r"(sample.weight|weight).*\(.*2\)", "for each sample"),
    ),
    "weights of two for a sample, soft targets": (
        lambda: compiled(None, (), stage="kd"),
        fit(sample_weight=np.ones((8, 2))),
        *(r"shape \(4, 2\)", "a weight for each sample"),
    ),
    "weights without labels": (
        lambda: compiled(None, (), stage="kd"),
        fit(y=None, sample_weight=np.ones(8)),
        *("Keras drops `sample_weight`", "Pass labels too"),
    ),
    "weights for other outputs": (
        lambda: forked_distiller(None, stage="kd"),
        fit(y={"a": Y, "b": Y}, sample_weight=[np.ones(8)] * 3),
        *("sample_weight: .*array", "one `sample_weight` array per output in `y`"),
    ),
    "annealing lambda by a function below 0": (
        lambda: compiled(stage="kd"),
        fit(callbacks=[kf.LambdaAnnealing(lambda epoch: -1.0)]),
        *("`lambda_`.*received -1.0", "non-negative"),
    ),
    "two stages not compiled": (
        distiller,
        *(two_stages(), "not compiled", r"distiller.compile\(optimizer, loss=...\)"),
    ),
    "two stages without hints": (
        lambda: compiled(hints=None),
        *(two_stages(), "has no hints", "hints=.*call its `fit`"),
    ),
    "two stages of a plain model": (
        plain,
        *(two_stages(), "<Functional name=plain", "keras_fitnets.Distiller"),
    ),
    "negative epochs": (
        compiled,
        *(two_stages(hint_epochs=-1), "`hint_epochs`.*received -1", "at least 0"),
    ),
    "half an epoch": (
        compiled,
        *(two_stages(kd_epochs=0.5), "`kd_epochs`.*received 0.5", "number of epochs"),
    ),
    "Keras' word for epochs": (
        compiled,
        *(two_stages(epochs=5), "'epochs'", "`hint_epochs` and `kd_epochs`"),
    ),
    "stage 2 on hints": (
        compiled,
        *(two_stages(stage="hint"), "received stage='hint'", '"kd" or "joint"'),
    ),
    "patience without validation": (
        compiled,
        listed(lambda: [kf.Stage("hint", 1), kf.Stage("kd", 1, patience=3)]),
        *("`patience`", "Pass `validation_data="),
    ),
    "a monitor without validation": (
        compiled,
        two_stages(monitor="val_accuracy"),
        *("`monitor`", "Pass `validation_data="),
    ),
    "negative patience": (
        compiled,
        listed(lambda: [kf.Stage("hint", 1, patience=-1)], validation_data=DATA),
        *("`patience`.*received -1", "at least"),
    ),
    "a monitor without direction": (
        compiled,
        two_stages(monitor="val_score", validation_data=DATA),
        *("monitor='val_score'", 'mode="max" or mode="min"'),
    ),
    "a monitor that is not logged": (
        compiled,
        two_stages(monitor="val_auc", validation_data=DATA),
        *("monitor='val_auc'", "val_accuracy"),
    ),
    "an unknown direction": (
        compiled,
        two_stages(monitor="val_accuracy", mode="up", validation_data=DATA),
        *("`mode`.*'up'", "'min', 'max'"),
    ),
    "a number as optimizer": (
        compiled,
        listed(lambda: [kf.Stage("hint", 1, optimizer=0.01)]),
        *("0.01", "optimizer"),
    ),
    "an unknown optimizer": (
        compiled,
        listed(lambda: [kf.Stage("kd", 1, optimizer="sgdd")]),
        *("'?sgdd", "[Oo]ptimizer"),
    ),
    "a negative factor in stage 2": (
        compiled,
        listed(lambda: [kf.Stage("kd", 1, learning_rate_factor=-0.1)]),
        *("`learning_rate_factor`.*received -0.1", "non-negative"),
    ),
    "a factor for a hint stage": (
        compiled,
        listed(lambda: [kf.Stage("hint", 1, learning_rate_factor=0.1)]),
        *("`learning_rate_factor`; received 0.1", "an `optimizer` with a smaller"),
    ),
    "no stage": (compiled, listed(lambda: []), "an empty list", "pass `hint_epochs`"),
    "a stage by its name": (
        compiled,
        *(listed(lambda: ["hint"]), r"received \['hint'\]", r'kf.Stage\("hint", 10\)'),
    ),
    "a stage alone": (
        compiled,
        listed(lambda: kf.Stage("kd", 1)),
        *(r"received Stage\(kind='kd'", "must be a list"),
    ),
    "an unknown kind of stage": (
        compiled,
        *(listed(lambda: [kf.Stage("third", 1)]), "'third'", "must be one of"),
    ),
    "half an epoch of a stage": (
        compiled,
        *(listed(lambda: [kf.Stage("kd", 0.5)]), "`epochs`.*received 0.5", "integer"),
    ),
    "a list of stages and epochs beside it": (
        compiled,
        listed(lambda: [kf.Stage("kd", 1)], kd_epochs=5, stage="joint"),
        *(r"\['kd_epochs', 'stage'\]", "give each Stage what it needs"),
    ),
    "a stage of a pair that is not there": (
        compiled,
        listed(lambda: [kf.Stage("hint", 1, hints=[1])]),
        *(r"positions \[1\]", "has 1 pair"),
    ),
    "a stage of a pair by its name": (
        compiled,
        listed(lambda: [kf.Stage("hint", 1, hints=["hidden"])]),
        *(r"received \['hidden'\]", "list of positions"),
    ),
    "a stage of no pair": (
        compiled,
        listed(lambda: [kf.Stage("hint", 1, hints=[])]),
        *(r"received \[\]", "at least one position"),
    ),
    "a stage of a pair twice": (
        compiled,
        listed(lambda: [kf.Stage("hint", 1, hints=[0, 0])]),
        *(r"received \[0, 0\]", "none twice"),
    ),
    "pairs for a stage without hints": (
        compiled,
        listed(lambda: [kf.Stage("joint", 1, hints=[0])]),
        *(r'"joint" has no `hints`; received \[0\]', "Leave it out"),
    ),
    "a hint stage without hints": (
        lambda: compiled(hints=None),
        listed(lambda: [kf.Stage("kd", 1), kf.Stage("joint", 1)]),
        *("Stage.kind='joint'.*has none", "hints=.*kind"),
    ),
    "a number as a stage's monitor": (
        compiled,
        listed(lambda: [kf.Stage("kd", 1, monitor=3)], validation_data=DATA),
        *("`monitor`.*received 3", "name of a log"),
    ),
    "a stage's direction": (
        compiled,
        listed(lambda: [kf.Stage("kd", 1, mode="up")], validation_data=DATA),
        *("`mode`.*received 'up'", "must be one of"),
    ),
    "a stage's monitor that is not logged": (
        compiled,
        listed(
            lambda: [kf.Stage("hint", 1, monitor="val_accuracy")], validation_data=DATA
        ),
        *("monitor='val_accuracy'", "val_hint_loss"),
    ),
    "a monitor for hint stages alone": (
        compiled,
        listed(
            lambda: [kf.Stage("hint", 1)], monitor="val_accuracy", validation_data=DATA
        ),
        *("monitor='val_accuracy' is for", "Pass it to a Stage"),
    ),
    "a function as a stage's callback": (
        compiled,
        listed(lambda: [kf.Stage("kd", 1, callbacks=[print])]),
        *("received <built-in function print>", "must be Keras callbacks"),
    ),
    "a later stage without labels": (
        compiled,
        listed(lambda: [kf.Stage("hint", 1), kf.Stage("kd", 1)], y=None),
        *("needs labels, and none", NO_LABELS),
    ),
    "two stages without labels": (
        compiled,
        *(two_stages(y=None), "needs labels, and none", NO_LABELS),
    ),
    "two stages with weights that the second cannot take": (
        lambda: compiled(None, ()),
        two_stages(sample_weight=np.ones((8, 2))),
        *(r"shape \(\d, 2\)", "a weight for each sample"),
    ),
    "two stages with validation without labels": (
        compiled,
        two_stages(validation_data=(X, None)),
        *("needs labels, and none", NO_LABELS),
    ),
    "two stages with a contradicting loss": (
        lambda: compiled(PROBABILITIES),
        *(two_stages(), "returns logits.*from_logits=False", SAY_LOGITS),
    ),
}


@pytest.mark.parametrize("case", TRAINED)
def test_what_is_trained_wrongly_is_reported_before_the_first_update(case):
    make, act, named, remedy = TRAINED[case]
    model = make()
    student = getattr(model, "student", model)
    before = student.get_weights()
    message = raised(lambda: act(model))
    for old, new in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    check(message, named, remedy)


@pytest.mark.slow
def test_the_checkpoint_of_another_run_is_refused_before_the_first_update(tmp_path):
    two_stages(checkpoint_dir=tmp_path)(compiled())
    model = compiled(student=net(width=3))
    before = model.student.get_weights()
    message = raised(lambda: two_stages(checkpoint_dir=tmp_path)(model))
    for old, new in zip(before, model.student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    check(message, f"{tmp_path}.*weights", "Use another `checkpoint_dir`")
