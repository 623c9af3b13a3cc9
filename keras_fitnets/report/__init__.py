"""Networks and exported files side by side: how large, how fast, how good."""

from keras_fitnets.inspection.multiplications import multiplications
from keras_fitnets.report.comparison import compare
from keras_fitnets.report.table import Report

__all__ = ["Report", "compare", "multiplications"]
