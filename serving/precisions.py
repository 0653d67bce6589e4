"""The names of precisions and runtimes, and which runtime runs what. Imports nothing."""

from typing import Literal

PrecisionName = Literal["fp32", "int8", "fp16", "bf16"]
RuntimeName = Literal["onnxruntime", "openvino", "torch"]

# The fastest runtime first (`benchmarks/engine_cpu.py`).
PRECISIONS: dict[RuntimeName, tuple[PrecisionName, ...]] = {
    "torch": ("bf16",),
    "openvino": ("fp32", "int8"),
    "onnxruntime": ("fp32", "int8", "fp16"),
}


def runtimes_of(precision: PrecisionName) -> list[RuntimeName]:
    """The runtimes that can run a precision."""
    return [runtime for runtime, precisions in PRECISIONS.items() if precision in precisions]
