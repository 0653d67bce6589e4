"""How good the labels of a whole corpus are, from gold drawn uniformly from it without replacement.

Nothing is assumed of the labels or their probabilities, except that the draw did not depend on them. Every figure comes
with two intervals at the same level:

- classical: Clopper & Pearson 1934 on the gold alone; recall and precision are shares of the gold within a label.
- PPI++: probabilities predict the truth of every text of the corpus, gold corrects them by as much as it shows that
  they help (power tuning: Angelopoulos et al. 2023, arXiv 2301.09633 and 2311.01453, eq. 4 and section 6). With the
  mean over the whole corpus known this is the regression estimator of survey sampling (Cochran 1977, ch. 7):

      estimate = mean(truth) + lambda (corpus mean of guess - mean(guess)),  lambda = cov(truth, guess) / var(guess)

  cut to [0, 1]. Its normal interval fails near 0 and 1 (no error among the gold: no width). So the interval is that of
  Korn & Graubard 1998 (Survey Methodology 24): Clopper-Pearson at the effective sample size gold / (1 - r^2), where
  1 - r^2 is the share of the variance that the probabilities leave, estimated with one more unit of squared residual.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.certificates import Certified, ClassCertificate, Estimate, Range

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_EXTRA = 1.0  # squared residual that nobody saw: without it a lucky sample would have no width


@dataclass(frozen=True, slots=True)
class Population:
    """Sums over all labelled texts: all that is needed of them, however many they are."""

    texts: int
    counts: Ints  # (labels,) texts that have each label
    confidence: Floats  # (labels,) sum of each label's probability over the texts that have it
    mass: Floats  # (labels,) sum of each label's probability over all texts
    sure: float  # sum of the probability that all is right that is said of a text
    squares: float  # sum of its squares


@dataclass(frozen=True, slots=True)
class Sample:
    """The gold texts: what they are, and what the corpus says of them. A text has one label, any number, or none."""

    truth: Bools  # (gold, labels) what people gave
    said: Bools  # (gold, labels) what stands in the corpus
    probabilities: Floats  # (gold, labels)
    sure: Floats  # (gold,) probability that all of a row of `said` is right


def add_up(batches: Iterable[tuple[Bools, Floats, Floats]], labels: int) -> Population:
    """Add up batches of (said (b, labels), probabilities (b, labels), sure (b,)); one is in memory at a time."""
    counts, confidence, mass = np.zeros(labels, np.int64), np.zeros(labels), np.zeros(labels)
    texts, total, squares = 0, 0.0, 0.0
    for said, probabilities, sure in batches:
        texts += len(said)
        counts += said.sum(axis=0)
        confidence += (probabilities * said).sum(axis=0)
        mass += probabilities.sum(axis=0)
        total += float(sure.sum())
        squares += float(sure @ sure)
    return Population(texts, counts, confidence, mass, total, squares)


def certify(corpus: Population, gold: Sample, labels: Sequence[str], level: float) -> Certified:
    """Accuracy, and for each label precision, recall and prevalence; None where no gold text tells of it.

    A text counts as right where all of its labels are.
    """
    right = (gold.truth == gold.said).all(axis=1).astype(float)
    accuracy = mean(right, gold.sure, corpus.sure / corpus.texts, corpus.texts, level)
    if accuracy is None:
        raise ValueError("there is gold, so there is an accuracy. This is a bug.")
    per_class = {}
    for k, label in enumerate(labels):
        here, guess, truth = gold.said[:, k], gold.probabilities[:, k], gold.truth[:, k].astype(float)
        among = corpus.confidence[k] / max(corpus.counts[k], 1)
        per_class[label] = ClassCertificate(
            rows=int(corpus.counts[k]),
            precision=mean(truth[here], guess[here], among, int(corpus.counts[k]), level),
            recall=_recall(gold, k, corpus, level),
            prevalence=mean(truth, guess, corpus.mass[k] / corpus.texts, corpus.texts, level),
        )
    return Certified(accuracy=accuracy, per_class=per_class)


def mean(truth: Floats, guess: Floats, guess_mean: float, texts: int, level: float) -> Estimate | None:
    """Estimate the mean of 0/1 `truth` over a population.

    Args:
        truth: (gold,) 0 or 1.
        guess: (gold,) what predicts it, such as a probability.
        guess_mean: of the guess over the whole population.
        texts: size of the population that the gold was drawn from.
        level: of the intervals.
    """
    n = len(truth)
    if not n:
        return None
    size = n * _without_replacement(n / texts)
    tuning = _tuning(truth, guess)
    value = float(truth.mean() + tuning * (guess_mean - guess.mean()))
    return _estimate(n, float(truth.mean()), value, size, tuning, _left(truth, tuning * guess), level)


def _recall(gold: Sample, k: int, corpus: Population, level: float) -> Estimate | None:
    """A ratio of two means with one lambda; its variance is that of truth (found - recall), by linearisation."""
    truth, guess = gold.truth[:, k].astype(float), gold.probabilities[:, k]
    found = gold.said[:, k].astype(float)
    if not (n := truth.sum()):
        return None
    share = float(truth @ found / n)
    tuning = _tuning(truth * (found - share), guess * (found - share))
    above = (truth * found).mean() + tuning * (corpus.confidence[k] / corpus.texts - (guess * found).mean())
    below = truth.mean() + tuning * (corpus.mass[k] / corpus.texts - guess.mean())
    if below <= 0:
        above, below, tuning = share, 1.0, 0.0
    size = n * _without_replacement(len(truth) / corpus.texts)
    left = _left(truth * (found - share), tuning * guess * (found - share))
    return _estimate(int(n), share, float(above / below), size, tuning, left, level)


def _estimate(n: int, plain: float, value: float, size: float, tuning: float, left: float, level: float) -> Estimate:
    return Estimate(
        gold=n,
        classical=interval(plain, size, level),
        ppi=interval(min(max(value, 0.0), 1.0), size / left, level),
        tuning=tuning,
        effective_gold=n / left,
    )


def _tuning(truth: Floats, guess: Floats) -> float:
    """Lambda in [0, 1]: how far the guesses are believed."""
    spread = float(((guess - guess.mean()) ** 2).sum())
    if spread < 1e-12:
        return 0.0
    return float(np.clip((truth - truth.mean()) @ (guess - guess.mean()) / spread, 0, 1))


def _left(truth: Floats, tuned: Floats) -> float:
    """Share of the variance that guesses leave; n - 2 because lambda was fitted."""
    n, residual = len(truth), truth - tuned
    if n < 3 or not tuned.any():
        return 1.0
    left = ((residual - residual.mean()) ** 2).sum() * (n - 1) / (n - 2)
    return float(min((left + _EXTRA) / (((truth - truth.mean()) ** 2).sum() + _EXTRA), 1.0))


def _without_replacement(share: float) -> float:
    """By how much a draw without replacement of a `share` of the population is worth more than one with it.

    Exact where the gold has no error, (1 - share)^errors; below the usual 1 / (1 - share), so safe, elsewhere.
    """
    if share >= 1:
        return float("inf")
    return float(-np.log1p(-share) / share)


def interval(value: float, size: float, level: float) -> Range:
    """Clopper & Pearson's interval of a share `value` seen in `size` texts; `size` need not be whole."""
    from scipy.special import betaincinv

    if np.isinf(size):
        return Range(value=value, low=value, high=value)
    tail, hits = (1 - level) / 2, value * size
    misses = size - hits
    low = float(betaincinv(hits, misses + 1, tail)) if hits > 1e-9 else 0.0
    high = float(betaincinv(hits + 1, misses, 1 - tail)) if misses > 1e-9 else 1.0
    return Range(value=value, low=low, high=high)


def needed(corpus: Population, width: float, level: float, accuracy: float | None = None) -> dict[str, Any]:
    """Say how much gold the accuracy needs for intervals of `width` (high - low).

    Args:
        corpus: its confidences say what accuracy to expect, and how much they help if they are calibrated.
        width: wanted.
        level: of the intervals.
        accuracy: expected, where it is known better.

    Returns:
        `accuracy` expected, `classical` and `ppi` (numbers of gold texts; all of the corpus at most), and
        `ratio`, of the two widths at equal gold.
    """
    expected = corpus.sure / corpus.texts
    spread = max(corpus.squares / corpus.texts - expected**2, 0.0)
    value = expected if accuracy is None else accuracy
    left = 1 - min(spread / max(value * (1 - value), 1e-9), 0.99)
    plain, ours = (_least(corpus.texts, value, share, width, level) for share in (1.0, left))
    return {"accuracy": value, "classical": plain, "ppi": ours, "ratio": float(np.sqrt(left))}


def _least(texts: int, value: float, left: float, width: float, level: float) -> int:
    """Return the least gold whose interval is narrow enough, by bisection: width falls with gold."""
    low, high = 1, texts
    while low < high:
        middle = (low + high) // 2
        got = interval(value, middle * _without_replacement(middle / texts) / left, level)
        low, high = (low, middle) if got.high - got.low <= width else (middle + 1, high)
    return low
