"""`learning_rate_factor` against NumPy: an optimizer that has it on the learning rate.

The gradients of each step are those of a Distiller with the same weights that takes one
step of SGD at a learning rate of 1; what an optimizer makes of them is written out here
from its formula, in float64.
"""

import keras
import numpy as np
import pytest
import tiny

import keras_fitnets as kf

pytestmark = pytest.mark.usefixtures("eager")

RATE, FACTOR, STEPS = 0.1, 0.25, 5


def distiller(optimizer, factor=1.0):
    return tiny.make_distiller(
        optimizer=optimizer,
        learning_rate_factor=factor,
        regressor_seed=3,
        stage="joint",
    )


def is_slow(model):
    """For each of the weights whether it is below the guided layer."""
    names = [w.path for w in (*model.student.weights, *model.regressors[0].weights)]
    return ["hidden" in name and "out" not in name for name in names[:4]] + [False] * (
        len(names) - 4
    )


def gradients_at(weights, x, y):
    probe = distiller(keras.optimizers.SGD(1.0))
    tiny.set_weights(probe, weights)
    return [np.asarray(g, "float64") for g in tiny.gradients(probe, x, y)]


def rates(model):
    return [RATE * (FACTOR if slow else 1.0) for slow in is_slow(model)]


def step_sgd(weights, gradients, learning_rates, decay=0.0):
    return [
        w - rate * decay * w - rate * g
        for w, g, rate in zip(weights, gradients, learning_rates, strict=True)
    ]


def run(optimizer, steps=STEPS):
    model = distiller(optimizer, FACTOR)
    start = [np.asarray(w, "float64") for w in tiny.weights(model)]
    x, y = tiny.data()
    model.fit(x, y, batch_size=len(x), epochs=steps, shuffle=False, verbose=0)
    return model, start, x, y


def assert_weights(model, expected, tolerance=2e-6):
    for actual, wanted in zip(tiny.weights(model), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance)


def test_momentum():
    model, weights, x, y = run(keras.optimizers.SGD(RATE, momentum=0.9))
    velocities = [np.zeros_like(w) for w in weights]
    for _ in range(STEPS):
        gradients = gradients_at(weights, x, y)
        velocities = [
            0.9 * v - rate * g
            for v, g, rate in zip(velocities, gradients, rates(model), strict=True)
        ]
        weights = [w + v for w, v in zip(weights, velocities, strict=True)]
    assert_weights(model, weights)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_adam_and_its_decoupled_weight_decay(decay):
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=decay, epsilon=1e-3)
    model, weights, x, y = run(optimizer)
    first = [np.zeros_like(w) for w in weights]
    second = [np.zeros_like(w) for w in weights]
    for t in range(1, STEPS + 1):
        gradients = gradients_at(weights, x, y)
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients, strict=True)]
        second = [
            0.999 * v + 0.001 * g**2 for v, g in zip(second, gradients, strict=True)
        ]
        correction = np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        steps = [
            correction * m / (np.sqrt(v) + 1e-3)
            for m, v in zip(first, second, strict=True)
        ]
        weights = step_sgd(weights, steps, rates(model), decay)
    # Keras computes 1 - 0.999^t in float32, which costs it digits.
    assert_weights(model, weights, tolerance=1e-5)


@pytest.mark.parametrize("frequency", [None, 2])
def test_moving_averages_and_the_overwriting_at_the_end(frequency):
    optimizer = keras.optimizers.SGD(
        RATE, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=frequency
    )
    model, weights, x, y = run(optimizer)
    averages = [np.zeros_like(w) for w in weights]
    for t in range(STEPS):
        weights = step_sgd(weights, gradients_at(weights, x, y), rates(model))
        # Keras starts the averages at the weights of the first step.
        momentum = 0.8 if t else 0.0
        averages = [
            momentum * a + (1 - momentum) * w
            for a, w in zip(averages, weights, strict=True)
        ]
        if frequency and (t + 1) % frequency == 0:
            weights = averages
    # Keras overwrites the weights when `fit` ends.
    assert_weights(model, averages)


def test_gradient_accumulation():
    optimizer = keras.optimizers.SGD(
        RATE, gradient_accumulation_steps=2, weight_decay=0.5
    )
    model, weights, x, y = run(optimizer)
    for _ in range(STEPS // 2):
        weights = step_sgd(weights, gradients_at(weights, x, y), rates(model), 0.5)
    assert_weights(model, weights)


def test_loss_scaling_and_a_step_that_it_skips():
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(RATE, weight_decay=0.5), initial_scale=2.0**127
    )
    model, weights, x, y = run(optimizer)
    taken = int(optimizer.inner_optimizer.iterations.numpy())
    assert 0 < taken < STEPS
    for _ in range(taken):
        weights = step_sgd(weights, gradients_at(weights, x, y), rates(model), 0.5)
    assert_weights(model, weights)


def test_a_learning_rate_that_the_update_is_not_proportional_to():
    """Ftrl: the factor on its learning rate is not one on its update."""
    model, weights, x, y = run(keras.optimizers.Ftrl(RATE))
    power = -0.5
    accumulators = [np.full_like(w, 0.1) for w in weights]
    linears = [np.zeros_like(w) for w in weights]
    for _ in range(STEPS):
        gradients = gradients_at(weights, x, y)
        updated = []
        for i, rate in enumerate(rates(model)):
            new = accumulators[i] + gradients[i] ** 2
            sigma = (new**-power - accumulators[i] ** -power) / rate
            linears[i] = linears[i] + gradients[i] - sigma * weights[i]
            accumulators[i] = new
            updated.append(-linears[i] / (new**-power / rate))
        weights = updated
    assert_weights(model, weights)


def test_a_constraint_holds_for_the_slower_step():
    model = kf.Distiller(
        tiny.network(hidden=6, seed=1),
        tiny.network(hidden=4, seed=2, kernel_constraint="non_neg"),
        hints=("hidden", "hidden"),
        learning_rate_factor=FACTOR,
    )
    model.compile(keras.optimizers.SGD(RATE), tiny.FROM_LOGITS)
    tiny.fit(model, *tiny.data())
    assert (model.student.get_layer("hidden").kernel.numpy() >= 0).all()


def test_a_schedule_goes_on_under_the_factor():
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 1, 0.5)
    model, weights, x, y = run(keras.optimizers.SGD(schedule, weight_decay=0.5))
    for t in range(STEPS):
        scaled = [rate * 0.5**t for rate in rates(model)]
        weights = step_sgd(weights, gradients_at(weights, x, y), scaled, 0.5)
    assert_weights(model, weights)


def test_the_optimizer_is_left_as_it_was():
    model, *_ = run(keras.optimizers.SGD(RATE, weight_decay=0.5), steps=1)
    optimizer = model.optimizer
    assert not {"_backend_update_step", "_apply_weight_decay"} & vars(optimizer).keys()
    assert float(optimizer.learning_rate) == pytest.approx(RATE)


class OwnApply(keras.optimizers.SGD):
    def apply(self, gradients, trainable_variables=None):
        super().apply(gradients, trainable_variables)


def test_an_optimizer_with_an_apply_of_its_own_is_refused():
    model = distiller(OwnApply(RATE), FACTOR)
    with pytest.raises(ValueError, match="OwnApply defines `apply`"):
        tiny.fit(model, *tiny.data())


@pytest.mark.graph
@pytest.mark.slow
def test_a_traced_step_is_the_same():
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=0.5, use_ema=True)
    results = []
    for eagerly in (False, True):
        keras.utils.set_random_seed(0)
        model = distiller(keras.optimizers.AdamW.from_config(optimizer.get_config()))
        model.learning_rate_factor = FACTOR
        model.run_eagerly = eagerly
        x, y = tiny.data()
        model.fit(x, y, epochs=STEPS, shuffle=False, verbose=0)
        results.append(tiny.weights(model))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
