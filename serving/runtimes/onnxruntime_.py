"""onnxruntime: the portable default. Padded batches, one after the other."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from serving.batching import pad
from serving.runtimes import Floats, Ids
from serving.schemas import Manifest


class OnnxRuntime:
    """A session on the processor."""

    def __init__(self, graph: Path, pad_id: int, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # doubles the rate on a busy machine
        self._pad_id = pad_id
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._inputs = {node.name for node in self._session.get_inputs()}

    def logits(self, batches: Iterable[Ids]) -> Iterator[Floats]:
        """Logits (texts, classes) of each batch."""
        for batch in batches:
            input_ids, mask = pad(batch, self._pad_id)
            feed = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
            (logits,) = self._session.run(None, {name: feed[name] for name in self._inputs})
            yield logits


def load(graph: Path, manifest: Manifest, threads: int | None) -> OnnxRuntime:
    """See `serving.runtimes.load`."""
    return OnnxRuntime(graph, manifest.pad_id, threads)
