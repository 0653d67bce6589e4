"""Gold drawn uniformly from the corpus: the beginning of a seeded permutation of its ids.

What is labelled later only extends the same permutation, so that any number of first texts is a uniform sample
without replacement, as certificates need it.
"""

import csv
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from pipeline.errors import UserError
from pipeline.params import Params, Task


def rank(id_: str, seed: int) -> str:
    """Return the place of a text in the permutation, as hex digits to sort by."""
    return sha256(f"{seed}/{id_}".encode()).hexdigest()


def halves(gold: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Divide id -> label into gold that calibrates thresholds and gold that certifies, by a hash of the id.

    Each half is a uniform sample of the corpus again, and a text keeps its half when gold is added.
    """
    sides: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for id_, label in gold.items():
        sides[sha256(f"half/{id_}".encode()).digest()[0] & 1][id_] = label
    return sides


def read(params: Params) -> dict[str, str]:
    """Return id -> label of `certify.gold`, in the task's words.

    Raises:
        UserError: there is no block `certify`, or the file is missing, or one of its rows can't be gold.
    """
    if params.certify is None:
        raise UserError("params.yaml has no block `certify`: add `certify: {}` and run `llambert dag`")
    path = Path(params.certify.gold.path)
    if not path.is_file():
        raise UserError(f"{path} (certify.gold.path) does not exist: `llambert gold sample 200` draws texts to label")
    gold: dict[str, str] = {}
    for row, (id_, label) in enumerate(rows(path), start=2):
        if not label:
            raise UserError(f"{path}, row {row}: no label: add labels by `llambert gold add SHEET`, which checks them")
        if id_ in gold:
            raise UserError(f"{path}, row {row}: the id {id_!r} stands there twice: keep the row that is right")
        gold[id_] = known(label, params.task, f"{path}, row {row}")
    return gold


def rows(path: Path) -> list[tuple[str, str]]:
    """Return id and label of each row as they stand in a CSV, without the space around them.

    Raises:
        UserError: the file is no CSV in UTF-8, or lacks one of the two columns, or a row its id.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not readable as CSV in UTF-8: {error}") from None
    if table and (missing := {"id", "label"} - table[0].keys()):
        raise UserError(f"{path} has no column {' and no '.join(sorted(missing))}: it needs id and label")
    found = [((row["id"] or "").strip(), (row["label"] or "").strip()) for row in table]
    if empty := [row for row, (id_, _) in enumerate(found, start=2) if not id_]:
        raise UserError(f"{path}, row {empty[0]}: no id: take the sheet that `llambert gold sample` writes")
    return found


def known(label: str, task: Task, where: str) -> str:
    """Return the task's own word for a label, which may be any word of `task.labels` in any case.

    Raises:
        UserError: it is none of them.
    """
    if (name := task.read(label)) is None:
        raise UserError(
            f"{where}: the label {label!r} is not {task.writing}: correct it, or add it to task.labels as another word"
        )
    return name


def refuse_unless_uniform(gold: Collection[str], first: Sequence[str], path: str) -> None:
    """Refuse gold that is not the beginning of the permutation.

    Args:
        gold: its ids.
        first: as many ids that begin the permutation of what is labelled (fewer where there are no more).
        path: that a message names.

    Raises:
        UserError: it is another set, so that no one knows what it was drawn from.
    """
    beginning = set(first)
    if strangers := sorted(id_ for id_ in gold if id_ not in beginning):
        raise UserError(
            f"{path}: {len(strangers):,} of {len(gold):,} gold texts are not among the corpus's first {len(gold):,} in "
            f"the order of certify.seed (such as {strangers[0]!r}), so they are no uniform draw from it. Were they "
            "picked by hand, some skipped, or have corpus or seed changed? Draw what is missing with `llambert gold "
            "sample N` (N so large that it reaches them), or begin anew with gold that it drew"
        )
