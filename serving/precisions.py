"""The names of precisions and runtimes, and which runtime runs what. Imports nothing."""

from typing import Literal

PrecisionName = Literal["fp32", "int8", "fp16", "bf16"]
RuntimeName = Literal["onnxruntime", "openvino", "torch"]

PRECISIONS: dict[RuntimeName, tuple[PrecisionName, ...]] = {
    "onnxruntime": ("fp32", "int8", "fp16"),
    "openvino": ("int8",),
    "torch": ("bf16",),
}


def runtimes_of(precision: PrecisionName) -> list[RuntimeName]:
    """The runtimes that can run a precision."""
    return [runtime for runtime, precisions in PRECISIONS.items() if precision in precisions]
