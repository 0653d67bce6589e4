"""Texts that people have labelled: their labels in the task's words, and splits that share no text."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipeline.artifacts import Document, Gold, Unusable
from pipeline.errors import UserError
from pipeline.params import GoldSource, Task
from pipeline.sampling import rank
from serving.corpus import check, excerpt
from serving.reading import records
from serving.records import Reason
from serving.shapes import NONE, SEPARATOR

LEAKS = {  # what each count means to a reader
    "test_in_train": "of train also stand in test: kept out of train",
    "test_in_validation": "of validation also stand in test: kept out of validation",
    "validation_in_train": "of train also stand in validation: kept out of train",
    "evaluation_in_corpus": "of validation or test also stand in the corpus: never sampled",
    "train_in_corpus": "of train also stand in the corpus: no harm",
    "ids_in_corpus": "have an id that is another text's in the corpus: answers joined by id would mix them up",
}


@dataclass(frozen=True, slots=True)
class Splits:
    """Gold without leaks, and what was taken out: `counts` of duplicates and contradictions, `leaks` between splits."""

    gold: list[Gold]
    counts: dict[str, int]
    leaks: dict[str, int]


def read(
    source: GoldSource, split: str, task: Task, max_chars: int, key: str | None = None
) -> tuple[list[Gold], list[Unusable]]:
    """Read the gold of one split. For labels see `Task.read`.

    `key` is the place in params.yaml that named it, if it is not ingest.gold_SPLIT.

    Raises:
        UserError: a label is none of the task's, all rows have the same one, or no row can be used.
    """
    key = key or f"ingest.gold_{split}"
    rows: dict[str, Gold] = {}
    unusable: list[Unusable] = []
    for record in records(source, key):
        document = check(record, max_chars, made_ids=source.id is None)
        if isinstance(document, Unusable):
            unusable.append(document)
            continue
        label = task.read(record.label)
        if label is None:
            words = [word for name, more in task.labels.items() for word in (name, *more)]
            raise UserError(
                f"{record.source}, row {record.row}: the label {record.label!r} ({key}.{source.label}) is none of "
                f"{', '.join(map(repr, words))}: correct it, or add it to task.labels as another word for a label"
                + (f"; several are written with {SEPARATOR} between, no label as {NONE}" * (task.kind == "multi"))
            )
        if source.id is not None and document.id in rows:
            reason = f"{Reason.ID_USED}: {document.id}"
            unusable.append(Unusable(record.source, record.row, reason, excerpt(document.text)))
            continue
        place = document.id if source.id is not None else f"{record.source}:{record.row}"
        rows[place] = Gold(document.id, document.text, document.text_hash, label, split)
    _tells_something(list(rows.values()), unusable, f"{key}.path: {source.path}")
    return list(rows.values()), unusable


def divide(
    train: list[Gold], validation: list[Gold] | None, test: list[Gold], validation_share: float, seed: int
) -> Splits:
    """Take duplicates, contradictions and leaks out; without `validation`, split it off `train` by the texts' hashes.

    A text in several splits stays in the one that is worth most: test, then validation, then train.

    Raises:
        UserError: a split loses all its texts to another, or an id stands for different texts.
    """
    counts: Counter[str] = Counter(duplicates=0, contradictory=0)
    tests = _distinct(test, counts)
    validations = _distinct(validation or [], counts)
    trains = _distinct(train, counts)
    leaks = {
        "test_in_train": _remove(trains, tests, "train", "test"),
        "test_in_validation": _remove(validations, tests, "validation", "test"),
        "validation_in_train": _remove(trains, validations, "train", "validation"),
    }
    if validation is None:
        ranked = sorted(trains, key=lambda text: rank(text, seed, "validation"))
        for text in ranked[: round(validation_share * len(ranked))]:
            validations[text] = replace(trains.pop(text), split="validation")
    gold = [*trains.values(), *validations.values(), *tests.values()]
    _distinct_ids(gold)
    return Splits(gold, dict(counts), leaks)


class Overlap:
    """Which gold texts the corpus has as well, counted while it passes."""

    def __init__(self, gold: Iterable[Gold]) -> None:
        self.by_text = {row.text_hash: row for row in gold}
        self.texts = {row.id: row.text_hash for row in self.by_text.values()}
        self.seen: set[str] = set()  # gold text hashes
        self.mixed: set[str] = set()  # ids

    def watched(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass the documents on."""
        for document in documents:
            if document.text_hash in self.by_text:
                self.seen.add(document.text_hash)
            if self.texts.get(document.id, document.text_hash) != document.text_hash:
                self.mixed.add(document.id)
            yield document

    def counts(self) -> dict[str, int]:
        """Count distinct gold texts (ids in the case of `ids_in_corpus`)."""
        train = sum(self.by_text[text].split == "train" for text in self.seen)
        evaluation = len(self.seen) - train
        return {"evaluation_in_corpus": evaluation, "train_in_corpus": train, "ids_in_corpus": len(self.mixed)}


def _tells_something(rows: list[Gold], unusable: list[Unusable], name: str) -> None:
    if not rows:
        first = f": the first of {len(unusable)}, row {unusable[0].row}, is: {unusable[0].reason}" if unusable else ""
        raise UserError(f"{name} has no usable row{first}")
    labels = {row.label for row in rows}
    if len(labels) == 1:
        raise UserError(
            f"{name}: all {len(rows)} texts are labelled {labels.pop()!r}: nothing can be learned or measured from one "
            "class; take a random part of the gold, not its first rows"
        )


def _distinct(rows: Iterable[Gold], counts: Counter[str]) -> dict[str, Gold]:
    """Keep the first row of each text, or none where people disagree; by text hash."""
    by_text: defaultdict[str, list[Gold]] = defaultdict(list)
    for row in rows:
        by_text[row.text_hash].append(row)
    kept = {text: same[0] for text, same in by_text.items() if len({row.label for row in same}) == 1}
    counts["contradictory"] += sum(len(same) for text, same in by_text.items() if text not in kept)
    counts["duplicates"] += sum(len(by_text[text]) - 1 for text in kept)
    return kept


def _remove(rows: dict[str, Gold], worthier: dict[str, Gold], name: str, other: str) -> int:
    shared = rows.keys() & worthier.keys()
    if rows and len(shared) == len(rows):
        raise UserError(f"every text of ingest.gold_{name} also stands in ingest.gold_{other}: give different files")
    for text in shared:
        del rows[text]
    return len(shared)


def _distinct_ids(gold: list[Gold]) -> None:
    first: dict[str, Gold] = {}
    for row in gold:
        other = first.setdefault(row.id, row)
        if other is not row:
            raise UserError(
                f"the gold id {row.id!r} stands for two texts ({excerpt(other.text)!r} in {other.split}, "
                f"{excerpt(row.text)!r} in {row.split}): make ids unique over all gold files, or set the `id` of "
                "ingest.gold_train, gold_validation and gold_test to null"
            )
