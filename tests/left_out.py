"""Tests that are not for every backend, by a part of their names, with the reason.

Most of them are for TensorFlow alone; `make test-jax` and `make test-torch` leave them
out.
"""

_TEXT = "text, and tables of words, are tensors of TensorFlow alone"
_TRACE = "counts how often Python runs a network, which a compiled step does once"
_EXPORT = "reports and exported files are made on TensorFlow; others are refused"
_KERAS = "the message is Keras' own, which differs by the backend"

ON_EVERY_OTHER = {
    "test_tensorboard_knows": (
        "KerasTuner tells TensorBoard of them on TensorFlow alone"
    ),
    "test_integer_inputs.py::test_reports_and_exports": _EXPORT,
    "test_saving.py::test_a_distiller_exports_its_student": _EXPORT,
    "test_state_outside_weights.py": _TEXT,
    "test_validate_data.py::test_labels_are_not_looked_at_in_stage_hint": _TEXT,
    "[tensorflow_checkpoint]": "a checkpoint of TensorFlow",
    "test_cache.py::test_an_interrupted_writer_goes_on": _TRACE,
    "test_cache.py::test_the_teacher_is_run_once": _TRACE,
    "test_student_monitor.py::test_the_teacher_is_run_once": _TRACE,
    "test_a_derived_dataset_follows_the_epochs_with_the_counter_alone[False]": (
        "to build a model Keras begins one pass more, which a dataset without the "
        "counter counts"
    ),
    "weights of two for a sample, label loss": _KERAS,
    "a dataset from which all is filtered": _KERAS,
    "test_compiled.py::test_a_step_is_static_and_needs_no_host": "a TensorFlow graph",
    "test_compiled.py::test_a_batch_of_unknown_size_is_dynamic": "a TensorFlow graph",
    "test_compiled.py::test_a_step_on_masked_sequences": "a TensorFlow graph",
    "test_feature_extractors.py::test_upto_runs": "traces a network with `tf.function`",
    "test_preprocessors.py::test_a_bypassed_preprocessor": _EXPORT,
    "test_preprocessors.py::test_networks_go_on_without": _EXPORT,
    "searched_without[text]": _TEXT,
    "searched_without[dataset of text]": _TEXT,
    "searched_without[PyDataset of text]": _TEXT,
    "searched_without[ragged text]": _TEXT,
    "test_tuning.py::test_stage_1_and_the_teacher_are_run_once": _TRACE,
    "test_optimizers.py::test_a_copy_has_the_arguments_and_no_state[loss scale]": (
        "elsewhere a scaled loss is applied within a step alone"
    ),
}
# Keras hands a step with `jit_compile=True` to PyTorch's compiler, which does not
# compile ours.
_DYNAMO = "PyTorch's compiler"
ON_TORCH = {
    "test_a_shared_dropout_draws_other_masks": "Keras' dropout has no seed there",
    "test_sparse_inputs_are_taken": "Keras has no sparse inputs there",
    "test_compiled.py": _DYNAMO,
    "test_a_step_on_the_cache_compiles": _DYNAMO,
    "test_the_step_is_exact_however_it_is_run": _DYNAMO,
    "test_assignment_changes_the_next_step[jit_compile]": _DYNAMO,
    "test_float16_student_has_its_loss_scaled[options1": _DYNAMO,
}


ON_TENSORFLOW = {
    "test_what_needs_tensorflow_says_so": "nothing is refused there",
}


def is_left_out(name: str, backend: str) -> bool:
    """Whether a test, by its full name, is left out on a backend of Keras."""
    tables = {
        "tensorflow": [ON_TENSORFLOW],
        "jax": [ON_EVERY_OTHER],
        "torch": [ON_EVERY_OTHER, ON_TORCH],
    }
    return any(part in name for table in tables[backend] for part in table)
