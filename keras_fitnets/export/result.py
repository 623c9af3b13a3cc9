"""What an export gives back."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that `export_student` wrote, and how it compares with its network.

    Args:
        path: the file, or the directory of a SavedModel.
        format: `"saved_model"`, `"litert"` or `"onnx"`.
        quantize: None, `"float16"`, `"dynamic"` or `"int8"`.
        bytes: its size.
        parameters: those of the network.
        multiplications: those of one sample; None where they cannot be counted.
        largest_difference: between an output of the file and of the network, divided by
            the largest output of the network.
        agreement: the share of equal choices.
        accuracy: the file's; None without labels.

    Example:

    >>> Exported("a.tflite", "litert", None, 1000, 200, 200, 1e-7, 1.0, None).bytes
    1000
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
