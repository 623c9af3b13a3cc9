"""Write the student to a file that runs where it is needed, and check that file.

A converter can change a network without an error: a layer exported in training mode, a
range of activations badly chosen. So no file is kept that was not run. Data flow
through four steps:

1. `export_model` builds the network that is exported: preprocessing, student and last
   activation, all in float32.
2. `converters` write it as SavedModel, LiteRT or ONNX, quantised if wanted.
3. `exporter` loads the file in its own runtime (`runtimes.load_runner`), compares its
   outputs with the network's, and moves it to its path only if they agree.
4. `result` has what `export_student` returns, which is a path as well.
"""

from keras_fitnets.export.exporter import export_student
from keras_fitnets.export.result import Exported

__all__ = ["Exported", "export_student"]
