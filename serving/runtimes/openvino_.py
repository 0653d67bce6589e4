"""OpenVINO, int8: the scales of activations are fixed at export, so a text gets the same result in any company."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import openvino

from serving.batching import pad
from serving.runtimes import Floats, Ids
from serving.schemas import Manifest


class OpenVino:
    """A compiled model on the processor."""

    def __init__(self, graph: Path, pad_id: int, threads: int | None) -> None:
        settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}  # all threads on one batch
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._pad_id = pad_id
        self._request = _core().compile_model(graph, "CPU", settings).create_infer_request()

    def logits(self, batches: Iterable[Ids]) -> Iterator[Floats]:
        """Logits (texts, classes) of each batch."""
        for batch in batches:
            input_ids, mask = pad(batch, self._pad_id)
            result: Floats = self._request.infer({"input_ids": input_ids, "attention_mask": mask})[0]
            yield result.copy()  # the next batch is written into the same memory


@cache
def _core() -> openvino.Core:
    """One for the whole process, never given up.

    With its plugin for processors a signal stack comes and goes. Of two that go in the order in which they came, the
    second puts back the first one's, which is unmapped by then: the next Ctrl-C or SIGTERM would end in SIGSEGV.
    """
    return openvino.Core()


def load(graph: Path, manifest: Manifest, threads: int | None) -> OpenVino:
    """See `serving.runtimes.load`."""
    return OpenVino(graph, manifest.pad_id, threads)
