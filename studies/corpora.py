"""The data of the studies as one shape: texts to train on, with labels of people and of an LLM, and texts to test on.

The files lie outside the repository, in `--data` (default ../shared/data beside it).
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipeline.errors import UserError

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Text:
    """A text; `gold` and `llm` are labels, or null where nobody gave one; `soft` the LLM's probabilities."""

    id: str
    text: str
    gold: str | None
    llm: str | None
    soft: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Corpus:
    """`train` and `test` share no text; `train` is in an order that hashes decide, so a beginning of it is a sample."""

    labels: list[str]
    train: list[Text]
    test: list[Text]
    more_gold: list[Text]  # other texts, which people alone labelled (UMLS)


def load(name: str, data: Path) -> Corpus:
    """One of imdb, umls, ag_news, banking77.

    Raises:
        UserError: its files are not there.
    """
    return _LOADERS[name](data)


def labels_of(path: Path, texts: list[Text]) -> list[Text]:
    """Texts with the labels of a CSV (`id,label`): what an LLM said of reviews that have no recorded answers.

    Raises:
        UserError: the file is not there.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a CSV with the columns id, label")
    with path.open(newline="") as file:
        said = {row["id"]: row["label"] for row in csv.DictReader(file)}
    return [Text(t.id, t.text, t.gold, said[t.id]) for t in texts if t.id in said]


def unsupervised(data: Path) -> list[Text]:
    """The 50,000 IMDb reviews that nobody labelled."""
    return [Text(row["id"], row["text"], None, None) for row in _rows(data, "imdb/unsup")]


def _imdb(data: Path) -> Corpus:
    names = {0: "negative", 1: "positive", None: None}

    def text(row: dict[str, Any]) -> Text:
        return Text(row["id"], row["text"], names[row["gold"]], names[row["llama2_70b"]])

    return _corpus(["negative", "positive"], _rows(data, "imdb/train"), _rows(data, "imdb/test_dev"), text)


def _umls(data: Path) -> Corpus:
    names = {0: "no", 1: "yes"}
    test = [
        Text(r["id"], r["text"], names[r["label"]], names[r["llama2_70b_1shot"]]) for r in _rows(data, "umls/test_gold")
    ]
    gold = [Text(r["id"], r["text"], names[r["label"]], None) for r in _rows(data, "umls/train_gold")]
    train = [Text(r["id"], r["text"], None, names[r["label"]]) for r in _rows(data, "umls/train_llm")]
    taken = {t.text for t in test}
    gold = _shuffled(t for t in gold if t.text not in taken)
    taken |= {t.text for t in gold}
    return Corpus(["no", "yes"], _shuffled(t for t in train if t.text not in taken), test, gold)


def _topics(name: str) -> Callable[[Path], Corpus]:
    def loader(data: Path) -> Corpus:
        train, test = _rows(data, f"{name}/train"), _rows(data, f"{name}/test")
        labels = sorted({row["label"] for row in train})
        return _corpus(labels, train, test, lambda row: Text(row["id"], row["text"], row["label"], None))

    return loader


def _corpus(
    labels: list[str], train: list[dict[str, Any]], test: list[dict[str, Any]], text: Callable[[dict[str, Any]], Text]
) -> Corpus:
    tests = [text(row) for row in test]
    taken = {t.text for t in tests}
    return Corpus(labels, _shuffled(t for t in map(text, train) if t.text not in taken), _shuffled(tests), [])


def _shuffled(texts: Any) -> list[Text]:  # noqa: ANN401 - an iterable of Text
    """Distinct texts in an order that their hashes decide."""
    distinct = {t.text: t for t in texts}.values()
    return sorted(distinct, key=lambda t: sha256(f"studies/{t.text}".encode()).digest())


def _rows(data: Path, name: str) -> list[dict[str, Any]]:
    path = data / f"{name}.parquet"
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the directory of the data as --data")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


_LOADERS: dict[str, Callable[[Path], Corpus]] = {
    "imdb": _imdb, "umls": _umls, "ag_news": _topics("ag_news"), "banking77": _topics("banking77"),
}  # fmt: skip
