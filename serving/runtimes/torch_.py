"""torch, in bf16 on a GPU: packed texts, and one batch ahead. On a processor it computes the same in fp32, slowly."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serving.errors import UserError
from serving.runtimes import Floats, Ids
from serving.runtimes.packed import Batch, Config, Encoder, counts_padding, first_position

_OLDEST = (8, 0)  # FlashAttention and bf16 begin with Ampere


class TorchRuntime:
    """An encoder and the memory through which batches come and go.

    While the device works on a batch the next one is packed, copied and launched. Nothing waits for the device but the
    reading of logits that were launched a batch ago.
    """

    def __init__(self, encoder: Encoder, config: Config, device: torch.device) -> None:
        self._encoder = encoder
        self.calls = 1
        self.batch_tokens = 2**16  # a GPU is busy with any size that users set
        self._first = first_position(config)
        self._pad_id: int | None = config["pad_token_id"] if counts_padding(config) else None
        self._slots = [_Slot(device), _Slot(device)]

    def logits(self, batches: Iterable[Ids]) -> Iterator[Floats]:
        """Logits (texts, classes) of each batch. A further batch is taken before one is yielded."""
        launched: _Slot | None = None
        for i, texts in enumerate(batches):
            slot = self._slots[i % 2]
            with torch.inference_mode():
                slot.launch(self._encoder, *pack(texts, self._first, self._pad_id))
            if launched:
                yield launched.result()
            launched = slot
        if launched:
            yield launched.result()


class _Slot:
    """Pinned host memory for one batch in flight: copies from and to it don't hold up the host."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pinned = device, device.type == "cuda"
        self._sent = self._memory(0, torch.int32)
        self._received = self._memory(0, torch.float32)
        self._done = torch.cuda.Event() if self._pinned else None  # type: ignore[no-untyped-call]
        self._shape = (0, 0)

    def launch(self, encoder: Encoder, packed: NDArray[np.int32], lengths: list[int]) -> None:
        """Send `packed`, as `pack` gives it, compute, and have the logits sent back."""
        self._wait()  # only if the batch before was never read
        if len(packed) > len(self._sent):
            self._sent = self._memory(2 * len(packed), torch.int32)
        sent = self._sent[: len(packed)]
        sent.numpy()[:] = packed
        tokens = sum(lengths)
        there = sent.to(self._device, non_blocking=True)
        ids, positions, bounds = there.split_with_sizes([tokens, tokens, len(lengths) + 1])
        logits = encoder(Batch(ids, positions, bounds, lengths))
        self._shape = (len(lengths), encoder.classes)
        if logits.numel() > len(self._received):
            self._received = self._memory(2 * logits.numel(), torch.float32)
        self._received[: logits.numel()].copy_(logits.flatten(), non_blocking=True)
        if self._done:
            self._done.record()

    def result(self) -> Floats:
        """Logits of what was launched; waits for them."""
        self._wait()
        texts, classes = self._shape
        logits: Floats = self._received[: texts * classes].numpy().reshape(texts, classes).copy()
        return logits

    def _wait(self) -> None:
        if self._done:
            self._done.synchronize()

    def _memory(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, pin_memory=self._pinned)


def pack(texts: Ids, first_position: int, pad_id: int | None) -> tuple[NDArray[np.int32], list[int]]:
    """One row for one copy: token ids [tokens], positions [tokens], bounds [texts + 1]; and the length of each text.

    Args:
        texts: token ids of each.
        first_position: of the first token of a text.
        pad_id: a token that has no position of its own and takes the one before the first; None: there is none such.
    """
    lengths = [len(text) for text in texts]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate(texts)
    counted = np.ones(len(ids), np.int64) if pad_id is None else (ids != pad_id).astype(np.int64)
    before = np.concatenate([[0], np.cumsum(counted)])[bounds[:-1]]  # counted tokens before each text, [texts]
    positions = (np.cumsum(counted) - np.repeat(before, lengths)) * counted + first_position - 1
    return np.concatenate([ids, positions, bounds]).astype(np.int32), lengths


def load(graph: Path, threads: int | None, device: torch.device | None = None) -> TorchRuntime:
    """Load the weights and the config beside them; see `serving.runtimes.load`.

    Args:
        graph: the weights.
        threads: of the matrix products on a processor.
        device: bf16 on CUDA, fp32 on the processor; None: a GPU where there is one.
    """
    from safetensors.torch import load_file

    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _OLDEST:
        name = torch.cuda.get_device_name(device)
        raise UserError(f"bf16 of torch needs a GPU of NVIDIA's Ampere or later, and this is a {name}: label in fp16")
    if device.type == "cpu" and threads:
        torch.set_num_threads(threads)
    config = json.loads(graph.with_suffix(".json").read_text(encoding="utf-8"))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return TorchRuntime(Encoder(config, load_file(graph), device, dtype), config, device)
