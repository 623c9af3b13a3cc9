"""A search does nothing twice, compares what can be compared, and goes on."""

import gc
import json
import os
import signal
import time
from pathlib import Path

import h5py
import keras
import keras_tuner
import numpy as np
import pytest
import searching
import tensorflow as tf
import tiny
from keras_tuner.errors import FatalError
from loopback import addresses
from processes import Program

import keras_fitnets as kf
from keras_fitnets.tuning import search_space

pytestmark = pytest.mark.usefixtures("eager")

HERE = Path(__file__).parent
TUNERS = {
    "random": (keras_tuner.RandomSearch, {}),
    "bayesian": (keras_tuner.BayesianOptimization, {"num_initial_points": 2}),
    "grid": (keras_tuner.GridSearch, {}),
    "hyperband": (keras_tuner.Hyperband, {"max_epochs": 2, "factor": 2}),
}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """KerasTuner clears up before each trial, which takes longer than these trials."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    monkeypatch.setattr(keras.backend, "clear_session", lambda *_, **__: None)


@pytest.fixture
def fits(monkeypatch):
    """The stage, and the first and last epoch, of each training."""
    seen = []
    fit = kf.Distiller.fit

    def noted(self, *args, **kwargs):
        seen.append((self.stage, kwargs.get("initial_epoch", 0), kwargs["epochs"]))
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(kf.Distiller, "fit", noted)
    return seen


def completed(tuner):
    return [t for t in tuner.oracle.trials.values() if t.status == "COMPLETED"]


def accuracy(student):
    x, y = tiny.data(samples=10)
    return np.mean(student.predict(x, verbose=0).argmax(-1) == y.argmax(-1))


# What is searched.


def space_of(**options):
    hp = keras_tuner.HyperParameters()
    searching.hypermodel(**options).build(hp)
    return {one.name: one for one in hp.space}, hp.values


def test_ranges_are_searched_by_their_logarithm_and_values_are_not():
    space, values = space_of(
        lambda_=(0.5, 8), temperature=[1, 3], learning_rate=0.01, hints=("low", "low")
    )
    float_, choice = space["lambda"], space["temperature"]
    assert (float_.min_value, float_.max_value, float_.sampling) == (0.5, 8.0, "log")
    assert list(choice.values) == [1.0, 3.0]
    fixed = ("learning_rate", "hint_learning_rate", "hint")
    assert all(
        isinstance(space[n], keras_tuner.engine.hyperparameters.Fixed) for n in fixed
    )
    assert [values[name] for name in fixed] == [0.01, 0.001, "low -> low"]


def test_a_range_from_zero_on_has_no_logarithm():
    assert space_of(lambda_=(0, 8))[0]["lambda"].sampling == "linear"


def test_the_learning_rate_of_stage_1_is_one_of_trials_that_have_a_stage_1():
    space, values = space_of(hints=[None, "middle"], hint_learning_rate=(1e-3, 1e-2))
    assert list(space["hint"].values) == ["none", "middle"]
    [condition] = space["hint_learning_rate"].conditions
    assert (condition.name, condition.values) == ("hint", ["middle"])
    assert values["hint"] == "none" and "hint_learning_rate" not in values
    assert "hint_learning_rate" not in space_of(hints=None)[0]


def test_candidates_have_names_of_their_own():
    pair, weighed = ("low", "low"), kf.Hint("low", "low", weight=2.0)
    several = [("low", "low"), ("high", "low")]
    found = search_space.parse_candidates(
        [pair, weighed, several, "middle", None], [searching.network(3, 0)]
    )
    assert found == {
        "low -> low": pair,
        "Hint('low', 'low', weight=2.0)": weighed,
        "low -> low + high -> low": several,
        "middle": "middle",
        "none": None,
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hints": [("nowhere", "low")]}, ValueError, "no layer 'nowhere'"),
        ({"hints": [kf.Hint("low", "low", member=1)]}, ValueError, "has 1"),
        (
            {"hints": [("low", "low"), ("low", "low")]},
            ValueError,
            "each candidate once",
        ),
        ({"hints": []}, ValueError, "at least one candidate"),
        ({"hints": ["low", "low"]}, TypeError, "must be a pair"),
        ({"lambda_": (-1, 2)}, ValueError, "`lambda_` must be one finite, non-neg"),
        ({"temperature": (0, 2)}, ValueError, "`temperature` must be one finite, pos"),
        ({"temperature": (3, 2)}, ValueError, "low below high"),
        ({"temperature": (1, 2, 3)}, ValueError, "(low, high)"),
        ({"learning_rate": []}, ValueError, "values to choose from"),
        ({"learning_rate": [0.1, 0.1]}, ValueError, "each once"),
        ({"learning_rate": "fast"}, ValueError, "`learning_rate` must be one finite"),
        ({"build_student": searching.network(3, 0)}, TypeError, "`build_student` must"),
        ({"optimizer": keras.optimizers.SGD()}, TypeError, "`optimizer` must be"),
        ({"annealing": 4.0}, TypeError, "`annealing` must be a function"),
        ({"teacher": "net"}, TypeError, "A teacher must be"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(options, error, message):
    with pytest.raises(error) as caught:
        searching.hypermodel(**options)
    assert message in str(caught.value)


# The search itself.


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param("random", marks=pytest.mark.graph), *[*TUNERS][1:]]
)
def test_every_tuner_ends_with_students(kind, tmp_path, fits):
    tuner, options = TUNERS[kind]
    model = searching.hypermodel(
        hints=[*searching.HINTS, None],
        build_student=lambda hp: searching.network(hp.Int("width", 3, 4), None),
    )
    found = searching.search(searching.tuner(model, tmp_path, tuner, **options))
    trials = completed(found)
    assert len(trials) == len(found.oracle.trials) >= 2
    best = found.oracle.get_best_trials()[0]
    assert best.score == max(trial.score for trial in trials)
    [student] = found.get_best_models()
    assert isinstance(student, keras.Model) and not isinstance(student, kf.Distiller)
    assert accuracy(student) == pytest.approx(best.score, abs=1e-6)
    evaluated = student.evaluate(*tiny.data(samples=10), verbose=0, return_dict=True)
    assert evaluated["accuracy"] == pytest.approx(best.score, abs=1e-6)
    student.save(tmp_path / "student.keras")
    saved = keras.saving.load_model(tmp_path / "student.keras")
    assert accuracy(saved) == accuracy(student)
    kd = [epochs for stage, *epochs in fits if stage == "kd"]
    if kind == "hyperband":
        assert sorted(set(map(tuple, kd))) == [(0, 1), (0, 2), (1, 2)]
    else:
        assert kd == [[0, 2]] * len(trials)


@pytest.mark.slow
@pytest.mark.graph
def test_stage_1_and_the_teacher_are_run_once_for_all_trials_and_searches(
    tmp_path, fits, monkeypatch
):
    teacher, samples = searching.network(5, 0), []
    layer = teacher.get_layer("low")
    call = layer.call

    def counted(x, training=None):
        tf.numpy_function(lambda x: samples.append(len(x)), [x], [])
        return call(x)

    monkeypatch.setattr(layer, "call", counted)
    options = {"teacher": teacher, "directory": tmp_path / "kept"}
    model = searching.hypermodel(**options)
    searching.search(searching.tuner(model, tmp_path / "one", max_trials=4))
    # Once for each of the training and the validation data.
    assert sum(samples) == searching.SAMPLES + 10
    assert [stage for stage, *_ in fits].count("hint") == len(searching.HINTS)
    assert [stage for stage, *_ in fits].count("kd") == 4
    fits.clear()
    # Another search opens the cache: the teacher is asked for the first batch.
    samples.clear()
    model = searching.hypermodel(**options, lambda_=2.0)
    searching.search(searching.tuner(model, tmp_path / "two", seed=3))
    assert sum(samples) == searching.SAMPLES + 10
    assert {stage for stage, *_ in fits} == {"kd"}


@pytest.mark.slow
def test_a_stage_1_that_was_found_is_the_one_that_was_trained(tmp_path, fits):
    def trained(seed, lambda_, folder="kept", hint_learning_rate=0.01):
        model = searching.hypermodel(
            seed=seed,
            hints=("high", "low"),
            **{"lambda_": lambda_, "temperature": 2.0, "learning_rate": 0.01},
            hint_learning_rate=hint_learning_rate,
            directory=tmp_path / folder,
        )
        hp = keras_tuner.HyperParameters()
        student = model.build(hp)
        data = tiny.data(samples=searching.SAMPLES)
        model.fit(hp, student, *data, hint_epochs=2, epochs=2, verbose=0)
        return student.get_weights(), [stage for stage, *_ in fits[-2:]]

    def same(one, other):
        return all(map(np.array_equal, one, other))

    first, stages = trained(0, 4.0)
    assert stages == ["hint", "kd"]
    other, stages = trained(0, 1.0)
    assert stages == ["kd", "kd"] and not same(first, other)
    again, stages = trained(0, 4.0)
    assert stages == ["kd", "kd"] and same(first, again)
    alone, stages = trained(0, 4.0, "anew")
    assert stages == ["hint", "kd"] and same(first, alone)
    # What stage 1 does depend on.
    assert trained(1, 4.0)[1] == ["hint", "kd"]
    assert trained(0, 4.0, hint_learning_rate=0.02)[1] == ["hint", "kd"]


def test_stage_2_is_that_of_fit_stagewise(tmp_path):
    """A trial is what a user would write by hand, on the same order of examples."""
    rates = {"learning_rate": 0.02, "hint_learning_rate": 0.01}
    numbers = {"lambda_": 4.0, "temperature": 2.0}
    model = searching.hypermodel(
        hints=("high", "low"),
        optimizer="sgd",
        annealing=lambda start: kf.LambdaAnnealing(start, 1.0, epochs=3),
        **{**rates, **numbers, "directory": tmp_path / "kept"},
    )
    hp = keras_tuner.HyperParameters()
    student = model.build(hp)
    data = tiny.data(samples=searching.SAMPLES)
    options = {"shuffle": False, "verbose": 0, "batch_size": 8}
    history = model.fit(hp, student, *data, hint_epochs=2, epochs=3, **options)

    keras.utils.set_random_seed(0)
    plain = searching.network(4, None)
    keras.utils.set_random_seed(0)
    distiller = kf.Distiller(model.teacher, plain, ("high", "low"), **numbers)
    distiller.compile(keras.optimizers.SGD(0.02), searching.LOSS, metrics=["accuracy"])
    expected = kf.fit_stagewise(
        *(distiller, *data),
        stages=[
            kf.Stage("hint", 2, optimizer=keras.optimizers.SGD(0.01)),
            kf.Stage("kd", 3),
        ],
        callbacks=[kf.LambdaAnnealing(4.0, 1.0, epochs=3)],
        **options,
    )
    # The hints of the cache are in float16.
    tiny.assert_logs(history.history, expected.kd.history, 1e-3)
    for now, then in zip(student.get_weights(), plain.get_weights(), strict=True):
        tiny.assert_close(now, then, 1e-3)


@pytest.mark.slow
def test_a_regressor_of_ones_own_begins_anew_in_each_trial(tmp_path):
    regressor = keras.layers.Dense(5)
    hint = kf.Hint("low", "low", regressor=regressor)
    model = searching.hypermodel(hints=hint, hint_learning_rate=[0.01, 0.02])
    found = searching.tuner(model, tmp_path, keras_tuner.GridSearch)
    searching.search(found)
    assert len(completed(found)) == 2 and not regressor.built


def test_without_a_tuner_or_a_directory_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = searching.hypermodel()
    hp = keras_tuner.HyperParameters()
    data = tiny.data(samples=searching.SAMPLES)
    history = model.fit(hp, model.build(hp), *data, hint_epochs=1, epochs=2, verbose=0)
    assert len(history.history["accuracy"]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_executions_of_a_trial_differ_by_their_seeds(tmp_path, fits):
    model = searching.hypermodel(hints=("low", "low"), lambda_=2.0, temperature=3.0)
    options = {"max_trials": 2, "executions_per_trial": 2}
    found = searching.search(searching.tuner(model, tmp_path, **options))
    assert [stage for stage, *_ in fits] == ["hint", "kd", "hint", "kd", "kd", "kd"]
    kept = tmp_path / "search" / "shared" / "first stages"
    assert len([path for path in kept.iterdir() if path.is_dir()]) == 2
    assert len(completed(found)) == 2


def test_hyperparameters_rebuild_the_student(tmp_path):
    def build(hp):
        return searching.network(hp.Int("width", 3, 9), None)

    model = searching.hypermodel(build_student=build)
    found = searching.search(searching.tuner(model, tmp_path, max_trials=1))
    best = found.get_best_hyperparameters()[0]
    assert {"lambda", "temperature", "learning_rate", "hint", "width"} <= set(
        best.values
    )
    once, twice = found.hypermodel.build(best), found.hypermodel.build(best)
    assert once.get_layer("low").units == best.get("width")
    assert all(map(np.array_equal, once.get_weights(), twice.get_weights()))


@pytest.mark.slow
def test_a_checkpoint_holds_the_student_alone(tmp_path):
    teacher = searching.network(200, 0)
    found = searching.tuner(searching.hypermodel(teacher=teacher), tmp_path)
    searching.search(found)
    student = searching.network(4, 0)
    for trial in completed(found):
        path = Path(found.get_trial_dir(trial.trial_id)) / "checkpoint.weights.h5"
        sizes = []

        def count(name, item, sizes=sizes):
            if isinstance(item, h5py.Dataset) and "optimizer" not in name:
                sizes.append(item.size)

        with h5py.File(path) as file:
            file.visititems(count)
        assert sum(sizes) == student.count_params()
        student.load_weights(path)
        assert accuracy(student) == pytest.approx(trial.score, abs=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_dataset_may_be_given_as_it_is_or_cached(scaled, tmp_path, fits):
    x, y = tiny.data(samples=searching.SAMPLES)
    weights = np.arange(len(x), dtype="float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(8)
    model = searching.hypermodel()
    if scaled:
        distiller = kf.Distiller(
            model.teacher, searching.network(4, 1), [("low", "low"), ("high", "low")]
        )
        dataset = kf.cache_teacher(distiller, dataset, tmp_path / "cache", verbose=0)
    found = searching.tuner(model, tmp_path, max_trials=1)
    searching.search(found, x=dataset, y=None)
    assert len(completed(found)) == 1
    kept = {path.name for path in (tmp_path / "search" / "shared").iterdir()}
    training = {"teacher's outputs, training"}
    assert kept == {"first stages", "teacher's outputs, validation"} | (
        set() if scaled else training
    )


# Mistakes end the search at once.


def shuffled():
    x, y = tiny.data(samples=searching.SAMPLES)
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(4)


@pytest.mark.parametrize(
    ("options", "tuning", "data", "message"),
    [
        ({}, {"objective": "val_loss"}, {}, "cannot be compared by the objective"),
        (
            {},
            {"objective": keras_tuner.Objective("val_kd_loss", "min")},
            {},
            "'val_kd_loss'",
        ),
        ({}, {"objective": "accuracy"}, {}, "'accuracy'"),
        ({}, {"objective": None}, {}, "metric of the student on validation data"),
        (
            {},
            {"objective": ["val_accuracy", keras_tuner.Objective("val_loss", "min")]},
            {},
            "'val_loss'",
        ),
        (
            {},
            {"objective": keras_tuner.Objective("val_auc", "max")},
            {},
            "does not log monitor='val_auc'",
        ),
        ({}, {}, {"validation_data": None}, "measured on validation data"),
        ({}, {"optimizer": "adam"}, {}, "Pass them to FitNetHyperModel"),
        ({"hints": [("low", "nowhere")]}, {}, {}, "no layer 'nowhere'"),
        ({"stage": "third"}, {}, {}, "third"),
        ({}, {}, {"x": shuffled(), "y": None}, "differ between two passes"),
        ({}, {}, {"y": np.ones((5, 3))}, "24"),
        ({}, {}, {"hint_epochs": -1}, "`hint_epochs` must be"),
    ],
)
def test_a_mistake_ends_the_search_at_once(
    options, tuning, data, message, tmp_path, fits
):
    found = searching.tuner(searching.hypermodel(**options), tmp_path, **tuning)
    with pytest.raises(FatalError) as caught:
        searching.search(found, **data)
    assert message in str(caught.value)
    assert not fits and len(found.oracle.trials) == 1


def test_no_student_ends_the_search_too(tmp_path):
    with pytest.raises(FatalError, match="`build_student` must return a keras.Model"):
        searching.tuner(searching.hypermodel(build_student=lambda hp: None), tmp_path)


@pytest.mark.slow
def test_a_trial_that_diverges_is_one_failed_trial(tmp_path):
    model = searching.hypermodel(
        hints=kf.Hint("low", "low", regressor=keras.layers.Dense(5)),
        **{"lambda_": 4, "temperature": 3, "learning_rate": 0.01, "optimizer": "sgd"},
        hint_learning_rate=[0.01, 1e29],
    )
    found = searching.tuner(model, tmp_path, keras_tuner.GridSearch)
    searching.search(found, hint_epochs=4)
    statuses = {
        trial.hyperparameters.get("hint_learning_rate"): trial.status
        for trial in found.oracle.trials.values()
    }
    assert statuses == {0.01: "COMPLETED", 1e29: "FAILED"}


# Stopped, and on several machines.


def started(folder, trials, **environment):
    command = [HERE / "searching.py", folder, trials]
    return Program(command, environment={**os.environ, **environment})


def statuses(folder):
    found = {}
    for path in sorted(Path(folder).glob("search/trial_*/trial.json")):
        trial = json.loads(path.read_text())
        found[trial["trial_id"]] = trial["status"]
    return found


def wait_for(condition, *processes):
    deadline = time.monotonic() + 240
    while not condition():
        codes = [process.poll() for process in processes]
        assert not any(codes), [p.communicate() for p in processes if p.poll()]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_no_class_of_keras_tuner_is_changed(tmp_path):
    """Neither by the import nor by a search, nor is another tuner's saving."""
    searching.search(searching.tuner(searching.hypermodel(hints=None), tmp_path))
    trial = keras_tuner.engine.trial.Trial
    for public in (keras_tuner.Oracle, keras_tuner.RandomSearch, trial):
        for kind in public.__mro__[:-1]:
            functions = [f for f in vars(kind).values() if hasattr(f, "__code__")]
            assert functions
            for function in functions:
                assert "keras_tuner" in Path(function.__code__.co_filename).parts
    other = searching.tuner(searching.hypermodel(), tmp_path / "other")
    assert "save" not in {**vars(other), **vars(other.oracle)}
    assert kf.tuning.save_atomically(other) is other
    assert "save" in vars(other) and "save" in vars(other.oracle)


def test_what_a_search_knows_is_whole_in_the_instant_of_a_kill(tmp_path, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    found = searching.search(
        searching.tuner(searching.hypermodel(hints=None), tmp_path)
    )
    files = [tmp_path / "search" / name for name in ("oracle.json", "tuner0.json")]
    files += (tmp_path / "search").glob("trial_*/trial.json")
    before = [path.read_bytes() for path in files]
    assert len([json.loads(state) for state in before]) == 4
    for owner, instant in ((Path, "write_text"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, instant, killed)
            for part in (found, found.oracle):
                with pytest.raises(KeyboardInterrupt):
                    part.save()
            for trial in completed(found):
                with pytest.raises(KeyboardInterrupt):
                    found.oracle._save_trial(trial)
        assert [path.read_bytes() for path in files] == before
    assert len(completed(searching.tuner(searching.hypermodel(), tmp_path))) == 2


@pytest.mark.slow
def test_a_killed_search_goes_on_and_does_again_the_trial_in_flight_at_most(tmp_path):
    process = started(tmp_path, 4)
    wait_for(lambda: [*statuses(tmp_path).values()].count("COMPLETED") == 2, process)
    oracle = tmp_path / "search" / "oracle.json"

    def third_in_flight():
        # Of which the oracle knows: its file comes after that of the trial.
        ongoing = json.loads(oracle.read_text())["ongoing_trials"].values()
        return any(statuses(tmp_path)[trial] == "RUNNING" for trial in ongoing)

    wait_for(third_in_flight, process)
    done = {
        path: path.stat().st_mtime_ns
        for name, status in statuses(tmp_path).items()
        if status == "COMPLETED"
        for path in [tmp_path / "search" / f"trial_{name}" / "checkpoint.weights.h5"]
    }
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    again = started(tmp_path, 4)
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors[-2000:]
    assert set(statuses(tmp_path).values()) == {"COMPLETED"}
    assert len(statuses(tmp_path)) == 4
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.slow
def test_a_chief_and_workers_one_of_them_killed(tmp_path, monkeypatch):
    [address] = addresses(1)
    ip, port = address.split(":")
    chief = {"KERASTUNER_ORACLE_IP": ip, "KERASTUNER_ORACLE_PORT": port}
    server = started(tmp_path, 4, **chief, KERASTUNER_TUNER_ID="chief")

    def worker(i):
        return started(tmp_path, 4, **chief, KERASTUNER_TUNER_ID=f"worker{i}")

    workers = [worker(i) for i in range(2)]
    wait_for(
        lambda: [*statuses(tmp_path).values()].count("COMPLETED") >= 2,
        *(server, *workers),
    )
    os.kill(workers[1].pid, signal.SIGKILL)
    workers[1].communicate()
    workers[1] = worker(1)
    for process in (*workers, server):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-2000:]
    assert [*statuses(tmp_path).values()] == ["COMPLETED"] * 4
    # The project holds what all of them have found, under the name of the chief.
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    found = searching.tuner(searching.hypermodel(), tmp_path, max_trials=4)
    best = found.oracle.get_best_trials()[0]
    assert best.score == max(trial.score for trial in completed(found))
    assert accuracy(found.get_best_models()[0]) == pytest.approx(best.score, abs=1e-6)
    first = tmp_path / "search" / "shared" / "first stages"
    assert len([path for path in first.iterdir() if path.is_dir()]) == 2


@pytest.mark.slow
@pytest.mark.graph
def test_a_trial_runs_under_a_strategy(tmp_path):
    devices = [one.name for one in tf.config.list_logical_devices("CPU")][:2]
    strategy = tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        model = searching.hypermodel(teacher=searching.network(5, 0))
    found = searching.tuner(
        model, tmp_path, distribution_strategy=strategy, max_trials=1
    )
    searching.search(found)
    assert len(completed(found)) == 1


def test_class_weights_reach_both_kinds_of_loss_of_every_trial(tmp_path, fits):
    """Where no example counts, stage 2 leaves the student as it was built."""
    found = searching.tuner(searching.hypermodel(hints=None), tmp_path, max_trials=1)
    searching.search(found, class_weight=dict.fromkeys(range(3), 0.0))
    assert fits == [("kd", 0, 2)]
    [best] = found.get_best_models()
    built = found.hypermodel.build(found.get_best_hyperparameters()[0])
    for left, right in zip(best.get_weights(), built.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


# Seen.


@pytest.mark.slow
def test_the_picture_shows_every_trial_and_marks_the_best(tmp_path):
    model = searching.hypermodel(hints=[*searching.HINTS, None])
    found = searching.tuner(model, tmp_path, max_trials=4)
    with pytest.raises(ValueError, match="No trial of this tuner is complete"):
        kf.tuning.plot(found)
    searching.search(found, hint_epochs=1, epochs=1)
    figure = kf.tuning.plot(found, tmp_path / "search.png")
    trials = found.oracle.get_best_trials(4)
    hints = sorted({t.hyperparameters.get("hint") for t in trials})
    *panels, bar = figure.axes
    assert len(panels) == len(hints) and bar.get_ylabel() == "val_accuracy"
    marked = []
    for panel, hint in zip(panels, hints, strict=True):
        dots, *rings = panel.collections
        here = [t for t in trials if t.hyperparameters.get("hint") == hint]
        expected = [
            [t.hyperparameters.get(n) for n in ("lambda", "temperature")] for t in here
        ]
        np.testing.assert_allclose(dots.get_offsets(), expected)
        np.testing.assert_allclose(dots.get_array(), [t.score for t in here])
        marked += [tuple(ring.get_offsets()[0]) for ring in rings]
    best = trials[0].hyperparameters
    assert marked == [(best.get("lambda"), best.get("temperature"))]
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_tensorboard_knows_the_hyperparameters(tmp_path):
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = searching.tuner(searching.hypermodel(), tmp_path, max_trials=2)
    board = keras.callbacks.TensorBoard(str(tmp_path / "logs"))
    searching.search(found, callbacks=[board])
    values, scalars = [], set()
    for path in sorted((tmp_path / "logs").rglob("*tfevents*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                scalars.add(value.tag)
                if value.metadata.plugin_data.plugin_name == "hparams":
                    data = plugin_data_pb2.HParamsPluginData.FromString(
                        value.metadata.plugin_data.content
                    )
                    if data.WhichOneof("data") == "session_start_info":
                        values.append(data.session_start_info.hparams)
    assert len(values) == 2
    for hparams in values:
        assert {"lambda", "temperature", "learning_rate", "hint"} <= set(hparams)
    assert "epoch_accuracy" in scalars
    logged = sorted(one["lambda"].number_value for one in values)
    trials = completed(found)
    expected = sorted(t.hyperparameters.get("lambda") for t in trials)
    np.testing.assert_allclose(logged, expected)
