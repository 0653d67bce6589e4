"""Texts to class probabilities, for the label stage, the batch job and the service alike. Knows no files but a model's.

In fp32 a text has the same probabilities (to 1e-5) whatever it is batched with. In int8 it has not: the scale of the
activations is that of the whole batch, so a text near the boundary may get another label in other company; export
measures how many differ from torch at all. The same texts in one call give the same bytes on the same machine.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serving.batching import pad, plan
from serving.errors import UserError
from serving.models import GOLDEN, TOKENIZER, Package, open_directory
from serving.tokenizing import TextTokenizer

Floats = NDArray[np.float32]
_GOLDEN_TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}  # of probabilities; the reason for the last is above


class Engine:
    """An exported model, ready to classify. One engine is for one thread at a time.

    >>> engine = Engine.open(Path("export"), "int8")
    >>> engine.classify(["a fine film"])  # float32 [1, classes], in the order of engine.labels
    """

    def __init__(self, package: Package, *, threads: int | None = None, max_batch_tokens: int = 8192) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # doubles the rate on a busy machine
        manifest = package.manifest
        self.labels = tuple(manifest.labels)
        self.model_hash = manifest.model_hash
        self.precision = package.precision
        self.tokens = 0  # real tokens that went through the model so far
        self._package, self._max_batch_tokens = package, max_batch_tokens
        self._session = onnxruntime.InferenceSession(package.graph, options, providers=["CPUExecutionProvider"])
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._tokenize = TextTokenizer(package.directory / TOKENIZER, manifest.max_tokens, manifest.truncation)

    @classmethod
    def open(
        cls,
        directory: Path,
        precision: str,
        *,
        threads: int | None = None,
        max_batch_tokens: int = 8192,
        expect_labels: Sequence[str] | None = None,
    ) -> Self:
        """Check and load an exported model.

        Args:
            directory: what the stage export wrote.
            precision: fp32, int8 or fp16.
            threads: of the matrix products; None takes all physical cores.
            max_batch_tokens: bound on a batch, padding included.
            expect_labels: the labels in the caller's order.

        Raises:
            UserError: the directory is no intact model, lacks the precision, or has other labels or another order.
        """
        package = open_directory(directory, precision)
        labels = package.manifest.labels
        if expect_labels is not None and list(expect_labels) != labels:
            raise UserError(
                f"the model in {directory} has the labels {labels}, in this order, but {list(expect_labels)} are "
                "expected: train and export again, or restore task.labels"
            )
        return cls(package, threads=threads, max_batch_tokens=max_batch_tokens)

    def logits(self, texts: Sequence[str], advance: Callable[[int], object] | None = None) -> Floats:
        """Raw scores [n, classes]. `advance` hears of the texts of each batch that is done."""
        scores = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        for rows, part in self._batches(texts):
            scores[rows] = part
            if advance:
                advance(len(rows))
        return scores

    def classify(self, texts: Sequence[str], advance: Callable[[int], object] | None = None) -> Floats:
        """Probabilities [n, classes], calibrated by the model's temperature; each row sums to 1."""
        return softmax(self.logits(texts, advance) / np.float32(self._package.manifest.temperature))

    def prove(self) -> None:
        """Classify the golden texts that travel with the model.

        Raises:
            UserError: this machine's onnxruntime gives other probabilities than the one that exported the model.
        """
        import pyarrow.parquet as pq

        golden = pq.read_table(self._package.directory / GOLDEN).to_pydict()
        difference = np.abs(self.classify(golden["text"]) - np.array(golden[self.precision])).max()
        if not difference <= _GOLDEN_TOLERANCE[self.precision]:
            raise UserError(
                f"the model in {self._package.directory} fails its self-test on this machine: a golden text's "
                f"probability is off by {difference:.3g} in {self.precision}. Use fp32, or another onnxruntime or CPU"
            )

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[NDArray[np.intp], Floats]]:
        ids = self._tokenize(texts)
        for rows in plan([len(row) for row in ids], self._max_batch_tokens):
            input_ids, mask = pad([ids[row] for row in rows], self._package.manifest.pad_id)
            feed = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
            (part,) = self._session.run(None, {name: feed[name] for name in self._inputs})
            self.tokens += int(mask.sum())
            yield rows, part


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities
