"""queue: labels, opinions, predictions and corpus labels -> data/review.parquet, the likeliest wrong first.

Reads whatever of them there is. What the stage `defer` has put into the queue stays, in front.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq

from pipeline import params, queueing
from pipeline.artifacts import (
    BEST,
    GOLD,
    LABELLED,
    LABELS,
    OPINIONS,
    PREDICTIONS,
    REVIEW,
    SAMPLE,
    TEACHER,
    Label,
    Prediction,
    ToReview,
)
from pipeline.errors import UserError
from pipeline.labelled import documents
from pipeline.params import Params, Tfidf
from pipeline.project import locked
from pipeline.queueing import DISAGREEMENT, LIKELY_WRONG, Labelled, Suspect
from pipeline.scoring import Floats
from pipeline.training import Examples
from serving.shapes import softmax

_DEFERRED = "deferred"


def queue(size: int, folds: int, seed: int) -> str:
    """Write the queue and say what is in it.

    Raises:
        UserError: nothing is labelled yet, or the sizes make no sense.
    """
    if size < 1 or folds < 2:
        raise UserError(f"--size must be 1 or more and --folds 2 or more (got {size} and {folds})")
    with locked():
        settings = params.load()
        kept = [row for row in REVIEW if row.reason == _DEFERRED] if REVIEW.path.is_file() else []
        suspects = [
            *_annotators_differ(settings),
            *_likely_wrong(settings, folds, seed),
            *_encoder_differs(settings),
            *_unsure(size),
        ]
        known = {row.id for row in kept}
        found = queueing.ranked((s for s in suspects if s.id not in known), size)
        texts = _texts({suspect.id for suspect in found}, settings)
        rows = [
            ToReview(s.id, texts[s.id], s.label, s.confidence, s.reason, s.suggested) for s in found if s.id in texts
        ]
        REVIEW.write([*kept, *rows])
    counts = Counter(row.reason for row in [*kept, *rows])
    said = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common()) or "nothing is in doubt"
    return f"{len(kept) + len(rows):,} texts are in {REVIEW.path} ({said}); `llambert review` shows them"


def _annotators_differ(settings: Params) -> list[Suspect]:
    """Sampled texts on which annotators differ, by the combined probability of the label."""
    names, said = settings.task.names, dict[str, set[str]]()
    for opinion in OPINIONS if OPINIONS.path.is_file() else ():
        if opinion.label is not None:
            said.setdefault(opinion.id, set()).add(opinion.label)
    found = []
    for row in LABELS:
        if others := said.get(row.id, set()) - {row.label}:
            suggested = max(sorted(others), key=lambda name: row.probabilities[names.index(name)])
            found.append(Suspect(row.id, row.label, row.confidence, DISAGREEMENT, suggested, 1 - row.confidence))
    return found


def _likely_wrong(settings: Params, folds: int, seed: int) -> list[Suspect]:
    """Labels of the sample that confident learning flags, their doubt calibrated on the teacher's answers to gold."""
    names, texts = settings.task.names, {row.id: row.text for row in SAMPLE}
    labels = list(LABELS)
    gold = {row.id: row for row in GOLD}
    taught = [row for row in TEACHER if row.id in gold]
    targets = np.array([row.probabilities for row in labels])
    encoder = next(e for name in settings.train.encoders if isinstance(e := settings.encoders[name], Tfidf))
    examples = Examples([texts[row.id] for row in labels], targets)
    inside, outside = queueing.out_of_sample(encoder, examples, [gold[row.id].text for row in taught], folds, seed)
    sample, people = _labelled(labels, inside, names), _labelled(taught, outside, names)
    wrong = np.array([row.label != gold[row.id].label for row in taught], dtype=bool)
    doubt = queueing.calibrated(sample.doubt, people.doubt, wrong)
    return queueing.likely_wrong(sample, names, doubt)


def _encoder_differs(settings: Params) -> list[Suspect]:
    """Held-out labels that the best candidate contradicts, and gold that it and the teacher contradict."""
    if not PREDICTIONS.path.is_file() or not BEST.path.is_file():
        return []
    names, best = settings.task.names, BEST.read()
    teacher, sure = {row.id: row.label for row in TEACHER}, {row.id: row.confidence for row in LABELS}
    rows = [row for row in PREDICTIONS if row.candidate == best["candidate"]]

    def of(some: list[Prediction], labels: list[str]) -> Labelled:
        given = np.array([names.index(label) for label in labels], dtype=np.int64)
        logits = np.array([row.logits for row in some]).reshape(len(some), len(names))
        confidence = np.array([sure.get(row.id, 1.0) for row in some])
        return Labelled([row.id for row in some], given, confidence, softmax(logits / best["temperature"]))

    held = [row for row in rows if row.set == "held_out"]
    people = [row for row in rows if row.set != "held_out" and row.id not in sure]  # else validation is held out, too
    taught = [row for row in people if row.id in teacher]
    wrong = np.array([teacher[row.id] != row.reference for row in taught], dtype=bool)
    ours, theirs = of(held, [row.reference for row in held]), of(taught, [teacher[row.id] for row in taught])
    alone = [row for row in people if teacher.get(row.id) != row.reference]
    gold = of(alone, [row.reference for row in alone])
    doubt = queueing.calibrated(ours.doubt, theirs.doubt, wrong)
    found = queueing.contradicted(ours, names, doubt)
    return found + queueing.contradicted(gold, names, gold.doubt, LIKELY_WRONG)


def _unsure(size: int) -> list[Suspect]:
    """What the encoder is least sure of in the labelled corpus."""
    return queueing.unsure(_corpus_labels(), size)


def _corpus_labels() -> Iterator[tuple[str, str, float]]:
    for path in sorted(LABELLED.glob("part-*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["id", "label", "confidence"]):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _texts(wanted: set[str], settings: Params) -> dict[str, str]:
    found = {row.id: row.text for table in (SAMPLE, GOLD) for row in table if row.id in wanted}
    if wanted - found.keys():
        found |= {row.id: row.text for row in documents(settings) if row.id in wanted}
    return found


def _labelled(rows: list[Label], probabilities: Floats, names: list[str]) -> Labelled:
    given = np.array([names.index(row.label) for row in rows], dtype=np.int64)
    return Labelled([row.id for row in rows], given, np.array([row.confidence for row in rows]), probabilities)
