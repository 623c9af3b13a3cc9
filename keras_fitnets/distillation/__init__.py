"""One training step of FitNets: from a batch to the student's update.

`Distiller` is the `keras.Model` that users compile and fit. For each batch data flow
through the other modules in this order:

- `hints`, `teacher`, `output_specs`: the arguments, and what the outputs mean;
- `validate_data`, `validate_labels`: errors before the first update;
- `teacher_outputs`: the teacher's logits and hints, computed or from a cache, which
  `cached_dataset` reads and `fingerprint` ties to the teacher that made it;
- `objective`: the student's outputs, and the terms of Eq. 2 and Eq. 3;
- `distiller`: the weighted sum, in which λ enters, the gradients, and the logs;
- `finite_guard`: undoes a step with NaN or infinity.

`evaluation` compares a student with its teacher between the steps. What an empty
replica adds is decided in `keras_fitnets.distribution.replicas`.
"""
