"""What gold says of several annotators (each alone, per label, and whether their errors go together), and what can be
said without gold. Answers are label indices (texts, annotators), negative where there is none.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.scoring import Floats, Ints, wilson

_RESAMPLES = 2000


def skills(answers: Ints, truth: Ints, names: Sequence[str], labels: Sequence[str], level: float) -> dict[str, Any]:
    """Each annotator on gold: {name: {accuracy, answered, per_class: {label: {recall, precision}}, confusion}}.

    Figures are {value, low, high} with Wilson's intervals (1927); no answer counts as wrong. `confusion` has a row for
    each true label and a column for each answer, the last for none.
    """
    found = {}
    for k, name in enumerate(names):
        given = np.where(answers[:, k] < 0, len(labels), answers[:, k])
        counts = np.bincount(truth * (len(labels) + 1) + given, minlength=len(labels) * (len(labels) + 1))
        table = counts.reshape(len(labels), len(labels) + 1)
        right = np.diagonal(table)
        found[name] = {
            "accuracy": wilson(int(right.sum()), len(truth), level),
            "answered": int((answers[:, k] >= 0).sum()),
            "per_class": {
                label: {
                    "recall": wilson(int(right[i]), int(table[i].sum()), level),
                    "precision": wilson(int(right[i]), int(table[:, i].sum()), level),
                }
                for i, label in enumerate(labels)
            },
            "confusion": table.tolist(),
        }
    return found


def errors_together(
    answers: Ints, truth: Ints, names: Sequence[str], level: float, seed: int = 0
) -> list[dict[str, Any]]:
    """For each pair: phi of their errors with a percentile bootstrap interval over texts, and how often both are wrong.

    Phi is the correlation of two yes/no variables: 0 for independent errors, 1 where they are wrong on the same texts;
    it is null where one makes no error. `if_independent` is the product of the two error rates.
    """
    wrong, random = answers != truth[:, None], np.random.default_rng(seed)
    found = []
    for a, b in combinations(range(len(names)), 2):
        counts = np.bincount(2 * wrong[:, a] + wrong[:, b], minlength=4)
        drawn = random.multinomial(len(truth), counts / len(truth), size=_RESAMPLES)
        low, high = np.nanquantile(_phi(drawn), [(1 - level) / 2, (1 + level) / 2])
        value = float(_phi(counts))
        known = not np.isnan(value)
        found.append(
            {
                "pair": [names[a], names[b]],
                "phi": {"value": value, "low": float(low), "high": float(high)} if known else None,
                "both_wrong": float(counts[3] / len(truth)),
                "if_independent": float(wrong[:, a].mean() * wrong[:, b].mean()),
                "disagree": float((answers[:, a] != answers[:, b]).mean()),
            }
        )
    return found


def without_gold(answers: Ints, names: Sequence[str]) -> list[dict[str, Any]]:
    """What disagreement alone proves: where two differ, one is wrong at least, so their mean error is at least half.

    It proves no upper bound. Models that claim one (Dawid and Skene 1979) assume that errors are independent given the
    label; errors of LLMs are not, and their agreement on a wrong label then counts as evidence for it. Texts on which
    one of the two gave no label are left out.
    """
    found = []
    for a, b in combinations(range(len(names)), 2):
        both = (answers[:, a] >= 0) & (answers[:, b] >= 0)
        share = float((answers[both, a] != answers[both, b]).mean()) if both.any() else 0.0
        row = {
            "pair": [names[a], names[b]],
            "texts": int(both.sum()),
            "disagree": share,
            "mean_error_at_least": share / 2,
        }
        found.append(row)
    return found


def plain_vote(answers: Ints, labels: int) -> Ints:
    """The commonest answer of each text; of equals the earliest annotator's. For comparison only: see `combining`."""
    cast = (answers[:, :, None] == np.arange(labels)).sum(axis=1)  # (texts, labels)
    most = np.where(answers >= 0, np.take_along_axis(cast, np.maximum(answers, 0), axis=1), -1)
    vote: Ints = answers[np.arange(len(answers)), most.argmax(axis=1)]
    return vote


def _phi(counts: Ints) -> Floats:
    """Phi of (..., 4) counts: both right, second wrong, first wrong, both wrong; NaN where one can't vary."""
    c = counts.astype(float)
    first, second = c[..., 2] + c[..., 3], c[..., 1] + c[..., 3]
    total = c.sum(axis=-1)
    spread = np.sqrt(first * (total - first) * second * (total - second))
    shared = c[..., 3] * total - first * second
    phi: Floats = np.divide(shared, spread, out=np.full(np.shape(spread), np.nan), where=spread > 0)
    return phi
