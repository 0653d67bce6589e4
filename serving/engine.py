"""Texts to class probabilities, for the label stage, the batch job and the service alike. Knows no files but a model's.

In fp32 a text has the same probabilities (to 1e-5) whatever it is batched with, and in OpenVINO's int8, too. In
onnxruntime's int8 it has not: the scale of the activations is that of the whole batch, so a text near the boundary may
get another label in other company; export measures how many differ from torch at all. In bf16 on a GPU another size of
batch may mean another kernel, which rounds in another order. The same texts in one call give the same bytes on the same
machine.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving import runtimes, shapes
from serving.batching import plan
from serving.errors import UserError
from serving.models import GOLDEN, TOKENIZER, Package, open_directory
from serving.runtimes import Floats, Ids
from serving.tokenizing import TextTokenizer, mean_of_pieces

log = logging.getLogger("llambert")
_WINDOW = 4096  # texts that are tokenized and sorted together: padding is 1.2 % of IMDb then, 2.9 % with 1,024 texts
_GOLDEN_TOLERANCE = {
    "fp32": 1e-3,
    "fp16": 1e-2,
    "bf16": 3e-2,
    "int8": 5e-2,
}  # of probabilities; the reason for the last is above


class Engine:
    """An exported model, ready to classify. One engine is for one thread at a time (but see `calls`).

    >>> engine = Engine.open(Path("export"), "int8")
    >>> engine.classify(["a fine film"])  # float32 [1, classes], in the order of engine.labels
    """

    def __init__(
        self, package: Package, *, threads: int | None = None, max_batch_tokens: int = 8192, few_shapes: bool = False
    ) -> None:
        manifest = package.manifest
        self.labels = tuple(manifest.labels)
        self.shape = shapes.of(manifest.kind, manifest.labels, manifest.temperature, manifest.thresholds)
        self.model_hash = manifest.model_hash
        self.precision, self.runtime, self.golden = package.precision, package.runtime, package.golden
        self.tokens = 0  # real tokens that went through the model so far
        self._package = package
        self._runtime = runtimes.load(package.runtime, package.graph, manifest, threads, few_shapes=few_shapes)
        self._batch_tokens = min(max_batch_tokens, self._runtime.batch_tokens)
        self._tokenize = TextTokenizer(package.directory / TOKENIZER, manifest.max_tokens, manifest.truncation)

    @classmethod
    def open(
        cls,
        directory: Path,
        precision: str,
        *,
        runtime: str = "auto",
        threads: int | None = None,
        max_batch_tokens: int = 8192,
        few_shapes: bool = False,
        expect_labels: Sequence[str] | None = None,
        expect_kind: shapes.Kind | None = None,
    ) -> Self:
        """Check and load an exported model.

        Args:
            directory: what the stage export wrote.
            precision: fp32, int8, fp16 or bf16.
            runtime: onnxruntime, openvino or torch; auto takes the fastest that is installed and proves itself.
            threads: of the matrix products; None takes all physical cores.
            max_batch_tokens: bound on a batch, padding included; smaller ones are made where they are faster.
            few_shapes: for a caller that makes up its own batches, see `scores`.
            expect_labels: the labels in the caller's order.
            expect_kind: the kind of the caller's task.

        Raises:
            UserError: the directory is no intact model, lacks the precision, or has other labels or another order.
        """
        packages = open_directory(directory, precision)
        labels = packages[0].manifest.labels
        if expect_labels is not None and list(expect_labels) != labels:
            raise UserError(
                f"the model in {directory} has the labels {labels}, in this order, but {list(expect_labels)} are "
                "expected: train and export again, or restore task.labels"
            )
        kind = packages[0].manifest.kind
        if expect_kind is not None and expect_kind != kind:
            raise UserError(
                f"the model in {directory} is of task.kind {kind}, but {expect_kind} is expected: train and export "
                "again, or restore task.kind"
            )
        load = partial(cls, threads=threads, max_batch_tokens=max_batch_tokens, few_shapes=few_shapes)
        return _fastest(_choice(packages, runtime), load)

    def logits(self, texts: Sequence[str], advance: Callable[[int], object] | None = None) -> Floats:
        """Raw scores [n, classes]. `advance` hears of the texts of each batch that is done."""
        scores = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        pieces = np.zeros((len(texts), 1), dtype=np.float32)
        launched: deque[_Batch] = deque()
        for part in self._runtime.logits(self._batches(texts, launched)):
            batch = launched.popleft()
            np.add.at(scores, batch.owners, part)
            np.add.at(pieces, batch.owners, 1)
            self.tokens += batch.tokens
            if advance:
                advance(batch.begun)
        scores /= pieces
        return scores

    def classify(self, texts: Sequence[str], advance: Callable[[int], object] | None = None) -> Floats:
        """Probabilities [n, classes], calibrated by the model's temperature; each row sums to 1, unless labels are
        independent of each other (see `serving.shapes`)."""
        return self.shape.probabilities(self.logits(texts, advance))

    def pieces(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.intp]]:
        """Token ids of all pieces of texts, and the index of the text of each. Any thread may call this."""
        return self._tokenize.pieces(texts)

    @property
    def calls(self) -> int:
        """How many calls of `scores` may be under way at a time, each on a thread of its own."""
        return self._runtime.calls

    def scores(self, batches: Iterable[Ids]) -> Iterator[Floats]:
        """Raw scores [pieces, classes] of each batch of pieces, for a caller that makes up its own batches.

        Batches are asked for as they are needed, some of them before the scores of the first are yielded.
        """
        return self._runtime.logits(batches)

    def probabilities(self, scores: Floats, owners: NDArray[np.intp], texts: int) -> Floats:
        """What `classify` gives for texts whose `pieces` have these scores [pieces, classes]."""
        return self.shape.probabilities(mean_of_pieces(scores, owners, texts))

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens that go through the model for each text, special ones included."""
        pieces, owners = self._tokenize.pieces(texts)
        tokens = np.bincount(owners, [len(piece) for piece in pieces], len(texts))
        return [int(count) for count in tokens]

    @property
    def unknown(self) -> int | None:
        """The id of the token for what the tokenizer does not know; None where it knows everything."""
        return self._tokenize.unknown

    def prove(self) -> None:
        """Classify the golden texts that travel with the model.

        Raises:
            UserError: this machine gives other probabilities than the one that exported the model.
        """
        import pyarrow.parquet as pq

        golden = pq.read_table(self._package.directory / GOLDEN).to_pydict()
        difference = np.abs(self.classify(golden["text"]) - np.array(golden[self.golden])).max()
        if not difference <= _GOLDEN_TOLERANCE[self.precision]:
            raise UserError(
                f"the model in {self._package.directory} fails its self-test on this machine: a golden text's "
                f"probability is off by {difference:.3g} in {self.precision} of {self.runtime}. Use fp32, or another "
                f"{self.runtime} or processor"
            )

    def _batches(self, texts: Sequence[str], launched: deque["_Batch"]) -> Iterator[Ids]:
        """Token ids of each batch; what is known of it beside goes to the end of `launched`."""
        for start, (ids, owners) in zip(range(0, len(texts), _WINDOW), self._tokenized(texts), strict=True):
            first = np.diff(owners, prepend=-1) > 0  # pieces that begin a text
            for rows in plan([len(row) for row in ids], self._batch_tokens):
                batch = [ids[row] for row in rows]
                launched.append(_Batch(start + owners[rows], sum(map(len, batch)), int(first[rows].sum())))
                yield batch

    def _tokenized(self, texts: Sequence[str]) -> Iterator[tuple[Ids, NDArray[np.intp]]]:
        """Pieces of each window and the index of the text of each; the next window is tokenized meanwhile."""
        if len(texts) <= _WINDOW:
            if texts:
                yield self._tokenize.pieces(texts)
            return
        with ThreadPoolExecutor(1, "tokenize") as pool:
            windows = (texts[start : start + _WINDOW] for start in range(0, len(texts), _WINDOW))
            ahead = pool.submit(self._tokenize.pieces, next(windows))
            for window in windows:
                ready, ahead = ahead.result(), pool.submit(self._tokenize.pieces, window)
                yield ready
            yield ahead.result()


class _Batch(NamedTuple):
    """What a runtime need not know of a batch."""

    owners: NDArray[np.intp]  # index of the text of each piece
    tokens: int  # real ones
    begun: int  # texts whose first piece is in it


_E = TypeVar("_E", bound=Engine)


def _fastest(packages: Sequence[Package], load: Callable[[Package], _E]) -> _E:
    """The first that proves itself; the last one without a proof."""
    for package in packages[:-1]:
        try:
            engine = load(package)
            engine.prove()
        except UserError as error:
            log.warning("%s; going on without %s", error, package.runtime)
        else:
            return engine
    return load(packages[-1])


def _choice(packages: Sequence[Package], runtime: str) -> Sequence[Package]:
    """The packages for a runtime; for `auto` all whose runtime is installed."""
    choice = [package for package in packages if runtime in ("auto", package.runtime)]
    if not choice:
        raise UserError(
            f"{packages[0].directory} has no graph of {packages[0].precision} for the runtime '{runtime}' "
            f"(it has {', '.join(package.runtime for package in packages)}): see export.runtimes"
        )
    return [package for package in choice if runtimes.installed(package.runtime)] or choice
