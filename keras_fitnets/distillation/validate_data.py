"""Checks of the data of `fit` and `evaluate`, before anything is trained.

Two kinds of faults are looked for. Silent ones, which Keras never reports: class
numbers out of range, a label loss that takes logits for probabilities, datasets without
end or without batches. And late ones: Keras looks at validation data only after the
first epoch, at the labels of stage 2 only after stage 1, and at a batch of a dataset
only when its turn comes; `test_keras_alone_reports_validation_data_after_an_epoch` pins
that. What Keras reports at once, as it does for `predict`, is left to it.
"""

from typing import Any

import keras

from keras_fitnets import backend
from keras_fitnets.distillation.cached_dataset import is_dataset
from keras_fitnets.distillation.teacher_outputs import CachedInputs
from keras_fitnets.distillation.teacher_outputs import unwrap_inputs
from keras_fitnets.distillation.validate_labels import check_class_weight
from keras_fitnets.distillation.validate_labels import check_label_arrays
from keras_fitnets.distillation.validate_labels import check_labels
from keras_fitnets.distillation.validate_labels import format_array_shapes
from keras_fitnets.distillation.validate_labels import get_shape
from keras_fitnets.inspection import graph
from keras_fitnets.utils.checks import check_integer
from keras_fitnets.utils.checks import check_whole_numbers
from keras_fitnets.utils.checks import is_text_dtype
from keras_fitnets.utils.keras_private import is_validation_of_fit
from keras_fitnets.utils.lazy import is_ragged
from keras_fitnets.utils.lazy import is_tf_dataset
from keras_fitnets.utils.lazy import tf
from keras_fitnets.utils.tensors import flatten_present


def check_data(
    distiller: Any,
    x: Any = None,
    y: Any = None,
    sample_weight: Any = None,
    validation_data: Any = None,
    class_weight: Any = None,
    training: bool = False,
    **options: Any,
) -> None:
    """Check the data of `fit` or `evaluate`, as far as that costs no batch.

    Of arrays everything is checked, of a `tf.data.Dataset` the specification of its
    elements, of a `keras.utils.PyDataset` the first batch, and nothing of a generator,
    whose batches can be read only once.

    Args:
        distiller: the Distiller, in the stage that is to run.
        training: whether it is for `fit`.
        **options: the other arguments of `fit` or `evaluate`.

    Raises:
        TypeError, ValueError: naming what was passed and what is expected.
    """
    # When `fit` evaluates its validation data, after each epoch, they were checked
    # before.
    if not distiller.compiled or is_validation_of_fit(options):
        return
    _check_counts(options)
    steps = options.get("steps_per_epoch") or options.get("steps")
    words = "`steps_per_epoch` to `fit`, or `steps` to `evaluate`"
    _check_end("`x`", x, steps, words)
    check_source(distiller, "`x`", x, y, sample_weight)
    if training:
        _check_static(distiller, x, options.get("batch_size"))
    if validation_data is not None:
        name, steps = "`validation_data`", options.get("validation_steps")
        _check_end(name, validation_data, steps, "`validation_steps`")
        check_source(distiller, name, *unpack_batch(name, validation_data))
    if class_weight is not None:
        check_class_weight(class_weight, _find_symbolic_network(distiller))


def check_source(
    distiller: Any, name: str, x: Any, y: Any = None, sample_weight: Any = None
) -> None:
    """Check inputs, labels and weights, or the source that yields them in batches.

    Args:
        distiller: the Distiller; in stage "hint" labels are not looked at.
        name: what `x` was passed as, for the messages.

    Raises:
        TypeError, ValueError: naming what was passed and what is expected.
    """
    # What the messages call the three parts of the data.
    arguments = [f"the {part} of {name}" for part in ("inputs", "labels", "weights")]
    if is_dataset(x):
        x, y, sample_weight = unpack_batch(name, _drop_none_specs(x.element_spec))
    elif isinstance(x, keras.utils.PyDataset):
        x, y, sample_weight = unpack_batch(name, x[0])
    elif is_source(x):
        # A generator's batches can be read only once, so none is looked at here.
        return
    else:
        if name == "`x`":
            arguments = ["`x`", "`y`", "`sample_weight`"]
        _check_weights_reach_the_step(arguments[2], y, sample_weight)
    # Cached inputs come with teacher outputs, which must be those of this teacher.
    if isinstance(x, CachedInputs):
        distiller.lookup_teacher_outputs(x)
    x, network = unwrap_inputs(x), _find_symbolic_network(distiller)
    check_inputs(distiller, arguments[0], x)
    check_labels(distiller, y)
    # Keras batches the labels along, whether or not the stage reads them.
    _check_arrays(arguments[1], flatten_present(y))
    if distiller.stage != "hint" and distiller.loss is not None:
        _check_numbers(arguments[1], y)
        # If only a teacher shows its outputs, the student's may have other names.
        if network is distiller.student or (network and not isinstance(y, dict)):
            check_label_arrays(y, distiller.loss, network, arguments[1])
    _check_numbers(arguments[2], sample_weight)
    _check_lengths(dict(zip(arguments, [x, y, sample_weight], strict=True)))


def _check_weights_reach_the_step(argument: str, y: Any, sample_weight: Any) -> None:
    """Raise for weights of arrays without labels, which Keras drops.

    See `keras.utils.pack_x_y_sample_weight`.
    """
    if y is None and sample_weight is not None:
        raise ValueError(
            f"Keras drops {argument} where there are no labels. Pass labels too, of "
            "any values if the stage and `compile` have no loss for them, or a "
            "`tf.data.Dataset` of (x, None, sample_weight)."
        )


def check_inputs(distiller: Any, argument: str, x: Any) -> None:
    """Check that inputs are arrays of the shapes that the networks take."""
    network = _find_symbolic_network(distiller)
    _check_numbers(argument, x, network)
    if network is not None:
        _check_inputs(argument, x, network)
    check_casts(distiller, argument, x)


def check_casts(distiller: Any, argument: str, x: Any) -> None:
    """Raise for inputs that a network would cast to integers, and change."""
    for network in _list_symbolic_networks(distiller):
        expected, given = _match_inputs(graph.get_inputs(network), x)
        for array, one in zip(given, expected, strict=False):
            # Of a dataset there is a specification alone.
            if hasattr(array, "dtype") and hasattr(array, "__array__"):
                owner = f"Network '{network.name}'"
                check_whole_numbers(owner, argument, array, one.dtype)


def guard_casts(distiller: Any, name: str, data: Any) -> Any:
    """Return a dataset that fails at inputs that a network would cast and change.

    Nothing is added unless a network takes integers where the dataset has floats. The
    first batch is looked at here, so that the usual fault shows before training.

    Args:
        distiller: the Distiller.
        name: what `data` was passed as, for the message.
        data: what Keras is going to read. Only a `tf.data.Dataset` is looked at.

    Raises:
        ValueError: for the first batch.
    """
    if not is_tf_dataset(data):
        return data
    spec = data.element_spec
    inputs = unpack_batch(name, spec)[0]
    if not _has_casts(distiller, unwrap_inputs(inputs)):
        return data

    def check(*tensors: Any) -> None:
        x = tf.nest.pack_sequence_as(inputs, tensors, expand_composites=True)
        check_casts(distiller, f"the inputs of {name}", unwrap_inputs(x))

    def check_batch(*batch: Any) -> Any:
        tensors = tf.nest.flatten(batch[0], expand_composites=True)
        with tf.control_dependencies([tf.py_function(check, tensors, [])]):
            batch = tf.nest.map_structure(tf.identity, batch, expand_composites=True)
        return batch if isinstance(spec, tuple) else batch[0]

    options = tf.data.Options()
    # TensorFlow 2.21 may wait for its tuning at the end of a short pass.
    options.autotune.enabled = False
    for batch in data.take(1).with_options(options):
        check(*tf.nest.flatten(unpack_batch(name, batch)[0], expand_composites=True))
    return data.map(check_batch)


def _has_casts(distiller: Any, inputs: Any) -> bool:
    """Whether a network takes integers where a dataset's specification has floats."""
    for network in _list_symbolic_networks(distiller):
        expected, given = _match_inputs(graph.get_inputs(network), inputs)
        for spec, one in zip(given, expected, strict=False):
            takes_integers = keras.backend.is_int_dtype(
                keras.backend.standardize_dtype(one.dtype)
            )
            # The specification of a None has no dtype.
            if takes_integers and getattr(spec, "dtype", tf.bool).is_floating:
                return True
    return False


def unpack_batch(name: str, element: Any) -> tuple[Any, Any, Any]:
    """Return inputs, labels and sample weights of a batch, each None if missing."""
    if isinstance(element, CachedInputs):
        return element, None, None
    if isinstance(element, (tuple, list)) and not 1 <= len(element) <= 3:
        raise ValueError(
            f"An element of {name} must be x, (x, y) or (x, y, sample_weight); "
            f"received {len(element)} parts: {format_array_shapes(element)}. Several "
            "inputs or labels belong in a tuple or dictionary of their own: "
            "((x1, x2), y)."
        )
    return keras.utils.unpack_x_y_sample_weight(element)


def _drop_none_specs(spec: Any) -> Any:
    """Return a dataset's element specification with None for each `NoneTensorSpec`."""
    return keras.tree.map_structure(lambda s: s if hasattr(s, "shape") else None, spec)


def _find_symbolic_network(distiller: Any) -> keras.Model | None:
    """Return the first network that shows its inputs and outputs, if one does.

    Student and teachers take the same inputs and have the same outputs.
    """
    return next(iter(_list_symbolic_networks(distiller)), None)


def _list_symbolic_networks(distiller: Any) -> list[keras.Model]:
    networks = [distiller.student, *distiller.teacher.models]
    return [network for network in networks if graph.is_symbolic(network)]


def is_source(x: Any) -> bool:
    """Whether `x` is an iterator of batches, rather than arrays."""
    is_array = keras.tree.is_nested(x) or hasattr(x, "shape") or isinstance(x, str)
    return not is_array and hasattr(x, "__iter__")


def _check_counts(options: dict[str, Any]) -> None:
    """Check that sizes and numbers of steps are positive integers, or left out."""
    counts = ("batch_size", "steps_per_epoch", "steps", "validation_steps")
    for name in (*counts, "validation_batch_size"):
        if options.get(name) is not None:
            check_integer(name, options[name], advice="Or leave it out.")


def _check_end(name: str, source: Any, steps: int | None, words: str) -> None:
    """Check that a source has batches, and an end unless `steps` are given."""
    if is_dataset(source):
        count = int(source.cardinality())
    elif isinstance(source, keras.utils.PyDataset):
        # Keras' word for a PyDataset without end is None.
        count = source.num_batches
        count = tf.data.INFINITE_CARDINALITY if count is None else count
    else:
        return
    if count == 0:
        raise ValueError(
            f"{name} is an empty {type(source).__name__}: it has 0 batches. Pass one "
            "with at least one; `drop_remainder=True` drops a batch that is not full."
        )
    if count == tf.data.INFINITE_CARDINALITY and not steps:
        raise ValueError(
            f"{name} is a {type(source).__name__} without end, so that no epoch would "
            f"end. Pass {words}, or leave out `.repeat()`."
        )


def _check_static(distiller: Any, x: Any, batch_size: int | None) -> None:
    """Check, on a TPU, that all batches have one size that the replicas can share.

    XLA compiles the step for one shape of a replica's batch, and cannot run it on
    another.
    """
    strategy = backend.get_strategy(distiller)
    if strategy is None or not isinstance(strategy, tf.distribute.TPUStrategy):
        return
    rest, remedy = 0, "Pass a tf.data.Dataset of full batches"
    if is_dataset(x):
        inputs = flatten_present(_drop_none_specs(x.element_spec))
        sizes = {shape[0] for one in inputs if (shape := get_shape(one))}
        remedy = "Use `.batch(size, drop_remainder=True)`"
    elif is_source(x):
        sizes = {None}
    else:
        size = batch_size or 32
        sizes, rest = {size}, len(flatten_present(x)[0]) % size
        remedy = "Pass a `batch_size` that divides the samples"
    count = strategy.num_replicas_in_sync
    if rest or any(size is None or size % count for size in sizes):
        raise ValueError(
            "A TPU compiles a step for one size of batch, and `x` gives batches of "
            f"unknown or uneven size: {sizes}. {remedy}, of a size that is a multiple "
            f"of the {count} replicas."
        )


def _check_arrays(argument: str, values: list[Any]) -> None:
    """Check that each of these is an array, or the specification of one."""
    for value in values:
        if is_ragged(value):
            raise TypeError(
                f"Expected {argument} to be an array; received a ragged tensor. Pad it "
                "to one length with `.to_tensor()`, and let a Masking layer, or "
                "mask_zero=True of an Embedding, leave the padding out."
            )
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise TypeError(
                f"Expected {argument} to be an array, or a structure of arrays; "
                f"received a {type(value).__name__}: {value!r:.80}. Pass "
                "numpy.asarray(...) of it."
            )


def _check_numbers(
    argument: str, arrays: Any, network: keras.Model | None = None
) -> None:
    """Check that everything is an array, of numbers unless the network reads text."""
    inputs = [] if network is None else flatten_present(graph.get_inputs(network))
    reads_text = any(one.dtype == "string" for one in inputs)
    # Labels and weights may be missing; `x` may not, so None is checked as an array.
    present = flatten_present(arrays) or ([arrays] if argument == "`x`" else [])
    _check_arrays(argument, present)
    for array in present:
        dtype = getattr(array.dtype, "name", str(array.dtype))
        if is_text_dtype(array.dtype) and not reads_text:
            raise ValueError(
                f"Expected {argument} to hold numbers; received the dtype {dtype}. "
                "Read files, and number classes, before: for example with "
                "keras.utils.load_img or keras.layers.StringLookup."
            )


def _check_inputs(argument: str, x: Any, network: keras.Model) -> None:
    """Check inputs against a network's, as leniently as Keras itself does."""
    inputs = graph.get_inputs(network)
    expected, given = _match_inputs(inputs, x)
    remedy = "Pass one array for each input."
    if isinstance(x, dict):
        remedy = (
            "Pass a dictionary with these names, or pairs (x, y): of a dataset of "
            'dictionaries `dataset.map(lambda d: (d["image"], d["label"]))` makes them.'
        )
    if len(given) != len(expected):
        raise ValueError(
            f"Network '{network.name}' takes {format_array_shapes(inputs)}; received "
            f"{argument} as {format_array_shapes(x)}. {remedy}"
        )
    for array, one in zip(given, expected, strict=True):
        if keras.tree.is_nested(array) or array is None:
            continue
        # Of a dataset not even the rank of a part may be known.
        shape, wanted = get_shape(array), tuple(one.shape)
        if shape is None or _is_shape_accepted(shape, wanted):
            continue
        remedy = "Resize or reshape them, or build the networks for this shape."
        if graph.has_same_shapes([shape], [wanted[1:]]):
            remedy = "That is one sample without a batch: use `.batch(32)` before."
        raise ValueError(
            f"Network '{network.name}' takes inputs of shape {wanted}; received "
            f"{argument} of shape {shape}. {remedy}"
        )


def _match_inputs(inputs: Any, x: Any) -> tuple[list[Any], list[Any]]:
    """Return a network's inputs and the arrays for them, each in the same order."""
    expected, given = flatten_present(inputs), flatten_present(x)
    # Keras takes a dictionary's values by the names of the inputs, and ignores others.
    if isinstance(x, dict):
        names = list(inputs) if isinstance(inputs, dict) else [i.name for i in expected]
        expected = list(inputs.values()) if isinstance(inputs, dict) else expected
        given = [x[name] for name in names if name in x]
    return expected, given


def _is_shape_accepted(shape: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    """Whether a Functional network with the input shape `wanted` takes `shape`."""
    given, expected = shape[1:], wanted[1:]
    # Keras adds or drops a last dimension of 1 by itself.
    candidates = [given, *([given[:-1]] if given[-1:] in ((1,), (None,)) else [])]
    candidates += [(*given, 1)] if len(shape) > 0 else []
    return len(shape) > 0 and any(
        graph.has_same_shapes([candidate], [expected]) for candidate in candidates
    )


def _check_lengths(parts: dict[str, Any]) -> None:
    """Check that there are samples, and as many of each array."""
    counts: dict[str, set[Any]] = {}
    for argument, arrays in parts.items():
        for array in flatten_present(arrays):
            shape = get_shape(array)
            # The size of a dataset's batches may be unknown, and so be anything.
            if shape is not None and None not in shape[:1]:
                counts.setdefault(argument, set()).add(shape[0] if shape else "no")
    if any(0 in count for count in counts.values()):
        raise ValueError(
            f"There are no samples: {_format_counts(counts)}. Pass at least one sample."
        )
    if len(set().union(*counts.values())) > 1:
        raise ValueError(
            f"The numbers of samples differ: {_format_counts(counts)}. Pass for each "
            "sample its label, and its weight where there are weights."
        )


def _format_counts(counts: dict[str, set[Any]]) -> str:
    """Return the numbers of samples as text, such as "`x` 8, `y` 5"."""
    return ", ".join(
        f"{argument} {' and '.join(map(str, sorted(count, key=str)))}"
        for argument, count in counts.items()
    )
