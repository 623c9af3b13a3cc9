"""What `export_student` returns."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that `export_student` wrote, and how it compares with its network.

    It stands for the path of the file (`os.PathLike`): `open`, `pathlib.Path` and
    `keras_fitnets.report.compare` take it.

    Args:
        path: the file, or the directory of a SavedModel.
        format: `"saved_model"`, `"litert"` or `"onnx"`.
        quantize: None, `"float16"`, `"dynamic"` or `"int8"`.
        bytes: the size of the file, or of all files in the directory.
        parameters: the number of the network's parameters.
        multiplications: the multiplications of a forward pass of one sample; None where
            they cannot be counted.
        largest_difference: between an output of the file and of the network, divided by
            the network's largest output.
        agreement: the share of samples for which both predict the same; None for
            several outputs.
        accuracy: that of the file, between 0 and 1; None without labels.

    Example:

    >>> exported = Exported(
    ...     "a.tflite", "litert", None, 1000, 200, 200, 1e-7, 1.0, None
    ... )
    >>> exported.bytes
    1000
    >>> import pathlib
    >>> pathlib.Path(exported).suffix
    '.tflite'
    """

    path: str
    format: str
    quantize: str | None
    bytes: int
    parameters: int
    multiplications: int | None
    largest_difference: float
    agreement: float | None
    accuracy: float | None

    def __fspath__(self) -> str:
        return self.path
