"""The student alone, as a file that ships."""

from keras_fitnets.export.exporter import export_student
from keras_fitnets.export.result import Exported

__all__ = ["Exported", "export_student"]
