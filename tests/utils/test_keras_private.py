"""What is private in Keras still behaves as this package relies on.

A failure here is news of a new Keras, and its message says what to change. Where a
test is named "still needed" Keras has mended or published something: delete the helper.
"""

import inspect
import warnings

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf

from keras_fitnets.utils import keras_private


def embedded():
    return keras.layers.Embedding(4, 2, mask_zero=True)(np.array([[1, 2, 0]]))


def compiled(loss="mse", **options):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss, **options)
    return model


def test_a_layers_mask_is_read():
    mask = keras_private.get_mask(embedded())
    assert mask is not None, "Keras keeps masks elsewhere: change `get_mask`."
    np.testing.assert_array_equal(mask, [[True, True, False]])
    assert keras_private.get_mask(tf.zeros((1, 3, 2))) is None


@pytest.mark.parametrize(
    ("loss", "argument"),
    [(keras.losses.Huber(0.5), "delta"), (keras.losses.CosineSimilarity(0), "axis")],
)
def test_a_loss_is_serialised_with_all_of_its_arguments(loss, argument):
    message = "Keras serialises it whole: `serialize_loss` is no longer needed."
    assert argument not in loss.get_config(), message
    config = keras_private.serialize_loss(loss)
    loaded = keras.saving.deserialize_keras_object(config)
    y, predicted = np.array([[0.0, 3.0]]), np.array([[1.0, 1.0]])
    np.testing.assert_array_equal(loaded(y, predicted), loss(y, predicted))


def test_masks_are_still_private():
    assert not hasattr(keras.utils, "get_keras_mask"), "Use it in place of `get_mask`."
    assert not hasattr(keras.ops, "get_keras_mask"), "Use it in place of `get_mask`."


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_logits_behind_saturated_probabilities_are_kept(activation):
    outputs = keras.layers.Activation(activation)(tf.constant([[200.0, -200.0]]))
    logits = keras_private.get_logits(outputs)
    assert logits is not None, "Keras keeps logits elsewhere: change `get_logits`."
    np.testing.assert_array_equal(logits, [[200.0, -200.0]])
    assert keras_private.get_logits(tf.constant([[1.0, 0.0]])) is None


def test_the_second_call_of_a_shared_layer_has_its_own_inputs():
    first, second = keras.Input((3,)), keras.Input((3,))
    shared = keras.layers.Dense(2)
    shared(first)
    operation, inputs, index = keras_private.get_producer(shared(second))
    assert operation is shared
    assert inputs == [second], "Keras keeps its graph otherwise: change `get_producer`."
    assert index == 0


def test_the_public_input_still_knows_the_first_call_alone():
    first, second = keras.Input((3,)), keras.Input((3,))
    shared = keras.layers.Dense(2)
    shared(first)
    shared(second)
    assert shared.input is first, "There may be a public way for `get_producer`."
    assert not hasattr(shared, "get_input_at"), "Use it in `get_producer`."


def test_one_of_several_outputs_knows_which_it_is():
    parts = keras.ops.split(keras.Input((4,)), 2, axis=-1)
    assert [keras_private.get_producer(part).tensor_index for part in parts] == [0, 1]


def test_what_nothing_made_has_no_producer():
    assert keras_private.get_producer(tf.zeros(2)) is None


def test_a_graph_runs_on_other_inputs_with_other_operations():
    network = networks.functional()
    names = []

    def note(operation):
        names.append(operation.name)
        return operation

    inputs = keras.Input(networks.SHAPE)
    outputs = keras_private.run_graph(network, inputs, note)
    shown = [one.name for one in network.operations]
    assert names == shown[1:], "Keras runs its graph otherwise: change `run_graph`."
    # The outputs are on the graph of the new inputs: a model can end anywhere in it.
    assert keras.Model(inputs, outputs).count_params() == network.count_params()


def scaled_by_a_constant():
    inputs = keras.Input((2,))
    return keras.Model(inputs, keras.layers.Dense(1)(inputs * tf.constant(2.0)))


def test_constants_in_a_graph_are_arrays_for_a_while():
    network = scaled_by_a_constant()
    product = network.layers[-1].input

    def factor():
        node = product._keras_history.operation._inbound_nodes[0]
        [_, found] = node.arguments.args
        return found

    with keras_private.hold_constants_as_arrays(network):
        assert isinstance(factor(), (np.ndarray, np.generic)), (
            "Keras keeps arguments otherwise: change `hold_constants_as_arrays`."
        )
        within = network(np.ones((1, 2)))
    assert isinstance(factor(), tf.Tensor)
    np.testing.assert_array_equal(within, network(np.ones((1, 2))))


def test_a_constant_still_becomes_an_input_of_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    network = scaled_by_a_constant()
    network(np.ones((1, 2)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"In the future `np.object`", FutureWarning)
        network.export(tmp_path / "n.onnx", format="onnx", verbose=False)
    inputs = runtime.InferenceSession(tmp_path / "n.onnx").get_inputs()
    assert len(inputs) == 2, "Delete `hold_constants_as_arrays`."


def test_a_network_without_a_graph_remembers_the_shape_it_was_built_for():
    network = networks.Subclassed()
    network(np.zeros((2, *networks.SHAPE), "float32"))
    shape = keras_private.get_build_shape(network)
    assert shape is not None, "Keras writes the shape otherwise: see `get_build_shape`."
    assert tuple(shape)[1:] == networks.SHAPE


def test_a_network_that_is_not_built_remembers_no_shape():
    assert keras_private.get_build_shape(keras.Sequential()) is None


def test_hooks_hear_the_layers_and_leave_no_trace():
    layer, heard = keras.layers.Dense(2), []
    layer.build((None, 3))
    with keras_private.hook_layers([layer], lambda *call: heard.append(call)):
        outputs = layer(tf.ones((1, 3)))
    assert "call" not in vars(layer)
    assert len(heard) == 1, "Keras calls layers otherwise: change `hook_layers`."
    assert heard[0][0] is layer
    np.testing.assert_array_equal(heard[0][1], outputs)
    layer(tf.ones((1, 3)))
    assert len(heard) == 1


def test_hooks_inside_hooks_are_taken_off_once_each():
    layer, outer, inner = keras.layers.Identity(), [], []
    with keras_private.hook_layers([layer, layer], lambda *call: outer.append(call)):
        with keras_private.hook_layers([layer], lambda *call: inner.append(call)):
            layer(tf.ones(1))
        layer(tf.ones(1))
    assert (len(outer), len(inner)) == (1, 1)
    assert "call" not in vars(layer)


def test_forward_hooks_are_still_needed():
    hook = {name for name in dir(keras.layers.Layer) if name.endswith("forward_hook")}
    assert not hook, f"Keras has {hook}: use them in place of `hook_layers`."


def test_compiled_metrics_are_distinguished_from_a_models_own():
    assert not keras_private.has_compiled_metrics(compiled())
    assert keras_private.has_compiled_metrics(compiled(metrics=["mae"]))


def two_outputs(loss, **options):
    inputs = keras.Input((2,))
    outputs = [keras.layers.Dense(1, name=name)(inputs) for name in ("bee", "ant")]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss, **options)
    return model


LOSSES = {
    "one": "mse",
    "list": ["mse", "mae"],
    "names": {"ant": "mae", "bee": "mse"},
}


@pytest.mark.parametrize("form", LOSSES)
def test_the_compiled_losses_are_those_of_the_outputs_in_their_order(form):
    model = two_outputs(LOSSES[form])
    outputs = model(tf.ones((3, 2)))
    labels = [tf.zeros((3, 1))] * 2
    losses = keras_private.list_output_losses(model, labels, outputs)
    assert [one.output for one in losses] == [0, 1]
    second = "mse" if form == "one" else "mae"
    assert [one.loss.name for one in losses] == ["mse", second]
    assert [one.tracker.name for one in losses] == ["bee_loss", "ant_loss"]
    total = sum(float(one.loss(labels[0], outputs[one.output])) for one in losses)
    whole = float(model.compute_loss(None, labels, outputs))
    message = "Keras keeps its losses otherwise: change `list_output_losses`."
    assert whole == pytest.approx(total), message


def test_a_single_compiled_loss_has_no_tracker_and_no_weight():
    model = compiled()
    outputs = model(tf.ones((3, 2)))
    [one] = keras_private.list_output_losses(model, [tf.zeros((3, 1))], outputs)
    assert (one.output, one.weight, one.tracker) == (0, None, None)


def test_keras_still_weighs_batches_equally_in_the_logs_of_several_outputs():
    """Once it does not, its own trackers would do: `evaluate_compiled_loss`."""
    model = two_outputs("mse")
    x = tf.ones((3, 2)) * tf.constant([[1.0], [2.0], [3.0]])
    data = tf.data.Dataset.from_tensor_slices((x, (tf.zeros(3), tf.zeros(3)))).batch(2)
    logs = model.evaluate(data, verbose=0, return_dict=True)
    assert logs["bee_loss"] + logs["ant_loss"] != pytest.approx(logs["loss"])


def test_wrapped_layers_are_asked_and_leave_no_trace():
    layer, heard = keras.layers.Dense(2), []
    layer.build((None, 3))
    x = tf.ones((1, 3))
    with (
        keras_private.wrap_layers([layer], lambda call, x: call(x) + 1),
        keras_private.hook_layers([layer], lambda *call: heard.append(call)),
    ):
        wrapped = layer(x)
    assert "call" not in vars(layer)
    np.testing.assert_allclose(wrapped, layer(x) + 1)
    np.testing.assert_array_equal(heard[0][1], wrapped)


def test_a_mask_and_logits_are_attached_where_they_are_read():
    tensor = tf.zeros((1, 2))
    keras_private.set_mask_and_logits(tensor, "mask", "logits")
    assert keras_private.get_mask(tensor) == "mask"
    assert keras_private.get_logits(tensor) == "logits"
    loss = keras.losses.BinaryCrossentropy()(tf.ones((1, 1)), with_logits(3.0))
    message = "Keras reads logits elsewhere: change `set_mask_and_logits`."
    assert float(loss) == pytest.approx(np.log1p(np.exp(-3.0)), rel=1e-5), message


def with_logits(value):
    tensor = tf.zeros((1, 1))
    keras_private.set_mask_and_logits(tensor, None, tf.fill((1, 1), value))
    return tensor


def test_the_learning_rate_is_scaled_for_some_variables_alone():
    slow, fast = [keras.Variable([1.0]) for _ in range(2)]
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.build([slow, fast])
    with keras_private.scale_learning_rate(optimizer, [slow], 0.5):
        optimizer.apply([tf.ones(1), tf.ones(1)], [slow, fast])
    message = "Keras' optimizers work otherwise: change `scale_learning_rate`."
    assert float(slow[0]) == pytest.approx(1 - 0.5 * 0.15), message
    assert float(fast[0]) == pytest.approx(1 - 0.15), message
    assert "_backend_update_step" not in vars(optimizer)


def test_the_metric_that_tracks_the_loss_is_named_loss():
    """The Distiller leaves Keras' own out by this name, and puts its own first."""
    names = [metric.name for metric in compiled(metrics=["mae"]).metrics]
    assert names[0] == "loss", "Keras lists its loss otherwise: `Distiller.metrics`."
    assert names.count("loss") == 1


def test_the_evaluation_of_fit_is_distinguished_from_a_users_own():
    seen = []

    class Spy(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            bound = inspect.signature(keras.Model.evaluate).bind(self, *args, **kwargs)
            seen.append(keras_private.is_validation_of_fit(bound.arguments))
            return super().evaluate(*args, **kwargs)

    model = Spy([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = np.ones((2, 2)), np.ones((2, 1))
    model.fit(*data, validation_data=data, verbose=0)
    model.evaluate(*data, verbose=0)
    assert seen == [True, False], "Keras marks it otherwise: `is_validation_of_fit`."


def test_fit_still_builds_by_the_method_that_is_replaced():
    built = []

    class Spy(keras_private.FitsOnWorkers):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            built.append(iterator is not None)
            super()._maybe_symbolic_build(iterator, data_batch)

    model = Spy()
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    assert True in built, "Keras builds otherwise: `FitsOnWorkers` has no effect."
    assert model._distribute_strategy is None


def test_an_uneven_first_batch_still_stops_keras_alone():
    """When this fails, https://github.com/keras-team/keras/issues/20585 is mended."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = compiled()
    data = np.ones((3, 2), "float32"), np.ones((3, 1), "float32")
    with pytest.raises((ValueError, TypeError, tf.errors.OpError)):
        model.fit(*data, batch_size=3, verbose=0)


def test_arguments_of_keras_callbacks_are_known_through_a_subclass():
    class Mine(keras.callbacks.EarlyStopping):
        def __init__(self, mine):
            super().__init__()
            self.mine = mine

    names = keras_private.get_keras_arguments(Mine(1))
    assert {"monitor", "patience", "baseline"} <= names, "See `get_keras_arguments`."
    assert "mine" not in names


def test_a_serialised_dtype_policy_is_recognised():
    config = keras.saving.serialize_keras_object(keras.DTypePolicy("mixed_float16"))
    name = keras_private.get_dtype_policy_name(config)
    assert name == "mixed_float16", "Change `get_dtype_policy_name`."
    assert keras_private.get_dtype_policy_name({"class_name": "Dense"}) is None
    assert keras_private.get_dtype_policy_name("float32") is None


def test_the_keys_that_name_layers_of_a_graph():
    config = networks.functional().get_config()
    assert {"input_layers", "output_layers"} <= config.keys()
    assert "inbound_nodes" in config["layers"][-1], "Change `GRAPH_CONFIG_KEYS`."


def test_the_keys_that_change_no_output():
    layer = networks.functional().get_config()["layers"][-1]
    assert {"build_config", "name"} <= layer.keys(), "Change `IDLE_CONFIG_KEYS`."
    assert {"name", "trainable"} <= layer["config"].keys()


class Silent(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that does not tell its arguments."""

    def __call__(self, step):
        return 0.25


def test_what_compile_was_given_is_read():
    optimizer = keras.optimizers.SGD(0.5)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer, lambda y_true, y_pred: y_pred)
    message = "Keras keeps it elsewhere: change `get_compiled_optimizer`."
    assert keras_private.get_compiled_optimizer(model) is optimizer, message


def test_an_optimizers_schedule_is_read():
    schedule = Silent()
    optimizer = keras.optimizers.SGD(schedule, momentum=0.5)
    config = keras_private.get_optimizer_config(optimizer)
    assert config["learning_rate"] is schedule
    assert config["momentum"] == 0.5
    assert float(optimizer.learning_rate) == 0.25
    scaled = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
    assert keras_private.get_optimizer_config(scaled)["initial_scale"] == 4.0
    assert float(optimizer.learning_rate) == 0.25


def test_a_schedule_without_a_configuration_still_fails():
    with pytest.raises(NotImplementedError):
        keras.optimizers.SGD(Silent()).get_config()


def test_the_former_file_format_is_recognised(tmp_path):
    seen = []

    class Model(keras.Sequential):
        def get_config(self):
            seen.append(keras_private.is_legacy_file())
            return super().get_config()

    model = Model([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(tmp_path / "new.keras")
    model.save(tmp_path / "old.h5")
    assert seen == [False, True], "Keras says so elsewhere: change `is_legacy_file`."


def test_a_scope_holds_other_values_until_it_is_left():
    variable = keras.Variable(1.0)
    assert not keras_private.in_stateless_scope()
    with keras.StatelessScope(state_mapping=[(variable, keras.ops.ones(()) * 2)]):
        assert float(variable) == 2
        assert keras_private.in_stateless_scope()
        with keras_private.leave_stateless_scope():
            assert float(variable) == 1, "Keras holds its scope in another place."
            assert not keras_private.in_stateless_scope()
        assert float(variable) == 2


@pytest.mark.parametrize("end", ["softmax", "sigmoid", "layer"])
def test_logits_are_kept_and_the_layers_left_as_they_were(end):
    dense = keras.layers.Dense(3, None if end == "layer" else end)
    layers = [dense, keras.layers.Softmax()] if end == "layer" else [dense]
    network = keras.Sequential([keras.Input((4,)), *layers])
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    activation = dense.activation
    with keras_private.keep_logits(layers):
        outputs = network(x)
        assert dense.activation is not activation or end == "layer"
    assert dense.activation is activation
    expected = x @ dense.get_weights()[0]
    found = keras.ops.convert_to_numpy(keras_private.get_logits(outputs))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_optimizer_of_one_backend_is_written_for_all():
    module = "keras.src.backend.torch.optimizers.torch_adam"
    inner = {"module": module, "class_name": "Adam", "config": {"beta_1": 0.5}}
    outer = {"module": "keras.optimizers", "config": {"inner_optimizer": inner}}
    written = keras_private.to_portable_optimizer({**outer, "registered_name": None})
    found = written["config"]["inner_optimizer"]
    assert isinstance(
        keras.saving.deserialize_keras_object(found), keras.optimizers.Adam
    )
    assert found["module"] == "keras.optimizers"
    assert inner["module"] == module
