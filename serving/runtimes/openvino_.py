"""OpenVINO, int8: the scales of activations are fixed at export, so a text gets the same result in any company."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import openvino

from serving.batching import pad
from serving.runtimes import Floats, Ids
from serving.schemas import Manifest

_STEP = 32  # OpenVINO prepares itself anew for each shape, which takes as long as the batch: let there be few


class OpenVino:
    """A compiled model on the processor."""

    def __init__(self, graph: Path, pad_id: int, max_tokens: int, threads: int | None) -> None:
        settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}  # all threads on one batch
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._pad_id, self._max_tokens = pad_id, max_tokens
        self._request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def logits(self, batches: Iterable[Ids]) -> Iterator[Floats]:
        """Logits (texts, classes) of each batch."""
        for batch in batches:
            input_ids, mask = pad(batch, self._pad_id, _STEP, self._max_tokens)
            result: Floats = self._request.infer({"input_ids": input_ids, "attention_mask": mask})[0]
            yield result.copy()  # the next batch is written into the same memory


def load(graph: Path, manifest: Manifest, threads: int | None) -> OpenVino:
    """See `serving.runtimes.load`."""
    return OpenVino(graph, manifest.pad_id, manifest.max_tokens, threads)
