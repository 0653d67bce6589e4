"""What people say of texts: items to look at, their answers, and what follows from several people's answers.

Knows no page and no store. `read_reviewed` is what stages read: the file that `llambert review apply` writes.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any

from pipeline import scoring
from pipeline.errors import UserError
from serving.shapes import Shape

UNCLEAR = "unclear"  # the class of people's own: mixed, neither, or not to be told
GOLD, IMPORTED = "gold", "imported"  # reasons of items of which nothing else is known
COLUMNS = ("id", "label", "note", "time")  # of data/reviewed.csv
PICKED_WITH_ONE_KEY = 9  # with more labels than this the page has a filter to type into


@dataclass(frozen=True, slots=True)
class Item:
    """A text to look at; whatever a model or person said of it before may be null."""

    id: str
    text: str
    text_hash: str
    reason: str  # error, disagreement, low_confidence, deferred, likely_wrong, gold, imported
    label: str | None = None  # the model's
    confidence: float | None = None  # of that label
    suggested: str | None = None  # what somebody else would say: the LLM, or who put the text into the queue
    reference: str | None = None  # gold

    @property
    def key(self) -> str:
        """16 hex digits that id and text decide: an answer belongs to both."""
        return blake2b(f"{self.id}\0{self.text_hash}".encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said of an item at last."""

    item: str  # its key
    reviewer: str
    label: str
    note: str
    time: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A row of data/reviewed.csv; `label` is one of the task's or UNCLEAR."""

    id: str
    label: str
    note: str
    time: str


def read_reviewed(path: Path, labels: Collection[str] | None = None) -> dict[str, Reviewed]:
    """Read people's labels by id; there are none where there is no file.

    Args:
        path: data/reviewed.csv.
        labels: the task's; null: any label is taken.

    Raises:
        UserError: a column is missing, an id is empty or stands twice, or a label is not among `labels` and UNCLEAR.
    """
    if not path.is_file():
        return {}
    found: dict[str, Reviewed] = {}
    for number, row in enumerate(read_rows(path, COLUMNS[:2]), start=2):
        one = Reviewed(row["id"], row["label"], row.get("note") or "", row.get("time") or "")
        if fault := _fault(one, found, labels):
            raise UserError(f"{path}, row {number}: {fault}: correct it, or take the row out")
        found[one.id] = one
    return found


def read_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Read a small CSV file that people edit; row 2 is the first after the header.

    Raises:
        UserError: it is no CSV file in UTF-8, or has not all columns that are `needed`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}): mend it, as CSV in UTF-8") from error
    if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
        raise UserError(f"{path} has no column {missing[0]!r}: it needs {', '.join(needed)}")
    return rows


def _fault(row: Reviewed, found: Collection[str], labels: Collection[str] | None) -> str | None:
    if not row.id.strip():
        return "there is no id"
    if row.id in found:
        return f"the id {row.id!r} stands twice"
    if labels is not None and row.label not in (*labels, UNCLEAR):
        return f"the label {row.label!r} is none of {', '.join(map(repr, (*labels, UNCLEAR)))}"
    return None


def drawn(items: Iterable[Item], count: int, seed: int) -> list[Item]:
    """Draw `count` items uniformly and in random order; a greater count goes on where a smaller one ends."""
    return sorted(items, key=lambda item: (_rank(item, seed), item.key))[:count]


def _rank(item: Item, seed: int) -> bytes:
    return blake2b(item.key.encode(), digest_size=8, key=seed.to_bytes(8, "big"), person=b"review").digest()


def keys(labels: Sequence[str]) -> dict[str, list[str]]:
    """Keys of each label and of the actions `:unclear`, `:note` and `:undo`; a label's first letter comes first.

    A letter that two labels begin with is nobody's. With many labels letters are for the filter, and digits pick what
    it leaves.
    """
    few = len(labels) <= PICKED_WITH_ONE_KEY
    first = Counter(label[0].casefold() for label in labels)
    letters = {label: label[0].casefold() for label in labels if few and first[label[0].casefold()] == 1}
    letter = {label: [letters[label]] if label in letters else [] for label in labels}
    found = {label: [str(i), *letter[label]] if few else [] for i, label in enumerate(labels, start=1)}
    taken = set(first) if few else set("abcdefghijklmnopqrstuvwxyz")
    for action, wanted in ((":unclear", "u"), (":note", "nmc"), (":undo", "zyx")):
        found[action] = [key for key in wanted if key not in taken][:1]
    found[":unclear"] = ["0", *found[":unclear"]]
    return found


def takes(shape: Shape, label: str) -> bool:
    """Whether an answer may be this: a label of the task, a set of them where it wants sets, or people's own."""
    return label == UNCLEAR or shape.knows(label)


def settled(answers: Iterable[Answer]) -> tuple[dict[str, Answer], list[str]]:
    """Answers on which all who answered agree (the latest of each), by item, and items on which they don't."""
    by_item: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_item[answer.item].append(answer)
    agreed = {item: max(said, key=lambda a: a.time) for item, said in by_item.items() if len(_labels(said)) == 1}
    return agreed, [item for item in by_item if item not in agreed]


def _labels(answers: Iterable[Answer]) -> set[str]:
    return {answer.label for answer in answers}


def agreement(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """How far each two reviewers agree on the items that both answered: share, and Cohen's kappa (Cohen 1960)."""
    by_reviewer: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for answer in answers:
        by_reviewer[answer.reviewer][answer.item] = answer.label
    found = []
    for one, other in combinations(sorted(by_reviewer), 2):
        pairs = [(label, by_reviewer[other][i]) for i, label in by_reviewer[one].items() if i in by_reviewer[other]]
        if pairs:
            found.append({"reviewers": [one, other], "items": len(pairs), **_kappa(pairs)})
    return found


def _kappa(pairs: Sequence[tuple[str, str]]) -> dict[str, float | None]:
    n = len(pairs)
    share = sum(a == b for a, b in pairs) / n
    ones, others = (Counter(pair[i] for pair in pairs) for i in (0, 1))
    chance = sum(ones[label] * others[label] for label in ones) / n**2
    return {"agree": share, "kappa": None if chance == 1 else (share - chance) / (1 - chance)}


def table(said: Iterable[tuple[str, str]], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Table 3 of the paper (arXiv 2403.15938): the model's label -> a person's -> number of errors looked at."""
    counts = Counter(said)
    return {model: {person: counts[model, person] for person in (*labels, UNCLEAR)} for model in labels}


def sides(errors: Sequence[tuple[str, str, str]], total: int, level: float) -> dict[str, dict[str, float]]:
    """Whom people side with where model and gold differ: model, gold, another label, or unclear.

    Args:
        errors: (model's label, gold, a person's label) of the errors looked at, drawn uniformly from all.
        total: number of all errors. If all were looked at the shares are exact, else they have Wilson's interval
            which takes no account of `total` and so is a little too wide.
        level: of the interval.
    """
    counts = Counter(_side(*error) for error in errors)
    found = {}
    for side in ("model", "gold", "another", UNCLEAR) if errors else ():
        share = scoring.wilson(counts[side], len(errors), level)
        if len(errors) == total:
            share |= {"low": share["value"], "high": share["value"]}
        found[side] = {"count": counts[side], **share}
    return found


def _side(model: str, gold: str, person: str) -> str:
    return {model: "model", gold: "gold", UNCLEAR: UNCLEAR}.get(person, "another")


def summary(errors: Mapping[str, Item], answers: Sequence[Answer], shape: Shape, level: float) -> dict[str, Any]:
    """What the report shows: Table 3 of the errors that were looked at, whom people side with, how far they agree.

    Args:
        errors: all errors of the model on test gold, by key.
        answers: everybody's.
        shape: of the task. Where a text has any number of labels the table is of the sets that were said.
        level: of intervals.
    """
    agreed, contested = settled(answers)
    seen = [(errors[key], found.label) for key, found in agreed.items() if key in errors]
    judged = [(str(item.label), str(item.reference), person) for item, person in seen if takes(shape, person)]
    labels: Sequence[str] = shape.labels
    if shape.kind == "multi":
        labels = sorted({said for model, _, person in judged for said in (model, person)} - {UNCLEAR})
    return {
        "errors": len(errors),
        "reviewed": len(judged),
        "contested": len([key for key in contested if key in errors]),
        "table": table([(model, person) for model, _, person in judged], labels),
        "sides": sides(judged, len(errors), level),
        "reviewers": dict(Counter(answer.reviewer for answer in answers if answer.item in errors)),
        "agreement": agreement(answers),
    }
