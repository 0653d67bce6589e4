"""How right a model is on texts without labels, each estimate with what it assumes; a classifier as a test of drift.

Pure functions of numbers. No estimate holds for every shift (Garg et al. 2022, arXiv 2201.04234, theorem 1): where the
assumptions can't be argued for, label a hundred of the new texts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.scoring import Bools, Floats, Ints

RESAMPLES = 300
ASSUMPTIONS = {
    "confidence": "the model's calibrated confidence is as true of these texts as of gold",
    "difference": "confidence is wrong by the same amount on these texts as on gold (arXiv 2107.03315)",
    "threshold": "the errors are the texts below the confidence that splits gold so (ATC, arXiv 2201.04234)",
    "label shift": "only the labels' shares changed, not the texts of a label (arXiv 1802.03916)",
    "weighted gold": "the same text still has the same label, and gold has texts like all of these (covariate shift)",
}


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said of some texts: confidence and index of the label, each (texts,)."""

    confidence: Floats
    predicted: Ints

    def take(self, rows: Ints) -> "Answers":
        """Some of them."""
        return Answers(self.confidence[rows], self.predicted[rows])


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy, and the interval of the texts' chance alone: it does not cover a false assumption."""

    name: str
    value: float
    low: float
    high: float
    effective_texts: float | None = None  # of gold, after weighting

    @property
    def assumes(self) -> str:
        """When it is right."""
        return ASSUMPTIONS[self.name]


@dataclass(frozen=True, slots=True)
class Separation:
    """How well a classifier tells a batch from the reference, and the weights that make other texts like the batch."""

    auc: float
    p_value: float
    weights: Floats

    @property
    def psi(self) -> float:
        """The stability index of two normal populations, one a shift of the other, with this AUC."""
        from scipy.stats import norm

        return float(2 * norm.ppf(min(max(self.auc, 0.5), 1 - 1e-9)) ** 2)


def estimates(
    known: Answers, actual: Ints, batch: Answers, labels: int, level: float = 0.95, seed: int = 0
) -> list[Estimate]:
    """Estimates from answers alone, with percentile bootstrap intervals over both samples.

    Args:
        known: answers to texts with known labels.
        actual: those labels.
        batch: answers to the new texts.
        labels: how many there are.
        level: of the intervals.
        seed: of the bootstrap.
    """
    random = np.random.default_rng(seed)
    n, m = len(actual), len(batch.predicted)
    values = _guesses(known, actual, batch, labels)
    draws = []
    for _ in range(RESAMPLES):
        rows = random.integers(n, size=n)
        draws.append(_guesses(known.take(rows), actual[rows], batch.take(random.integers(m, size=m)), labels))
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return [Estimate(*row) for row in zip(ASSUMPTIONS, values, low.tolist(), high.tolist(), strict=False)]


def _guesses(known: Answers, actual: Ints, batch: Answers, labels: int) -> list[float]:
    """In the order of ASSUMPTIONS, without the last."""
    accuracy = float((known.predicted == actual).mean())
    sure = float(batch.confidence.mean())
    threshold = np.quantile(known.confidence, 1 - accuracy, method="higher")
    return [
        sure,
        min(1.0, max(0.0, accuracy + sure - float(known.confidence.mean()))),
        float((batch.confidence >= threshold).mean()) if accuracy < 1 else 1.0,
        _label_shift(known.predicted, actual, batch.predicted, labels),
    ]


def _label_shift(predicted: Ints, actual: Ints, batch: Ints, labels: int) -> float:
    """Recall of each label, weighted by the shares that would give the batch's predictions (Lipton et al. 2018)."""
    joint = np.bincount(predicted * labels + actual, minlength=labels**2).reshape(labels, labels) / len(actual)
    said = np.bincount(batch, minlength=labels) / len(batch)
    weights = np.maximum(np.linalg.lstsq(joint, said, rcond=1e-3)[0], 0)
    shares = weights * joint.sum(axis=0)
    recall = np.diagonal(joint) / np.maximum(joint.sum(axis=0), 1e-12)
    return float((shares * recall).sum() / max(shares.sum(), 1e-12))


def weighted(right: Bools, weights: Floats, level: float = 0.95, seed: int = 0) -> Estimate:
    """Accuracy on gold weighted towards the batch (self-normalised importance weights).

    Args:
        right: whether the model is right about each gold text.
        weights: density of the batch over that of gold at each, up to a factor.
        level: of the percentile bootstrap interval over gold.
        seed: of the bootstrap.
    """
    rows = np.random.default_rng(seed).integers(len(right), size=(RESAMPLES, len(right)))
    draws = (weights * right)[rows].sum(axis=1) / weights[rows].sum(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    effective = float(weights.sum() ** 2 / (weights**2).sum())  # Kish
    value = float((weights * right).sum() / weights.sum())
    return Estimate("weighted gold", value, float(low), float(high), effective)


def separate(reference: Floats, batch: Floats, others: Floats, seed: int = 0) -> Separation:
    """A classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv 1610.06545) on features [texts, width].

    Logistic regression learns on one half and is judged on the other, and the other way round. Without drift scores of
    the half that it has not seen are exchangeable, so Mann and Whitney's test of them holds whatever was learnt; the
    smaller p-value of the two halves is doubled. Its odds are the weights of `others` (Bickel et al. 2009), scaled on
    the half that it has not seen (Platt), for a shrunken classifier would weigh too evenly and a fitted one too wildly.
    """
    from scipy.stats import mannwhitneyu
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.concatenate([reference, batch])
    y = np.repeat([0, 1], [len(reference), len(batch)])
    order = np.random.default_rng(seed).permutation(len(y))
    aucs, p_values, odds = [], [], []
    for learnt, judged in ((order[0::2], order[1::2]), (order[1::2], order[0::2])):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-2, class_weight="balanced", max_iter=500))
        model.fit(x[learnt], y[learnt])
        scores = model.decision_function(x[judged])
        theirs, ours = scores[y[judged] == 1], scores[y[judged] == 0]
        test = mannwhitneyu(theirs, ours, alternative="greater")
        aucs.append(float(test.statistic) / (len(theirs) * len(ours)))
        p_values.append(float(test.pvalue))
        if len(others):
            scale = LogisticRegression(C=1e3, class_weight="balanced").fit(scores[:, None], y[judged])
            odds.append(scale.decision_function(model.decision_function(others)[:, None]))
    weights: NDArray[np.float64] = np.exp(np.clip(np.mean(odds, axis=0), -10, 10)) if odds else np.zeros(0)
    return Separation(float(np.mean(aucs)), min(1.0, 2 * min(p_values)), weights)
