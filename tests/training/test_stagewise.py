"""Stage 1, then stage 2: what each trains, ends on, and goes on from."""

import shutil

import keras
import networks
import numpy as np
import old_checkpoints
import pytest
import tensorflow as tf
import tiny
from keras import layers

import keras_fitnets as kf

BOTH = [("first", "first"), ("second", "second")]


def net(name, width, deeper=0, dropout=0.0, seed=0):
    """Layers "first", "second", then "third" and so on, and "out"."""
    inputs = keras.Input((6,))
    names = ["first", "second", "third", *[f"deeper{i}" for i in range(deeper)]]
    x = inputs
    for layer in names:
        x = layers.Dense(width, "tanh", name=layer)(x)
        x = layers.Dropout(dropout, seed=1)(x) if dropout else x
    x = layers.Dense(tiny.CLASSES, name="out")(x)
    return tiny.redrawn(keras.Model(inputs, x, name=name), seed)


def momentum():
    """An optimizer with a state, at a fraction of the operations of Adam."""
    return keras.optimizers.SGD(0.01, momentum=0.9)


def distiller(
    optimizer=None,
    hints=BOTH,
    student=None,
    teacher=None,
    labels=True,
    eager=True,
    **options,
):
    made = kf.Distiller(
        *(teacher or net("teacher", 5), student or net("student", 3, seed=1)),
        **{"hints": hints, **options},
    )
    for regressor in made.regressors:
        tiny.redrawn(regressor, seed=2)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    made.compile(
        *(optimizer or momentum(), loss if labels else None),
        metrics=["accuracy"] if labels else None,
        run_eagerly=eager,
    )
    return made


X, Y = tiny.data()
VALIDATION = tiny.data(samples=24)


def train(model, hint_epochs=2, kd_epochs=2, x=X, y=Y, **options):
    arrays = {"batch_size": len(X), "validation_batch_size": len(VALIDATION[0])}
    arrays = {} if isinstance(x, tf.data.Dataset) else arrays
    settings = {"verbose": 0, "shuffle": False, **arrays, **options}
    return kf.fit_stagewise(model, x, y, hint_epochs, kd_epochs, **settings)


def train_stages(model, stages, **options):
    return train(model, None, None, stages=stages, **options)


def still():
    """An optimizer that changes nothing, where a callback sets the weights."""
    return keras.optimizers.SGD(0.0)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


class Note(keras.callbacks.Callback):
    """What each call to `fit` begins and ends with."""

    def __init__(self):
        super().__init__()
        self.stages, self.moved, self.optimizers, self.states = [], [], [], []

    def on_train_begin(self, logs=None):
        optimizer = self.model.optimizer
        self.stages.append(self.model.stage)
        self.optimizers.append(optimizer)
        self.states.append([v.numpy().copy() for v in optimizer.variables])
        self._before = networks.numpy_variables(self.model.student)

    def on_train_end(self, logs=None):
        after = networks.numpy_variables(self.model.student)
        self.moved.append(networks.changed(self._before, after))


class Redraw(keras.callbacks.Callback):
    """Other weights in every epoch, so that the best one can be anywhere."""

    def on_epoch_begin(self, epoch, logs=None):
        tiny.redrawn(self.model.student, seed=epoch)


@pytest.mark.slow
def test_each_stage_has_its_history():
    history = train(
        *(distiller(eager=False), 2, 3), validation_data=VALIDATION, callbacks=[]
    )
    hint = {"loss", "hint_loss"}
    kd = {"loss", "label_loss", "kd_loss", "accuracy"}
    for logs, names, epochs in [(history.hint, hint, 2), (history.kd, kd, 3)]:
        assert set(logs.history) == names | {f"val_{name}" for name in names}
        assert {len(values) for values in logs.history.values()} == {epochs}
        assert logs.epoch == list(range(epochs))
    assert history._fields == ("hint", "kd")
    assert len(set(history.hint.history["hint_loss"])) == 2
    assert len(set(history.kd.history["loss"])) == 3


def test_stage_1_leaves_what_is_above_the_guided_layers():
    model, note = distiller(), Note()
    history = train(model, kd_epochs=0, callbacks=[note])
    assert note.moved == [{"first", "second"}]
    assert history.kd.history == {} and history.kd.epoch == []


@pytest.mark.slow
def test_stage_2_trains_the_whole_student_and_no_regressor():
    model, regressors = distiller(), []
    keep = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: regressors.extend(
            weight for layer in model.regressors for weight in layer.get_weights()
        )
    )
    note = Note()
    stages = [kf.Stage("hint", 2), kf.Stage("kd", 2, callbacks=[keep])]
    train_stages(model, stages, callbacks=[note])
    assert note.moved[1] == {"first", "second", "third", "out"}
    after = [w for layer in model.regressors for w in layer.get_weights()]
    assert len(after) == 4
    assert_same(regressors, after)


@pytest.mark.slow
def test_pairs_are_trained_block_by_block():
    model, note = distiller(), Note()
    stages = [
        kf.Stage("hint", 2, hints=[0]),
        kf.Stage("hint", 2, hints=[1]),
        kf.Stage("kd", 1),
    ]
    history = train_stages(model, stages, callbacks=[note])
    assert [stage for stage, _ in history.stages] == stages
    assert [logs.epoch for _, logs in history.stages] == [[0, 1], [0, 1], [0]]
    assert note.stages == ["hint", "hint", "kd"]
    assert note.moved[:2] == [{"first"}, {"first", "second"}]
    assert history.hint.epoch == [0, 1, 2, 3]
    assert len(history.hint.history["hint_loss"]) == 4
    assert history.kd.epoch == [0]
    assert model.active_hints == (0, 1)


@pytest.mark.slow
def test_each_block_is_trained_on_its_own_pair():
    stages = [kf.Stage("hint", 1, hints=[i]) for i in range(2)]
    turns = train_stages(distiller(still()), stages).hint.history["hint_loss"]
    alone = [
        train(distiller(still(), [pair]), 1, 0).hint.history["hint_loss"][0]
        for pair in BOTH
    ]
    together = train(distiller(still()), 1, 0).hint.history["hint_loss"][0]
    np.testing.assert_allclose(turns, alone, rtol=1e-5)
    np.testing.assert_allclose(together, sum(alone), rtol=1e-5)
    assert abs(alone[0] - alone[1]) > 0.1


@pytest.mark.slow
def test_each_stage_has_a_fresh_optimizer_of_the_compiled_configuration():
    compiled = keras.optimizers.Adam(0.01, beta_1=0.7, weight_decay=0.1)
    model, note = distiller(compiled), Note()
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.5, 0, min_delta=1e9)
    stages = [kf.Stage("hint", 3, callbacks=[plateau]), kf.Stage("kd", 1)]
    history = train_stages(model, stages, callbacks=[note], batch_size=4)
    # The callback did lower it in stage 1, from the second epoch on.
    np.testing.assert_allclose(
        history.hint.history["learning_rate"], [0.01, 0.01, 0.005]
    )
    first, second = note.optimizers
    assert first is not second and compiled not in note.optimizers
    for optimizer, state in zip(note.optimizers, note.states, strict=True):
        assert isinstance(optimizer, keras.optimizers.Adam)
        iterations, learning_rate, *moments = state
        assert iterations == 0
        np.testing.assert_array_equal(learning_rate, np.float32(0.01))
        assert len(moments) == 2 * len(model.trainable_variables)
        assert not any(moment.any() for moment in moments)
        assert (optimizer.beta_1, optimizer.weight_decay) == (0.7, 0.1)
    assert second.iterations.numpy() == 2
    assert compiled.iterations.numpy() == 0


def test_a_schedule_of_the_learning_rate_starts_anew_in_each_stage():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 2)
    model, note = distiller(keras.optimizers.SGD(schedule)), Note()
    history = train(model, 2, 2, callbacks=[note, LearningRate()])
    for logs in history:
        np.testing.assert_allclose(logs.history["rate"], [0.05, 0.0], atol=1e-9)


class LearningRate(keras.callbacks.Callback):
    """Logs the learning rate that follows an epoch."""

    def on_epoch_end(self, epoch, logs=None):
        logs["rate"] = float(self.model.optimizer.learning_rate)


@pytest.mark.slow
def test_each_stage_can_have_an_optimizer_of_its_own():
    own, note = keras.optimizers.RMSprop(0.02, rho=0.5), Note()
    model = distiller("sgd")
    stages = [kf.Stage("hint", 2, optimizer=own), kf.Stage("kd", 2, optimizer="adam")]
    train_stages(model, stages, callbacks=[note])
    hint, kd = note.optimizers
    assert isinstance(hint, keras.optimizers.RMSprop) and hint.rho == 0.5
    np.testing.assert_allclose(hint.learning_rate, 0.02)
    assert isinstance(kd, keras.optimizers.Adam)
    assert not own.built


@pytest.mark.slow
def test_a_second_call_has_the_compiled_optimizer_again():
    model, note = distiller(keras.optimizers.SGD(0.01)), Note()
    first = kf.Stage("hint", 1, optimizer="adam")
    train_stages(model, [first, kf.Stage("kd", 1, optimizer="rmsprop")])
    train(model, 1, 1, callbacks=[note])
    for optimizer in note.optimizers:
        assert isinstance(optimizer, keras.optimizers.SGD)
        np.testing.assert_allclose(optimizer.learning_rate, 0.01)


@pytest.mark.slow
def test_stage_1_ends_on_its_best_weights():
    options = {"validation_data": VALIDATION}
    hint = kf.Stage("hint", 5, callbacks=[Redraw()])
    model = distiller(still())
    losses = train_stages(model, [hint], **options).hint.history["val_hint_loss"]
    best = int(np.argmin(losses))
    assert best not in (0, 4)
    assert_same(model.student.get_weights(), net("n", 3, seed=best).get_weights())
    stage_2 = Note()
    kd = kf.Stage("kd", 1, callbacks=[stage_2])
    train_stages(distiller(still()), [hint, kd], **options)
    assert stage_2.moved == [set()]


MONITORED = {
    "val_label_loss, unless told": ({}, "val_label_loss", np.argmin),
    "val_accuracy": ({"monitor": "val_accuracy"}, "val_accuracy", np.argmax),
    "val_accuracy, the worst": (
        {"monitor": "val_accuracy", "mode": "min"},
        *("val_accuracy", np.argmin),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MONITORED)
def test_stage_2_ends_on_the_best_weights_by_the_monitor(case):
    options, monitor, judge = MONITORED[case]
    model = distiller(still())
    history = train(
        *(model, 0, 5),
        validation_data=VALIDATION,
        callbacks=[Redraw()],
        **options,
    )
    best = int(judge(history.kd.history[monitor]))
    assert best != 4
    assert_same(model.student.get_weights(), net("n", 3, seed=best).get_weights())


@pytest.mark.slow
def test_without_validation_the_last_weights_stay():
    model = distiller(still())
    train(model, 2, 3, callbacks=[Redraw()])
    assert_same(model.student.get_weights(), net("n", 3, seed=2).get_weights())


@pytest.mark.slow
def test_patience_stops_each_stage():
    stages = [kf.Stage("hint", 9, patience=2), kf.Stage("kd", 9, patience=1)]
    history = train_stages(
        *(distiller(still()), stages),
        validation_data=VALIDATION,
        callbacks=[Redraw()],
    )
    for logs, monitor, patience in [
        (history.hint, "val_hint_loss", 2),
        (history.kd, "val_label_loss", 1),
    ]:
        values = logs.history[monitor]
        assert len(values) == int(np.argmin(values)) + patience + 1 < 9


@pytest.mark.slow
def test_learning_rate_factor_acts_in_stage_2_only():
    after, notes = {}, {}
    for factor in (None, 0.0):
        model, notes[factor] = distiller(), Note()
        keep = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs, model=model, factor=factor: after.update(
                {factor: model.student.get_weights()}
            )
        )
        kd = kf.Stage("kd", 1, callbacks=[keep], learning_rate_factor=factor)
        train_stages(model, [kf.Stage("hint", 1), kd], callbacks=[notes[factor]])
        # What a stage has of its own is not the next call's.
        assert model.learning_rate_factor == 1
    assert_same(after[None], after[0.0])
    assert notes[0.0].moved == [{"first", "second"}, {"third", "out"}]
    assert notes[None].moved[1] == {"first", "second", "third", "out"}


def test_callbacks_for_one_stage_alone():
    both, hint, kd = Note(), Note(), Note()
    stages = [kf.Stage("hint", 1, callbacks=hint), kf.Stage("kd", 1, callbacks=[kd])]
    train_stages(distiller(), stages, callbacks=[both])
    assert both.stages == ["hint", "kd"]
    assert (hint.stages, kd.stages) == (["hint"], ["kd"])


@pytest.mark.slow
def test_without_hint_epochs_it_is_distillation_alone():
    model, plain = distiller(), distiller(stage="kd")
    history = train(model, 0, 2)
    logs = plain.fit(X, Y, epochs=2, batch_size=len(X), verbose=0, shuffle=False)
    assert history.hint.history == {} and history.hint.epoch == []
    assert history.kd.history == logs.history
    assert_same(model.get_weights(), plain.get_weights())


def test_stage_2_can_be_joint():
    model = distiller(stage="kd", hint_weight=0.5)
    logs = train(model, 1, 1, stage="joint").kd.history
    assert model.stage == "joint"
    total = logs["label_loss"][0] + 4 * logs["kd_loss"][0] + 0.5 * logs["hint_loss"][0]
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)


@pytest.mark.slow
def test_a_dataset_trains_as_arrays_do():
    arrays, dataset = distiller(), distiller()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    one = train(arrays, validation_data=(X, Y), batch_size=4)
    other = train(dataset, x=data, y=None, validation_data=data)
    assert_same(arrays.get_weights(), dataset.get_weights())
    assert one.kd.history["loss"] == other.kd.history["loss"]
    assert one.hint.history["hint_loss"] == other.hint.history["hint_loss"]


@pytest.mark.slow
def test_a_dataset_without_labels_serves_without_a_label_loss():
    model = distiller(labels=False)
    data = tf.data.Dataset.from_tensor_slices(X).batch(4)
    history = train(model, 1, 2, x=data, y=None, validation_data=data)
    assert set(history.kd.history) == {"loss", "kd_loss", "val_loss", "val_kd_loss"}
    best = min(history.kd.history["val_kd_loss"])
    model.stage = "kd"
    final = model.evaluate(data, verbose=0, return_dict=True)["kd_loss"]
    np.testing.assert_allclose(final, best, rtol=1e-6)


@pytest.mark.slow
def test_sample_weights_are_for_both_stages():
    logs = {}
    for weight in (1.0, 3.0):
        history = train(distiller(still()), 1, 1, sample_weight=np.full(8, weight))
        logs[weight] = {
            **history.hint.history,
            **{name: history.kd.history[name] for name in ("label_loss", "kd_loss")},
        }
    for name in ("hint_loss", "label_loss", "kd_loss"):
        np.testing.assert_allclose(logs[3.0][name], 3 * logs[1.0][name][0], rtol=1e-5)


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C at one moment of one stage, once."""

    def __init__(self, stage=None, epoch=None, moment=None, pairs=None):
        super().__init__()
        self.planned = (stage, epoch, moment)
        self.pairs = pairs
        self.stages = []

    def on_train_begin(self, logs=None):
        self.stages.append(self.model.stage)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._reached(self.epoch, f"batch {batch}")

    def on_train_end(self, logs=None):
        self._reached(None, "end")

    def _reached(self, epoch, moment):
        here = (self.model.stage, epoch, moment)
        if here == self.planned and self.pairs in (None, self.model.active_hints):
            self.planned = None
            raise KeyboardInterrupt


class Disturb(keras.callbacks.Callback):
    """Spoils the weights in the later epochs, so that the first is the best."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch:
            weights = self.model.student.get_weights()
            self.model.student.set_weights([5.0 * w for w in weights])


def run(model, directory, interrupt=None, **options):
    """Three epochs of each stage with all that a stage carries along."""
    settings = {
        "checkpoint_dir": directory,
        "validation_data": VALIDATION,
        "batch_size": 4,
        "callbacks": [
            interrupt or Interrupt(),
            kf.LambdaAnnealing(4.0, 1.0, epochs=3),
            Disturb(),
            LowerRate(),
        ],
    }
    return train(model, 3, 3, **{**settings, **options})


class LowerRate(keras.callbacks.LearningRateScheduler):
    """Halves the learning rate in each epoch of a hint stage."""

    def __init__(self):
        super().__init__(lambda epoch: 0.01 * 0.5**epoch)

    def on_epoch_begin(self, epoch, logs=None):
        if self.model.stage == "hint":
            super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.model.stage == "hint":
            super().on_epoch_end(epoch, logs)


def outcome(model, history):
    """What two runs must have in common, bit for bit."""
    variables = [*model.variables, *model.optimizer.variables]
    values = [v.numpy() for v in variables if "seed" not in v.path]
    return values, (history.hint.history, history.hint.epoch), history.kd.history


def assert_same_outcome(one, other):
    assert_same(one[0], other[0])
    assert one[1:] == other[1:]


INTERRUPTED = {
    "in stage 1": ("hint", 1, "batch 1"),
    "at the end of stage 1": ("hint", None, "end"),
    "in stage 2": ("kd", 2, "batch 0"),
    "at the end of stage 2": ("kd", None, "end"),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model, directory = distiller(), tmp_path_factory.mktemp("whole")
    history = run(model, directory)
    # The first epoch is the best one, so that a resumed run needs its weights.
    assert np.argmin(history.hint.history["val_hint_loss"]) == 0
    assert np.argmin(history.kd.history["val_label_loss"]) == 0
    return directory, outcome(model, history)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, uninterrupted):
    """One run is interrupted at each of these moments, and goes on each time."""
    model = distiller()
    for seed, case in enumerate(INTERRUPTED.values(), 7):
        with pytest.raises(KeyboardInterrupt):
            run(model, tmp_path, Interrupt(*case))
        # As in a new process, but from another start: the checkpoint holds it all.
        model = distiller(student=net("student", 3, seed=seed))
        for regressor in model.regressors:
            tiny.redrawn(regressor, seed)
    assert_same_outcome(outcome(model, run(model, tmp_path)), uninterrupted[1])


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_bit_for_bit(tmp_path, uninterrupted):
    with pytest.raises(KeyboardInterrupt):
        run(distiller(), tmp_path, Interrupt(*INTERRUPTED["in stage 2"]))
    for stage in ("hint", "kd"):
        old_checkpoints.rewrite(tmp_path / stage)
    model = distiller(student=net("student", 3, seed=7))
    assert_same_outcome(outcome(model, run(model, tmp_path)), uninterrupted[1])
    # What it has written since is all that is left.
    assert [path.suffix for path in (tmp_path / "kd").iterdir()] == [".npz"]


@pytest.mark.slow
def test_the_same_distiller_goes_on_after_an_interruption(tmp_path, uninterrupted):
    model = distiller()
    for case in ("in stage 1", "in stage 2"):
        with pytest.raises(KeyboardInterrupt):
            run(model, tmp_path, Interrupt(*INTERRUPTED[case]))
    assert_same_outcome(outcome(model, run(model, tmp_path)), uninterrupted[1])


def three_stages():
    """Block by block; the second stage and the third end early."""
    return [
        kf.Stage("hint", 3, hints=[0], callbacks=[Disturb()]),
        kf.Stage("hint", 9, hints=[1], optimizer="sgd", patience=1),
        kf.Stage("kd", 9, patience=2, learning_rate_factor=0.1),
    ]


def run_three(directory, interrupt=None):
    model = distiller()
    settings = {"validation_data": VALIDATION, "checkpoint_dir": directory}
    settings["batch_size"] = 4
    callbacks = [interrupt or Interrupt(), DisturbLater()]
    history = train_stages(model, three_stages(), callbacks=callbacks, **settings)
    return model, history


class DisturbLater(Disturb):
    """Spoils the weights in all stages but the first."""

    def on_epoch_begin(self, epoch, logs=None):
        if (self.model.stage, self.model.active_hints) != ("hint", (0,)):
            super().on_epoch_begin(epoch, logs)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    directory = tmp_path_factory.mktemp("three")
    model, history = run_three(directory)
    assert [len(logs.epoch) for _, logs in history.stages] == [3, 2, 3]
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["stage_1", "stage_2", "stage_3"]
    return outcome(model, history)


INTERRUPTED_OF_THREE = {
    "in the first": ("hint", 1, "batch 0", (0,)),
    "in the second": ("hint", 1, "batch 1", (1,)),
    "at the end of the second, which stopped early": ("hint", None, "end", (1,)),
    "in the third": ("kd", 2, "batch 0"),
}


@pytest.mark.slow
def test_each_of_three_stages_goes_on_bit_for_bit(tmp_path, three):
    """One run is interrupted in each of them, and goes on each time."""
    for case in INTERRUPTED_OF_THREE.values():
        with pytest.raises(KeyboardInterrupt):
            run_three(tmp_path, Interrupt(*case))
    # The second model drew other regressors, which the checkpoint replaced.
    assert_same_outcome(outcome(*run_three(tmp_path)), three)


HINT, KD, JOINT = kf.Stage("hint", 1), kf.Stage("kd", 1), kf.Stage("joint", 1)


@pytest.fixture(scope="module")
def finished_list(tmp_path_factory):
    directory = tmp_path_factory.mktemp("list")
    train_stages(distiller(), [HINT, KD], checkpoint_dir=directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "named"),
    [
        ([KD, HINT], "stage_1.*its stage is hint, now it is kd"),
        ([HINT, HINT, KD], "stage_2.*its stage is kd, now it is hint"),
        ([HINT, JOINT], "stage_2.*its stage is kd, now it is joint"),
        ([kf.Stage("hint", 1, hints=[1]), KD], "stage_1.*its hints is"),
        ([kf.Stage("hint", 2), KD], "stage_1.*its epochs is 1, now it is 2"),
        (
            [kf.Stage("hint", 0), KD],
            "stage_2.*its earlier stages at position 0 is hint for 1 epochs, now it is "
            "hint for 0 epochs",
        ),
        ([kf.Stage("hint", 1, optimizer="adam"), KD], "stage_1.*its optimizer is SGD"),
    ],
)
def test_the_checkpoint_of_other_stages_is_refused(finished_list, stages, named):
    with pytest.raises(ValueError, match=named):
        train_stages(distiller(), stages, checkpoint_dir=finished_list)


def test_a_stage_more_goes_on_from_a_finished_run(tmp_path, finished_list):
    note = Interrupt()
    shutil.copytree(finished_list, tmp_path, dirs_exist_ok=True)
    options = {"callbacks": [note], "checkpoint_dir": tmp_path}
    history = train_stages(distiller(), [HINT, KD, JOINT], **options)
    assert note.stages == ["joint"]
    assert [len(logs.epoch) for _, logs in history.stages] == [1, 1, 1]
    assert history.kd.epoch == [0, 1]


@pytest.mark.slow
def test_stages_come_in_any_order_and_number():
    note = Note()
    model = distiller()
    history = train_stages(model, [KD, HINT, JOINT, HINT], callbacks=[note])
    assert note.stages == ["kd", "hint", "joint", "hint"]
    assert [len(logs.epoch) for _, logs in history.stages] == [1, 1, 1, 1]
    hint, kd = history
    assert (hint.epoch, kd.epoch) == ([0, 1], [0, 1])
    alone = distiller(hints=None)
    history = train_stages(alone, [KD])
    assert history.hint.epoch == [] and history.kd is history.stages[0][1]


@pytest.mark.slow
def test_the_usual_stages_are_those_of_a_list():
    usual, listed = distiller(), distiller()
    one = train(usual, 2, 3, validation_data=VALIDATION, monitor="val_accuracy")
    stages = [kf.Stage("hint", 2), kf.Stage("kd", 3)]
    other = train_stages(
        listed, stages, validation_data=VALIDATION, monitor="val_accuracy"
    )
    kinds = [(stage.kind, stage.epochs) for stage, _ in one.stages]
    assert kinds == [(stage.kind, stage.epochs) for stage in stages]
    assert_same_outcome(outcome(usual, one), outcome(listed, other))


@pytest.mark.slow
def test_a_stage_ends_on_the_best_by_its_own_monitor():
    model = distiller(still())
    kd = {"callbacks": [Redraw()], "monitor": "val_accuracy", "mode": "min"}
    stages = [HINT, kf.Stage("kd", 5, **kd)]
    history = train_stages(model, stages, validation_data=VALIDATION)
    best = int(np.argmin(history.kd.history["val_accuracy"]))
    assert best != 4
    assert_same(model.student.get_weights(), net("n", 3, seed=best).get_weights())


DEPRECATED = {
    "in_turn": (True, [kf.Stage("hint", 2, hints=[0]), kf.Stage("hint", 2, hints=[1])]),
    "hint_optimizer": ("sgd", [kf.Stage("hint", 2, optimizer="sgd")]),
    "kd_optimizer": ("sgd", [HINT, kf.Stage("kd", 1, optimizer="sgd")]),
    "hint_patience": (0, [kf.Stage("hint", 2, patience=0)]),
    "kd_patience": (0, [HINT, kf.Stage("kd", 2, patience=0)]),
    "learning_rate_factor": (0.5, [HINT, kf.Stage("kd", 1, learning_rate_factor=0.5)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEPRECATED)
def test_an_argument_of_earlier_versions_works_and_tells_of_its_stage(name):
    value, stages = DEPRECATED[name]
    hint = next(stage.epochs for stage in stages if stage.kind == "hint")
    kd = sum(stage.epochs for stage in stages if stage.kind == "kd")
    options = {"validation_data": VALIDATION}
    old, new = distiller(), distiller()
    with pytest.warns(DeprecationWarning, match=rf"`{name}` .* kf\.Stage\(") as caught:
        one = train(old, hint, kd, **{name: value}, **options)
    # The warning points at the call of `fit_stagewise`, in `train`.
    ours = [one for one in caught if f"`{name}`" in str(one.message)]
    assert [warning.filename for warning in ours] == [__file__]
    stages = stages if kd else [*stages, kf.Stage("kd", 0)]
    other = train_stages(new, stages, **options)
    assert_same_outcome(outcome(old, one), outcome(new, other))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hint", "kd"])
def test_callbacks_of_earlier_versions_are_for_one_stage_alone(kind):
    note = Note()
    with pytest.warns(DeprecationWarning, match=f"`{kind}_callbacks`"):
        train(distiller(), 1, 1, **{f"{kind}_callbacks": [note]})
    assert note.stages == [kind]


@pytest.mark.slow
def test_dropout_goes_on_bit_for_bit(tmp_path):
    def dropping():
        keras.utils.set_random_seed(0)
        student = net("student", 3, dropout=0.5, seed=1)
        return distiller("adam", student=student)

    whole = dropping()
    expected = outcome(whole, train(whole, 1, 3, checkpoint_dir=tmp_path / "whole"))
    options = {"checkpoint_dir": tmp_path / "two"}
    with pytest.raises(KeyboardInterrupt):
        train(dropping(), 1, 3, callbacks=[Interrupt("kd", 2, "batch 0")], **options)
    model = dropping()
    assert_same_outcome(outcome(model, train(model, 1, 3, **options)), expected)


def test_a_finished_run_is_not_trained_again(uninterrupted):
    directory, expected = uninterrupted
    model, note = distiller(student=net("student", 3, seed=7)), Interrupt()
    history = run(model, directory, note)
    assert note.stages == []
    assert_same_outcome(outcome(model, history), expected)


def bytes_in(directory):
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())


@pytest.mark.slow
def test_the_teacher_is_in_no_checkpoint(tmp_path):
    hints, sizes, weights = [("first", "first")], [], []
    for deeper in (0, 3):
        teacher = net("teacher", 100, deeper)
        directory = tmp_path / f"{deeper:03}"
        model = distiller(hints=hints, teacher=teacher)
        train(model, 1, 1, checkpoint_dir=directory)
        sizes.append(bytes_in(directory))
        weights.append(4 * teacher.count_params())
    assert weights[1] - weights[0] > 100_000
    assert abs(sizes[1] - sizes[0]) < 500


def constant(value):
    return kf.LambdaAnnealing(lambda epoch: value)


OTHERS = {
    "hints": ({"hints": BOTH[:1]}, "hints"),
    "weight of a hint": ({"hints": [BOTH[0], kf.Hint(*BOTH[1], weight=2)]}, "weight=2"),
    "student": ({"student": net("student", 4)}, "weights"),
    "deeper student": ({"student": net("student", 3, deeper=1)}, "weights"),
    "teacher": ({"teacher": net("teacher", 5, deeper=1)}, "teacher"),
    "temperature": ({"temperature": 2.0}, "temperature"),
    "optimizer": ({"optimizer": "adam"}, "optimizer"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    train(distiller(), 1, 1, checkpoint_dir=directory)
    return directory


@pytest.mark.parametrize("other", OTHERS)
def test_the_checkpoint_of_another_run_is_refused(finished, other):
    options, named = OTHERS[other]
    model = distiller(**options)
    before = model.get_weights()
    with pytest.raises(ValueError, match="is of another run") as caught:
        train(model, 1, 1, checkpoint_dir=finished)
    assert named in str(caught.value)
    assert str(finished) in str(caught.value)
    assert_same(before, model.get_weights())


def test_more_epochs_than_a_finished_run_had_are_not_ignored(finished):
    with pytest.raises(ValueError, match="epochs is 1, now it is 3"):
        train(distiller(), 1, 3, checkpoint_dir=finished)


@pytest.mark.slow
def test_another_schedule_is_refused_naming_the_epoch(tmp_path):
    train(distiller(), 1, 3, callbacks=[constant(2.0)], checkpoint_dir=tmp_path)
    other = kf.LambdaAnnealing(lambda epoch: 2.0 - epoch)
    with pytest.raises(
        ValueError, match="lambda in the epochs at position 1 is 2.0, now"
    ):
        train(distiller(), 1, 3, callbacks=[other], checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="lambda in the epochs"):
        train(distiller(), 1, 3, checkpoint_dir=tmp_path)


def test_another_size_of_batch_is_refused(finished):
    with pytest.raises(ValueError, match="its batch_size is"):
        train(distiller(), 1, 1, checkpoint_dir=finished, batch_size=2)


def test_another_factor_is_refused(finished):
    model = distiller(learning_rate_factor=0.5)
    with pytest.raises(ValueError, match="its learning_rate_factor is"):
        train(model, 1, 1, checkpoint_dir=finished)


class Remember(keras.callbacks.Callback):
    """Has a state of every kind that a checkpoint holds, and one that it cannot."""

    def __init__(self):
        super().__init__()
        self.count, self.words, self.largest = 0, ["begun"], np.float32(0)
        self.weights, self.table, self.opened = None, {}, object()

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1
        self.words.append(f"{self.model.stage} {epoch}")
        self.largest = np.maximum(self.largest, np.float32(logs["loss"]))
        self.weights = self.model.get_weights()
        self.table[str(epoch)] = [logs["loss"], None, True]


def known(callback):
    return [
        *(callback.count, callback.words, callback.table),
        *(np.float32(callback.largest), [w.tolist() for w in callback.weights]),
    ]


@pytest.mark.slow
def test_callbacks_go_on_with_what_they_knew(tmp_path):
    """Plateaus, early stops and counters as if there had been no interruptions."""
    outcomes = []
    for cases in ([], INTERRUPTED.values()):
        directory = tmp_path / str(len(cases))
        for stop in [*(Interrupt(*case) for case in cases), None]:
            remember, model = Remember(), distiller()
            plateau = keras.callbacks.ReduceLROnPlateau(
                "val_label_loss", 0.5, patience=1, mode="min", min_delta=10.0
            )
            options = {
                "checkpoint_dir": directory,
                "validation_data": VALIDATION,
                "callbacks": [stop or Interrupt(), remember],
                "batch_size": 4,
            }
            stages = [kf.Stage("hint", 3), kf.Stage("kd", 4, callbacks=[plateau])]
            if stop:
                with pytest.raises(KeyboardInterrupt):
                    train_stages(model, stages, **options)
        history = train_stages(model, stages, **options)
        outcomes.append((outcome(model, history), known(remember)))
    assert_same_outcome(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]
    # The learning rate was lowered, so that the plateau had something to remember.
    assert outcomes[0][0][2]["val_label_loss"]


@pytest.mark.slow
def test_a_stage_stopped_early_and_killed_at_its_end_trains_no_epoch_more(tmp_path):
    """Its patience ran out; the kill came before that was written as its end."""
    stages = [kf.Stage("hint", 4, patience=0), kf.Stage("kd", 1)]

    def stopped(interrupt, directory):
        settings = {"validation_data": VALIDATION, "checkpoint_dir": directory}
        model = distiller()
        callbacks = [interrupt, Disturb()]
        return model, train_stages(model, stages, callbacks=callbacks, **settings)

    whole = outcome(*stopped(Interrupt(), tmp_path / "whole"))
    assert len(whole[1][1]) == 2
    with pytest.raises(KeyboardInterrupt):
        stopped(Interrupt("hint", None, "end"), tmp_path / "two")
    assert_same_outcome(outcome(*stopped(Interrupt(), tmp_path / "two")), whole)
