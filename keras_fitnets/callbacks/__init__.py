"""Callbacks for a Distiller, to pass to `fit` or `fit_stagewise`.

Each works on the Distiller of `keras_fitnets.distillation` through Keras' callback
hooks. `schedules` sets λ and τ when an epoch begins. `check_numerics` reads after each
batch what the training step has found about NaN and infinity. When an epoch ends,
`student_monitor` adds measures of the student to the logs, and `student_checkpoint`
saves the student without its teacher. Schedules and monitor come before callbacks that
read their logs, because Keras runs callbacks in their order.
"""
