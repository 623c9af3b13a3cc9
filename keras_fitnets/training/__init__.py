"""Training in stages, one after the other, that survives an interruption.

`stagewise` has `fit_stagewise`, which runs a list of `Stage` (module `stage`): for each
it sets up the Distiller of `keras_fitnets.distillation` and calls its `fit`. Before the
first stage, `dry_run` checks all arguments and evaluates one batch as each later stage
would, so that a mistake in the last stage does not show after hours of training. After
each epoch `stage_checkpoint` writes the stage's weights, optimizer, logs and callbacks,
and restores them when the same call is made again. The logs of all stages come back as
a `StagewiseHistory`.
"""
