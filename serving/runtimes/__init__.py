"""What runs a graph: batches of token ids in, logits out. One file each; the engine knows this Protocol alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import UserError
from serving.precisions import PrecisionName, RuntimeName

if TYPE_CHECKING:
    from serving.schemas import Manifest  # benchmarks/gpu.py runs where there is no pydantic

Floats = NDArray[np.float32]
Ids = Sequence[NDArray[np.int64]]  # token ids of each text of a batch

CACHED_TOKENS = 1536  # of a batch, for a processor's caches: 8,192 took 1.2 to 1.35 times as long


class Runtime(Protocol):
    """A loaded graph."""

    batch_tokens: int  # of a batch, padding included, beyond which it gets no faster
    calls: int  # of `logits` that may be under way at a time, each on a thread of its own

    def logits(self, batches: Iterable[Ids]) -> Iterator[Floats]:
        """Yield logits (texts, classes) of each batch, in order. May take further batches before it yields one."""


def installed(name: RuntimeName) -> bool:
    """Whether the library of a runtime can be imported."""
    return find_spec(name) is not None


def load(
    name: RuntimeName, graph: Path, manifest: Manifest, threads: int | None, *, few_shapes: bool = False
) -> Runtime:
    """Load a graph.

    Args:
        name: of the runtime; its library must be installed.
        graph: the file that `graph` names; others of the same stem stand beside it.
        manifest: the model's, for what a graph does not say of itself.
        threads: of the matrix products on a processor; None takes all physical cores.
        few_shapes: batches are made of whatever comes, by several threads, so round their widths more than is best for
            sorted ones.

    Raises:
        UserError: the library is missing or can't read the graph.
    """
    if not installed(name):
        raise UserError(f"label.runtime '{name}' is not installed: `pip install {name}`, or take another (auto)")
    if name == "torch":
        from serving.runtimes import torch_

        return torch_.load(graph, threads)
    if name == "openvino":
        from serving.runtimes import openvino_

        return openvino_.load(graph, manifest, threads, few_shapes)
    from serving.runtimes import onnxruntime_

    return onnxruntime_.load(graph, manifest, threads)


def graph(precision: PrecisionName, runtime: RuntimeName) -> str:
    """The name of the file that a runtime is given."""
    if runtime == "torch":
        return f"{precision}.safetensors"
    return f"{precision}.xml" if (precision, runtime) == ("int8", "openvino") else f"{precision}.onnx"


def files(directory: Path, precision: PrecisionName, runtime: RuntimeName) -> list[Path]:
    """All files of a graph, by name: weights and config may stand beside it."""
    beside = {".onnx": [".onnx*"], ".xml": [".xml", ".bin"], ".safetensors": [".safetensors", ".json"]}
    patterns = beside[Path(graph(precision, runtime)).suffix]
    return sorted(path for pattern in patterns for path in directory.glob(precision + pattern))
