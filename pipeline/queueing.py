"""Which texts a person should look at, the likeliest wrong first, and why. A queue, never a filter: of the labels that
confident learning flags most are right, and dropping them would drop the hard texts.

Knows labels and probabilities; nothing of files.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.params import Tfidf
from pipeline.scoring import Floats, Ints
from pipeline.training import Examples

DISAGREEMENT, LOW_CONFIDENCE, LIKELY_WRONG = "disagreement", "low_confidence", "likely_wrong"
_FEWEST_ERRORS = 5  # on gold, to calibrate doubt by


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label in doubt; `doubt` estimates the probability that it is wrong, and ranks."""

    id: str
    label: str
    confidence: float
    reason: str
    suggested: str | None
    doubt: float


@dataclass(frozen=True)
class Labelled:
    """Texts with a label each (indices), and probabilities from whoever did not learn that label: (texts, labels)."""

    ids: Sequence[str]
    labels: Ints
    confidence: Floats  # of whoever gave the labels
    probabilities: Floats

    @property
    def doubt(self) -> Floats:
        """1 minus the probability of the label: (texts,)."""
        found: Floats = 1 - self.probabilities[np.arange(len(self.labels)), self.labels]
        return found


def out_of_sample(
    encoder: Tfidf, examples: Examples, others: Sequence[str], folds: int, seed: int
) -> tuple[Floats, Floats]:
    """Probabilities of texts by models that did not see them, and of `others` by a model of all texts.

    Args:
        encoder: TF-IDF + logistic regression, which takes seconds where an encoder takes hours.
        examples: texts and the targets to learn.
        others: texts that are not among them.
        folds: of the cross-validation.
        seed: of the folds.

    Returns:
        (texts, labels) and (others, labels).
    """
    from pipeline import tfidf

    texts = np.array(examples.texts, dtype=object)
    fold = np.random.default_rng(seed).permutation(len(texts)) % folds
    found = np.zeros_like(examples.targets)
    for part in range(folds):
        train, test = fold != part, fold == part
        model = tfidf.fit(encoder, Examples(list(texts[train]), examples.targets[train]), seed)
        found[test] = model.predict_proba(list(texts[test]))
    if not others:
        return found, np.zeros((0, found.shape[1]))
    return found, tfidf.fit(encoder, examples, seed).predict_proba(list(others))


def flagged(labels: Ints, probabilities: Floats) -> npt.NDArray[np.bool_]:
    """What confident learning holds for wrong (Northcutt et al. 2021, arXiv 1911.00068; by cleanlab): (texts,)."""
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that some class has too few texts to say much
        found: npt.NDArray[np.bool_] = find_label_issues(
            labels, probabilities, filter_by="prune_by_noise_rate", n_jobs=1, min_examples_per_class=1
        )
    return found


def likely_wrong(rows: Labelled, names: Sequence[str], doubt: Floats) -> list[Suspect]:
    """Flagged labels; suggested is the likeliest other one."""
    if len(set(rows.labels.tolist())) < 2:
        return []
    return [
        _suspect(rows, i, names, LIKELY_WRONG, float(doubt[i]))
        for i in np.flatnonzero(flagged(rows.labels, rows.probabilities)).tolist()
    ]


def contradicted(rows: Labelled, names: Sequence[str], doubt: Floats, reason: str = DISAGREEMENT) -> list[Suspect]:
    """Labels that are not the likeliest by `probabilities`."""
    wrong = np.flatnonzero(rows.probabilities.argmax(axis=1) != rows.labels).tolist()
    return [_suspect(rows, i, names, reason, float(doubt[i])) for i in wrong]


def unsure(rows: Iterable[tuple[str, str, float]], count: int) -> list[Suspect]:
    """The `count` least sure of (id, label, confidence); memory is bounded by `count`."""
    from heapq import nsmallest

    least = nsmallest(count, rows, key=lambda row: row[2])
    return [Suspect(id_, label, sure, LOW_CONFIDENCE, None, 1 - sure) for id_, label, sure in least]


def calibrated(doubt: Floats, on_gold: Floats, wrong: npt.NDArray[np.bool_]) -> Floats:
    """Doubts as probabilities of being wrong, by logistic regression on gold (Platt 1999); the order stays.

    With fewer than 5 wrong or right labels on gold, or where gold says the contrary, they stay as they are.

    Args:
        doubt: (texts,).
        on_gold: (gold texts,) doubts of labels of the same source.
        wrong: whether those are.
    """
    from sklearn.linear_model import LogisticRegression

    if min(wrong.sum(), (~wrong).sum()) < _FEWEST_ERRORS:
        return doubt
    model = LogisticRegression().fit(_logit(on_gold)[:, None], wrong)
    if model.coef_[0, 0] <= 0:
        return doubt
    found: Floats = model.predict_proba(_logit(doubt)[:, None])[:, 1]
    return found


def ranked(suspects: Iterable[Suspect], size: int) -> list[Suspect]:
    """The `size` of most doubt, each text once, for its strongest reason; a suggestion of a weaker one is kept."""
    best: dict[str, Suspect] = {}
    for suspect in sorted(suspects, key=lambda s: (-s.doubt, s.id, s.reason)):
        known = best.setdefault(suspect.id, suspect)
        if known.suggested is None and suspect.suggested != known.label:
            best[suspect.id] = replace(known, suggested=suspect.suggested)
    return list(best.values())[:size]


def _suspect(rows: Labelled, i: int, names: Sequence[str], reason: str, doubt: float) -> Suspect:
    others = rows.probabilities[i].copy()
    label = int(rows.labels[i])
    others[label] = -1
    return Suspect(rows.ids[i], names[label], float(rows.confidence[i]), reason, names[int(others.argmax())], doubt)


def _logit(share: Floats) -> Floats:
    inside = np.clip(share, 1e-6, 1 - 1e-6)
    odds: Floats = np.log(inside / (1 - inside))
    return odds
