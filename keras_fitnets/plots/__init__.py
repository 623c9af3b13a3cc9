"""Pictures of a training, for the questions that numbers alone answer poorly.

- `stages(history)`: how did both stages go? Losses, metrics, λ and τ by epoch.
- `hint_maps(distiller, x)`: what did the student learn from the hint? The teacher's
  features above the student's prediction of them.
- `curriculum(distiller, x, y, lambdas)`: how strongly do the teacher and the labels
  pull the student, by the teacher's confidence?

`stages` only reads the logs of a training. The other two pass their inputs through
`distillation.evaluation`, which runs teacher and student in inference mode and changes
nothing. All three draw with `utils.figures`, and return a `matplotlib.figure.Figure`.
"""

from keras_fitnets.plots.confidence import curriculum
from keras_fitnets.plots.maps import hint_maps
from keras_fitnets.plots.progress import stages

__all__ = ["curriculum", "hint_maps", "stages"]
