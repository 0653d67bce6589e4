"""onnxruntime: the portable default. Padded batches, one after the other, on a GPU where onnxruntime has one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from serving.batching import pad
from serving.runtimes import CACHED_TOKENS, Floats, Ids

if TYPE_CHECKING:
    from serving.schemas import Manifest

_MANY_TOKENS = 2**16  # a GPU is busy with any size that users set
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxRuntime:
    """A session, and memory of its device for what goes in and comes out."""

    def __init__(self, graph: Path, pad_id: int, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # doubles the rate on a busy machine
        self._pad_id = pad_id
        wanted = providers(graph, onnxruntime.get_available_providers())
        self._session = onnxruntime.InferenceSession(graph, options, providers=wanted)
        # a library built for CUDA falls back where there is no GPU
        self.device = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        self.calls = 1
        self.batch_tokens = CACHED_TOKENS if self.device == "cpu" else _MANY_TOKENS
        self._inputs = {node.name for node in self._session.get_inputs()}

    def logits(self, batches: Iterable[Ids]) -> Iterator[Floats]:
        """Logits (texts, classes) of each batch."""
        for batch in batches:
            input_ids, mask = pad(batch, self._pad_id)
            feed = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
            binding = self._session.io_binding()
            for name in self._inputs:
                there = onnxruntime.OrtValue.ortvalue_from_numpy(feed[name], self.device, 0)
                binding.bind_ortvalue_input(name, there)
            binding.bind_output("logits", self.device)
            self._session.run_with_iobinding(binding)
            (logits,) = binding.copy_outputs_to_cpu()
            yield logits


def providers(graph: Path, available: list[str]) -> list[Any]:
    """What onnxruntime is asked to run on, best first, given what it was built with.

    int8 stays on the processor: its operators have no kernels for GPUs, and every product would be copied back. TF32 is
    off, for fp32 is what other precisions are measured against.
    """
    gpu = _CUDA in available and graph.stem != "int8"
    return [(_CUDA, {"use_tf32": "0"}), _CPU] if gpu else [_CPU]


def load(graph: Path, manifest: Manifest, threads: int | None) -> OnnxRuntime:
    """See `serving.runtimes.load`."""
    return OnnxRuntime(graph, manifest.pad_id, threads)
