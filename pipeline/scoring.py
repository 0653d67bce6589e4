"""How good predictions are, and how sure that is. Pure functions of logits and reference labels.

Resampling texts with replacement draws a confusion matrix from a multinomial over its own cells, so the bootstrap
needs no loop over texts: all resamples are one array, and every metric is a function of the last two axes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.params import Evaluate
from serving.shapes import softmax

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_ECE_BINS = 15


def confusion(reference: Ints, predicted: Ints, labels: int) -> Ints:
    """(labels, labels) counts: row is the reference, column the prediction."""
    counts: Ints = np.bincount(reference * labels + predicted, minlength=labels**2).reshape(labels, labels)
    return counts


def rates(counts: npt.NDArray[Any]) -> dict[str, Floats]:
    """Metrics of confusion matrices (..., labels, labels); each value has the leading shape.

    Recall of a label without texts counts as 0, as does precision of a label never predicted. MCC is the multi-class
    form (Gorodkin 2004), 0 where one side is constant.
    """
    c = counts.astype(float)
    right = np.diagonal(c, axis1=-2, axis2=-1)
    actual, predicted, total = c.sum(axis=-1), c.sum(axis=-2), c.sum(axis=(-2, -1))
    recall, f1 = _ratio(right, actual), _ratio(2 * right, actual + predicted)
    covariance = right.sum(-1) * total - (actual * predicted).sum(-1)
    spread = np.sqrt((total**2 - (predicted**2).sum(-1)) * (total**2 - (actual**2).sum(-1)))
    return {
        "accuracy": _ratio(right.sum(-1), total),
        "balanced_accuracy": recall.mean(-1),
        "macro_f1": f1.mean(-1),
        "mcc": _ratio(covariance, spread),
    }


def intervals(counts: Ints, params: Evaluate) -> dict[str, dict[str, float]]:
    """Each metric with its percentile bootstrap interval: {metric: {value, low, high}}."""
    random = np.random.default_rng(params.seed)
    drawn = random.multinomial(counts.sum(), counts.ravel() / counts.sum(), size=params.resamples)
    resampled = rates(drawn.reshape(-1, *counts.shape))
    tail = (1 - params.confidence_level) / 2
    result = {}
    for name, value in rates(counts).items():
        low, high = np.quantile(resampled[name], [tail, 1 - tail])
        result[name] = {"value": float(value), "low": float(low), "high": float(high)}
    return result


def paired(ours: Bools, theirs: Bools, params: Evaluate) -> dict[str, float]:
    """Difference in accuracy of two labellers on the same texts, with what makes it believable.

    Args:
        ours: whether it is right (texts,).
        theirs: whether that is right, in the same order.
        params: resamples and level of the percentile bootstrap over texts.

    Returns:
        value, low and high of ours minus theirs; p_value of McNemar's exact test (McNemar 1947: a binomial test of the
        texts on which one alone is right); only_ours and only_theirs, the numbers of those.
    """
    from scipy.stats import binomtest

    gained, lost, n = int((ours & ~theirs).sum()), int((~ours & theirs).sum()), len(ours)
    shares = np.array([gained, lost, n - gained - lost]) / n  # both right and both wrong count alike
    draws = np.random.default_rng(params.seed).multinomial(n, shares, size=params.resamples)
    tail = (1 - params.confidence_level) / 2
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [tail, 1 - tail])
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return {
        "value": (gained - lost) / n, "low": float(low), "high": float(high), "p_value": p_value,
        "only_ours": gained, "only_theirs": lost,
    }  # fmt: skip


def per_class(counts: Ints, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall and number of texts of each label."""
    right = np.diagonal(counts).astype(float)
    precision, recall = _ratio(right, counts.sum(0)), _ratio(right, counts.sum(1))
    return {
        label: {"precision": float(precision[i]), "recall": float(recall[i]), "support": int(counts[i].sum())}
        for i, label in enumerate(labels)
    }


def log_loss(logits: Floats, reference: Ints, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the reference, in nats."""
    probabilities = softmax(logits / temperature)[np.arange(len(reference)), reference]
    return float(-np.log(np.maximum(probabilities, 1e-12)).mean())


def fit_temperature(logits: Floats, reference: Ints) -> float:
    """The temperature with the least log loss, between 0.05 and 20 (Guo et al. 2017, arXiv 1706.04599)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda t: log_loss(logits, reference, float(np.exp(t))), bounds=(np.log(0.05), np.log(20)))
    return float(np.exp(found.x))


def reliability(probabilities: Floats, reference: Ints) -> list[dict[str, float]]:
    """Mean confidence, accuracy and number of texts in equal-width bins of confidence; empty bins are left out."""
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == reference
    bins = np.minimum((confidence * _ECE_BINS).astype(int), _ECE_BINS - 1)
    return [
        {"confidence": float(confidence[at].mean()), "accuracy": float(hit[at].mean()), "texts": int(at.sum())}
        for at in (bins == b for b in range(_ECE_BINS))
        if at.any()
    ]


def expected_calibration_error(probabilities: Floats, reference: Ints) -> float:
    """Mean distance between confidence and accuracy over the bins, weighted by texts (Naeini et al. 2015)."""
    bins = reliability(probabilities, reference)
    return float(sum(row["texts"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / len(reference))


def wilson(hits: int, total: int, level: float) -> dict[str, float]:
    """A share with Wilson's score interval (Wilson 1927): value, low, high; [0, 1] where nothing was seen."""
    from scipy.stats import binomtest

    if not total:
        return {"value": 0.0, "low": 0.0, "high": 1.0}
    bounds = binomtest(hits, total).proportion_ci(level, "wilson")
    return {"value": hits / total, "low": float(bounds.low), "high": float(bounds.high)}


def over_seeds(values: Sequence[float], level: float) -> dict[str, float | int | None]:
    """Mean over seeds and the half width of Student's interval (null for one seed)."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
    return {"seeds": n, "accuracy_mean": float(np.mean(values)), "accuracy_half_width": half}


def _ratio(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Floats:
    ratio: Floats = np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=np.asarray(b) > 0)
    return ratio
