"""The student alone, as a file that ships."""

from keras_fitnets.export.exporting import export_student
from keras_fitnets.runtimes import Exported

__all__ = ["Exported", "export_student"]
