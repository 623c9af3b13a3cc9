"""Totals and gradients of every stage against the float64 reference."""

import dataclasses
import functools
import itertools

import keras
import numpy as np
import pytest
import reference
import tiny

import keras_fitnets as kf

TEMPERATURES = (1.0, 3.0, 10.0)
LAMBDAS = (0.0, 1.0, 4.0)
SAMPLE_WEIGHT = np.linspace(0.0, 3.0, tiny.SAMPLES, dtype="float32")
HINT_ACTIVATIONS = {"dense": "tanh", "conv": "relu"}
MEMBER_WEIGHTS = (3.0, 1.0)
HINT_WEIGHT, PAIR_WEIGHT = 0.5, 2.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One Distiller, and what it should log and learn."""

    stage: str
    kind: str = "dense"
    activation: str = "softmax"
    from_logits: bool = True
    average: str = "single"
    weighted: bool = False
    squared: bool = False

    def __str__(self):
        form = "logits" if self.from_logits else "probabilities"
        extras = ["weighted"] * self.weighted + ["squared"] * self.squared
        return "-".join(
            [self.stage, self.kind, self.activation, form, self.average, *extras]
        )

    @property
    def member(self):
        return 0 if self.average == "single" else 1

    @property
    def sample_weight(self):
        return SAMPLE_WEIGHT if self.weighted else None

    @property
    def data(self):
        return tiny.data(self.kind, self.activation)

    def network(self, **options):
        return tiny.network(
            self.kind, end=None if self.from_logits else self.activation, **options
        )

    def teachers(self):
        options = {"hidden": 4, "kernel": 3, "activation": HINT_ACTIVATIONS[self.kind]}
        return [
            self.network(**options, seed=seed) for seed in range(1, 2 + self.member)
        ]

    def distiller(self, optimizer=None, **compile_options):
        teachers = self.teachers()
        distiller = kf.Distiller(
            teachers[0]
            if self.average == "single"
            else kf.Teacher(teachers, self.average, MEMBER_WEIGHTS),
            self.network(seed=5),
            hints=None
            if self.stage == "kd"
            else kf.Hint("hidden", "hidden", PAIR_WEIGHT, member=self.member),
            stage=self.stage,
            hint_weight=HINT_WEIGHT,
            activation=self.activation,
            from_logits=self.from_logits,
            temperature_squared=self.squared,
        )
        for regressor in distiller.regressors:
            tiny.redrawn(regressor, seed=6)
        distiller.compile(
            optimizer or keras.optimizers.SGD(1.0),
            tiny.LABEL_LOSSES[self.activation](from_logits=self.from_logits),
            **compile_options,
        )
        return distiller

    def reference(self):
        """From weights (student, then regressor) and pairs of λ and τ to logs."""
        x, y = self.data
        hint_activation = HINT_ACTIVATIONS[self.kind]
        hints, members = zip(
            *(
                reference.hidden_and_logits(x, t.get_weights(), hint_activation)
                for t in self.teachers()
            ),
            strict=True,
        )
        average = {"average": self.average, "weights": MEMBER_WEIGHTS}

        @functools.cache
        def targets(temperature):
            options = {} if self.average == "single" else average
            return reference.ensemble_targets(
                members, temperature, self.activation, **options
            )

        def logs(arrays, settings):
            guided, logits = reference.hidden_and_logits(x, arrays[:4], "tanh")
            values = {"label": reference.crossentropy(y, logits, self.activation)}
            if arrays[4:]:
                regressed = reference.regress(guided, arrays[4:], hint_activation)
                values["hint"] = PAIR_WEIGHT * reference.hint_loss(
                    hints[self.member], regressed
                )
            kd = {
                temperature: reference.crossentropy(
                    targets(temperature), logits / temperature, self.activation
                )
                * (temperature**2 if self.squared else 1.0)
                for temperature in {temperature for _, temperature in settings}
            }
            return [
                reference.stage_logs(
                    self.stage,
                    **values,
                    kd=kd[temperature],
                    lambda_=lambda_,
                    hint_weight=HINT_WEIGHT,
                    sample_weight=self.sample_weight,
                )
                for lambda_, temperature in settings
            ]

        return logs

    def gradients(self, weights, settings):
        """For each pair of λ and τ, by central differences of the reference."""
        logs = self.reference()
        stacked = reference.central_differences(
            lambda arrays: [values["loss"] for values in logs(arrays, settings)],
            weights,
        )
        return [
            [gradient[..., i] for gradient in stacked] for i in range(len(settings))
        ]


OUTPUTS = list(
    itertools.product(
        ("softmax", "sigmoid"), (True, False), ("single", "arithmetic", "geometric")
    )
)
GRID = list(itertools.product(LAMBDAS, TEMPERATURES))
# Every λ and every τ.
SOME = [(0.0, 1.0), (1.0, 10.0), (4.0, 3.0)]
TRACED = [
    Case("hint", "conv", average="arithmetic", weighted=True),
    Case("joint", "conv", weighted=True),
    Case("kd", squared=True),
]
CASES = [
    *(
        Case("hint", kind, average="arithmetic", weighted=w)
        for kind in tiny.SHAPES
        for w in (False, True)
    ),
    # sample weights for every form of output, either in "kd" or in "joint"
    *(
        Case("kd", "dense", *outputs, weighted=bool(i % 2))
        for i, outputs in enumerate(OUTPUTS)
    ),
    *(
        Case("joint", "conv", *outputs, weighted=not i % 2)
        for i, outputs in enumerate(OUTPUTS)
    ),
    Case("kd", squared=True),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_logs_and_gradients(case):
    """λ and τ are assigned in between; one trace, where there is one, serves all."""
    traced = case in TRACED
    distiller = case.distiller(run_eagerly=not traced)
    start = tiny.weights(distiller)
    settings = GRID if traced else SOME
    settings = settings[-1:] if case.stage == "hint" else settings
    logs = case.reference()(start, settings)
    gradients = case.gradients(start, settings)
    for (lambda_, temperature), expected, gradient in zip(
        settings, logs, gradients, strict=True
    ):
        tiny.set_weights(distiller, start)
        distiller.lambda_, distiller.temperature = lambda_, temperature
        for step in (distiller.test_on_batch, distiller.train_on_batch):
            distiller.reset_metrics()
            actual = step(*case.data, case.sample_weight, return_dict=True)
            tiny.assert_logs(actual, expected)
            assert set(actual) == set(expected)
        tiny.assert_step(distiller, start, gradient)


# Forms the Distiller finds out by itself


@pytest.mark.slow
@pytest.mark.parametrize("end", [None, "softmax", "sigmoid"])
def test_the_form_of_the_outputs_is_read_from_the_models(end):
    case = Case("kd", activation=end or "softmax", from_logits=end is None)
    distiller = kf.Distiller(
        case.teachers()[0], case.network(seed=5), temperature=3.0, lambda_=4.0
    )
    distiller.compile(
        "sgd", tiny.LABEL_LOSSES[case.activation](from_logits=case.from_logits)
    )
    (logs,) = case.reference()(tiny.weights(distiller), [(4.0, 3.0)])
    tiny.assert_logs(tiny.evaluate(distiller, *case.data), logs)


def test_a_bare_list_of_teachers_is_their_arithmetic_mean():
    case = Case("kd", average="arithmetic")
    x, y = case.data
    distiller = kf.Distiller(
        case.teachers(), case.network(seed=5), temperature=3.0, lambda_=4.0
    )
    distiller.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    logits = [
        reference.hidden_and_logits(x, model.get_weights(), "tanh")[1]
        for model in case.teachers()
    ]
    _, student = reference.hidden_and_logits(x, tiny.weights(distiller), "tanh")
    kd = reference.crossentropy(reference.ensemble_targets(logits, 3.0), student / 3.0)
    tiny.assert_logs(tiny.evaluate(distiller, x, y), {"kd_loss": np.mean(kd)})


def test_the_default_stage_follows_the_hints():
    case = Case("joint")
    teacher, student = case.teachers()[0], case.network()
    assert kf.Distiller(teacher, student).stage == "kd"
    assert kf.Distiller(teacher, student, hints=("hidden", "hidden")).stage == "joint"


def test_several_hints_add_up_by_their_weights():
    x, _ = tiny.data("conv")
    teachers = Case("hint", "conv", average="arithmetic").teachers()
    pairs = [
        kf.Hint("hidden", "hidden", weight, member=member)
        for member, weight in enumerate((2.0, 0.5))
    ]
    distiller = kf.Distiller(teachers, tiny.network("conv"), hints=pairs, stage="hint")
    distiller.compile("sgd")
    guided, _ = reference.hidden_and_logits(x, distiller.student.get_weights(), "tanh")
    expected = 0.0
    for regressor, model, pair in zip(
        distiller.regressors, teachers, pairs, strict=True
    ):
        hint, _ = reference.hidden_and_logits(x, model.get_weights(), "relu")
        regressed = reference.regress(guided, regressor.get_weights(), "relu")
        expected += pair.weight * np.mean(reference.hint_loss(hint, regressed))
    tiny.assert_logs(
        tiny.evaluate(distiller, x), {"loss": expected, "hint_loss": expected}
    )


def test_stage_one_needs_no_labels_and_moves_nothing_above_the_guided_layer():
    case = Case("hint", "conv")
    distiller = case.distiller()
    start = tiny.weights(distiller)
    (gradients,) = case.gradients(start, [(4.0, 3.0)])
    tiny.fit(distiller, case.data[0])
    tiny.assert_step(distiller, start, gradients)
    moved = [
        np.any(old != new)
        for old, new in zip(start, tiny.weights(distiller), strict=True)
    ]
    assert moved == [True, True, False, False, True, True]  # hidden, out, regressor


def test_the_stage_can_change_after_compile():
    case = Case("joint", "conv")
    distiller = case.distiller()
    distiller.stage = "kd"
    start = tiny.weights(distiller)
    (gradients,) = dataclasses.replace(case, stage="kd").gradients(start, [(4.0, 3.0)])
    tiny.fit(distiller, *case.data)
    tiny.assert_step(distiller, start, gradients)


@pytest.mark.slow
def test_without_the_teacher_kd_is_plain_training():
    """λ = 0: regularisers and sample weights are those of Keras."""
    x, y = tiny.data()
    regularised = {
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "activity_regularizer": "l2",
    }
    distiller = kf.Distiller(
        tiny.network(), tiny.network(seed=5, **regularised), lambda_=0.0
    )
    plain = tiny.network(seed=5, **regularised)
    for model in (distiller, plain):
        model.compile(
            keras.optimizers.SGD(1.0),
            keras.losses.CategoricalCrossentropy(from_logits=True),
        )
    logs = [
        tiny.evaluate(model, x, y, sample_weight=SAMPLE_WEIGHT)
        for model in (distiller, plain)
    ]
    tiny.assert_logs(logs[0], {"loss": logs[1]["loss"]})
    tiny.fit(plain, x, y, sample_weight=SAMPLE_WEIGHT)
    tiny.fit(distiller, x, y, sample_weight=SAMPLE_WEIGHT)
    for ours, expected in zip(
        distiller.student.get_weights(), plain.get_weights(), strict=True
    ):
        tiny.assert_close(ours, expected, 1e-6)


# λ and τ over time

MODES = {
    "graph": {},
    "jit_compile": {"jit_compile": True},
    "run_eagerly": {"run_eagerly": True},
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def still(case, mode):
    """A Distiller that stays as it is, and its logs for a λ and a τ."""
    distiller = case.distiller(keras.optimizers.SGD(0.0), **mode)
    start, logs = tiny.weights(distiller), case.reference()
    return distiller, lambda lambda_, temperature: logs(
        start, [(lambda_, temperature)]
    )[0]


@pytest.mark.slow
@every_mode
def test_assignment_changes_the_next_step(mode):
    case = Case("joint")
    distiller, expected = still(case, mode)
    for lambda_, temperature in [(4.0, 3.0), (1.0, 3.0), (1.0, 10.0), (0.0, 1.0)]:
        distiller.lambda_, distiller.temperature = lambda_, temperature
        history = tiny.fit(distiller, *case.data)
        tiny.assert_logs(
            {name: values[0] for name, values in history.items()},
            expected(lambda_, temperature),
        )
        tiny.assert_logs(
            tiny.evaluate(distiller, *case.data), expected(lambda_, temperature)
        )
        assert (distiller.lambda_, distiller.temperature) == (lambda_, temperature)


@pytest.mark.slow
def test_annealing_changes_the_next_epoch():
    """By assignment, which every mode follows."""
    case = Case("joint")
    distiller, expected = still(case, MODES["graph"])
    annealing = [
        kf.LambdaAnnealing(4.0, 1.0, epochs=3),
        kf.TemperatureAnnealing(10.0, 1.0, epochs=3),
    ]
    history = tiny.fit(distiller, *case.data, epochs=5, callbacks=annealing)
    np.testing.assert_allclose(
        [history["lambda"][0], history["temperature"][0]], [4.0, 10.0]
    )
    np.testing.assert_allclose(
        [history["lambda"][-1], history["temperature"][-1]], [1.0, 1.0]
    )
    for epoch, values in enumerate(
        zip(history["lambda"], history["temperature"], strict=True)
    ):
        tiny.assert_logs(
            {name: logged[epoch] for name, logged in history.items()}, expected(*values)
        )
    assert len(set(history["loss"])) >= 3


def test_any_callback_can_change_them_between_steps():
    case = Case("kd")
    distiller, expected = still(case, MODES["graph"])
    losses = {}

    def change(batch, logs=None):
        distiller.lambda_, distiller.temperature = float(batch), 1.0 + batch

    callback = keras.callbacks.LambdaCallback(
        on_train_batch_begin=change,
        on_train_batch_end=lambda batch, logs: losses.update({batch: logs["loss"]}),
    )
    x, y = (np.concatenate([array] * 3) for array in case.data)
    tiny.fit(distiller, x, y, batch_size=tiny.SAMPLES, callbacks=[callback])
    steps = [expected(float(batch), 1.0 + batch)["loss"] for batch in range(3)]
    np.testing.assert_allclose(
        [losses[i] for i in range(3)], np.cumsum(steps) / (1 + np.arange(3)), rtol=1e-5
    )
