"""gold sample, add and power: draw texts for people to label, take their labels in, and say how many are needed."""

import csv
import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline import certifying, dag, gold_corpus, labelled, params, shards
from pipeline.artifacts import FINAL, LABELLED
from pipeline.errors import UserError
from pipeline.params import Certify, Params
from serving.files import replacing


def sample(count: int, sheet: Path) -> str:
    """Write the first `count` texts of the permutation that nobody has labelled yet.

    Raises:
        UserError: the sheet is there already (it may hold labels), or the corpus is too small.
    """
    settings, block = _project()
    if sheet.exists():
        raise UserError(f"{sheet} exists: `llambert gold add {sheet}` takes it in, or name another with --sheet")
    there = _there(settings, block)
    chosen = _first(settings, block, count)
    if len(chosen) < count:
        raise UserError(f"the corpus has {len(chosen):,} texts only: ask for as many at most")
    rows = [(id_, text, "") for id_, text in chosen if id_ not in there]
    if not rows:
        return f"all of the first {count:,} texts are labelled already in {block.gold.path}: ask for more"
    _write(sheet, ("id", "text", "label"), rows)
    return (
        f"{len(rows):,} texts stand in {sheet}, drawn uniformly from the corpus. Write {settings.task.writing} into "
        "`label` of each, from the top, none left out; "
        f"then `llambert gold add {sheet}`"
    )


def add(sheet: Path) -> str:
    """Check a sheet and merge its labels into the gold of the corpus, whole or not at all.

    Raises:
        UserError: a label is unknown, an id twice there or labelled otherwise before, or the gold would be no uniform
            draw: a text was skipped, or is none that `gold sample` drew.
    """
    settings, block = _project()
    if not sheet.is_file():
        raise UserError(f"{sheet} does not exist: `llambert gold sample 200` writes a sheet")
    there, new, blank = _there(settings, block), dict[str, str](), set[str]()
    for row, (id_, word) in enumerate(gold_corpus.rows(sheet), start=2):
        where = f"{sheet}, row {row}"
        if id_ in new or id_ in blank:
            raise UserError(f"{where}: the id {id_!r} stands there twice: keep the row that is right")
        if not word:
            blank.add(id_)
            continue
        new[id_] = gold_corpus.known(word, settings.task, where)
        if there.get(id_, new[id_]) != new[id_]:
            raise UserError(
                f"{where}: {id_!r} is {there[id_]!r} in {block.gold.path} and {new[id_]!r} here: correct one of them"
            )
    if not new:
        raise UserError(f"{sheet} has no label: write one into the column `label` of each row")
    merged = there | new
    first = [id_ for id_, _ in _first(settings, block, len(merged))]
    if skipped := [id_ for id_ in first if id_ in blank]:
        raise UserError(
            f"{sheet}: no label for {_listed(skipped)}, though later texts have one. A skipped text is mostly a hard "
            "one, and without it the gold is too kind: decide on the likelier label, or take out the labels below "
            "the first gap"
        )
    gold_corpus.refuse_unless_uniform(merged, first, str(sheet))
    path = Path(block.gold.path)
    notes = _notes(path) | _notes(sheet)
    _write(path, ("id", "label", "note"), [(id_, merged[id_], notes.get(id_, "")) for id_ in first])
    left = f"; {len(blank):,} of {sheet} are still to be labelled" if blank else ""
    return (
        f"{len(merged):,} gold texts stand in {path} ({len(new.keys() - there):,} new){left}. Next: `dvc repro certify`"
    )


def power(width: float, accuracy: float | None) -> str:
    """Say how many gold texts an accuracy needs to be known this narrowly, from the confidences of the labels.

    Raises:
        UserError: there are no labels yet, or no such width or accuracy.
    """
    settings, block = _project()
    if not 0 < width < 1 or not (accuracy is None or 0 < accuracy < 1):
        raise UserError("--width is high minus low, and --accuracy a share, both between 0 and 1: such as 0.05 and 0.9")
    place = FINAL if "defer" in dag.stages(settings) else LABELLED
    corpus, _ = shards.survey(shards.parts(place), settings.task.shape)
    found = certifying.needed(corpus, width, block.confidence_level, accuracy)
    return "\n".join(
        [
            f"for {100 * block.confidence_level:g} % intervals of accuracy {width:g} wide, at accuracy "
            f"{found['accuracy']:.3f}{'' if accuracy else ' (the mean confidence)'}:",
            f"  {found['classical']:,} gold texts alone",
            f"  {found['ppi']:,} with PPI++, if confidences are calibrated (then widths are x {found['ratio']:.2f})",
        ]
    )


def _project() -> tuple[Params, Certify]:
    settings = params.load()
    if settings.certify is None:
        raise UserError("params.yaml has no block `certify`: add `certify: {}` and run `llambert dag`")
    return settings, settings.certify


def _there(settings: Params, block: Certify) -> dict[str, str]:
    return gold_corpus.read(settings) if Path(block.gold.path).is_file() else {}


def _first(settings: Params, block: Certify, count: int) -> list[tuple[str, str]]:
    """Return id and text of the texts that begin the permutation of what the stage `label` labels."""
    ranked = ((gold_corpus.rank(d.id, block.seed), d.id, d.text) for d in labelled.documents(settings))
    return [(id_, text) for _, id_, text in heapq.nsmallest(count, ranked)]


def _notes(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row["id"].strip(): row["note"] for row in csv.DictReader(file) if row.get("note")}


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:3])) + (f" and {len(ids) - 3:,} more" if len(ids) > 3 else "")
