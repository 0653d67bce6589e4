"""What differs from prompt to prompt: examples chosen for a text from gold; labels and examples in an own order.

Examples come from the split train of gold alone: validation and test measure the teacher and the encoders.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt

from pipeline import weights
from pipeline.artifacts import GOLD, Gold
from pipeline.errors import UserError
from pipeline.params import Params, Shots
from pipeline.prompts import Template, Variant
from serving import batching
from serving.corpus import text_hash

Row = tuple[str, str, str, str | None]  # purpose, id, text, true label
Floats = npt.NDArray[np.float32]
_WINDOW = 256  # texts that are embedded, and held in memory, at a time
_MAX_TOKENS = 256  # of a text that are embedded
_BATCH_TOKENS = 8192


def variants(rows: Iterable[Row], params: Params) -> Iterator[tuple[Row, Variant | None]]:
    """Each row with what is its own in the prompt; None where all texts share one prompt.

    Of kind multi each row comes once for each label, and its true label is yes or no then.

    Prompts without content, which calibrate, have no neighbours: they get the first examples of gold.

    Raises:
        UserError: gold has too few texts of a label to choose from.
    """
    prompt, template = params.annotate.prompt, Template.of(params.annotate.prompt, params.task)
    if params.requests_per_text > 1:
        yield from _each_label(rows, params, template.variant)
        return
    if prompt.shots is None:
        for row in rows:
            yield row, shuffled(template.variant, row[2]) if prompt.shuffle else None
        return
    shelf = Shelf.of(GOLD, prompt.shots, params.task.names)
    stream = iter(rows)
    while window := list(islice(stream, _WINDOW)):
        chosen = iter(shelf.choose([text for purpose, _, text, _ in window if purpose != "content_free"]))
        for row in window:
            indices = shelf.first() if row[0] == "content_free" else next(chosen)
            examples = tuple((shelf.texts[i], int(shelf.labels[i])) for i in indices)
            variant = replace(template.variant, examples=examples)
            yield row, shuffled(variant, row[2]) if prompt.shuffle else variant


def _each_label(rows: Iterable[Row], params: Params, plain: Variant) -> Iterator[tuple[Row, Variant]]:
    shape, says = params.task.shape, params.task.asked.names

    def truth(set_: str, label: str) -> str:
        return "yes" if label in shape.names(set_) else "no"

    shown = [(example.text, example.label) for example in params.annotate.prompt.examples]
    variants = [
        replace(plain, label=label, examples=tuple((text, says.index(truth(set_, label))) for text, set_ in shown))
        for label in params.task.names
    ]
    for purpose, id_, text, set_ in rows:
        for label, variant in zip(params.task.names, variants, strict=True):
            yield (purpose, id_, text, None if set_ is None else truth(set_, label)), variant


def shuffled(variant: Variant, text: str) -> Variant:
    """Labels and examples in an order that is a function of the text (and of nothing else, so that reruns agree)."""
    random = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()[:16]))
    order = random.permutation(len(variant.order))
    examples = random.permutation(len(variant.examples))
    return Variant(tuple(int(i) for i in order), tuple(variant.examples[i] for i in examples))


@dataclass(frozen=True)
class Shelf:
    """Gold texts to choose examples from; each choice is a list of indices, in the order in which they are shown."""

    params: Shots
    texts: Sequence[str]
    labels: npt.NDArray[np.int64]  # (texts,)
    hashes: npt.NDArray[np.str_]  # (texts,), equal for texts that differ in white space only
    names: Sequence[str]

    @classmethod
    def of(cls, gold: Iterable[Gold], params: Shots, names: Sequence[str]) -> "Shelf":
        """The split train of gold; of equal texts the first."""
        train = list({row.text_hash: row for row in reversed(list(gold)) if row.split == "train"}.values())[::-1]
        labels = np.array([names.index(row.label) for row in train], dtype=np.int64)
        shelf = cls(params, [row.text for row in train], labels, np.array([row.text_hash for row in train]), names)
        shelf.first()
        return shelf

    def first(self) -> list[int]:
        """The first of each label, in turns."""
        return self._in_turns([self._of_label(label, "")[: self.params.per_label] for label in range(len(self.names))])

    def choose(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Examples for each text, never the text itself.

        Nearest: labels take turns, the nearest of all stands last, next to the question. Random: any order of labels.
        """
        if self.params.choose == "random":
            yield from (self._random(text) for text in texts)
        elif texts:
            for text, near in zip(texts, self._embedder(texts) @ self._embedded.T, strict=True):
                yield self._nearest(text, near)

    def _nearest(self, text: str, near: Floats) -> list[int]:
        own = text_hash(text)
        best = [self._of_label(label, own) for label in range(len(self.names))]
        # Stable, so that of equally near ones the first of gold wins, wherever it is computed.
        best = [some[np.argsort(-near[some], kind="stable")][: self.params.per_label] for some in best]
        return self._in_turns(sorted(best, key=lambda some: -near[some[0]]))[::-1]

    def _random(self, text: str) -> list[int]:
        own = text_hash(text)
        random = np.random.default_rng([self.params.seed, *hashlib.sha256(text.encode()).digest()[:16]])
        some = [self._of_label(label, own) for label in range(len(self.names))]
        return self._in_turns(
            [random.choice(some[i], self.params.per_label, replace=False) for i in random.permutation(len(some))]
        )

    def _of_label(self, label: int, own: str) -> npt.NDArray[np.int64]:
        """Indices of a label's texts, without the one that has the hash `own`."""
        found = self._by_label[label]
        if own in self._known:
            found = found[self.hashes[found] != own]
        if len(found) < self.params.per_label:
            raise UserError(
                f"annotate.prompt.shots wants {self.params.per_label} examples of each label, but ingest.gold_train "
                f"has only {len(found)} {'other ' if own else ''}texts of '{self.names[label]}' to choose from (its "
                "validation part is never shown): lower per_label, or label more"
            )
        return found

    def _in_turns(self, of_labels: Sequence[npt.NDArray[np.int64]]) -> list[int]:
        return [int(some[rank]) for rank in range(self.params.per_label) for some in of_labels]

    @cached_property
    def _by_label(self) -> list[npt.NDArray[np.int64]]:
        return [np.flatnonzero(self.labels == label) for label in range(len(self.names))]

    @cached_property
    def _known(self) -> set[str]:
        return set(self.hashes.tolist())

    @cached_property
    def _embedder(self) -> "Embedder":
        return Embedder(self.params.encoder)

    @cached_property
    def _embedded(self) -> Floats:
        """(texts, hidden)."""
        windows = range(0, len(self.texts), _WINDOW)
        return np.concatenate([self._embedder(self.texts[start : start + _WINDOW]) for start in windows])


class Embedder:
    """Unit vectors of texts: the mean of an encoder's last hidden states. Their products are cosines."""

    def __init__(self, encoder: str) -> None:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        directory = weights.encoder_directory(encoder)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(directory)
            model = AutoModel.from_pretrained(directory, dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"annotate.prompt.shots.encoder '{encoder}' can't be loaded: {error}") from error
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Embed texts, of each its first tokens: (texts, hidden)."""
        short = [text[: 16 * _MAX_TOKENS] for text in texts]  # no encoder's token stands for more characters
        ids = self._tokenizer(short, truncation=True, max_length=_MAX_TOKENS).input_ids
        found = np.empty((len(ids), self._model.config.hidden_size), dtype=np.float32)
        for batch in batching.plan([len(tokens) for tokens in ids], _BATCH_TOKENS):
            found[batch] = self._embed([np.array(ids[i]) for i in batch])
        return found

    def _embed(self, rows: list[npt.NDArray[np.int64]]) -> Floats:
        import torch

        ids, mask = (torch.from_numpy(part).to(self._device) for part in batching.pad(rows, 0))
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state  # (texts, tokens, hidden)
            mean = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            vectors: Floats = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return vectors
