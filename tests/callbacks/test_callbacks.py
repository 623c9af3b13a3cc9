"""λ and τ follow the epoch, the logs show them, and the student is kept alone."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_fitnets as kf

ANNEALINGS = {
    "lambda": (kf.LambdaAnnealing, "lambda_"),
    "temperature": (kf.TemperatureAnnealing, "temperature"),
}


def distiller(stage="kd", **options):
    return tiny.make_distiller(
        tiny.network(hidden=6),
        tiny.network(hidden=2, seed=1),
        keras.optimizers.SGD(0.0),
        compile_options={"metrics": ["accuracy"], "run_eagerly": True},
        stage=stage,
        **options,
    )


class Watch(keras.callbacks.Callback):
    """Notes λ and τ as the first batch of each epoch meets them."""

    def __init__(self):
        super().__init__()
        self.lambda_, self.temperature = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.lambda_.append(self.model.lambda_)
        self.temperature.append(self.model.temperature)


def fit(model, callbacks, epochs=3, **options):
    """The logs by name, and what the steps saw; λ and τ in a list by epoch."""
    watch = Watch()
    options = {"validation_data": None, "epochs": epochs, **options}
    logs = tiny.fit(model, *tiny.data(), callbacks=[*callbacks, watch], **options)
    return logs, watch


def exponential(epoch):
    return 4.0 * 0.5**epoch


FOLLOWED = {
    "linear": ((4.0, 1.0, 4), [4.0, 3.0, 2.0, 1.0, 1.0, 1.0]),
    "rising": ((1.0, 5.0, 3), [1.0, 3.0, 5.0, 5.0]),
    "delayed": ((4.0, 1.0, 4, 2), [4.0, 4.0, 4.0, 3.0, 2.0, 1.0, 1.0]),
    "one epoch": ((4.0, 1.0, 1), [4.0, 1.0, 1.0]),
    "function": ((exponential,), [4.0, 2.0, 1.0, 0.5]),
    "schedule": (
        (keras.optimizers.schedules.PolynomialDecay(4.0, 4, end_learning_rate=2.0),),
        [4.0, 3.5, 3.0, 2.5, 2.0, 2.0],
    ),
    "staircase": (
        (keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [4.0, 2.0, 1.0]),),
        [4.0, 4.0, 2.0, 2.0, 1.0],
    ),
}


@pytest.mark.parametrize("case", FOLLOWED)
@pytest.mark.parametrize("annealing", [made for made, _ in ANNEALINGS.values()])
def test_the_value_follows_the_epoch(annealing, case):
    arguments, expected = FOLLOWED[case]
    callback = annealing(*arguments)
    values = [callback.value(epoch) for epoch in range(len(expected))]
    assert values == expected
    assert {type(value) for value in values} == {float}


def test_asking_for_values_out_of_order_changes_none():
    callback = kf.LambdaAnnealing(4.0, 1.0, epochs=4, delay=1)
    assert [callback.value(epoch) for epoch in (3, 0, 9, 3, 4)] == [2, 4, 1, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["kd", "joint"])
@pytest.mark.parametrize("log", ANNEALINGS)
def test_the_step_and_the_history_see_the_value(log, stage):
    annealing, attribute = ANNEALINGS[log]
    callback = annealing(4.0, 1.0, epochs=5)
    logs, watch = fit(distiller(stage), [callback], epochs=6)
    expected = [4.0, 3.25, 2.5, 1.75, 1.0, 1.0]
    assert logs[log] == expected
    assert getattr(watch, attribute) == expected
    assert {type(value) for value in logs[log]} == {float}


def test_decimals_are_logged_as_they_were_set():
    logs, _ = fit(distiller(), [kf.LambdaAnnealing(lambda epoch: 0.1 * (epoch + 1))])
    np.testing.assert_array_equal(logs["lambda"], [0.1, 0.2, 0.3])


def test_lambda_and_temperature_are_annealed_together_in_the_very_step():
    model, (x, _) = distiller(), tiny.data()
    callbacks = [
        kf.LambdaAnnealing(4.0, 1.0, epochs=3),
        kf.TemperatureAnnealing(3.0, 1.0, epochs=3),
    ]
    logs, _ = fit(model, callbacks)
    teacher, student = model.teacher.models[0](x), model.student(x)
    for epoch, (lambda_, temperature) in enumerate([(4, 3), (2.5, 2), (1, 1)]):
        soft = kf.soft_target_crossentropy(teacher, student, temperature)
        kd_loss = np.mean(keras.ops.convert_to_numpy(soft))
        np.testing.assert_allclose(logs["kd_loss"][epoch], kd_loss, rtol=1e-5)
        total = logs["label_loss"][epoch] + lambda_ * kd_loss
        np.testing.assert_allclose(logs["loss"][epoch], total, rtol=1e-5)


@pytest.mark.slow
def test_validation_uses_the_value_of_its_epoch():
    x, y = tiny.data()
    annealing = kf.LambdaAnnealing(4.0, 1.0, epochs=3)
    logs, _ = fit(distiller(), [annealing], validation_data=(x, y))
    np.testing.assert_allclose(logs["val_loss"], logs["loss"], rtol=1e-6)
    assert logs["loss"][0] > logs["loss"][1] > logs["loss"][2]


def test_a_value_set_for_two_numbers_is_not_the_others():
    logs, watch = fit(distiller(), [kf.TemperatureAnnealing(9.0, 5.0, epochs=3)])
    assert logs["temperature"] == [9.0, 7.0, 5.0]
    assert "lambda" not in logs
    assert watch.lambda_ == [4.0, 4.0, 4.0]


def test_stage_hint_sets_and_logs_nothing():
    callbacks = [
        kf.LambdaAnnealing(2.0, 1.0, epochs=3),
        kf.TemperatureAnnealing(9.0, 5.0, epochs=3),
    ]
    logs, watch = fit(distiller("hint"), callbacks)
    assert set(logs) == {"loss", "hint_loss"}
    assert watch.lambda_ == [4.0, 4.0, 4.0]
    assert watch.temperature == [3.0, 3.0, 3.0]


@pytest.mark.slow
def test_a_resumed_run_has_the_values_of_its_epochs():
    start = 2

    def callbacks():
        return [
            kf.LambdaAnnealing(4.0, 1.0, epochs=4, delay=1),
            kf.TemperatureAnnealing(keras.optimizers.schedules.CosineDecay(8.0, 6)),
        ]

    whole, _ = fit(distiller(), callbacks(), epochs=6)
    resumed, watch = fit(distiller(), callbacks(), epochs=6, initial_epoch=start)
    for log in ("lambda", "temperature"):
        assert len(resumed[log]) == 6 - start
        assert resumed[log] == whole[log][start:]
        assert len(set(whole[log])) > 3
    assert watch.lambda_ == whole["lambda"][start:]


def test_csv_logger_writes_the_values(tmp_path):
    path = tmp_path / "log.csv"
    callbacks = [
        kf.LambdaAnnealing(4.0, 1.0, epochs=3),
        kf.TemperatureAnnealing(3.0, 1.0, epochs=3),
        keras.callbacks.CSVLogger(path),
    ]
    fit(distiller(), callbacks)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [float(row["lambda"]) for row in rows] == [4.0, 2.5, 1.0]
    assert [float(row["temperature"]) for row in rows] == [3.0, 2.0, 1.0]


def test_tensorboard_shows_the_values(tmp_path):
    callbacks = [
        kf.LambdaAnnealing(4.0, 1.0, epochs=3),
        keras.callbacks.TensorBoard(tmp_path, write_graph=False),
    ]
    fit(distiller(), callbacks)
    events = EventAccumulator(str(tmp_path / "train")).Reload()
    shown = [tf.make_ndarray(e.tensor_proto) for e in events.Tensors("epoch_lambda")]
    assert shown == [4.0, 2.5, 1.0]


class Redraw(keras.callbacks.Callback):
    """Other weights in every epoch, so that the best one is in the middle."""

    def on_epoch_begin(self, epoch, logs=None):
        tiny.redrawn(self.model.student, epoch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "monitor", "mode"),
    [
        ("best.keras", "val_accuracy", "max"),
        ("best.weights.h5", "val_label_loss", "min"),
    ],
)
def test_the_checkpoint_holds_the_best_student_alone(tmp_path, file, monitor, mode):
    best = {"max": np.argmax, "min": np.argmin}[mode]
    model, (x, y) = distiller(), tiny.data(samples=24)
    checkpoint = kf.StudentCheckpoint(
        tmp_path / file,
        monitor=monitor,
        mode=mode,
        save_best_only=True,
        save_weights_only="weights" in file,
    )
    options = {"validation_data": (x, y), "epochs": 6}
    logs, _ = fit(model, [Redraw(), checkpoint], **options)
    epoch = int(best(logs[monitor]))
    assert epoch not in (0, 5)
    expected = tiny.network(hidden=2, seed=epoch)
    if "weights" in file:
        found = tiny.network(hidden=2)
        found.load_weights(tmp_path / file)
    else:
        found = keras.saving.load_model(tmp_path / file)
        assert type(found) is type(expected)
    for one, other in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        found.predict(x, verbose=0), expected.predict(x, verbose=0)
    )


def test_without_save_best_only_each_epoch_has_its_file(tmp_path):
    checkpoint = kf.StudentCheckpoint(tmp_path / "{epoch}_{label_loss:.3f}.keras")
    logs, _ = fit(distiller(), [Redraw(), checkpoint])
    names = {
        f"{i}_{value:.3f}.keras" for i, value in enumerate(logs["label_loss"], start=1)
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    assert len(names) == 3
