"""What there is to review, read from what the stages wrote; every text comes with what was said of it before."""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import reviewing
from pipeline.artifacts import BEST, CORPUS, FINAL, GOLD, LABELLED, PREDICTIONS, REVIEW, SAMPLE, Prediction
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.reviewing import Item
from serving import corpus
from serving.corpus import text_hash
from serving.records import Document
from serving.shapes import Shape

Kind = Literal["errors", "disagreements", "low-confidence", "queue", "gold-sheet"]
KINDS: tuple[str, ...] = get_args(Kind)
QUEUE = REVIEW.path
_QUEUE_COLUMNS = ("id", "text", "label", "confidence", "reason", "suggested")


def collect(kind: Kind, params: Params, count: int, seed: int, sheet: Path, reason: str | None = None) -> list[Item]:
    """Pick at most `count` items in an order that `seed` decides; a sheet keeps its own.

    Raises:
        UserError: what they are read from is missing or unfit, or there is none.
    """
    found = _READERS[kind](params, count, sheet)
    if reason is not None:
        reasons = sorted({item.reason for item in found})
        found = [item for item in found if item.reason == reason]
        if not found:
            raise UserError(f"no item has the reason {reason!r}; there are {', '.join(reasons) or 'none at all'}")
    distinct = list({item.key: item for item in found}.values())
    if not distinct:
        raise UserError(f"there is nothing to review: {_NONE[kind]}")
    return distinct[:count] if kind == "gold-sheet" else reviewing.drawn(distinct, count, seed)


def errors(params: Params) -> list[Item]:
    """Every text of test gold on which the best candidate differs from gold, not only the surest of data/errors.csv.

    Raises:
        UserError: nothing was evaluated yet, or there is no test gold.
    """
    return _contradicted(params, "test", {row.id: row.text for row in GOLD if row.split == "test"}, "error")


def _errors(params: Params, count: int, sheet: Path) -> list[Item]:
    if all(row.split != "test" for row in GOLD):
        raise UserError("errors are only known where there is ingest.gold_test: review --items disagreements instead")
    return errors(params)


def _disagreements(params: Params, count: int, sheet: Path) -> list[Item]:
    """Held-out texts on which the encoder contradicts the LLM that taught it."""
    return _contradicted(params, "held_out", {row.id: row.text for row in SAMPLE}, "disagreement")


def _contradicted(params: Params, name: str, texts: dict[str, str], reason: str) -> list[Item]:
    best, names = BEST.read(), params.task.names
    rows = [row for row in PREDICTIONS if row.candidate == best["candidate"] and row.set == name]
    if any(row.id not in texts or len(row.logits) != len(names) for row in rows):
        raise UserError(f"{PREDICTIONS.path} is of an earlier run than the texts or task.labels: `dvc repro evaluate`")
    found = (_item(row, texts[row.id], params.task.fitted(best), reason) for row in rows)
    return [item for item in found if item.label not in (item.reference, item.suggested)]


def _item(row: Prediction, text: str, shape: Shape, reason: str) -> Item:
    said = shape.decide(shape.probabilities(np.array([row.logits])))
    label, confidence = said.labels[0], float(said.confidence[0])
    teacher, gold = (row.reference, None) if reason == "disagreement" else (None, row.reference)
    return Item(row.id, text, text_hash(text), reason, label, confidence, teacher, gold)


def _low_confidence(params: Params, count: int, sheet: Path) -> list[Item]:
    """The `count` rows of the labelled corpus that the encoder is least sure of."""
    import duckdb

    folder = FINAL if any(FINAL.glob("part-*.parquet")) else LABELLED
    if not any(folder.glob("part-*.parquet")):
        raise UserError(f"{LABELLED} has no part-*.parquet: label the corpus first (`dvc repro label`)")
    query = "select id, label, confidence from read_parquet(?) where source = 'encoder' order by confidence, id limit ?"
    with duckdb.connect() as connection:
        rows = connection.execute(query, [f"{folder}/part-*.parquet", count]).fetchall()
    lowest = {id_: (label, sure) for id_, label, sure in rows}
    texts = {document.id: document for document in _documents(params) if document.id in lowest}
    if len(texts) < len(lowest):
        raise UserError(f"{folder} has ids that the corpus doesn't have: it is of an earlier run (`dvc repro label`)")
    return [Item(i, texts[i].text, texts[i].text_hash, "low_confidence", *of) for i, of in lowest.items()]


def _documents(params: Params) -> Iterator[Document]:
    if params.label.corpus is None:
        return iter(CORPUS)
    read = corpus.read(params.label.corpus, params.ingest.max_chars, "label.corpus")
    return (row for row in read if isinstance(row, Document))


def _queue(params: Params, count: int, sheet: Path) -> list[Item]:
    """What stages have put aside for people."""
    if not QUEUE.is_file():
        raise UserError(f"{QUEUE} does not exist: no stage has put anything aside; there are other --items")
    try:
        rows = pq.read_table(QUEUE, columns=list(_QUEUE_COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{QUEUE} can't be read ({error}): make it again with `dvc repro`") from error
    return [
        Item(r["id"], r["text"], text_hash(r["text"]), r["reason"], r["label"], r["confidence"], r["suggested"])
        for r in rows
    ]


def _gold_sheet(params: Params, count: int, sheet: Path) -> list[Item]:
    """Rows of the sheet that have no label yet."""
    if not sheet.is_file():
        raise UserError(f"{sheet} does not exist: write it with `llambert gold sample N --sheet {sheet}`")
    rows = reviewing.read_rows(sheet, ("id", "text", "label"))
    return [Item(r["id"], r["text"], text_hash(r["text"]), reviewing.GOLD) for r in rows if not r["label"].strip()]


def texts_now(params: Params, ids: Collection[str]) -> dict[str, str]:
    """Hash of the text that each id stands for in the corpus now; ids that it doesn't have are left out.

    Raises:
        UserError: there is no corpus.
    """
    if params.label.corpus is not None:
        return {row.id: row.text_hash for row in _documents(params) if row.id in ids}
    import duckdb

    if not CORPUS.path.is_file():
        raise UserError(f"{CORPUS.path} does not exist: run `dvc repro ingest` first")
    query = "select id, text_hash from read_parquet(?) where id in (select unnest(?))"
    with duckdb.connect() as connection:
        return dict(connection.execute(query, [str(CORPUS.path), list(ids)]).fetchall())


_READERS: dict[str, Callable[[Params, int, Path], Iterable[Item]]] = {
    "errors": _errors,
    "disagreements": _disagreements,
    "low-confidence": _low_confidence,
    "queue": _queue,
    "gold-sheet": _gold_sheet,
}
_NONE = {
    "errors": "the encoder makes no error on test gold",
    "disagreements": "the encoder agrees with the LLM on every held-out text",
    "low-confidence": "no text was labelled by the encoder",
    "queue": f"{QUEUE} is empty",
    "gold-sheet": "every row of the sheet has a label",
}
