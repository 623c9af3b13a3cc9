"""Compare networks and exported files side by side: size, speed and quality.

Distillation pays off only if the student is small, fast and still good, and the figures
that say so are easily measured wrongly. `compare` measures them in one way for Keras
models and for files in any runtime. Data flow through four steps:

1. `runtimes.load_runner` makes every model a function from arrays to arrays.
2. `comparison` counts parameters and multiplications, and has `runtimes.predictions`
   score the outputs.
3. `timing` measures latency and throughput, the models taking turns.
4. `table` formats the rows as a `Report`; `scatter` draws them.
"""

from keras_fitnets.inspection.multiplications import multiplications
from keras_fitnets.report.comparison import compare
from keras_fitnets.report.table import Report

__all__ = ["Report", "compare", "multiplications"]
