"""OpenVINO on the processor: each core computes a batch of its own, so that no core waits for another.

In int8 the scales of activations are fixed at export, so a text gets the same result in any company. fp32 is the graph
that onnxruntime reads, too.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from queue import SimpleQueue

import openvino

from serving.batching import pad
from serving.errors import UserError
from serving.runtimes import CACHED_TOKENS, Floats, Ids
from serving.schemas import Manifest

# OpenVINO prepares itself anew for each shape, so widths are multiples of these: the first costs 1.1 % more tokens
# of IMDb and gains 4 % in a small encoder; the second costs 5 %, for a service, which would see many more shapes.
_STEP, _WIDE_STEP = 8, 32


class OpenVino:
    """A compiled model, one stream of batches for each thread. No width is rounded beyond `max_tokens`."""

    batch_tokens = CACHED_TOKENS

    def __init__(
        self, graph: Path, pad_id: int, max_tokens: int, threads: int | None, *, few_shapes: bool = False
    ) -> None:
        settings: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": "f32",  # what is not int8; bf16 is no faster without AMX, and less exact
            "ENABLE_CPU_PINNING": False,  # two workers would take the same cores
        }
        if threads:
            settings |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
        else:
            settings |= {"PERFORMANCE_HINT": "THROUGHPUT"}
        try:
            model = _core().compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"OpenVINO can't read {graph} ({reason}): take openvino out of export.runtimes") from error
        streams = int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._pad_id, self._max_tokens = pad_id, max_tokens
        self._step = _WIDE_STEP if few_shapes else _STEP
        self.calls = streams + 1 if few_shapes else 1  # one waits while others compute
        self._idle = SimpleQueue[list[openvino.InferRequest]]()  # a list for each call
        for _ in range(self.calls):
            self._idle.put([model.create_infer_request() for _ in range(1 if few_shapes else streams + 1)])

    def logits(self, batches: Iterable[Ids]) -> Iterator[Floats]:
        """Logits (texts, classes) of each batch. As many further batches as there are streams may be taken before."""
        ours = self._idle.get()
        try:
            yield from self._computed(batches, list(ours))
        finally:
            self._idle.put(ours)

    def _computed(self, batches: Iterable[Ids], idle: list[openvino.InferRequest]) -> Iterator[Floats]:
        started = deque[openvino.InferRequest]()
        try:
            for batch in batches:
                input_ids, mask = pad(batch, self._pad_id, self._step, self._max_tokens)
                started.append(idle.pop())
                started[-1].start_async({"input_ids": input_ids, "attention_mask": mask})
                if not idle:
                    idle.append(started.popleft())
                    yield _result(idle[-1])
            while started:
                yield _result(started.popleft())
        finally:
            for request in started:  # nobody reads on
                request.wait()


def _result(request: openvino.InferRequest) -> Floats:
    request.wait()
    logits: Floats = request.get_output_tensor(0).data.copy()  # the next batch is written into the same memory
    return logits


@cache
def _core() -> openvino.Core:
    """One for the whole process, never given up.

    With its plugin for processors a signal stack comes and goes. Of two that go in the order in which they came, the
    second puts back the first one's, which is unmapped by then: the next Ctrl-C or SIGTERM would end in SIGSEGV.
    """
    return openvino.Core()


def load(graph: Path, manifest: Manifest, threads: int | None, few_shapes: bool) -> OpenVino:
    """See `serving.runtimes.load`."""
    return OpenVino(graph, manifest.pad_id, manifest.max_tokens, threads, few_shapes=few_shapes)
