"""The monitor logs what float64 NumPy finds on its inputs, and changes nothing."""

import csv
import re

import keras
import networks
import numpy as np
import pytest
import reference
import tensorflow as tf
import tiny
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_fitnets as kf
from keras_fitnets.distillation.objective import Objective
from keras_fitnets.distillation.teacher_outputs import TeacherOutputProvider
from keras_fitnets.training import stage_checkpoint

HELD_OUT = np.random.default_rng(5).normal(size=(11, 6)).astype("float32")
NAMES = {"hint_r2", "agreement", "label_share", "kd_share", "hint_share"}


def distiller(
    stage="joint", teacher=None, student=None, label=True, eagerly=True, **options
):
    """One whose passes are too small to be worth a trace, unless that is the point."""
    return tiny.make_distiller(
        teacher,
        student,
        keras.optimizers.SGD(0.05),
        tiny.FROM_LOGITS if label else None,
        {"run_eagerly": eagerly},
        regressor_seed=4,
        stage=stage,
        **options,
    )


class Seen(keras.callbacks.Callback):
    """Keeps what the student, the regressors, λ and τ are as an epoch ends."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        regressors = [one.get_weights() for one in model.regressors]
        numbers = (model.lambda_, model.temperature)
        self.epochs.append((model.student.get_weights(), regressors, *numbers))


def fit(model, x=HELD_OUT, callbacks=(), epochs=2, data=None, monitor=None, **options):
    """The logs by name, and what was `Seen`."""
    seen = Seen()
    callbacks = [*callbacks, monitor or kf.StudentMonitor(x, batch_size=4), seen]
    options = {"callbacks": callbacks, "epochs": epochs, **options}
    logs = tiny.fit(model, *(tiny.data() if data is None else data), **options)
    return logs, seen.epochs


def r2(hint, predicted, mask=None):
    """One minus what is missed over what there is, one feature after the other."""
    hint, predicted = reference.f64(hint), reference.f64(predicted)
    mask = np.ones(len(hint)) if mask is None else mask
    mask = np.reshape(mask, mask.shape + (1,) * (hint.ndim - mask.ndim))
    counts = np.broadcast_to(mask, hint.shape).astype(bool)
    missed = spread = 0.0
    for feature in np.ndindex(hint.shape[1:]):
        here = (counts[(slice(None), *feature)], *feature)
        if np.any(here[0]):
            missed += np.sum((hint[here] - predicted[here]) ** 2)
            spread += np.sum((hint[here] - np.mean(hint[here])) ** 2)
    return 1.0 - missed / spread


def hidden_and_logits(weights, x=HELD_OUT):
    return reference.hidden_and_logits(x, weights, "tanh")


TERMS = {"hint": ["hint"], "kd": ["label", "kd"], "joint": ["label", "kd", "hint"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "eagerly"),
    [("hint", False), ("kd", False), ("joint", False), ("joint", True)],
)
def test_it_logs_what_numpy_finds_in_each_epoch(stage, eagerly):
    model = distiller(stage, hint_weight=0.3, eagerly=eagerly)
    annealing = kf.LambdaAnnealing(4.0, 1.0, epochs=3)
    logs, seen = fit(model, callbacks=[annealing], epochs=3)
    hint, teacher = hidden_and_logits(model.teacher.models[0].get_weights())
    for epoch, (student, [regressor], lambda_, _) in enumerate(seen):
        guided, logits = hidden_and_logits(student)
        now = {name: values[epoch] for name, values in logs.items()}
        weights = {"label": 1, "kd": lambda_, "hint": 1 if stage == "hint" else 0.3}
        expected = {
            f"{term}_share": weights[term] * now[f"{term}_loss"] / now["loss"]
            for term in TERMS[stage]
        }
        if stage != "kd":
            predicted = reference.regress(guided, regressor, "tanh")
            expected["hint_r2"] = r2(hint, predicted)
        if stage != "hint":
            expected["agreement"] = np.mean(logits.argmax(-1) == teacher.argmax(-1))
        tiny.assert_logs(now, expected)
        assert now.keys() & NAMES == expected.keys()
        assert sum(now[f"{t}_share"] for t in TERMS[stage]) == pytest.approx(1.0)
    assert len({seen[epoch][2] for epoch in range(3)}) == (1 if stage == "hint" else 3)


def test_regularisation_is_what_is_missing_to_one():
    student = tiny.network(hidden=4, seed=2, kernel_regularizer="l2")
    model = distiller(student=student)
    penalty = 0.01 * np.sum(reference.f64(student.get_weights()[0]) ** 2)
    logs, _ = fit(model, epochs=1)
    shares = sum(logs[f"{term}_share"][0] for term in TERMS["joint"])
    assert 1.0 - shares == pytest.approx(penalty / logs["loss"][0], rel=1e-4)
    assert 1.0 - shares > 1e-3


def test_of_a_loss_of_nothing_there_is_no_share():
    logs, _ = fit(distiller("kd", label=False), epochs=1, sample_weight=np.zeros(8))
    assert set(logs) == {"loss", "kd_loss", "agreement", "kd_share"}
    assert logs["loss"] == [0.0] and np.isnan(logs["kd_share"]).all()


# Outputs

OUTPUTS = {
    "softmax": ({}, {}),
    "softmax at the end": ({"end": "softmax"}, {}),
    "sigmoid": ({}, {"activation": "sigmoid"}),
    "sigmoid at the end": ({"end": "sigmoid"}, {}),
    "one unit": ({"classes": 1}, {"activation": "sigmoid"}),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_of_every_kind_agree_or_not(case):
    made, options = OUTPUTS[case]
    teacher, student = tiny.network(seed=1, **made), tiny.network(seed=8, **made)
    model = distiller("kd", teacher, student, label=False, **options)
    logs, seen = fit(model, epochs=1)
    said = [hidden_and_logits(w)[1] for w in (teacher.get_weights(), seen[0][0])]
    softmax = case.startswith("softmax")
    chosen = [one.argmax(-1) if softmax else one > 0 for one in said]
    agreement = np.mean(chosen[0] == chosen[1])
    np.testing.assert_allclose(logs["agreement"], [agreement], rtol=1e-12)
    assert 0 < agreement < 1


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("average", ["arithmetic", "geometric"])
def test_an_ensemble_says_what_its_soft_targets_of_the_epoch_say(average, activation):
    members, weights = [tiny.network(seed=seed) for seed in (3, 4, 6)], [0.3, 0.4, 0.3]
    model = distiller(
        "kd",
        kf.Teacher(members, average=average, weights=weights),
        label=False,
        activation=activation,
        hints=kf.Hint("hidden", "hidden", member=1),
    )
    x = np.random.default_rng(1).normal(size=(300, 6)).astype("float32")
    annealing = kf.TemperatureAnnealing(0.2, 20.0, epochs=2)
    monitor = kf.StudentMonitor(x, batch_size=128)
    logs, seen = fit(model, callbacks=[annealing], monitor=monitor)
    said = [hidden_and_logits(member.get_weights(), x)[1] for member in members]
    taught, expected = [], []
    for student, _, _, temperature in seen:
        logits = hidden_and_logits(student, x)[1]
        soft = reference.ensemble_targets(
            said, temperature, activation, average, weights
        )
        softmax = activation == "softmax"
        taught.append(soft.argmax(-1) if softmax else soft > 0.5)
        own = logits.argmax(-1) if softmax else logits > 0
        expected.append(np.mean(taught[-1] == own))
    np.testing.assert_allclose(logs["agreement"], expected, rtol=1e-12)
    # An average of probabilities changes its mind with τ, one of logits does not.
    assert np.any(taught[0] != taught[1]) == (average == "arithmetic")


def forked(seed):
    inputs = keras.Input((6,))
    low = layers.Dense(5, "tanh", name="low")(inputs)
    high = layers.Dense(4, "tanh", name="high")(low)
    # Nothing teaches the output that is left out.
    outputs = {
        name: layers.Dense(3, name=name, trainable=name != "b")(high) for name in "abc"
    }
    return tiny.redrawn(keras.Model(inputs, outputs), seed)


@pytest.mark.slow
def test_several_pairs_and_outputs_have_a_log_each():
    model = distiller(
        *("joint", forked(1), forked(2)),
        label=False,
        eagerly=False,
        hints=[("low", "low"), ("high", "high"), ("high", "low")],
        activation={"a": "softmax", "b": None, "c": "sigmoid"},
    )
    logs, _ = fit(model, epochs=1)

    def said(network):
        parts = [network.get_layer(name).output for name in ("low", "high", "a", "c")]
        return [np.asarray(one) for one in keras.Model(network.input, parts)(HELD_OUT)]

    low, high, a, c = said(model.teacher.models[0])
    own_low, own_high, own_a, own_c = said(model.student)
    regressors = model.regressors
    expected = {
        "hint_r2_0": r2(low, regressors[0](own_low)),
        "hint_r2_1": r2(high, regressors[1](own_high)),
        "hint_r2_2": r2(high, regressors[2](own_low)),
        "agreement_0": np.mean(a.argmax(-1) == own_a.argmax(-1)),
        "agreement_2": np.mean((c > 0) == (own_c > 0)),
    }
    tiny.assert_logs({name: values[0] for name, values in logs.items()}, expected)
    assert {n for n in logs if n.startswith(("hint_r2", "agree"))} == expected.keys()


# Networks of every kind


@pytest.mark.slow
def test_masked_steps_do_not_count():
    def network(width, seed):
        inputs = keras.Input((5, 3))
        x = layers.Masking(name="masking")(inputs)
        x = layers.Dense(width, "tanh", name="hidden")(x)
        return tiny.redrawn(keras.Model(inputs, layers.Dense(3, name="out")(x)), seed)

    def steps(weights):
        kernel, bias, out_kernel, out_bias = map(reference.f64, weights)
        hidden = np.tanh(x @ kernel + bias)
        return hidden, (hidden @ out_kernel + out_bias).argmax(-1)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 5, 3)).astype("float32")
    for i in range(7):
        x[i, 1 + i // 2 :] = 0.0
    mask = np.any(x != 0, axis=-1)
    y = np.eye(3, dtype="float32")[rng.integers(3, size=(7, 5))]
    model = distiller("joint", network(5, 1), network(4, 2), eagerly=False)
    logs, [(student, [regressor], *_)] = fit(model, x, epochs=1, data=(x, y))
    hint, teachers = steps(model.teacher.models[0].get_weights())
    guided, own = steps(student)
    predicted = reference.regress(guided, regressor, "tanh")
    expected = {
        "hint_r2": r2(hint, predicted, mask),
        "agreement": np.mean((teachers == own)[mask]),
    }
    tiny.assert_logs({name: logs[name][0] for name in expected}, expected)
    assert abs(expected["hint_r2"] - r2(hint, predicted)) > 1e-3


BUILDS = {
    "subclassed": lambda: (networks.functional(), networks.Subclassed(3)),
    "subclassed teacher": lambda: (networks.Subclassed(4), networks.sequential(3)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "stage"), [("subclassed", "hint"), ("subclassed teacher", "joint")]
)
def test_networks_that_show_no_graph(build, stage):
    teacher, student = BUILDS[build]()
    hints = [
        f"backbone/{name}" if isinstance(network, networks.Subclassed) else name
        for network, name in ((teacher, "norm2"), (student, "norm1"))
    ]
    model = kf.Distiller(
        *(kf.Teacher(teacher, from_logits=True), student, tuple(hints)),
        **{"stage": stage, "from_logits": True},
    )
    model.compile(keras.optimizers.SGD(1e-3), networks.LABEL_LOSS)
    x, y = networks.batch(9, seed=3)
    logs, _ = fit(model, x, epochs=1, data=networks.batch())

    def upto(network, last):
        """Through the layers by hand."""
        backbone = getattr(network, "backbone", network)
        if isinstance(backbone, networks.Backbone):
            steps = [backbone.stem, *backbone.rest]
        else:
            steps = [one for one in backbone.layers if one.weights]
        flow = x
        for layer in steps:
            flow = layer(flow)
            if layer.name == last:
                break
        return flow

    predicted = model.regressors[0](upto(student, "norm1"))
    expected = {"hint_r2": r2(upto(teacher, "norm2"), predicted)}
    if stage == "joint":
        said = [
            np.argmax(keras.ops.convert_to_numpy(one(x)), axis=-1)
            for one in (teacher, student)
        ]
        expected["agreement"] = np.mean(said[0] == said[1])
    tiny.assert_logs({name: logs[name][0] for name in expected}, expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_precisions(policy):
    student = tiny.network(hidden=4, seed=2, dtype=policy)
    model = distiller("joint", student=student, eagerly=False)
    logs, [(own, [regressor], *_)] = fit(model, epochs=1)
    hint, teacher = hidden_and_logits(model.teacher.models[0].get_weights())
    guided, logits = hidden_and_logits(own)
    predicted = reference.regress(guided, regressor, "tanh")
    margin = {"mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}[policy]
    np.testing.assert_allclose(logs["hint_r2"], [r2(hint, predicted)], atol=margin)
    agreement = np.mean(logits.argmax(-1) == teacher.argmax(-1))
    np.testing.assert_allclose(logs["agreement"], [agreement], rtol=1e-12)


def test_inputs_in_a_dictionary_and_what_a_cache_says_of_them():
    def network(width, seed):
        inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((4,), name="b")}
        both = layers.Concatenate()([inputs["a"], inputs["b"]])
        hidden = layers.Dense(width, "tanh", name="hidden")(both)
        outputs = layers.Dense(3, name="out")(hidden)
        return tiny.redrawn(keras.Model(inputs, outputs), seed)

    def halves(x):
        return {"b": x[:, 2:], "a": x[:, :2]}

    model = distiller("joint", network(6, 1), network(4, 2))
    monitor = kf.StudentMonitor(
        model.with_teacher_outputs(halves(HELD_OUT)), batch_size=4
    )
    x, y = tiny.data()
    dataset = tf.data.Dataset.from_tensors((halves(x), y))
    options = {"callbacks": [monitor], "shuffle": False, "verbose": 0}
    logs = model.fit(dataset, **options).history
    hint, _ = hidden_and_logits(model.teacher.models[0].get_weights())
    guided, _ = hidden_and_logits(model.student.get_weights())
    predicted = reference.regress(guided, model.regressors[0].get_weights(), "tanh")
    np.testing.assert_allclose(logs["hint_r2"], [r2(hint, predicted)], rtol=1e-5)


# In training of every kind


@pytest.mark.slow
def test_nothing_is_changed_and_nothing_learns_from_it():
    class Counting(layers.Layer):
        """Changes its state in every pass, in inference too."""

        def build(self, shape):
            options = {"initializer": "zeros", "trainable": False}
            self.passes = self.add_weight(shape=(), name="passes", **options)

        def call(self, x):
            self.passes.assign_add(1.0)
            return x

    def trained(watched):
        keras.utils.set_random_seed(3)
        steps = [
            layers.Dense(4, "tanh", name="hidden", activity_regularizer="l2"),
            *(layers.BatchNormalization(), layers.Dropout(0.5), Counting()),
            layers.Dense(3, kernel_regularizer="l2", name="out"),
        ]
        student = keras.Sequential([keras.Input((6,)), *steps])
        model = distiller("joint", student=student, eagerly=False)
        callbacks = [kf.StudentMonitor(HELD_OUT)] if watched else []
        logs = tiny.fit(
            *(model, *tiny.data()), callbacks=callbacks, epochs=3, batch_size=4
        )
        return model, logs

    (alone, logs), (watched, more) = trained(False), trained(True)
    one, other = (networks.numpy_variables(m.student) for m in (alone, watched))
    assert [v.tobytes() for v in one.values()] == [v.tobytes() for v in other.values()]
    assert sum("seed" in path or "passes" in path for path in one) == 2
    assert {name: more[name] for name in logs} == logs
    assert more.keys() - logs.keys() == NAMES


@pytest.mark.slow
def test_the_teacher_is_run_once_and_the_student_once_an_epoch(monkeypatch):
    computed, passes = [], []

    def counted(method, log, sizes):
        def call(self, x, *args, **kwargs):
            if tf.is_tensor(x) and x.shape[0] in sizes:
                log.append(x.shape[0])
            return method(self, x, *args, **kwargs)

        return call

    sizes = (4, 3)  # Of the monitor's batches; the training's are of 8.
    monkeypatch.setattr(
        TeacherOutputProvider,
        "compute",
        counted(TeacherOutputProvider.compute, computed, sizes),
    )
    student = counted(Objective.run_student, passes, sizes)
    monkeypatch.setattr(Objective, "run_student", student)
    model, monitor = distiller("joint"), kf.StudentMonitor(HELD_OUT, batch_size=4)
    fit(model, monitor=monitor, epochs=3)
    assert (computed, passes) == ([4, 4, 3], [4, 4, 3] * 3)
    fit(model, monitor=monitor, epochs=1)
    assert (computed, passes) == ([4, 4, 3], [4, 4, 3] * 4)
    # Another teacher is another state, and so is the same one trained on.
    tiny.redrawn(model.teacher.models[0], 7)
    logs, [(student, [regressor], *_)] = fit(model, monitor=monitor, epochs=1)
    assert computed == [4, 4, 3] * 2
    hint, _ = hidden_and_logits(model.teacher.models[0].get_weights())
    predicted = reference.regress(hidden_and_logits(student)[0], regressor, "tanh")
    np.testing.assert_allclose(logs["hint_r2"], [r2(hint, predicted)], rtol=1e-5)
    fit(distiller("joint", tiny.network(hidden=6, seed=7)), monitor=monitor, epochs=1)
    assert computed == [4, 4, 3] * 3


@pytest.mark.slow
def test_both_stages_and_no_checkpoint_of_the_teachers_outputs(tmp_path):
    def run(folder, monitor):
        keras.utils.set_random_seed(0)
        model = distiller(hints=[("hidden", "hidden"), ("hidden", "out_low")], **low())
        return kf.fit_stagewise(
            *(model, *tiny.data()),
            stages=[
                kf.Stage("hint", 2, hints=[0]),
                kf.Stage("hint", 2, hints=[1]),
                kf.Stage("kd", 3),
            ],
            callbacks=[kf.LambdaAnnealing(4.0, 1.0, 3), monitor],
            checkpoint_dir=folder,
            batch_size=8,
            verbose=0,
        )

    def low():
        inputs = keras.Input((6,))
        x = layers.Dense(4, "tanh", name="hidden")(inputs)
        x = layers.Dense(4, "tanh", name="out_low")(x)
        student = keras.Model(inputs, layers.Dense(3, name="out")(x))
        return {"student": tiny.redrawn(student, 2)}

    monitor = kf.StudentMonitor(HELD_OUT, batch_size=4)
    history = run(tmp_path, monitor)
    hint, kd = history.hint.history, history.kd.history
    assert hint.keys() & {*NAMES, "hint_r2_0", "hint_r2_1"} == {
        *("hint_r2_0", "hint_r2_1", "hint_share")
    }
    assert [len(hint[n]) for n in ("hint_r2_0", "hint_r2_1", "hint_loss")] == [2, 2, 4]
    assert kd.keys() & NAMES == {"agreement", "label_share", "kd_share"}
    assert len(kd["agreement"]) == 3
    arrays = {}
    assert (
        not {"_sample", "_evaluator"}
        & stage_checkpoint._get_callback_state(monitor, arrays).keys()
    )
    assert arrays == {}
    again = run(tmp_path, kf.StudentMonitor(HELD_OUT, batch_size=4))
    assert again.hint.history == hint and again.kd.history == kd


@pytest.mark.slow
def test_two_replicas_log_what_one_does():
    def trained(strategy):
        with strategy.scope():
            model = distiller("joint", eagerly=False)
        monitor = kf.StudentMonitor(HELD_OUT, batch_size=4)
        options = {"callbacks": [monitor], "shuffle": False, "verbose": 0}
        data = tiny.batches(*tiny.data(), batch_size=4)
        return model, model.fit(data, **options).history

    one_device = tf.distribute.ReductionToOneDevice()
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], one_device)
    _, alone = trained(tf.distribute.get_strategy())
    model, shared = trained(two)
    assert alone.keys() >= NAMES
    tiny.assert_logs(shared, alone)
    # And where `fit` is called in the scope, as in a notebook's cell.
    with two.scope():
        monitor = kf.StudentMonitor(HELD_OUT, batch_size=4)
        monitor.set_model(model)
        monitor.on_train_begin()
        logs = {name: shared[name][0] for name in shared.keys() - NAMES}
        monitor.on_epoch_end(0, logs)
    tiny.assert_logs({name: [value] for name, value in logs.items()}, shared)


@pytest.mark.slow
def test_a_cache_of_the_teacher_changes_nothing(tmp_path):
    def run(cached):
        model = distiller("joint", eagerly=False)
        data = tiny.batches(*tiny.data(), batch_size=4)
        if cached:
            options = {"hint_dtype": "float32", "verbose": 0}
            data = kf.cache_teacher(model, data, tmp_path, **options)
        monitor = kf.StudentMonitor(HELD_OUT)
        options = {"callbacks": [monitor], "shuffle": False, "verbose": 0}
        return model.fit(data, **options).history

    asked, cached = run(False), run(True)
    for name in NAMES:
        np.testing.assert_allclose(cached[name], asked[name], rtol=1e-6)


def test_bar_csv_and_tensorboard_show_it(tmp_path, capsys):
    after = [
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path, write_graph=False),
        keras.callbacks.EarlyStopping("hint_r2", mode="max", patience=9),
    ]
    model, monitor = distiller("joint"), kf.StudentMonitor(HELD_OUT)
    callbacks = [monitor, *after]
    logs = tiny.fit(model, *tiny.data(), callbacks=callbacks, epochs=2, verbose=2)
    events = EventAccumulator(str(tmp_path / "train")).Reload()
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    printed = capsys.readouterr().out
    for name in NAMES:
        in_csv = [float(row[name]) for row in rows]
        np.testing.assert_allclose(in_csv, logs[name], rtol=1e-6)
        shown = events.Tensors(f"epoch_{name}")
        values = [float(tf.make_ndarray(event.tensor_proto)) for event in shown]
        np.testing.assert_allclose(values, logs[name], rtol=1e-6)
        on_bar = re.findall(rf"{name}: ([-\d.]+)", printed)
        np.testing.assert_allclose([*map(float, on_bar)], logs[name], atol=6e-5)
    best = max(logs["hint_r2"])
    assert after[-1].best == best


# Mistakes


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (tf.data.Dataset.from_tensors(HELD_OUT), TypeError, "dataset.unbatch().batch("),
        (iter([HELD_OUT]), TypeError, "`x` of StudentMonitor must be an array"),
        ([[1.0, 2.0]], TypeError, "received [[1.0, 2.0]]"),
        (None, TypeError, "received None"),
        (np.float32(3), TypeError, "must be an array of inputs"),
        (HELD_OUT[:0], ValueError, "received 0"),
        ((HELD_OUT, HELD_OUT[:5]), ValueError, "received 5 and 11"),
    ],
)
def test_what_is_no_array_of_samples_is_refused_at_once(x, error, message):
    with pytest.raises(error, match=re.escape(message)):
        kf.StudentMonitor(x)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None, "32"])
def test_a_batch_holds_a_whole_number_of_samples(batch_size):
    with pytest.raises(ValueError, match=f"received {batch_size!r}"):
        kf.StudentMonitor(HELD_OUT, batch_size=batch_size)


@pytest.mark.parametrize(
    ("x", "shapes"),
    [
        (HELD_OUT[:, :5], ["(None, 6)", "`x` of StudentMonitor of shape (11, 5)"]),
        ((HELD_OUT, np.ones(11)), ["(None, 6)", "(11, 6)", "(11,)"]),
        (np.array([["a"] * 6]), ["numbers", "str"]),
    ],
)
def test_inputs_that_do_not_fit_are_reported_before_training(x, shapes):
    model = distiller("kd")
    before = model.student.get_weights()
    with pytest.raises(ValueError) as caught:
        fit(model, monitor=kf.StudentMonitor(x))
    assert all(shape in str(caught.value) for shape in shapes), caught.value
    after = model.student.get_weights()
    assert all(map(np.array_equal, before, after)) and model.optimizer.iterations == 0


def test_it_watches_nothing_but_a_distiller():
    model = tiny.network()
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="of a keras_fitnets.Distiller.*Leave it out"):
        model.fit(*tiny.data(), callbacks=[kf.StudentMonitor(HELD_OUT)], verbose=0)


@pytest.mark.parametrize("x", [HELD_OUT[:1], np.repeat(HELD_OUT[:1], 7, axis=0)])
def test_a_hint_that_never_changes_cannot_be_judged(x):
    model = distiller("hint")
    message = rf"the {len(x)} sample\(s\).*'hidden' says the same.*Pass more samples"
    with pytest.raises(ValueError, match=message):
        fit(model, x)
    assert model.optimizer.iterations == 0
    model.stage = "kd"
    logs, _ = fit(model, x, epochs=1)
    assert logs["agreement"][0] in (0.0, 1.0)
