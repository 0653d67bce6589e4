"""What an exported model knows of the texts that it was made for: `drift.json`, against which others are compared.

Every text has a few numbers: how sure the model is, how long it is, how much of it stands in no text of the corpus,
its label, and what it is about. The last are projections of its bag of tokens on directions in which the corpus varies
most, since an exported graph gives no embeddings. A profile keeps how many texts of the corpus fall into each bin.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from serving.engine import Engine
from serving.errors import UserError
from serving.models import DRIFT
from serving.runtimes import Floats, Ids
from serving.schemas import Count, Frozen, Share

BINS = 10
COMPONENTS = 8
_BUCKETS = 1024  # that token ids are hashed to
_DIGITS = 6
SCALARS = ("confidence", "length", "unseen")  # length in characters: tokens are cut at the model's limit
NAMES = (*SCALARS, *(f"content {i + 1}" for i in range(COMPONENTS)))
LABELS = "labels"
Doubles = NDArray[np.float64]
Bins = NDArray[np.int64]


class Scored(Frozen):
    """Texts with known labels: what an estimate of accuracy begins with. No text is in it."""

    reference: Literal["gold", "llm"]
    split: Literal["test", "validation"]
    confidence: list[Share]
    predicted: list[Count]  # index of the label
    actual: list[Count]


class Profile(Frozen):
    """The reference; counts have one entry more than edges."""

    texts: Annotated[int, Field(gt=0)]
    labels: list[str]
    edges: dict[str, list[float]]  # number -> where a bin ends and the next begins
    counts: dict[str, list[Count]]  # number, or `labels` -> texts of the reference in each bin
    means: dict[str, float]
    vocabulary: str  # base64 of a bitmap of token ids that other texts of the corpus have
    unknown: Count | None  # the id of a token that the tokenizer does not know; it is never seen
    projection: str  # base64 of float16 [buckets, components]
    scored: Scored | None

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Whether a token id stands in the corpus."""
        bits = np.unpackbits(np.frombuffer(base64.b64decode(self.vocabulary), np.uint8)).astype(bool)
        return bits

    @cached_property
    def directions(self) -> NDArray[np.float32]:
        """[buckets, components]"""
        flat = np.frombuffer(base64.b64decode(self.projection), np.float16)
        return flat.reshape(_BUCKETS, COMPONENTS).astype(np.float32)

    def binned(self, read: "Reading") -> Bins:
        """The bin of each text for each of `self.counts`, in its order: [texts, measures]."""
        columns = [
            read.labels if name == LABELS else np.searchsorted(self.edges[name], read.values[name], side="right")
            for name in self.counts
        ]
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Reading:
    """The numbers of some texts."""

    values: dict[str, Doubles]  # number -> (texts,)
    labels: NDArray[np.int64]  # index of the label of each


def read(directory: Path) -> Profile | None:
    """The profile of an exported model, whose hash has been checked; None where there is none.

    Raises:
        UserError: it is of another version.
    """
    try:
        return Profile.model_validate_json((directory / DRIFT).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise UserError(f"{directory / DRIFT} can't be read by this version: export the model again") from None


def numbers(
    profile: Profile, texts: Sequence[str], pieces: Ids, owners: NDArray[np.intp], probabilities: Floats
) -> Reading:
    """The numbers of texts that have been classified.

    Args:
        profile: knows the corpus's tokens and directions.
        texts: as they came.
        pieces: token ids of all pieces (see `Engine.pieces`).
        owners: index of the text of each piece.
        probabilities: of each label [texts, labels].
    """
    ids, text = _flat(pieces, owners)
    known = np.minimum(ids, len(profile.seen) - 1)
    strange = ~profile.seen[known] | (ids >= len(profile.seen))
    if profile.unknown is not None:
        strange |= ids == profile.unknown
    total = np.bincount(text, minlength=len(texts))
    content = bags(ids, text, len(texts)) @ profile.directions
    values = {
        "confidence": probabilities.max(axis=1).astype(np.float64),
        "length": np.array([len(t) for t in texts], dtype=np.float64),
        "unseen": np.bincount(text, strange, len(texts)) / np.maximum(total, 1),
    }
    values |= {f"content {i + 1}": content[:, i].astype(np.float64) for i in range(COMPONENTS)}
    return Reading(values, probabilities.argmax(axis=1))


def bags(ids: NDArray[np.int64], owners: NDArray[np.intp], texts: int) -> NDArray[np.float32]:
    """Square roots of the hashed token counts, each row of length 1 (Hellinger): [texts, buckets]."""
    hashed = (ids * 2_654_435_761 % 2**32) >> 22  # Knuth's multiplicative hash, its ten highest bits
    counts = np.bincount(owners * _BUCKETS + hashed, minlength=texts * _BUCKETS).reshape(texts, _BUCKETS)
    roots = np.sqrt(counts, dtype=np.float32)
    result: NDArray[np.float32] = roots / np.maximum(np.sqrt(counts.sum(axis=1, dtype=np.float32)), 1)[:, None]
    return result


def make(engine: Engine, reference: Sequence[str], others: Sequence[str], scored: Scored | None) -> Profile:
    """Describe the corpus that a model is for.

    Args:
        engine: the exported model.
        reference: texts drawn uniformly from the corpus, none of which the model was trained on.
        others: further texts of the corpus; tokens and directions come from them, so that `reference` is to both what
            a new batch is.
        scored: the model's answers to texts with known labels.
    """
    ids, text = _flat(*engine.pieces(others))
    seen = np.zeros(-(-int(ids.max() + 1) // 8) * 8, dtype=bool)
    seen[ids] = True
    profile = Profile(
        texts=len(reference),
        labels=list(engine.labels),
        edges={},
        counts={},
        means={},
        vocabulary=base64.b64encode(np.packbits(seen).tobytes()).decode(),
        unknown=engine.unknown,
        projection=base64.b64encode(_directions(bags(ids, text, len(others))).tobytes()).decode(),
        scored=scored,
    )
    return filled(profile, numbers(profile, reference, *engine.pieces(reference), engine.classify(reference)))


def filled(profile: Profile, found: Reading) -> Profile:
    """The profile with the reference's numbers in it."""
    edges = {name: _edges(found.values[name]) for name in NAMES}
    places = {name: np.searchsorted(edges[name], found.values[name], side="right") for name in NAMES}
    counts = {name: np.bincount(places[name], minlength=len(edges[name]) + 1).tolist() for name in NAMES}
    counts[LABELS] = np.bincount(found.labels, minlength=len(profile.labels)).tolist()
    means = {name: round(float(found.values[name].mean()), _DIGITS) for name in NAMES}
    return profile.model_copy(update={"texts": len(found.labels), "edges": edges, "counts": counts, "means": means})


def _flat(pieces: Ids, owners: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """All token ids in a row, and the index of the text of each."""
    return np.concatenate(pieces), np.repeat(owners, [len(piece) for piece in pieces])


def _edges(values: Doubles) -> list[float]:
    """Inner deciles; a value that many texts share makes fewer bins."""
    deciles = np.quantile(values, np.arange(1, BINS) / BINS, method="higher")
    edges = np.unique(np.round(deciles, _DIGITS))
    return [float(edge) for edge in edges if (values >= edge).any() and (values < edge).any()]


def _directions(bags_: NDArray[np.float32]) -> NDArray[np.float16]:
    """The principal axes of the bags [texts, buckets]: [buckets, components]."""
    centred = bags_ - bags_.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    top: NDArray[np.float64] = axes[:, ::-1][:, :COMPONENTS]
    signs = np.sign(top[np.abs(top).argmax(axis=0), np.arange(COMPONENTS)])  # of an axis either would do
    axes16: NDArray[np.float16] = (top * signs).astype(np.float16)
    return axes16
