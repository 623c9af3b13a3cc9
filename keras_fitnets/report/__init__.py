"""Networks and exported files side by side: how large, how fast, how good."""

from keras_fitnets.report.comparing import compare
from keras_fitnets.report.counting import multiplications
from keras_fitnets.report.table import Report

__all__ = ["Report", "compare", "multiplications"]
