"""The student alone, as a file that ships."""

from keras_fitnets.export.exporter import export_student
from keras_fitnets.runtimes.runner import Exported

__all__ = ["Exported", "export_student"]
