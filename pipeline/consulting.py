"""Several annotators' verdicts on the same texts: measured on gold, combined into one verdict a text.

Knows verdicts and labels; nothing of prompts, files or how answers were read (see `combining` for the mathematics).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import combining, comparing, parsing
from pipeline.combining import Combination
from pipeline.params import Params
from pipeline.parsing import Verdict
from pipeline.scoring import Floats, Ints

LEVEL = 0.95  # of intervals
Verdicts = Mapping[str, Mapping[str, Verdict]]  # annotator -> id -> what it said; the first annotator knows all ids


@dataclass(frozen=True)
class Consulted:
    """What several annotators come to together."""

    verdicts: dict[str, Verdict]
    combination: Combination
    figures: dict[str, Any]  # of metrics/parse.json


def combine(said: Verdicts, truth: Mapping[str, str], sample: Sequence[str], params: Params) -> Consulted:
    """Combine verdicts by what gold says of them.

    Args:
        said: by annotator, in the order of params.annotator_names, and id.
        truth: gold labels to learn from, by id; never those that test.
        sample: ids on which agreement is counted.
        params: labels and parse.min_confidence.
    """
    names, labels = list(said), params.task.names
    ids = list(next(iter(said.values())))
    known = [id_ for id_ in ids if id_ in truth]
    answers, given = (
        np.array([labels.index(truth[id_]) for id_ in known], dtype=np.int64),
        _array(said, known, labels),
    )
    found = combining.fit(given, answers) if known else combining.in_order(len(names), len(labels))
    everything = _array(said, ids, labels)
    probabilities, answered = found(everything), named(everything).max(axis=1) >= 0
    first = said[names[0]]
    verdicts = {
        id_: parsing.from_probabilities(probabilities[i], params.task, params.parse) if answered[i] else first[id_]
        for i, id_ in enumerate(ids)
    }
    sampled = named(_array(said, sample, labels))
    figures: dict[str, Any] = {"names": names, "gold": len(known), "combination": _described(found, names)}
    figures["without_gold"] = comparing.without_gold(sampled, names)
    figures["disagree"] = float(disagreement(sampled).mean()) if len(sampled) else 0.0
    if known:
        figures["alone"] = comparing.skills(named(given), answers, names, labels, LEVEL)
        figures["errors_together"] = comparing.errors_together(named(given), answers, names, LEVEL)
    return Consulted(verdicts, found, figures)


def named(said: Floats) -> Ints:
    """(texts, annotators, labels) probabilities to label indices, -1 where there is none."""
    nothing = np.isnan(said).any(axis=2)
    return np.where(nothing, -1, combining.filled(said).argmax(axis=2))


def disagreement(answers: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether two of the annotators that answered differ: (texts,)."""
    highest = answers.max(axis=1)
    lowest = np.where(answers < 0, np.iinfo(np.int64).max, answers).min(axis=1)
    differ: np.ndarray[Any, np.dtype[np.bool_]] = (highest >= 0) & (lowest < highest)
    return differ


def _array(said: Verdicts, ids: Sequence[str], labels: Sequence[str]) -> Floats:
    nothing = [np.nan] * len(labels)

    def row(verdict: Verdict | None) -> list[float]:
        return nothing if verdict is None or verdict.label is None else verdict.probabilities

    rows = [[row(of.get(id_)) for of in said.values()] for id_ in ids]
    return np.array(rows, dtype=np.float64).reshape(len(ids), len(said), len(labels))


def _described(found: Combination, names: Sequence[str]) -> dict[str, Any]:
    chosen = next(((loss, right) for shape, loss, right in found.losses if shape == found.shape), None)
    alone = found.losses[0] if found.losses else None
    return {
        "how": found.shape.family,
        "best": names[found.best],
        "labels_from_best": found.labels_from_best,
        "weights": combining.mean_weights(found, names),
        "log_loss": {"combined": chosen[0], "best_alone": alone[1]} if chosen and alone else None,
        "accuracy": {"combined": chosen[1], "best_alone": alone[2]} if chosen and alone else None,
        "only_combined_right": found.gain[0],
        "only_best_right": found.gain[1],
    }
